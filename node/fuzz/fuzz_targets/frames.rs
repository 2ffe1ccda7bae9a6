//! Requests and responses on a stream: what is read is written and read again as the same; nothing else happens, whatever
//! comes in. The first byte chooses the method and how the rest is read: as it is on the stream, or as what the frames hold.
#![no_main]

use futures::executor::block_on;
use libfuzzer_sys::fuzz_target;
use zgpu_node::net::wire::{Method, Request, Response, snappy::compress_frames};

const METHODS: [Method; 6] =
    [Method::Status, Method::Goodbye, Method::Ping, Method::DataByHash, Method::AnswerFile, Method::GetChunks];

fn read_request(method: Method, mut stream: &[u8]) {
    let Ok(request) = block_on(Request::read(method, &mut stream)) else { return };
    assert_eq!(request.method(), method);
    let again = request.to_wire().expect("what was read fits");
    assert_eq!(block_on(Request::read(method, &mut &again[..])).expect("what was written is read"), request);
}

fn read_response(method: Method, mut stream: &[u8]) {
    let Ok(response) = block_on(Response::read(method, &mut stream)) else { return };
    let again = response.to_wire().expect("what was read fits");
    let again = block_on(Response::read(method, &mut &again[..])).expect("what was written is read");
    match (&response, &again) {
        // Bytes that are no text become longer when they are replaced, and are cut then.
        (Response::Refused { refusal, .. }, Response::Refused { refusal: same, .. }) => assert_eq!(refusal, same),
        _ => assert_eq!(again, response),
    }
}

fuzz_target!(|input: &[u8]| {
    let [choice, bytes @ ..] = input else { return };
    let method = METHODS[usize::from(choice % 6)];
    if choice / 6 % 2 == 0 {
        read_request(method, bytes);
        read_response(method, bytes);
        return;
    }
    let Ok(frames) = compress_frames(bytes) else { return };
    read_request(method, &frames);
    read_response(method, &[&[0], &frames[..]].concat());
    read_response(method, &[&[choice / 12], &frames[..]].concat());
});

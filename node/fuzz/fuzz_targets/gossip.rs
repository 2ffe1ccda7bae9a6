//! Gossip: what is read is written back as the same bytes, and is judged; nothing else happens, whatever comes in.
//! The first byte chooses the topic. The rest is read plain, and as the compressed block that travels.
#![no_main]

use libfuzzer_sys::fuzz_target;
use zgpu_node::net::{
    judge::Circumstances,
    wire::{Message, ShardConfig, Topic, gossip::message_id},
};

fn read(topic: Topic, message: &Message, plain: &[u8]) {
    assert_eq!((message.topic(), message.to_ssz() == plain), (topic, true));
    for private_addresses in [false, true] {
        let circumstances = Circumstances { shard: ShardConfig::WHOLE, now: 1_700_000_000, private_addresses };
        circumstances.judge(message);
    }
    if let Message::AnnounceFile(announcements) = message {
        for signed in announcements {
            // Nobody signs by chance.
            assert!(!signed.is_signed());
            let _ = (signed.peer_id(), signed.address());
        }
    }
    let again = message.to_wire().expect("what was read fits");
    assert_eq!(Message::from_wire(topic, &again).expect("what was written is read"), *message);
}

fuzz_target!(|input: &[u8]| {
    let [topic, bytes @ ..] = input else { return };
    let topic = Topic::ALL[usize::from(*topic) % Topic::ALL.len()];
    if let Ok(message) = Message::from_ssz(topic, bytes) {
        read(topic, &message, bytes);
    }
    let _ = Message::from_wire(topic, bytes);
    let _ = message_id(bytes, topic.name(), bytes, 7);
});

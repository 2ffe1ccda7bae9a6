//! Connections that give up: one on which nothing can be written for long is dead, whatever the system thinks.
//!
//! Without that, a connection across a network that was parted could not even be closed before the system has given up, which
//! takes a quarter of an hour, and no new one to the same peer would be allowed.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use futures::{AsyncRead, AsyncWrite};
use tokio::time::{Sleep, sleep};

/// A stream that fails when it takes nothing for `limit`.
pub(super) struct Mortal<S> {
    stream: S,
    limit: Duration,
    /// Runs while something waits to be written.
    deadline: Option<Pin<Box<Sleep>>>,
}

impl<S> Mortal<S> {
    pub(super) fn new(stream: S, limit: Duration) -> Self {
        Mortal { stream, limit, deadline: None }
    }

    fn or_deadline<T>(&mut self, context: &mut Context<'_>, poll: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if poll.is_ready() {
            return poll;
        }
        let limit = self.limit;
        let deadline = self.deadline.get_or_insert_with(|| Box::pin(sleep(limit)));
        ready!(deadline.as_mut().poll(context));
        Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, format!("nothing could be written for {limit:?}"))))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Mortal<S> {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, into: &mut [u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_read(context, into)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Mortal<S> {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, from: &[u8]) -> Poll<io::Result<usize>> {
        let poll = Pin::new(&mut self.stream).poll_write(context, from);
        if poll.is_ready() {
            self.deadline = None;
        }
        self.or_deadline(context, poll)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let poll = Pin::new(&mut self.stream).poll_flush(context);
        self.or_deadline(context, poll)
    }

    fn poll_close(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let poll = Pin::new(&mut self.stream).poll_close(context);
        self.or_deadline(context, poll)
    }
}

#[cfg(test)]
mod tests {
    use futures::{AsyncReadExt, AsyncWriteExt};
    use libp2p::{Multiaddr, Transport, core::transport::ListenerId, tcp};

    use super::*;

    /// Takes a few bytes, then nothing.
    struct Full(usize);

    impl AsyncWrite for Full {
        fn poll_write(mut self: Pin<&mut Self>, _: &mut Context<'_>, from: &[u8]) -> Poll<io::Result<usize>> {
            let count = from.len().min(self.0);
            self.0 -= count;
            if count == 0 { Poll::Pending } else { Poll::Ready(Ok(count)) }
        }
        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
        fn poll_close(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Pending
        }
    }

    #[tokio::test]
    async fn what_takes_nothing_for_long_is_dead() {
        let mut stream = Mortal::new(Full(5), Duration::from_millis(50));
        stream.write_all(b"hello").await.unwrap();
        assert_eq!(stream.write_all(b"more").await.unwrap_err().kind(), io::ErrorKind::TimedOut);
        assert_eq!(stream.close().await.unwrap_err().kind(), io::ErrorKind::TimedOut);
    }

    #[tokio::test]
    async fn a_connection_carries_what_it_is_given() {
        let mut listener = tcp::tokio::Transport::new(tcp::Config::default()).boxed();
        let any: Multiaddr = "/ip4/127.0.0.1/tcp/0".parse().unwrap();
        listener.listen_on(ListenerId::next(), any).unwrap();
        let event = futures::future::poll_fn(|context| Pin::new(&mut listener).poll(context)).await;
        let address = event.into_new_address().unwrap();
        let accept = tokio::spawn(async move {
            let event = futures::future::poll_fn(|context| Pin::new(&mut listener).poll(context)).await;
            let mut bytes = Vec::new();
            event.into_incoming().unwrap().0.await.unwrap().read_to_end(&mut bytes).await.unwrap();
            bytes
        });
        let mut dialler = tcp::tokio::Transport::new(tcp::Config::default());
        let options = libp2p::core::transport::DialOpts {
            role: libp2p::core::Endpoint::Dialer,
            port_use: libp2p::core::transport::PortUse::New,
        };
        let stream = dialler.dial(address, options).unwrap().await.unwrap();
        let mut stream = Mortal::new(stream, Duration::from_secs(10));
        stream.write_all(&[7; 100_000]).await.unwrap();
        stream.close().await.unwrap();
        assert_eq!(accept.await.unwrap(), [7; 100_000]);
    }
}

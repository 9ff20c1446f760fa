//! A connection whose peer must take what is sent to it: after a bounded time in which it took
//! nothing, writing fails. A client that does not read cannot hold a connection for ever.

use std::{
    io::{self, IoSlice},
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::{Sleep, sleep},
};

/// The connection.
pub(super) struct Patient<S> {
    inner: S,
    silence: Duration,
    /// Runs while the peer takes nothing.
    ends: Option<Pin<Box<Sleep>>>,
}

impl<S> Patient<S> {
    pub(super) fn new(inner: S, silence: Duration) -> Self {
        Self { inner, silence, ends: None }
    }

    pub(super) const fn inner(&self) -> &S {
        &self.inner
    }

    /// What became of an attempt to write, with patience taken into account.
    fn within<T>(&mut self, written: Poll<io::Result<T>>, context: &mut Context<'_>) -> Poll<io::Result<T>> {
        if written.is_ready() {
            self.ends = None;
            return written;
        }
        let silence = self.silence;
        let ends = self.ends.get_or_insert_with(|| Box::pin(sleep(silence)));
        ready!(ends.as_mut().poll(context));
        Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, "the client does not take what is sent to it")))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Patient<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_read(context, buffer)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Patient<S> {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.inner).poll_write(context, bytes);
        self.within(written, context)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.inner).poll_write_vectored(context, slices);
        self.within(written, context)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::future::poll_fn;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, duplex};

    #[tokio::test]
    async fn a_peer_that_takes_nothing_is_given_up() {
        let (near, _far) = duplex(8);
        let mut near = Patient::new(near, Duration::from_millis(20));
        let refused = near.write_all(&[0; 9]).await.unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::TimedOut);
    }

    #[tokio::test]
    async fn each_byte_that_is_taken_begins_the_time_anew() {
        let (near, mut far) = duplex(8);
        let mut near = Patient::new(near, Duration::from_hours(1));
        for _ in 0..3 {
            near.write_all(&[0; 8]).await.unwrap();
            assert!(near.ends.is_none());
            let full = poll_fn(|context| Poll::Ready(Pin::new(&mut near).poll_write(context, &[0]))).await;
            assert!(full.is_pending() && near.ends.is_some());
            far.read_exact(&mut [0; 8]).await.unwrap();
        }
    }
}

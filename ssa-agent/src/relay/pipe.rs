//! Direction of a relay: bytes from one side to the other, and the end after them.

use std::{
    io,
    pin::Pin,
    sync::atomic::{AtomicU64, Ordering},
    task::{Context, Poll, ready},
};

use bytes::{BufMut as _, BytesMut};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
};
use tokio_openssl::SslStream;
use tokio_util::io::poll_read_buf;

use super::app_stream::AppStream;
use crate::tls::PeerStream;

/// Size of a direction's buffer in bytes: four TLS records of the longest kind.
const BUFFER_BYTES: usize = 64 * 1024;

/// Side of a pipe that failed.
pub(super) enum Failed {
    /// Reading failed, or the side ended out of order (`UnexpectedEof`).
    Read(io::Error),
    /// Writing failed.
    Write(io::Error),
}

/// Pipe of one direction. Has a buffer only while there is something in it.
pub(super) struct Pipe<'a> {
    buffer: BytesMut,
    /// Bytes of the buffer that were written already.
    written: usize,
    /// End of the reading side, once it was seen.
    end: Option<End>,
    copied: &'a AtomicU64,
}

enum End {
    File,
    Error(io::Error),
    /// The end was passed on.
    Done,
}

impl<'a> Pipe<'a> {
    /// Makes an empty pipe that counts the bytes that it has written in `copied`.
    pub(super) fn new(copied: &'a AtomicU64) -> Self {
        Self { buffer: BytesMut::new(), written: 0, end: None, copied }
    }

    /// Moves the bytes that can be moved now; ready when the end was passed on, or a side failed.
    pub(super) fn poll<R: Source, W: AsyncWrite>(
        &mut self,
        cx: &mut Context<'_>,
        mut from: Pin<&mut R>,
        mut to: Pin<&mut W>,
    ) -> Poll<Result<(), Failed>> {
        loop {
            if self.end.is_none() {
                self.fill(cx, from.as_mut());
            }
            while self.written < self.buffer.len() {
                let rest = &self.buffer[self.written..];
                let written = ready!(to.as_mut().poll_write(cx, rest)).map_err(Failed::Write)?;
                if written == 0 {
                    return Poll::Ready(Err(Failed::Write(io::ErrorKind::WriteZero.into())));
                }
                self.written += written;
                self.copied.fetch_add(written as u64, Ordering::Relaxed);
            }
            let moved = !self.buffer.is_empty();
            self.written = 0;
            self.buffer = BytesMut::new();
            match self.end.take() {
                None if moved => continue,
                None => return Poll::Pending,
                Some(End::Error(error)) => return Poll::Ready(Err(Failed::Read(error))),
                Some(End::File) => {
                    // Put back: shutting down may have to wait.
                    self.end = Some(End::File);
                    ready!(to.poll_shutdown(cx)).map_err(Failed::Write)?;
                    self.end = Some(End::Done);
                    return Poll::Ready(Ok(()));
                }
                Some(End::Done) => {
                    self.end = Some(End::Done);
                    return Poll::Ready(Ok(()));
                }
            }
        }
    }

    /// Reads until the buffer is full or nothing is there. Pending leaves a waker behind.
    fn fill<R: Source>(&mut self, cx: &mut Context<'_>, mut from: Pin<&mut R>) {
        while self.buffer.len() < BUFFER_BYTES {
            if self.buffer.capacity() == 0 {
                self.buffer.reserve(BUFFER_BYTES);
            }
            let left = BUFFER_BYTES - self.buffer.len();
            let mut room = (&mut self.buffer).limit(left);
            match poll_read_buf(from.as_mut(), cx, &mut room) {
                Poll::Pending => return,
                Poll::Ready(Ok(1..)) => {}
                Poll::Ready(Ok(0)) if from.ended_in_order() => {
                    self.end = Some(End::File);
                    return;
                }
                Poll::Ready(Ok(0)) => {
                    self.end = Some(End::Error(io::ErrorKind::UnexpectedEof.into()));
                    return;
                }
                Poll::Ready(Err(error)) => {
                    self.end = Some(End::Error(error));
                    return;
                }
            }
        }
    }
}

/// Side that a pipe reads from.
pub(crate) trait Source: AsyncRead {
    /// Whether an end of file was sent by the other side, not made by somebody who cut the line.
    fn ended_in_order(&self) -> bool;
}

/// Other side of an application: a peer or a client.
pub(crate) trait Peer: Source + AsyncWrite + Unpin {
    /// TCP connection below TLS.
    fn tcp(&self) -> &TcpStream;
}

impl Peer for SslStream<PeerStream> {
    fn tcp(&self) -> &TcpStream {
        self.get_ref().tcp()
    }
}

impl Peer for AppStream {
    fn tcp(&self) -> &TcpStream {
        self.tcp()
    }
}

impl Source for AppStream {
    fn ended_in_order(&self) -> bool {
        true
    }
}

impl Source for SslStream<PeerStream> {
    fn ended_in_order(&self) -> bool {
        !self.get_ref().was_cut()
    }
}

#[cfg(test)]
mod tests {
    use std::{collections::VecDeque, task::Waker};

    use proptest::prelude::*;
    use tokio::io::ReadBuf;

    use super::*;

    /// What a side does at one call.
    #[derive(Clone, Debug)]
    enum Step {
        /// So many bytes come, or are taken; as far as there is room.
        Bytes(usize),
        Pending,
        /// An end of file that was sent.
        Close,
        /// One that was not.
        Cut,
        Reset,
    }

    /// One side, by a script; what is not in it is pending for ever, but for a writer, which takes all.
    #[derive(Debug)]
    struct Side {
        steps: VecDeque<Step>,
        /// Bytes that were given or taken.
        bytes: Vec<u8>,
        cut: bool,
        shut: usize,
    }

    impl Side {
        fn new(steps: &[Step]) -> Self {
            Self { steps: steps.iter().cloned().collect(), bytes: Vec::new(), cut: false, shut: 0 }
        }
    }

    impl AsyncRead for Side {
        fn poll_read(mut self: Pin<&mut Self>, _cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
            match self.steps.pop_front() {
                Some(Step::Bytes(count)) => {
                    for _ in 0..count.min(buf.remaining()) {
                        // No byte is that of its neighbours, nor of a usual distance.
                        let byte = (self.bytes.len() * 31 % 251) as u8;
                        self.bytes.push(byte);
                        buf.put_slice(&[byte]);
                    }
                    Poll::Ready(Ok(()))
                }
                Some(Step::Close) => Poll::Ready(Ok(())),
                Some(Step::Cut) => {
                    self.cut = true;
                    Poll::Ready(Ok(()))
                }
                Some(Step::Reset) => Poll::Ready(Err(io::ErrorKind::ConnectionReset.into())),
                Some(Step::Pending) | None => Poll::Pending,
            }
        }
    }

    impl Source for Side {
        fn ended_in_order(&self) -> bool {
            !self.cut
        }
    }

    impl AsyncWrite for Side {
        fn poll_write(mut self: Pin<&mut Self>, _cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
            assert_eq!(self.shut, 0, "nothing is written after the end");
            match self.steps.pop_front() {
                Some(Step::Bytes(count)) => {
                    let taken = count.clamp(1, bytes.len());
                    self.bytes.extend_from_slice(&bytes[..taken]);
                    Poll::Ready(Ok(taken))
                }
                Some(Step::Pending) => Poll::Pending,
                Some(Step::Close | Step::Cut | Step::Reset) => Poll::Ready(Err(io::ErrorKind::BrokenPipe.into())),
                None => {
                    self.bytes.extend_from_slice(bytes);
                    Poll::Ready(Ok(bytes.len()))
                }
            }
        }

        fn poll_flush(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }

        fn poll_shutdown(mut self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
            if let Some(Step::Pending) = self.steps.front() {
                self.steps.pop_front();
                return Poll::Pending;
            }
            self.shut += 1;
            Poll::Ready(Ok(()))
        }
    }

    fn steps(ends: bool) -> impl Strategy<Value = Vec<Step>> {
        let end = if ends { 1 } else { 0 };
        let step = prop_oneof![
            8 => prop_oneof![1..40_usize, 1000..70_000_usize].prop_map(Step::Bytes),
            4 => Just(Step::Pending),
            end => prop_oneof![Just(Step::Close), Just(Step::Cut), Just(Step::Reset)],
        ];
        proptest::collection::vec(step, 0..24)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]

        /// Whatever reads and writes do: what arrives is a prefix of what was sent; an end arrives only where it was
        /// sent, once, and after everything before it; what was cut is an error.
        #[test]
        fn pipe_is_a_queue_of_bytes(mut from in steps(false), last in 0..4_u8, to in steps(true)) {
            from.extend(match last {
                0 => Some(Step::Close),
                1 => Some(Step::Cut),
                2 => Some(Step::Reset),
                _ => None,
            });
            let copied = AtomicU64::new(0);
            let (mut reader, mut writer, mut pipe) = (Side::new(&from), Side::new(&to), Pipe::new(&copied));
            let writes_fail = to.iter().any(|step| matches!(step, Step::Close | Step::Cut | Step::Reset));
            let mut cx = Context::from_waker(Waker::noop());
            let mut ended = None;
            for _ in 0..200 {
                if let Poll::Ready(done) = pipe.poll(&mut cx, Pin::new(&mut reader), Pin::new(&mut writer)) {
                    ended = Some(done);
                    break;
                }
                prop_assert!(pipe.buffer.len() <= BUFFER_BYTES);
            }
            prop_assert!(reader.bytes.starts_with(&writer.bytes));
            prop_assert_eq!(copied.load(Ordering::Relaxed), writer.bytes.len() as u64);
            match ended {
                Some(Ok(())) => {
                    prop_assert_eq!((last, &writer.bytes, writer.shut), (0, &reader.bytes, 1));
                    let again = pipe.poll(&mut cx, Pin::new(&mut reader), Pin::new(&mut writer));
                    prop_assert!(matches!(again, Poll::Ready(Ok(()))) && writer.shut == 1);
                }
                Some(Err(Failed::Read(error))) => {
                    let kind = if last == 1 { io::ErrorKind::UnexpectedEof } else { io::ErrorKind::ConnectionReset };
                    prop_assert_eq!((error.kind(), &writer.bytes, writer.shut), (kind, &reader.bytes, 0));
                    prop_assert!(last == 1 || last == 2);
                }
                Some(Err(Failed::Write(_))) => prop_assert!(writes_fail && writer.shut == 0),
                None => {
                    prop_assert_eq!(last, 3, "an end was never passed on");
                    prop_assert_eq!(&writer.bytes, &reader.bytes);
                    prop_assert_eq!((writer.shut, pipe.buffer.capacity()), (0, 0), "an idle pipe keeps no buffer");
                }
            }
        }
    }
}

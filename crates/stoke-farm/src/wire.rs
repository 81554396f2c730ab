//! What an HTTP connection is spoken over: TCP, where the kernel sends files by itself, or TLS.
//!
//! Every wait has an end: see [`Pace`]. Between two pieces of a file others get their turn.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt as _;
use std::sync::Arc;
use std::time::Duration;

use rustix::io::{Errno, IoSliceMut, ReadWriteFlags};
use rustix::net::SendFlags;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, Interest};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout, timeout_at};
use tokio_rustls::server::TlsStream;

/// Bytes that a connection sends before others get their turn.
const TURN: u64 = 512 << 10;
/// Bytes that are read and encrypted at once.
const PIECE: u64 = 64 << 10;
/// Bytes that are read at once from a client.
const INPUT: usize = 4 << 10;
/// What a client may still send after it was told that the connection ends, in bytes.
const LINGERING: usize = 256 << 10;
/// For how long.
const LINGER: Duration = Duration::from_secs(2);

/// How slowly a client may take what it asked for: [`Pace::LEAST`] bytes in [`Pace::WINDOW`], or less if that is all.
#[derive(Debug)]
pub(crate) struct Pace {
    deadline: Instant,
    taken: u64,
}

impl Pace {
    const WINDOW: Duration = Duration::from_mins(1);
    const LEAST: u64 = 64 << 10;

    /// Beginning now.
    pub(crate) fn new() -> Self {
        Self { deadline: Instant::now() + Self::WINDOW, taken: 0 }
    }

    fn took(&mut self, bytes: u64) {
        self.taken += bytes;
        if self.taken >= Self::LEAST {
            *self = Self::new();
        }
    }

    async fn within<T>(&self, work: impl Future<Output = io::Result<T>>) -> io::Result<T> {
        let late = || io::Error::new(io::ErrorKind::TimedOut, "the client takes too slowly what it asked for");
        timeout_at(self.deadline, work).await.map_err(|_| late())?
    }
}

/// A connection.
#[derive(Debug)]
pub(crate) enum Wire {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

impl Wire {
    /// Waits for bytes of the client and appends them; 0 if there are no more. Nothing is allocated while nothing comes.
    pub(crate) async fn receive(&mut self, input: &mut Vec<u8>) -> io::Result<usize> {
        match self {
            Self::Plain(stream) => loop {
                stream.readable().await?;
                input.reserve(INPUT);
                match stream.try_read_buf(input) {
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                    other => return other,
                }
            },
            Self::Tls(stream) => {
                input.reserve(INPUT);
                stream.read_buf(input).await
            }
        }
    }

    /// Sends bytes. With `more`, the kernel keeps the last incomplete segment until more comes.
    pub(crate) async fn send(&mut self, mut bytes: &[u8], more: bool, pace: &mut Pace) -> io::Result<()> {
        let flags = if more { SendFlags::MORE } else { SendFlags::empty() } | SendFlags::NOSIGNAL;
        while !bytes.is_empty() {
            let sent = match self {
                Self::Plain(stream) => {
                    let send = || Ok(rustix::net::send(&*stream, bytes, flags)?);
                    pace.within(stream.async_io(Interest::WRITABLE, send)).await?
                }
                Self::Tls(stream) => pace.within(stream.write(bytes)).await?,
            };
            pace.took(sent as u64);
            bytes = bytes.get(sent..).unwrap_or_default();
        }
        match self {
            Self::Tls(stream) if !more => pace.within(stream.flush()).await,
            _ => Ok(()),
        }
    }

    /// Sends a part of a file; `sent` is told of each piece.
    pub(crate) async fn send_file(
        &mut self,
        file: &Arc<File>,
        mut part: Range<u64>,
        pace: &mut Pace,
        sent: impl Fn(u64) + Send,
    ) -> io::Result<()> {
        let most = if matches!(self, Self::Plain(_)) { TURN } else { PIECE };
        let mut turn = 0;
        while part.start < part.end {
            let length = most.min(part.end - part.start);
            let done = match self {
                Self::Plain(stream) => kernel_sends(stream, file, part.start..part.start + length, pace).await?,
                Self::Tls(_) => self.encrypt(file, part.start, length, pace).await?,
            };
            sent(done);
            part.start += done;
            turn += done;
            if turn >= TURN {
                turn = 0;
                tokio::task::yield_now().await;
            }
        }
        match self {
            Self::Tls(stream) => pace.within(stream.flush()).await,
            Self::Plain(_) => Ok(()),
        }
    }

    async fn encrypt(&mut self, file: &Arc<File>, offset: u64, length: u64, pace: &mut Pace) -> io::Result<u64> {
        ready(file, offset..offset + length).await?;
        let mut buffer = vec![0; usize::try_from(length).map_err(io::Error::other)?];
        file.read_exact_at(&mut buffer, offset)?;
        self.send(&buffer, true, pace).await?;
        Ok(length)
    }

    /// Ends the connection so that the client gets the answer before it. What it still sends is taken for a while: a socket
    /// that is closed with unread bytes is reset, and the answer is lost (RFC 9112, section 9.6).
    pub(crate) async fn finish(mut self) {
        let mut input = Vec::new();
        let ending = async {
            match &mut self {
                Self::Plain(stream) => stream.shutdown().await,
                Self::Tls(stream) => stream.shutdown().await,
            }?;
            let mut left = LINGERING;
            while left > 0 {
                input.clear();
                match self.receive(&mut input).await? {
                    0 => break,
                    count => left = left.saturating_sub(count),
                }
            }
            io::Result::Ok(())
        };
        // Who is gone already needs no goodbye.
        let _ = timeout(LINGER, ending).await;
    }
}

/// Lets the kernel send from the page cache, without a copy.
async fn kernel_sends(stream: &TcpStream, file: &Arc<File>, part: Range<u64>, pace: &mut Pace) -> io::Result<u64> {
    ready(file, part.clone()).await?;
    let length = usize::try_from(part.end - part.start).map_err(io::Error::other)?;
    let mut offset = part.start;
    let send = || Ok(rustix::fs::sendfile(stream, &**file, Some(&mut offset), length)?);
    let count = pace.within(stream.async_io(Interest::WRITABLE, send)).await? as u64;
    if count == 0 {
        return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the file became shorter"));
    }
    pace.took(count);
    Ok(count)
}

/// Sees to it that a part is in the page cache: what is not there is read by a thread that may wait.
async fn ready(file: &Arc<File>, part: Range<u64>) -> io::Result<()> {
    if in_memory(file, &part) {
        return Ok(());
    }
    let file = file.clone();
    tokio::task::spawn_blocking(move || warm(&file, part)).await.map_err(io::Error::other)?
}

/// Whether a part is in the page cache, as far as its two ends tell.
fn in_memory(file: &File, part: &Range<u64>) -> bool {
    let there = |offset: u64| {
        let mut byte = [0];
        let read = rustix::io::preadv2(file, &mut [IoSliceMut::new(&mut byte)], offset, ReadWriteFlags::NOWAIT);
        read != Err(Errno::AGAIN)
    };
    there(part.start) && there(part.end.saturating_sub(1))
}

/// Reads a part, so that it is in the page cache.
fn warm(file: &File, mut part: Range<u64>) -> io::Result<()> {
    let mut scratch = vec![0; usize::try_from(PIECE).map_err(io::Error::other)?];
    while part.start < part.end {
        let length = scratch.len().min(usize::try_from(part.end - part.start).unwrap_or(usize::MAX));
        let space = scratch.get_mut(..length).unwrap_or_default();
        file.read_exact_at(space, part.start)?;
        part.start += length as u64;
    }
    Ok(())
}

//! What an HTTP connection is spoken over: TCP, where the kernel sends files by itself, or TLS.
//!
//! Every wait has an end: see [`WINDOW`]. Between two pieces of a file others get their turn.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt as _;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::io::{Errno, IoSliceMut, ReadWriteFlags};
use rustix::net::SendFlags;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, Interest};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::server::TlsStream;

/// Bytes that a connection sends before others get their turn.
const TURN: u64 = 2 << 20;
/// Bytes that are read and encrypted at once.
const PIECE: u64 = 64 << 10;
/// Bytes that are read at once from a client.
const INPUT: usize = 4 << 10;
/// What a client may still send after it was told that the connection ends, in bytes.
const LINGERING: usize = 256 << 10;
/// For how long.
const LINGER: Duration = Duration::from_secs(2);

/// A client that takes less than [`LEAST`] bytes in this time, although there is more, is cut off.
const WINDOW: Duration = Duration::from_mins(1);
/// See [`WINDOW`].
const LEAST: u64 = 64 << 10;

/// Sends, at the client's pace but not more slowly than is bearable. `taken` counts what the client took.
async fn paced<T>(taken: &AtomicU64, work: impl Future<Output = io::Result<T>>) -> io::Result<T> {
    let mut work = pin!(work);
    loop {
        let before = taken.load(Ordering::Relaxed);
        if let Ok(done) = timeout(WINDOW, work.as_mut()).await {
            return done;
        }
        if taken.load(Ordering::Relaxed) - before < LEAST {
            return Err(io::Error::new(io::ErrorKind::TimedOut, "the client takes too slowly what it asked for"));
        }
    }
}

/// Who is told how many bytes of a file were sent.
type Sent<'a> = &'a (dyn Fn(u64) + Sync);

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
    pub(crate) async fn send(&mut self, bytes: &[u8], more: bool) -> io::Result<()> {
        let taken = AtomicU64::new(0);
        match self {
            Self::Plain(stream) => {
                let flags = if more { SendFlags::MORE } else { SendFlags::empty() } | SendFlags::NOSIGNAL;
                let send = |done: usize| {
                    let rest = bytes.get(done..).unwrap_or_default();
                    rustix::net::send(&*stream, rest, flags)
                };
                whole(stream, bytes.len(), &taken, send).await
            }
            Self::Tls(stream) => {
                let write = async {
                    let mut rest = bytes;
                    while !rest.is_empty() {
                        let count = stream.write(rest).await?;
                        taken.fetch_add(count as u64, Ordering::Relaxed);
                        rest = rest.get(count..).unwrap_or_default();
                    }
                    if more { Ok(()) } else { stream.flush().await }
                };
                paced(&taken, write).await
            }
        }
    }

    /// Sends a part of a file; `sent` is told of its bytes as they leave.
    pub(crate) async fn send_file(&mut self, file: &Arc<File>, part: Range<u64>, sent: Sent<'_>) -> io::Result<()> {
        let Range { mut start, end } = part;
        let most = if matches!(self, Self::Plain(_)) { TURN } else { PIECE };
        let mut turn = 0;
        while start < end {
            let length = most.min(end - start);
            ready(file, start..start + length).await?;
            match self {
                Self::Plain(stream) => kernel_sends(stream, file, start, length, sent).await?,
                Self::Tls(_) => self.encrypt(file, start, length, sent).await?,
            }
            start += length;
            turn += length;
            if turn >= TURN {
                turn = 0;
                tokio::task::yield_now().await;
            }
        }
        match self {
            Self::Tls(stream) => paced(&AtomicU64::new(0), stream.flush()).await,
            Self::Plain(_) => Ok(()),
        }
    }

    async fn encrypt(&mut self, file: &File, offset: u64, length: u64, sent: Sent<'_>) -> io::Result<()> {
        let mut buffer = vec![0; usize::try_from(length).map_err(io::Error::other)?];
        file.read_exact_at(&mut buffer, offset)?;
        self.send(&buffer, true).await?;
        sent(length);
        Ok(())
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
async fn kernel_sends(stream: &TcpStream, file: &File, offset: u64, length: u64, sent: Sent<'_>) -> io::Result<()> {
    let size = usize::try_from(length).map_err(io::Error::other)?;
    let taken = AtomicU64::new(0);
    let more = |done: usize| {
        let mut from = offset + done as u64;
        rustix::fs::sendfile(stream, file, Some(&mut from), size - done)
    };
    let done = whole(stream, size, &taken, more).await;
    sent(taken.into_inner());
    done
}

/// Calls `send` with what is done already, whenever the socket takes more, until `length` bytes are done.
async fn whole(
    stream: &TcpStream,
    length: usize,
    taken: &AtomicU64,
    send: impl Fn(usize) -> rustix::io::Result<usize> + Send,
) -> io::Result<()> {
    let mut done = 0;
    let fill = || {
        while done < length {
            let count = match send(done) {
                Err(Errno::INTR) => continue,
                count => count?,
            };
            if count == 0 {
                return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the file became shorter"));
            }
            done += count;
            taken.fetch_add(count as u64, Ordering::Relaxed);
            if done < length && !has_room(stream)? {
                return Err(io::ErrorKind::WouldBlock.into());
            }
        }
        Ok(())
    };
    paced(taken, stream.async_io(Interest::WRITABLE, fill)).await
}

/// Whether the socket takes more at once. One that took less than it was given need not be full: a signal ends sendfile early,
/// too, and then the kernel would have nothing to tell us of. Asking makes it tell when there is room again (Linux' `tcp_poll`).
fn has_room(stream: &TcpStream) -> io::Result<bool> {
    let mut asked = [PollFd::new(stream, PollFlags::OUT)];
    Ok(rustix::event::poll(&mut asked, Some(&Timespec::default()))? > 0)
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

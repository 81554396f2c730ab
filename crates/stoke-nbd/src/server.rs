//! The tokio driver: accepts connections, runs a [`Session`] on each, reads exports from the page cache.
//!
//! An idle client costs its session and a small input buffer; the large buffers are borrowed from a pool while a reply is
//! made. Replies to pipelined requests leave in one write.

use std::fs::File;
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rustix::fs::Advice;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use crate::paged::{self, Buffer};
use crate::session::{Event, Exports, Read, Session};
use crate::wire;

/// Size of the pooled buffers: what `nbdcopy` reads at once, with room for headers.
const BUFFER: usize = (256 << 10) + 4096;
/// Buffers that wait for the next reply.
const POOLED: usize = 16;
/// Connections at once. Each is a descriptor and a few kilobytes.
const CONNECTIONS: usize = 4096;
/// Time from the connection to the end of the negotiation.
const NEGOTIATION: Duration = Duration::from_secs(30);

/// A file to read from.
pub type Handle = Arc<File>;

/// What the server did so far.
#[derive(Debug, Default)]
pub struct Counters {
    /// Connections accepted.
    pub connections: AtomicU64,
    /// Connections open now.
    pub open: AtomicU64,
    /// Reads answered.
    pub reads: AtomicU64,
    /// Bytes of data sent.
    pub bytes: AtomicU64,
}

/// Serves exports. Clones share their connections' bounds and counters.
#[derive(Debug)]
pub struct Server<E> {
    exports: Arc<E>,
    buffers: Arc<Mutex<Vec<Buffer>>>,
    permits: Arc<Semaphore>,
    counters: Arc<Counters>,
}

impl<E> Clone for Server<E> {
    fn clone(&self) -> Self {
        let (exports, buffers) = (self.exports.clone(), self.buffers.clone());
        Self { exports, buffers, permits: self.permits.clone(), counters: self.counters.clone() }
    }
}

impl<E: Exports<Handle = Handle> + Send + Sync + 'static> Server<E> {
    /// A server of these exports. They are asked for each negotiation; an export that is gone stays readable to who has it.
    pub fn new(exports: Arc<E>, counters: Arc<Counters>) -> Self {
        Self { exports, buffers: Arc::default(), permits: Arc::new(Semaphore::new(CONNECTIONS)), counters }
    }

    /// Accepts until the token is cancelled. Connections that are established then go on.
    pub async fn serve(&self, listener: TcpListener, stop: CancellationToken) {
        loop {
            let Ok(permit) = self.permits.clone().acquire_owned().await else { return };
            let accepted = tokio::select! {
                () = stop.cancelled() => return,
                accepted = listener.accept() => accepted,
            };
            match accepted {
                Ok((stream, peer)) => {
                    let server = self.clone();
                    tokio::spawn(async move {
                        let ended = server.connection(stream).await;
                        tracing::debug!(%peer, ?ended, "NBD connection ended");
                        drop(permit);
                    });
                }
                Err(error) => {
                    // Out of descriptors: the ones in use must end first.
                    tracing::warn!(%error, "cannot accept an NBD connection");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            }
        }
    }

    async fn connection(&self, stream: TcpStream) -> io::Result<()> {
        stream.set_nodelay(true)?;
        // A node that lost its power never says goodbye.
        let keepalive = socket2::TcpKeepalive::new().with_time(Duration::from_mins(1));
        let keepalive = keepalive.with_interval(Duration::from_secs(10)).with_retries(6);
        socket2::SockRef::from(&stream).set_tcp_keepalive(&keepalive)?;
        self.counters.connections.fetch_add(1, Ordering::Relaxed);
        self.counters.open.fetch_add(1, Ordering::Relaxed);
        let result = Connection { server: self, stream, session: Session::new(), reply: None }.run().await;
        self.counters.open.fetch_sub(1, Ordering::Relaxed);
        result
    }

    fn borrow(&self) -> Buffer {
        let pooled = self.buffers.lock().unwrap_or_else(PoisonError::into_inner).pop();
        pooled.unwrap_or_else(|| vec![0; BUFFER].into_boxed_slice())
    }

    fn give_back(&self, buffer: Buffer) {
        let mut buffers = self.buffers.lock().unwrap_or_else(PoisonError::into_inner);
        if buffer.len() == BUFFER && buffers.len() < POOLED {
            buffers.push(buffer);
        }
    }
}

/// Replies that wait to be sent together.
struct Reply {
    buffer: Buffer,
    filled: usize,
}

impl Reply {
    fn room(&self) -> usize {
        self.buffer.len() - self.filled
    }

    fn push(&mut self, bytes: &[u8]) {
        if let Some(space) = self.buffer.get_mut(self.filled..self.filled + bytes.len()) {
            space.copy_from_slice(bytes);
            self.filled += bytes.len();
        }
    }
}

struct Connection<'a, E> {
    server: &'a Server<E>,
    stream: TcpStream,
    session: Session<Handle>,
    reply: Option<Reply>,
}

impl<E: Exports<Handle = Handle> + Send + Sync + 'static> Connection<'_, E> {
    async fn run(mut self) -> io::Result<()> {
        let deadline = tokio::time::Instant::now() + NEGOTIATION;
        let mut input = Vec::with_capacity(2048);
        loop {
            match self.session.poll(&*self.server.exports) {
                Event::Read(read) => self.answer(read).await?,
                Event::Cache { offset, length } => self.prefetch(offset, length),
                Event::Close => return self.flush().await,
                Event::NeedInput => {
                    self.flush().await?;
                    self.receive(&mut input, deadline).await?;
                }
            }
        }
    }

    async fn receive(&mut self, input: &mut Vec<u8>, deadline: tokio::time::Instant) -> io::Result<()> {
        input.clear();
        let received = if self.session.export().is_some() {
            self.stream.read_buf(input).await?
        } else {
            tokio::time::timeout_at(deadline, self.stream.read_buf(input)).await??
        };
        if received == 0 {
            return Err(io::Error::from(io::ErrorKind::UnexpectedEof));
        }
        self.session.receive(input);
        Ok(())
    }

    /// Sends everything that waits, in order: replies first made are first in the buffer.
    async fn flush(&mut self) -> io::Result<()> {
        self.collect().await?;
        self.release().await
    }

    /// Moves what the session wants to say behind the replies that wait.
    async fn collect(&mut self) -> io::Result<()> {
        if !self.session.has_output() {
            return Ok(());
        }
        let mut bytes = Vec::new();
        self.session.take_output(&mut bytes);
        if let Some(reply) = self.reply.as_mut().filter(|reply| reply.room() >= bytes.len()) {
            reply.push(&bytes);
            return Ok(());
        }
        self.release().await?;
        self.stream.write_all(&bytes).await
    }

    /// Sends the replies that wait and gives their buffer back.
    async fn release(&mut self) -> io::Result<()> {
        if let Some(reply) = self.reply.take() {
            self.stream.write_all(reply.buffer.get(..reply.filled).unwrap_or_default()).await?;
            self.server.give_back(reply.buffer);
        }
        Ok(())
    }

    async fn answer(&mut self, read: Read) -> io::Result<()> {
        let Some(file) = self.session.export().map(|export| export.handle.clone()) else {
            return Err(io::Error::from(io::ErrorKind::InvalidInput));
        };
        self.collect().await?;
        let header = self.session.read_header(&read);
        let (mut offset, mut left) = (read.offset, read.length as usize);
        let mut begun = false;
        while !begun || left > 0 {
            let head = if begun { &[][..] } else { header.as_ref() };
            let piece = left.min(BUFFER - header.as_ref().len());
            if self.reply.as_ref().is_some_and(|reply| reply.room() < head.len() + piece) {
                self.send_reply().await?;
            }
            match self.append(&file, head, piece, offset).await {
                Ok(()) => {}
                Err(error) if begun => return Err(error),
                Err(error) => {
                    tracing::error!(%error, offset, "cannot read an export");
                    self.session.fail(read.cookie, wire::EIO);
                    return Ok(());
                }
            }
            (offset, left, begun) = (offset + piece as u64, left - piece, true);
        }
        self.server.counters.reads.fetch_add(1, Ordering::Relaxed);
        self.server.counters.bytes.fetch_add(u64::from(read.length), Ordering::Relaxed);
        Ok(())
    }

    async fn send_reply(&mut self) -> io::Result<()> {
        if let Some(reply) = &mut self.reply {
            self.stream.write_all(reply.buffer.get(..reply.filled).unwrap_or_default()).await?;
            reply.filled = 0;
        }
        Ok(())
    }

    /// Appends a header and a piece of the file to the replies that wait; nothing if the file cannot be read.
    async fn append(&mut self, file: &Handle, head: &[u8], piece: usize, offset: u64) -> io::Result<()> {
        let reply = self.reply.take().unwrap_or_else(|| Reply { buffer: self.server.borrow(), filled: 0 });
        let before = reply.filled;
        let at = (before + head.len(), piece);
        let (buffer, result) = paged::read_exact_at(file, reply.buffer, at, offset).await;
        let mut reply = Reply { buffer, filled: before };
        if result.is_ok() {
            reply.push(head);
            reply.filled += piece;
        }
        self.reply = Some(reply);
        result
    }

    fn prefetch(&self, offset: u64, length: u32) {
        if let Some(export) = self.session.export() {
            // Advice: whether it was taken shows in nothing but time.
            let _ = rustix::fs::fadvise(
                &*export.handle,
                offset,
                std::num::NonZeroU64::new(length.into()),
                Advice::WillNeed,
            );
        }
    }
}

//! The server: accepts connections, waits for clients that have something to say, and has `workers` answer them.
//!
//! An idle client costs its descriptor, its session and a waiting task. A busy one is served by a thread, with that
//! thread's buffers: short reads are gathered and leave in one call, long ones go from the page cache to the socket
//! (sendfile(2)). A client that takes no answers is put aside with what it did not take, at most a gathering of them, and
//! is not asked for more requests meanwhile.

use std::io;
use std::net::SocketAddr;
use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, oneshot};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::channel::Channel;
use crate::connection::{Connection, Next, Surroundings};
use crate::image::Image;
use crate::latency::Latency;
use crate::session::{Exports, Tls};
use crate::workers::Workers;

/// Connections at once. Each is a descriptor and a few kilobytes.
const CONNECTIONS: usize = 16 << 10;
/// Time from the connection to the end of the negotiation.
const NEGOTIATION: Duration = Duration::from_secs(30);
/// A client that takes none of its answers for so long has forgotten them.
const STALLED: Duration = Duration::from_mins(5);

/// What is read from.
pub type Handle = Arc<Image>;

/// TLS for clients that ask for it (`NBD_OPT_STARTTLS`).
#[derive(Clone, Debug)]
pub struct TlsConfig {
    /// Certificate, and which clients' certificates are trusted.
    pub server: Arc<rustls::ServerConfig>,
    /// Whether clients get nothing without it. The kernel's client has no TLS.
    pub required: bool,
}

impl TlsConfig {
    pub(crate) fn policy(&self) -> Tls {
        if self.required { Tls::Required } else { Tls::Offered }
    }
}

/// Where the TLS configuration comes from: asked for each connection, so that a new certificate needs no new socket.
pub type TlsSource = Arc<dyn Fn() -> Option<Arc<TlsConfig>> + Send + Sync>;

/// What the server did so far.
#[derive(Debug, Default)]
pub struct Counters {
    /// Connections accepted.
    pub connections: AtomicU64,
    /// Connections open now.
    pub open: AtomicU64,
    /// Reads answered.
    pub reads: AtomicU64,
    /// Bytes of data that were read.
    pub bytes: AtomicU64,
    /// How long reads took.
    pub latency: Latency,
}

impl Counters {
    pub(crate) fn read(&self, length: u32) {
        self.reads.fetch_add(1, Ordering::Relaxed);
        self.bytes.fetch_add(u64::from(length), Ordering::Relaxed);
    }
}

/// A client that has attached an export, and what it did with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Attachment {
    /// The client.
    pub client: SocketAddr,
    /// Reads until now.
    pub reads: u64,
    /// Bytes that they asked for.
    pub bytes: u64,
    /// How long it was attached, if it has gone.
    pub ended: Option<Duration>,
}

/// Told of each attachment when it begins and when it has ended.
pub type Watcher = Arc<dyn Fn(Attachment) + Send + Sync>;

/// Serves exports. Clones share their connections' bounds and counters.
pub struct Server<E> {
    exports: Arc<E>,
    workers: Workers,
    permits: Arc<Semaphore>,
    counters: Arc<Counters>,
    tls: Option<TlsSource>,
    watcher: Option<Watcher>,
}

impl<E> std::fmt::Debug for Server<E> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Server").field("workers", &self.workers).finish_non_exhaustive()
    }
}

impl<E> Clone for Server<E> {
    fn clone(&self) -> Self {
        Self {
            exports: self.exports.clone(),
            workers: self.workers.clone(),
            permits: self.permits.clone(),
            counters: self.counters.clone(),
            tls: self.tls.clone(),
            watcher: self.watcher.clone(),
        }
    }
}

impl<E: Exports<Handle = Handle> + Send + Sync + 'static> Server<E> {
    /// A server of these exports. They are asked for each negotiation; an export that is gone stays readable to who has it.
    pub fn new(exports: Arc<E>, counters: Arc<Counters>) -> Self {
        let permits = Arc::new(Semaphore::new(CONNECTIONS));
        Self { exports, workers: Workers::default(), permits, counters, tls: None, watcher: None }
    }

    /// Also inside of TLS.
    #[must_use]
    pub fn with_tls(self, tls: TlsSource) -> Self {
        Self { tls: Some(tls), ..self }
    }

    /// And tells who attaches what it exports.
    #[must_use]
    pub fn with_watcher(self, watcher: Watcher) -> Self {
        Self { watcher: Some(watcher), ..self }
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
                        let ended = server.counted(stream, peer).await;
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

    async fn counted(&self, stream: TcpStream, client: SocketAddr) -> io::Result<()> {
        self.counters.connections.fetch_add(1, Ordering::Relaxed);
        self.counters.open.fetch_add(1, Ordering::Relaxed);
        let mut watched = Watched { client, watcher: self.watcher.clone(), reads: (0, 0), since: None };
        let result = self.connection(stream, &mut watched).await;
        watched.ends();
        self.counters.open.fetch_sub(1, Ordering::Relaxed);
        result
    }

    async fn connection(&self, stream: TcpStream, watched: &mut Watched) -> io::Result<()> {
        let channel = Channel::new(stream.into_std()?)?;
        let mut connection = Connection::new(channel, self.tls.as_ref().and_then(|tls| tls()));
        let negotiated = Instant::now() + NEGOTIATION;
        loop {
            let (back, next) = self.turn(connection).await?;
            connection = back;
            watched.sees(&connection);
            let interest = match next {
                Next::Closed => return Ok(()),
                Next::Turn => continue,
                Next::Readable => Interest::READABLE,
                Next::Writable => Interest::WRITABLE,
            };
            let limit = match next {
                _ if !connection.transmits() => Some(negotiated),
                Next::Writable => Some(Instant::now() + STALLED),
                _ => None,
            };
            ready(connection.socket(), interest, limit).await?;
        }
    }

    /// Has a thread serve the connection until there is something to wait for.
    async fn turn(&self, mut connection: Connection) -> io::Result<(Connection, Next)> {
        let (sender, receiver) = oneshot::channel();
        let (exports, counters, workers) = (self.exports.clone(), self.counters.clone(), self.workers.clone());
        self.workers.run(move |buffers| {
            let surroundings = Surroundings { exports: &*exports, counters: &counters, workers: &workers };
            let next = connection.turn(&surroundings, buffers);
            // Nobody waits any more when the server has ended.
            let _ = sender.send(next.map(|next| (connection, next)));
        });
        receiver.await.map_err(io::Error::other)?
    }
}

/// What is told of a connection.
struct Watched {
    client: SocketAddr,
    watcher: Option<Watcher>,
    /// Their number and bytes.
    reads: (u64, u64),
    /// When it attached an export.
    since: Option<Instant>,
}

impl Watched {
    fn sees(&mut self, connection: &Connection) {
        self.reads = connection.reads();
        if self.since.is_none() && connection.has_attached() {
            self.since = Some(Instant::now());
            self.tell(None);
        }
    }

    fn ends(&self) {
        if let Some(since) = self.since {
            self.tell(Some(since.elapsed()));
        }
    }

    fn tell(&self, ended: Option<Duration>) {
        let (reads, bytes) = self.reads;
        if let Some(watcher) = &self.watcher {
            watcher(Attachment { client: self.client, reads, bytes, ended });
        }
    }
}

/// Waits until the socket is ready. It is known to the reactor only meanwhile: a busy connection must not wake it.
#[expect(
    deprecated,
    reason = "a borrowed descriptor is open for as long as it is registered, which is what makes it sound"
)]
async fn ready(socket: BorrowedFd<'_>, interest: Interest, limit: Option<Instant>) -> io::Result<()> {
    let socket = AsyncFd::with_interest(socket, interest)?;
    let ready = async { socket.ready(interest).await.map(drop) };
    match limit {
        Some(limit) => tokio::time::timeout_at(limit, ready).await?,
        None => ready.await,
    }
}

//! The server: one thread for each address, all transfers on it.
//!
//! In single-port mode every packet leaves from the port that the request came to, so it passes address translation and load
//! balancers; transfers are told apart by the client's address and port. In classic mode each transfer has a port of its own.
//!
//! - `reactor`: the thread: waits, receives, sends.
//! - `table`: the transfers, told apart and timed; which files they read.
//! - `outbox`: packets that leave together, cut by the kernel where blocks of one client follow each other.
//! - `paths`: how long a packet to a client may be.

mod outbox;
mod paths;
mod reactor;
mod table;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use tokio::net::UdpSocket;
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

pub use crate::content::{Content, OnDisk};
pub use crate::names::plain_name;
use crate::packet::Request;
use crate::transfer::{Limits, Outcome};
use reactor::{Reactor, Waker};

/// A request, as [`Files`] answers it.
#[derive(Clone, Copy, Debug)]
pub struct Asked<'a> {
    /// Name of the file, made plain by [`plain_name`].
    pub name: &'a str,
    /// Who asks.
    pub client: SocketAddr,
    /// The whole request.
    pub request: &'a Request<'a>,
}

/// A transfer that is over, as [`Files`] is told.
#[derive(Clone, Copy, Debug)]
pub struct Ended<'a> {
    /// Name of the file, made plain.
    pub name: &'a str,
    /// Who asked.
    pub client: SocketAddr,
    /// How it ended.
    pub outcome: &'a Outcome,
    /// Size of the file in bytes.
    pub size: u64,
    /// Bytes of it that the client acknowledged.
    pub bytes: u64,
    /// From the request to the end.
    pub took: Duration,
    /// Blocks that were sent more than once.
    pub repeated: u64,
    /// Bytes of content in a block, and blocks in a window, as agreed on.
    pub block: u16,
    /// See `block`.
    pub window: u16,
}

/// The files that are served. All of it is called on the server's thread and holds up every transfer: answer from memory.
pub trait Files: Send + Sync + 'static {
    /// The file of this name, made plain by [`plain_name`]; `None` if there is none for this client.
    fn open(&self, name: &str, client: SocketAddr) -> Option<Arc<dyn Content>>;

    /// The same for who answers by more than the name.
    fn find(&self, asked: &Asked<'_>) -> Option<Arc<dyn Content>> {
        self.open(asked.name, asked.client)
    }

    /// A transfer is over.
    fn ended(&self, _ended: &Ended<'_>) {}

    /// A request was refused, for this reason.
    fn refused(&self, _client: SocketAddr, _name: &str, _reason: &str) {}
}

/// Which ports transfers use.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Ports {
    /// The one that requests come to.
    #[default]
    Single,
    /// Each its own (RFC 1350, section 4).
    Classic,
}

/// How the server works.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Settings {
    /// What clients are granted.
    pub limits: Limits,
    /// Which ports transfers use.
    pub ports: Ports,
}

impl From<Limits> for Settings {
    fn from(limits: Limits) -> Self {
        Self { limits, ports: Ports::default() }
    }
}

/// What the server did so far.
#[derive(Debug, Default)]
pub struct Counters {
    /// Read requests.
    pub requests: AtomicU64,
    /// Requests that were answered with an error.
    pub refused: AtomicU64,
    /// Transfers that ended with the whole file at the client.
    pub completed: AtomicU64,
    /// Transfers that the client left or that it gave up.
    pub failed: AtomicU64,
    /// Bytes of content that clients acknowledged.
    pub bytes: AtomicU64,
    /// Blocks that were sent more than once.
    pub repeated: AtomicU64,
    /// Windows that nobody answered in time.
    pub timeouts: AtomicU64,
    /// Transfers now.
    pub active: AtomicU64,
}

/// Serves files on a socket until the token is cancelled; transfers in progress are then carried to their end. When the
/// future is dropped, they end at once.
///
/// # Errors
/// If the socket fails for good.
pub async fn serve<F: Files>(
    socket: UdpSocket,
    files: Arc<F>,
    settings: impl Into<Settings>,
    counters: Arc<Counters>,
    stop: CancellationToken,
) -> io::Result<()> {
    let (socket, settings) = (socket.into_std()?, settings.into());
    let address = socket.local_addr()?;
    let waker = Arc::new(Waker::new()?);
    let reactor = Reactor::new(socket, files, settings, counters, waker.clone())?;
    let (ended, mut end) = oneshot::channel();
    let thread = std::thread::Builder::new().name(format!("tftp {}", address.port()));
    thread.spawn(move || drop(ended.send(reactor.run())))?;
    let abandon = Abandon(waker);
    let ended = tokio::select! {
        ended = &mut end => ended,
        () = stop.cancelled() => {
            abandon.0.drain();
            end.await
        }
    };
    ended.unwrap_or_else(|_| Err(io::Error::other("the TFTP thread died")))
}

/// Ends the thread when the future that waits for it is dropped.
struct Abandon(Arc<Waker>);

impl Drop for Abandon {
    fn drop(&mut self) {
        self.0.abandon();
    }
}

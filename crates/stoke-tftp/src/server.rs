//! The tokio driver: one socket for all transfers, told apart by the client's address and port.
//!
//! Replies leave from the port that the request came to, so they pass address translation and load balancers. Packets that
//! are due together leave in one `sendmmsg`.

use std::collections::{BTreeSet, HashMap};
use std::fs::File;
use std::io::{self, IoSlice};
use std::net::SocketAddr;
use std::os::unix::fs::FileExt as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use rustix::net::{MMsgHdr, SendAncillaryBuffer, SendFlags, SocketAddrAny};
use tokio::io::Interest;
use tokio::net::UdpSocket;
use tokio_util::sync::CancellationToken;

use crate::packet::{self, Packet, PacketError, Request};
use crate::transfer::{Action, Limits, Outcome, Transfer};

/// Transfers at once.
const TRANSFERS: usize = 4096;
/// Packets that leave in one system call.
const BATCH: usize = 64;
/// Packets that are read before anything is sent.
const BURST: usize = 64;
/// Room in the socket for the windows of many clients.
const SOCKET_BUFFER: usize = 4 << 20;

/// Content of a file.
pub trait Content: Send + Sync {
    /// Size in bytes.
    fn size(&self) -> u64;
    /// Fills the buffer from this place on.
    ///
    /// # Errors
    /// If there is less, or it cannot be read.
    fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()>;
}

impl Content for Vec<u8> {
    fn size(&self) -> u64 {
        self.len() as u64
    }

    fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        let from = usize::try_from(offset).unwrap_or(usize::MAX);
        let source = from.checked_add(buffer.len()).and_then(|end| self.get(from..end));
        buffer.copy_from_slice(source.ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }
}

/// A file on disk whose size was known when it was opened.
#[derive(Debug)]
pub struct OnDisk {
    file: File,
    size: u64,
}

impl OnDisk {
    /// Takes a file as it is now.
    ///
    /// # Errors
    /// If its size cannot be known.
    pub fn new(file: File) -> io::Result<Self> {
        let size = file.metadata()?.len();
        Ok(Self { file, size })
    }
}

impl Content for OnDisk {
    fn size(&self) -> u64 {
        self.size
    }

    fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        self.file.read_exact_at(buffer, offset)
    }
}

/// The files that are served.
pub trait Files: Send + Sync + 'static {
    /// The file of this name, made plain by [`plain_name`]; `None` if there is none for this client.
    fn open(&self, name: &str, client: SocketAddr) -> Option<Arc<dyn Content>>;
}

/// A name as it is compared: Windows' slashes turned, without leading slashes, without regard to case.
pub fn plain_name(name: &str) -> String {
    name.replace('\\', "/").trim_start_matches(['/', '.']).to_ascii_lowercase()
}

/// What the server did so far.
#[derive(Debug, Default)]
pub struct Counters {
    /// Read requests.
    pub requests: AtomicU64,
    /// Transfers that ended with the whole file at the client.
    pub completed: AtomicU64,
    /// Transfers that the client left or that it gave up.
    pub failed: AtomicU64,
    /// Bytes of content that clients acknowledged.
    pub bytes: AtomicU64,
}

/// Serves files on a socket until the token is cancelled; transfers in progress are then carried to their end.
///
/// # Errors
/// If the socket fails for good.
pub async fn serve<F: Files>(
    socket: UdpSocket,
    files: Arc<F>,
    limits: Limits,
    counters: Arc<Counters>,
    stop: CancellationToken,
) -> io::Result<()> {
    // The kernel grants what it is allowed to grant; less is slower, not wrong.
    let _ = socket2::SockRef::from(&socket).set_send_buffer_size(SOCKET_BUFFER);
    let _ = socket2::SockRef::from(&socket).set_recv_buffer_size(SOCKET_BUFFER);
    let transfers = Transfers { files, limits, counters, running: HashMap::new(), due: BTreeSet::new() };
    Server { socket, transfers, batch: Batch::default() }.run(stop).await
}

struct Server<F> {
    socket: UdpSocket,
    transfers: Transfers<F>,
    batch: Batch,
}

impl<F: Files> Server<F> {
    async fn run(mut self, stop: CancellationToken) -> io::Result<()> {
        let mut datagram = vec![0; 65536];
        while !(stop.is_cancelled() && self.transfers.running.is_empty()) {
            let due = self.transfers.due.first().map(|(at, _)| (*at).into());
            let idle = tokio::time::Instant::now() + std::time::Duration::from_hours(1);
            tokio::select! {
                readable = self.socket.readable() => readable?,
                () = tokio::time::sleep_until(due.unwrap_or(idle)) => {}
                () = stop.cancelled(), if !stop.is_cancelled() => {}
            }
            self.receive(&mut datagram, stop.is_cancelled());
            let now = Instant::now();
            while let Some((at, client)) = self.transfers.due.first().copied().filter(|(at, _)| *at <= now) {
                self.transfers.due.remove(&(at, client));
                self.transfers.advance(client, now, &mut self.batch);
                self.batch.send_if_full(&self.socket).await;
            }
            self.batch.send(&self.socket).await;
        }
        Ok(())
    }

    fn receive(&mut self, datagram: &mut [u8], stopping: bool) {
        for _ in 0..BURST {
            match self.socket.try_recv_from(datagram) {
                Ok((length, client)) => {
                    let bytes = datagram.get(..length).unwrap_or_default();
                    self.transfers.heard(bytes, client, stopping, &mut self.batch);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                // An ICMP answer to something that we sent: its client goes silent and is let go in time.
                Err(error) => tracing::debug!(%error, "TFTP socket"),
            }
        }
    }
}

struct Running {
    transfer: Transfer,
    content: Arc<dyn Content>,
    file: String,
    due: Instant,
}

struct Transfers<F> {
    files: Arc<F>,
    limits: Limits,
    counters: Arc<Counters>,
    running: HashMap<SocketAddr, Running>,
    due: BTreeSet<(Instant, SocketAddr)>,
}

impl<F: Files> Transfers<F> {
    fn heard(&mut self, bytes: &[u8], client: SocketAddr, stopping: bool, batch: &mut Batch) {
        let now = Instant::now();
        match Packet::parse(bytes) {
            Ok(Packet::Read(_)) if stopping => {}
            Ok(Packet::Read(request)) if bytes.len() <= packet::REQUEST_LIMIT => {
                match self.begin(&request, client, now) {
                    Ok(()) => {}
                    Err((code, message)) => {
                        tracing::debug!(%client, file = request.file, message, "TFTP request refused");
                        batch.push(client, packet::error(code, message));
                    }
                }
            }
            Ok(Packet::Write) => batch.push(client, packet::error(packet::ERROR_ACCESS, "this server only reads")),
            Ok(Packet::Read(_)) | Err(PacketError::Text) => {
                batch.push(client, packet::error(packet::ERROR_ILLEGAL, "malformed request"));
            }
            Ok(packet) => {
                if let Some(running) = self.running.get_mut(&client) {
                    running.transfer.heard(&packet, now);
                    self.reschedule(client, now);
                }
            }
            Err(_) => {}
        }
    }

    fn begin(&mut self, request: &Request<'_>, client: SocketAddr, now: Instant) -> Result<(), (u16, &'static str)> {
        self.counters.requests.fetch_add(1, Ordering::Relaxed);
        if !request.mode.eq_ignore_ascii_case("octet") {
            return Err((packet::ERROR_UNDEFINED, "only mode octet is served"));
        }
        if self.running.len() >= TRANSFERS && !self.running.contains_key(&client) {
            return Err((packet::ERROR_UNDEFINED, "too many transfers, try again"));
        }
        let name = plain_name(request.file);
        let content = self.files.open(&name, client).ok_or((packet::ERROR_NOT_FOUND, "no such file"))?;
        let transfer = Transfer::start(request, content.size(), self.limits, now);
        // A request that comes again from the same port begins again: our first answer was lost, or it is a new transfer.
        if let Some(old) = self.running.remove(&client) {
            self.due.remove(&(old.due, client));
        }
        tracing::debug!(%client, file = name, size = content.size(), options = ?request.options, "TFTP transfer begins");
        self.running.insert(client, Running { transfer, content, file: name, due: now });
        self.due.insert((now, client));
        Ok(())
    }

    fn reschedule(&mut self, client: SocketAddr, at: Instant) {
        if let Some(running) = self.running.get_mut(&client) {
            self.due.remove(&(running.due, client));
            running.due = at;
            self.due.insert((at, client));
        }
    }

    /// Lets a transfer send until it waits.
    fn advance(&mut self, client: SocketAddr, now: Instant, batch: &mut Batch) {
        let Some(running) = self.running.get_mut(&client) else { return };
        loop {
            match running.transfer.poll(now) {
                Action::Send(bytes) => batch.push(client, bytes),
                Action::Data { block, offset, length } => {
                    let mut bytes = vec![0; 4 + usize::from(length)];
                    if let Some((header, space)) = bytes.split_first_chunk_mut::<4>() {
                        *header = packet::data_header(block);
                        if let Err(error) = running.content.read_exact_at(space, offset) {
                            tracing::error!(file = running.file, %error, "cannot read");
                            batch.push(client, packet::error(packet::ERROR_UNDEFINED, "cannot read the file"));
                            return self.end(client, &Outcome::Aborted(error.to_string()));
                        }
                    }
                    batch.push(client, bytes);
                }
                Action::WaitUntil(at) => return self.reschedule(client, at),
                Action::Done(outcome) => return self.end(client, &outcome),
            }
        }
    }

    fn end(&mut self, client: SocketAddr, outcome: &Outcome) {
        let Some(running) = self.running.remove(&client) else { return };
        self.due.remove(&(running.due, client));
        self.counters.bytes.fetch_add(running.transfer.bytes_arrived(), Ordering::Relaxed);
        let file = running.file;
        match outcome {
            Outcome::Complete => {
                self.counters.completed.fetch_add(1, Ordering::Relaxed);
                tracing::info!(%client, file, "TFTP transfer complete");
            }
            Outcome::Probe => tracing::debug!(%client, file, "TFTP size probe"),
            Outcome::Aborted(reason) => {
                self.counters.failed.fetch_add(1, Ordering::Relaxed);
                tracing::warn!(%client, file, reason, "TFTP transfer given up by the client");
            }
            Outcome::Silent => {
                self.counters.failed.fetch_add(1, Ordering::Relaxed);
                tracing::warn!(%client, file, "TFTP client went silent; is a firewall in the way of its answers?");
            }
        }
    }
}

/// Packets that are due.
#[derive(Default)]
struct Batch(Vec<(SocketAddrAny, Vec<u8>)>);

impl Batch {
    fn push(&mut self, client: SocketAddr, bytes: Vec<u8>) {
        self.0.push((client.into(), bytes));
    }

    async fn send_if_full(&mut self, socket: &UdpSocket) {
        if self.0.len() >= BATCH {
            self.send(socket).await;
        }
    }

    /// Sends everything. What cannot be sent is as good as lost on the wire, and treated the same: it is sent again.
    async fn send(&mut self, socket: &UdpSocket) {
        let mut rest = self.0.as_slice();
        while !rest.is_empty() {
            let sent = match socket.async_io(Interest::WRITABLE, || send_some(socket, rest)).await {
                Ok(count) => count.max(1),
                Err(error) => {
                    tracing::debug!(%error, "TFTP packet lost");
                    1
                }
            };
            rest = rest.get(sent..).unwrap_or_default();
        }
        self.0.clear();
    }
}

fn send_some(socket: &UdpSocket, packets: &[(SocketAddrAny, Vec<u8>)]) -> io::Result<usize> {
    let packets = packets.get(..BATCH).unwrap_or(packets);
    let slices: Vec<[IoSlice<'_>; 1]> = packets.iter().map(|(_, bytes)| [IoSlice::new(bytes)]).collect();
    let mut controls: Vec<SendAncillaryBuffer<'_, '_, '_>> =
        packets.iter().map(|_| SendAncillaryBuffer::default()).collect();
    let parts = packets.iter().zip(&slices).zip(&mut controls);
    let mut messages: Vec<MMsgHdr<'_>> =
        parts.map(|(((client, _), slices), control)| MMsgHdr::new_with_addr(client, slices, control)).collect();
    Ok(rustix::net::sendmmsg(socket, &mut messages, SendFlags::empty())?)
}

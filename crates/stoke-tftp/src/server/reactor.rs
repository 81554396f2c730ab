//! The thread: waits for packets and for the clock, and lets the table answer.

use std::collections::HashMap;
use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::{Duration, Instant};

use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, epoll, eventfd, poll};
use stoke_sys::datagrams::{BATCH, Inbox};

use super::outbox::Outbox;
use super::table::{Reply, Table};
use super::{Counters, Files, Ports, Settings};
use crate::packet::REQUEST_LIMIT;

/// Room in the socket for the windows of many clients.
const SOCKET_BUFFER: usize = 4 << 20;
/// Batches that are received before the clock is looked at again.
const ROUNDS: usize = 4;
/// Datagrams that a first call has room for; more are asked for when it was filled.
const FEW: usize = 4;

/// How long packets are looked for before the thread sleeps.
const WATCH: Duration = Duration::from_micros(100);
/// Looking that found something earns one; looking in vain costs so many of them.
const WATCH_PRICE: u32 = 4;
/// Most that can be earned.
const WATCH_CREDIT: u32 = 32;
/// Without credit, looking is tried again after so many sleeps.
const WATCH_AGAIN: u32 = 64;

const RUNNING: u8 = 0;
const DRAINING: u8 = 1;
const ABANDONED: u8 = 2;

/// Tells the thread to end.
pub(super) struct Waker {
    state: AtomicU8,
    event: OwnedFd,
}

impl Waker {
    pub(super) fn new() -> io::Result<Self> {
        let event = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        Ok(Self { state: AtomicU8::new(RUNNING), event })
    }

    /// No more requests; the thread ends after the last transfer.
    pub(super) fn drain(&self) {
        self.set(DRAINING);
    }

    /// The thread ends now.
    pub(super) fn abandon(&self) {
        self.set(ABANDONED);
    }

    fn set(&self, state: u8) {
        self.state.fetch_max(state, Ordering::AcqRel);
        // It can only fail if the counter is full, and then the thread is awake.
        let _ = rustix::io::write(&self.event, &1_u64.to_ne_bytes());
    }

    fn state(&self) -> u8 {
        self.state.load(Ordering::Acquire)
    }
}

pub(super) struct Reactor<F> {
    socket: UdpSocket,
    table: Table<F>,
    outbox: Outbox,
    inbox: Inbox,
    waker: Arc<Waker>,
    own: OwnPorts,
    watch: Watch,
}

impl<F: Files> Reactor<F> {
    pub(super) fn new(
        socket: UdpSocket,
        files: Arc<F>,
        settings: Settings,
        counters: Arc<Counters>,
        waker: Arc<Waker>,
    ) -> io::Result<Self> {
        socket.set_nonblocking(true)?;
        // The kernel grants what it is allowed to grant; less is slower, not wrong.
        let _ = socket2::SockRef::from(&socket).set_send_buffer_size(SOCKET_BUFFER);
        let _ = socket2::SockRef::from(&socket).set_recv_buffer_size(SOCKET_BUFFER);
        let local = socket.local_addr()?;
        let table = Table::new(files, settings.limits, local.ip(), counters);
        let own = OwnPorts::new(settings.ports, local)?;
        // A request is longer than any other packet of a client; one byte more shows that it is too long.
        let inbox = Inbox::new(REQUEST_LIMIT + 1);
        Ok(Self { socket, table, outbox: Outbox::default(), inbox, waker, own, watch: Watch::new() })
    }

    /// Serves until it is told to end.
    pub(super) fn run(mut self) -> io::Result<()> {
        loop {
            match self.waker.state() {
                ABANDONED => return Ok(()),
                DRAINING if self.table.is_empty() => return Ok(()),
                state => self.table.draining = state == DRAINING,
            }
            if !self.receive_any()? && !self.watch()? {
                self.wait()?;
            }
            let now = Instant::now();
            while let Some(client) = self.table.next_due(now) {
                self.advance(client, now);
            }
            self.outbox.send(&self.socket, true);
            self.settle();
        }
    }

    /// Takes what is there; whether anything was.
    fn receive_any(&mut self) -> io::Result<bool> {
        let shared = self.receive()?;
        Ok(self.receive_on_own_ports()? || shared)
    }

    /// Looks for packets for a moment instead of sleeping, while that pays.
    fn watch(&mut self) -> io::Result<bool> {
        if self.table.is_empty() || !self.watch.pays() {
            return Ok(false);
        }
        let begin = Instant::now();
        let mut seen = false;
        while !seen && begin.elapsed() < WATCH {
            std::hint::spin_loop();
            seen = self.receive_any()?;
        }
        self.watch.watched(seen);
        Ok(seen)
    }

    /// Sleeps until a packet comes, the clock has to be looked at or the thread is to end.
    fn wait(&self) -> io::Result<()> {
        let wait = self.table.due().map(|due| due.saturating_duration_since(Instant::now()));
        let wait = wait.map(|wait| Timespec::try_from(wait).unwrap_or(Timespec { tv_sec: 1, tv_nsec: 0 }));
        let ports = self.own.epoll.as_ref().unwrap_or(&self.waker.event);
        let mut fds = [
            PollFd::new(&self.socket, PollFlags::IN),
            PollFd::new(&self.waker.event, PollFlags::IN),
            PollFd::new(ports, PollFlags::IN),
        ];
        match poll(&mut fds, wait.as_ref()) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        let [_, event, _] = &fds;
        if event.revents().contains(PollFlags::IN) {
            // What it counts does not matter.
            let _ = rustix::io::read(&self.waker.event, &mut [0; 8]);
        }
        Ok(())
    }

    /// Takes what is there on the port of requests; whether anything was.
    fn receive(&mut self) -> io::Result<bool> {
        let mut room = FEW;
        for round in 0..ROUNDS {
            let got = match self.inbox.receive(&self.socket, room) {
                Ok(got) => got,
                Err(error) if passing(&error) => return Ok(round > 0),
                Err(error) => return Err(error),
            };
            let now = Instant::now();
            for (client, bytes) in self.inbox.datagrams() {
                match self.table.heard(bytes, client, now) {
                    Reply::Nothing => continue,
                    Reply::Packet(bytes) => self.outbox.push(client, &bytes),
                    Reply::Begin => {
                        self.own.open(client);
                        advance(&mut self.table, &mut self.own, &mut self.outbox, client, now);
                    }
                    Reply::Advance => advance(&mut self.table, &mut self.own, &mut self.outbox, client, now),
                }
                self.outbox.send(&self.socket, false);
            }
            if got < room {
                break;
            }
            room = BATCH;
        }
        Ok(true)
    }

    /// The same for the ports of transfers that have one.
    fn receive_on_own_ports(&mut self) -> io::Result<bool> {
        let readable = self.own.readable()?;
        let any = !readable.is_empty();
        for client in readable {
            let Some(socket) = self.own.sockets.get(&client) else { continue };
            match self.inbox.receive(socket, BATCH) {
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => self.table.unreachable(client),
                Err(error) if passing(&error) => continue,
                Err(error) => return Err(error),
            }
            let now = Instant::now();
            for (_, bytes) in self.inbox.datagrams() {
                // A transfer's own port takes no requests.
                self.table.heard_on_own_port(bytes, client, now);
            }
            self.advance(client, now);
        }
        Ok(any)
    }

    fn advance(&mut self, client: SocketAddr, now: Instant) {
        advance(&mut self.table, &mut self.own, &mut self.outbox, client, now);
        self.outbox.send(&self.socket, false);
    }

    /// Takes note of what the sending told, and closes the ports of transfers that ended.
    fn settle(&mut self) {
        for client in self.outbox.uncut.drain(..).chain(self.own.outbox.uncut.drain(..)) {
            self.table.send_uncut(client);
        }
        for client in std::mem::take(&mut self.table.ended) {
            // Unless the same client has begun another one meanwhile.
            if !self.table.has(client) {
                self.own.close(client);
            }
        }
    }
}

/// Whether to look for packets for a moment before going to sleep.
///
/// On a LAN a client answers within microseconds, and being woken takes as long as its answer: with a window of one block,
/// that is half of the time of a transfer. Where answers take longer, looking is a waste and is given up.
struct Watch {
    credit: u32,
    slept: u32,
    /// With one processor, whoever looks keeps others from working.
    possible: bool,
}

impl Watch {
    fn new() -> Self {
        let possible = std::thread::available_parallelism().is_ok_and(|processors| processors.get() > 1);
        Self { credit: 0, slept: 0, possible }
    }

    fn pays(&mut self) -> bool {
        if self.credit > 0 {
            return self.possible;
        }
        self.slept = (self.slept + 1) % WATCH_AGAIN;
        self.possible && self.slept == 0
    }

    fn watched(&mut self, seen: bool) {
        self.credit = if seen { (self.credit + 1).min(WATCH_CREDIT) } else { self.credit.saturating_sub(WATCH_PRICE) };
    }
}

/// Lets a transfer send until it waits: into the shared outbox, or at once through its own port.
fn advance<F: Files>(table: &mut Table<F>, own: &mut OwnPorts, outbox: &mut Outbox, client: SocketAddr, now: Instant) {
    match own.sockets.get(&client) {
        None => table.advance(client, now, outbox),
        Some(socket) => {
            table.advance(client, now, &mut own.outbox);
            own.outbox.send_connected(socket);
        }
    }
}

/// Errors after which the socket goes on: nothing there, a signal, ICMP's word about an earlier packet.
fn passing(error: &io::Error) -> bool {
    use io::ErrorKind as Kind;
    matches!(
        error.kind(),
        Kind::WouldBlock
            | Kind::Interrupted
            | Kind::ConnectionRefused
            | Kind::HostUnreachable
            | Kind::NetworkUnreachable
            | Kind::NetworkDown
            | Kind::PermissionDenied
    )
}

/// The ports of transfers that have one of their own, by the client's address.
struct OwnPorts {
    local: SocketAddr,
    /// `None` in single-port mode.
    epoll: Option<OwnedFd>,
    sockets: HashMap<SocketAddr, UdpSocket>,
    clients: HashMap<u64, SocketAddr>,
    outbox: Outbox,
}

impl OwnPorts {
    fn new(ports: Ports, mut local: SocketAddr) -> io::Result<Self> {
        local.set_port(0);
        let epoll = match ports {
            Ports::Single => None,
            Ports::Classic => Some(epoll::create(epoll::CreateFlags::CLOEXEC)?),
        };
        let (sockets, clients) = (HashMap::new(), HashMap::new());
        Ok(Self { local, epoll, sockets, clients, outbox: Outbox::default() })
    }

    /// Opens a port for a client. A transfer whose port cannot be opened goes through the shared one.
    fn open(&mut self, client: SocketAddr) {
        if let Err(error) = self.try_open(client) {
            tracing::warn!(%client, %error, "a TFTP transfer gets no port of its own and goes through the shared one");
        }
    }

    fn try_open(&mut self, client: SocketAddr) -> io::Result<()> {
        let Some(epoll) = self.epoll.as_ref().filter(|_| !self.sockets.contains_key(&client)) else { return Ok(()) };
        let socket = UdpSocket::bind(self.local)?;
        socket.set_nonblocking(true)?;
        socket.connect(client)?;
        let token = u64::from(socket.local_addr()?.port());
        epoll::add(epoll, &socket, epoll::EventData::new_u64(token), epoll::EventFlags::IN)?;
        self.clients.insert(token, client);
        self.sockets.insert(client, socket);
        Ok(())
    }

    fn close(&mut self, client: SocketAddr) {
        // The kernel forgets a closed socket in the epoll by itself.
        if let Some(socket) = self.sockets.remove(&client)
            && let Ok(local) = socket.local_addr()
        {
            self.clients.remove(&u64::from(local.port()));
        }
    }

    /// Clients whose ports have packets.
    fn readable(&self) -> io::Result<Vec<SocketAddr>> {
        let Some(epoll) = &self.epoll else { return Ok(Vec::new()) };
        let mut events = Vec::with_capacity(BATCH);
        let now = Timespec::try_from(Duration::ZERO).ok();
        match epoll::wait(epoll, rustix::buffer::spare_capacity(&mut events), now.as_ref()) {
            Ok(_) => {}
            Err(rustix::io::Errno::INTR) => return Ok(Vec::new()),
            Err(error) => return Err(error.into()),
        }
        Ok(events.iter().filter_map(|event| self.clients.get(&event.data.u64()).copied()).collect())
    }
}

//! The transfers: told apart by the client's address and port, each with its file and its place in time.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use super::outbox::Outbox;
use super::paths::Paths;
use super::{Asked, Content, Counters, Ended, Files};
use crate::content::NetasciiRoom;
use crate::names::plain_name;
use crate::packet::{self, Packet, PacketError, Request};
use crate::transfer::{Action, Again, Limits, Outcome, Transfer};

/// Transfers at once.
const TRANSFERS: usize = 4096;
/// Bytes of texts in mode netascii that are held translated.
const NETASCII: usize = 16 << 20;

/// What is to be done after a packet.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Reply {
    Nothing,
    /// Send this to the client.
    Packet(Vec<u8>),
    /// A transfer begins; advance it.
    Begin,
    /// Advance the client's transfer.
    Advance,
}

struct Running {
    transfer: Transfer,
    content: Arc<dyn Content>,
    name: String,
    /// Of the request, to know it again.
    request: u64,
    began: Instant,
    /// Its moment in the table's `timers`, which is never after `due`.
    timer: Instant,
    due: Instant,
    /// Whether the kernel may cut what is sent.
    cut: bool,
}

pub(super) struct Table<F> {
    files: Arc<F>,
    limits: Limits,
    paths: Paths,
    counters: Arc<Counters>,
    texts: NetasciiRoom,
    running: HashMap<SocketAddr, Running>,
    timers: BTreeSet<(Instant, SocketAddr)>,
    /// Who was not heard again yet, oldest first; and who was since, or has gone.
    unproven: VecDeque<(SocketAddr, Instant)>,
    /// Requests are no longer answered.
    pub(super) draining: bool,
    /// Clients whose transfers ended and whose ports can be closed.
    pub(super) ended: Vec<SocketAddr>,
}

impl<F: Files> Table<F> {
    pub(super) fn new(files: Arc<F>, limits: Limits, local: IpAddr, counters: Arc<Counters>) -> Self {
        Self {
            files,
            limits,
            paths: Paths::new(local),
            counters,
            texts: NetasciiRoom::new(NETASCII),
            running: HashMap::new(),
            timers: BTreeSet::new(),
            unproven: VecDeque::new(),
            draining: false,
            ended: Vec::new(),
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.running.is_empty()
    }

    /// Whether this client has a transfer.
    pub(super) fn has(&self, client: SocketAddr) -> bool {
        self.running.contains_key(&client)
    }

    /// When the clock has to be looked at next.
    pub(super) fn due(&self) -> Option<Instant> {
        self.timers.first().map(|(at, _)| *at)
    }

    /// A transfer that is to be advanced now.
    pub(super) fn next_due(&mut self, now: Instant) -> Option<SocketAddr> {
        while let Some((at, client)) = self.timers.first().copied().filter(|(at, _)| *at <= now) {
            self.timers.remove(&(at, client));
            let Some(running) = self.running.get_mut(&client) else { continue };
            if running.due <= now {
                // Its next moment is set when it has advanced.
                running.timer = now;
                self.timers.insert((now, client));
                return Some(client);
            }
            running.timer = running.due;
            self.timers.insert((running.due, client));
        }
        None
    }

    /// A packet came to the port of requests.
    pub(super) fn heard(&mut self, bytes: &[u8], client: SocketAddr, now: Instant) -> Reply {
        match Packet::parse(bytes) {
            Ok(Packet::Read(_)) if self.draining => Reply::Nothing,
            Ok(Packet::Read(request)) if bytes.len() <= packet::REQUEST_LIMIT => {
                self.asked(&request, bytes, client, now)
            }
            Ok(Packet::Write) => self.refuse(client, "", (packet::ERROR_ACCESS, "this server only reads")),
            Ok(Packet::Read(_)) | Err(PacketError::Text) => {
                self.refuse(client, "", (packet::ERROR_ILLEGAL, "malformed request"))
            }
            Ok(packet) => self.answered(&packet, client, now),
            Err(_) => Reply::Nothing,
        }
    }

    /// A packet came to a transfer's own port.
    pub(super) fn heard_on_own_port(&mut self, bytes: &[u8], client: SocketAddr, now: Instant) {
        if let Ok(packet @ (Packet::Ack(_) | Packet::Error { .. })) = Packet::parse(bytes) {
            self.answered(&packet, client, now);
        }
    }

    fn answered(&mut self, packet: &Packet<'_>, client: SocketAddr, now: Instant) -> Reply {
        let Some(running) = self.running.get_mut(&client) else { return Reply::Nothing };
        running.transfer.heard(packet, now);
        Reply::Advance
    }

    /// ICMP says that nobody is there.
    pub(super) fn unreachable(&mut self, client: SocketAddr) {
        if let Some(running) = self.running.get_mut(&client) {
            running.transfer.unreachable();
        }
    }

    /// The kernel does not cut what goes to this client.
    pub(super) fn send_uncut(&mut self, client: SocketAddr) {
        if let Some(running) = self.running.get_mut(&client) {
            running.cut = false;
        }
    }

    fn refuse(&self, client: SocketAddr, name: &str, (code, message): (u16, &'static str)) -> Reply {
        self.counters.refused.fetch_add(1, Ordering::Relaxed);
        tracing::debug!(%client, file = name, message, "TFTP request refused");
        self.files.refused(client, name, message);
        Reply::Packet(packet::error(code, message))
    }

    fn asked(&mut self, request: &Request<'_>, bytes: &[u8], client: SocketAddr, now: Instant) -> Reply {
        let mut hasher = DefaultHasher::new();
        bytes.hash(&mut hasher);
        let hash = hasher.finish();
        if let Some(running) = self.running.get_mut(&client).filter(|running| running.request == hash) {
            match running.transfer.asked_again(now) {
                Again::Repeated => return Reply::Advance,
                Again::Echo => return Reply::Nothing,
                Again::Restart => {}
            }
        }
        self.counters.requests.fetch_add(1, Ordering::Relaxed);
        let name = plain_name(request.file);
        match self.open(request, &name, client) {
            Ok(content) => {
                self.begin(request, name, content, (client, hash), now);
                Reply::Begin
            }
            Err(error) => self.refuse(client, &name, error),
        }
    }

    fn open(
        &self,
        request: &Request<'_>,
        name: &str,
        client: SocketAddr,
    ) -> Result<Arc<dyn Content>, (u16, &'static str)> {
        let text = request.mode.eq_ignore_ascii_case("netascii");
        if !text && !request.mode.eq_ignore_ascii_case("octet") {
            return Err((packet::ERROR_ILLEGAL, "only modes octet and netascii are served"));
        }
        let asked = Asked { name, client, request };
        let content = self.files.find(&asked).ok_or((packet::ERROR_NOT_FOUND, "no such file"))?;
        if !text {
            return Ok(content);
        }
        match self.texts.translate(&*content) {
            Ok(text) => Ok(Arc::new(text)),
            Err(error) if error.kind() == std::io::ErrorKind::OutOfMemory => {
                Err((packet::ERROR_UNDEFINED, "too long for mode netascii; use octet"))
            }
            Err(_) => Err((packet::ERROR_UNDEFINED, "cannot read the file")),
        }
    }

    fn begin(
        &mut self,
        request: &Request<'_>,
        name: String,
        content: Arc<dyn Content>,
        (client, hash): (SocketAddr, u64),
        now: Instant,
    ) {
        self.end(client, &Outcome::Aborted("it asked for something else".to_owned()), now);
        self.make_room(now);
        let limits = self.paths.limits(client, self.limits, now);
        let transfer = Transfer::start(request, content.size(), limits, now);
        tracing::debug!(%client, file = name, size = content.size(), options = ?request.options, "TFTP transfer begins");
        let running = Running { transfer, content, name, request: hash, began: now, timer: now, due: now, cut: true };
        self.running.insert(client, running);
        self.timers.insert((now, client));
        self.unproven.push_back((client, now));
        self.counters.active.store(self.running.len() as u64, Ordering::Relaxed);
    }

    /// When there are too many transfers, the oldest request goes whose client was not heard again: its address may be made
    /// up. If all were heard, the oldest of them goes.
    fn make_room(&mut self, now: Instant) {
        let known = |running: &HashMap<SocketAddr, Running>, client: &SocketAddr, began: Instant| {
            running.get(client).is_some_and(|running| running.began == began && !running.transfer.proven())
        };
        if self.unproven.len() >= 2 * TRANSFERS {
            self.unproven.retain(|(client, began)| known(&self.running, client, *began));
        }
        while self.running.len() >= TRANSFERS {
            let first = std::iter::from_fn(|| self.unproven.pop_front());
            let unproven = first.into_iter().find(|(client, began)| known(&self.running, client, *began));
            let oldest = || self.running.iter().min_by_key(|(_, running)| running.began).map(|(client, _)| *client);
            let Some(client) = unproven.map(|(client, _)| client).or_else(oldest) else { return };
            self.end(client, &Outcome::Silent, now);
        }
    }

    /// Lets a transfer send until it waits.
    pub(super) fn advance(&mut self, client: SocketAddr, now: Instant, outbox: &mut Outbox) {
        let Some(running) = self.running.get_mut(&client) else { return };
        loop {
            match running.transfer.poll(now) {
                Action::Send(bytes) => outbox.push(client, &bytes),
                Action::Data { block, offset, length } => {
                    let read = |room: &mut [u8]| running.content.read_exact_at(room, offset);
                    if let Err(error) = outbox.data(client, block, length, running.cut, read) {
                        tracing::error!(file = running.name, %error, "cannot read");
                        outbox.push(client, &packet::error(packet::ERROR_UNDEFINED, "cannot read the file"));
                        return self.end(client, &Outcome::Aborted(error.to_string()), now);
                    }
                }
                Action::WaitUntil(at) => {
                    running.due = at;
                    if at < running.timer || running.timer <= now {
                        self.timers.remove(&(running.timer, client));
                        running.timer = at;
                        self.timers.insert((at, client));
                    }
                    return self.look_at_path(client, now);
                }
                Action::Done(outcome) => return self.end(client, &outcome, now),
            }
        }
    }

    fn look_at_path(&mut self, client: SocketAddr, now: Instant) {
        let Some(running) = self.running.get(&client).filter(|running| running.transfer.first_block_lost(now)) else {
            return;
        };
        let block = running.transfer.block_size();
        if self.paths.limits(client, self.limits, now).block < block {
            return;
        }
        if let Some(smaller) = self.paths.too_long(client.ip(), block, now) {
            let file = running.name.as_str();
            tracing::warn!(
                %client, file, block, smaller,
                "TFTP blocks do not arrive although small packets do: a smaller MTU on the path? the next try has smaller ones"
            );
        }
    }

    fn end(&mut self, client: SocketAddr, outcome: &Outcome, now: Instant) {
        let Some(running) = self.running.remove(&client) else { return };
        self.timers.remove(&(running.timer, client));
        self.ended.push(client);
        let (repeated, timeouts) = running.transfer.repeats();
        let count = |counter: &std::sync::atomic::AtomicU64, add| counter.fetch_add(add, Ordering::Relaxed);
        count(&self.counters.bytes, running.transfer.bytes_arrived());
        count(&self.counters.repeated, repeated);
        count(&self.counters.timeouts, timeouts);
        match outcome {
            Outcome::Complete | Outcome::Unconfirmed => count(&self.counters.completed, 1),
            Outcome::Probe => 0,
            Outcome::Aborted(_) | Outcome::Silent => count(&self.counters.failed, 1),
        };
        self.counters.active.store(self.running.len() as u64, Ordering::Relaxed);
        let ended = Ended {
            name: &running.name,
            client,
            outcome,
            size: running.content.size(),
            bytes: running.transfer.bytes_arrived(),
            took: now.saturating_duration_since(running.began),
            repeated,
            block: running.transfer.block_size(),
            window: running.transfer.window_size(),
        };
        say(&ended);
        self.files.ended(&ended);
    }
}

/// Whoever opened the files says so to people, and knows who the client is.
fn say(ended: &Ended<'_>) {
    let Ended { client, name: file, repeated, outcome, .. } = ended;
    tracing::debug!(%client, file, ?outcome, took_ms = ended.took.as_millis(), repeated, "TFTP transfer ended");
}

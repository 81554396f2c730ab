//! DHCP of many machines over one socket: each request has its machine's address inside, and every answer is broadcast.

use std::collections::{BTreeMap, HashMap};
use std::net::{Ipv4Addr, SocketAddrV4, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use socket2::{Domain, Protocol, Socket, Type};
use stoke_api::MacAddr;

const CLIENT: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, 68);
const SERVERS: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::BROADCAST, 67);
const COOKIE: [u8; 4] = [99, 130, 83, 99];
const OPTIONS: usize = 240;
const DISCOVER: u8 = 1;
const OFFER: u8 = 2;
const REQUEST: u8 = 3;
const ACK: u8 = 5;
/// The first pause before a request is repeated; it doubles (RFC 2131, section 4.1, but firmware is less patient).
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const ATTEMPTS: u32 = 6;

/// Options by code.
pub(crate) type Options = BTreeMap<u8, Vec<u8>>;

/// An answer, as far as it matters.
#[derive(Clone, Debug)]
pub(crate) struct Answer {
    kind: u8,
    /// The address that the client gets.
    pub(crate) address: Ipv4Addr,
    /// The next server, from its field.
    pub(crate) next: Ipv4Addr,
    /// The boot file, from its field or its option.
    pub(crate) file: String,
    pub(crate) options: Options,
}

impl Answer {
    fn parse(packet: &[u8]) -> Option<(u32, Self)> {
        let four = |at: usize| packet.get(at..at + 4).and_then(|bytes| <[u8; 4]>::try_from(bytes).ok());
        if packet.first() != Some(&2) || four(236)? != COOKIE {
            return None;
        }
        let options = options(packet.get(OPTIONS..)?);
        let field = packet.get(108..236)?.split(|byte| *byte == 0).next().unwrap_or_default();
        let file = options.get(&67).map_or(field, Vec::as_slice);
        let file = String::from_utf8_lossy(file).trim_end_matches('\0').to_owned();
        let kind = *options.get(&53)?.first()?;
        let address = |at| four(at).map(Ipv4Addr::from);
        Some((u32::from_be_bytes(four(4)?), Self { kind, address: address(16)?, next: address(20)?, file, options }))
    }
}

fn options(mut bytes: &[u8]) -> Options {
    let mut options = Options::new();
    while let Some((code, rest)) = bytes.split_first() {
        match code {
            0 => bytes = rest,
            255 => break,
            code => {
                let Some((length, rest)) = rest.split_first() else { break };
                let Some((value, rest)) = rest.split_at_checked(usize::from(*length)) else { break };
                options.entry(*code).or_default().extend_from_slice(value);
                bytes = rest;
            }
        }
    }
    options
}

fn encode(mac: MacAddr, transaction: u32, seconds: u16, options: &Options) -> Vec<u8> {
    let mut packet = vec![1, 1, 6, 0];
    packet.extend(transaction.to_be_bytes());
    packet.extend(seconds.to_be_bytes());
    // To be answered by broadcast: the machines have no interface of their own.
    packet.extend([0x80, 0]);
    packet.extend([0; 16]);
    packet.extend(mac.0);
    packet.resize(236, 0);
    packet.extend(COOKIE);
    for (code, value) in options {
        packet.extend([*code, u8::try_from(value.len()).unwrap_or(u8::MAX)]);
        packet.extend(value.iter().take(255));
    }
    packet.push(255);
    packet.resize(packet.len().max(300), 0);
    packet
}

/// The socket, and who waits for which answer.
#[derive(Debug)]
pub(crate) struct Exchange {
    socket: UdpSocket,
    waiting: Mutex<HashMap<u32, Sender<Answer>>>,
    closed: AtomicBool,
}

impl Exchange {
    /// Opens the socket on the calling thread's host, and starts to listen.
    pub(crate) fn open() -> Result<Arc<Self>> {
        let socket = Socket::new(Domain::IPV4, Type::DGRAM, Some(Protocol::UDP))?;
        socket.set_broadcast(true)?;
        // There is no route to everybody.
        socket.bind_device(Some(b"wire0"))?;
        // A thousand answers may come before the listener's turn.
        socket.set_recv_buffer_size(8 << 20)?;
        socket.bind(&CLIENT.into()).context("cannot listen for DHCP")?;
        socket.set_read_timeout(Some(FIRST_PAUSE))?;
        let exchange =
            Arc::new(Self { socket: socket.into(), waiting: Mutex::default(), closed: AtomicBool::new(false) });
        let listener = Arc::clone(&exchange);
        std::thread::spawn(move || listener.listen());
        Ok(exchange)
    }

    fn listen(&self) {
        let mut buffer = [0; 1500];
        while !self.closed.load(Ordering::Acquire) {
            let Ok((length, _)) = self.socket.recv_from(&mut buffer) else { continue };
            let Some((transaction, answer)) = Answer::parse(buffer.get(..length).unwrap_or_default()) else { continue };
            if let Some(waiting) = self.lock().get(&transaction) {
                let _ = waiting.send(answer);
            }
        }
    }

    /// The listener ends soon.
    pub(crate) fn close(&self) {
        self.closed.store(true, Ordering::Release);
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<u32, Sender<Answer>>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Discover, offer, request, acknowledgement.
    pub(crate) fn ask(&self, mac: MacAddr, transaction: u32, about: &Options) -> Result<Answer> {
        let (sender, receiver) = channel();
        self.lock().insert(transaction, sender);
        let result = self.converse(mac, transaction, about, &receiver);
        self.lock().remove(&transaction);
        result
    }

    fn converse(&self, mac: MacAddr, transaction: u32, about: &Options, answers: &Receiver<Answer>) -> Result<Answer> {
        let with = |kind: u8, more: &[(u8, &[u8])]| {
            let mut options = about.clone();
            options.insert(53, vec![kind]);
            options.extend(more.iter().map(|(code, value)| (*code, value.to_vec())));
            options
        };
        let offer = self.until(mac, transaction, &with(DISCOVER, &[]), OFFER, answers).context("no offer")?;
        let server = offer.options.get(&54).context("an offer without its server")?;
        let wanted = offer.address.octets();
        let request = with(REQUEST, &[(50, &wanted), (54, server)]);
        let lease = self.until(mac, transaction, &request, ACK, answers).context("no lease")?;
        if lease.address != offer.address {
            bail!("{} was offered and {} given", offer.address, lease.address);
        }
        Ok(lease)
    }

    fn until(
        &self,
        mac: MacAddr,
        transaction: u32,
        options: &Options,
        kind: u8,
        answers: &Receiver<Answer>,
    ) -> Result<Answer> {
        let (begin, mut pause) = (Instant::now(), FIRST_PAUSE);
        for _ in 0..ATTEMPTS {
            let seconds = u16::try_from(begin.elapsed().as_secs()).unwrap_or(u16::MAX);
            self.socket.send_to(&encode(mac, transaction, seconds, options), SERVERS)?;
            let until = Instant::now() + pause;
            while let Ok(answer) = answers.recv_timeout(until.saturating_duration_since(Instant::now())) {
                if answer.kind == kind {
                    return Ok(answer);
                }
            }
            pause *= 2;
        }
        bail!("no DHCP answer of kind {kind} in {:?}", begin.elapsed())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_read_with_its_file_from_either_place() {
        let mac = MacAddr([2, 0, 0, 0, 0, 1]);
        let about = Options::from([(53, vec![OFFER]), (54, vec![10, 0, 0, 1])]);
        let mut packet = encode(mac, 7, 0, &about);
        packet[0] = 2;
        packet[16..20].copy_from_slice(&[10, 0, 0, 9]);
        packet[108..112].copy_from_slice(b"file");
        let (transaction, answer) = Answer::parse(&packet).unwrap();
        assert_eq!((transaction, answer.kind, answer.address), (7, OFFER, Ipv4Addr::new(10, 0, 0, 9)));
        assert_eq!(answer.file, "file");
        let mut with_option = about;
        with_option.insert(67, b"other".to_vec());
        let mut packet = encode(mac, 7, 0, &with_option);
        packet[0] = 2;
        assert_eq!(Answer::parse(&packet).unwrap().1.file, "other");
        assert!(Answer::parse(&encode(mac, 7, 0, &Options::new())).is_none());
    }
}

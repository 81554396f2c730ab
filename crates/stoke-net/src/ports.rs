//! LAN ports for processes outside of the namespace: one line of JSON asks, one line answers, and the TAP device comes
//! along as an open descriptor (`SCM_RIGHTS`, unix(7)).
//!
//! ```text
//! -> {"lan":{"kind":"Lan","namespace":"default","name":"lab"},"mac":"52:54:00:00:00:01","label":"machine/node-1/lab"}
//! <- {"link":"sv-5e3a9c01","mtu":1500}                    + descriptor
//! <- {"refused":"there is no lan default/lab"}
//!
//! -> {"interfaces":true}                                  + descriptor of the network namespace that wants them
//! <- {"interfaces":[{"lan":{…},"name":"lan0","mtu":1450}]}
//! ```
//!
//! The device goes when the last copy of the descriptor is closed: there is nothing to give back. Its frames begin with
//! a `virtio_net_hdr`.

use std::io::{self, IoSlice, IoSliceMut, Read as _, Write as _};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags,
};
use serde::{Deserialize, Serialize};
use stoke_api::meta::ObjectRef;
use stoke_api::names::{LinkName, MacAddr};

use crate::kernel::{KernelError, KernelLinks};
use crate::label::{Installation, Label, LanKey, LinkRole};
use crate::{Links as _, Step};

/// Longest line of either side.
const LINE_LIMIT: usize = 4096;
/// How long either side waits for the other.
const PATIENCE: Duration = Duration::from_secs(10);
/// Names that are tried for one port.
const NAME_ATTEMPTS: u32 = 16;

/// Asks for a port.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PortRequest {
    /// The `Lan`.
    pub lan: ObjectRef,
    /// Link-layer address of the machine behind the port.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mac: Option<MacAddr>,
    /// Whose port it is, for people: `machine/node-1/lab`.
    pub label: String,
}

/// What can be asked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Ask {
    /// All interfaces that the asking pod may have, in the network namespace whose descriptor comes along.
    Interfaces {
        /// Always true.
        interfaces: bool,
    },
    /// A port.
    Port(PortRequest),
}

/// An interface in the namespace of who asked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GivenInterface {
    /// The `Lan`.
    pub lan: ObjectRef,
    /// Its name.
    pub name: LinkName,
    /// MTU in bytes.
    pub mtu: u16,
}

/// A port.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PortReply {
    /// The device.
    pub link: LinkName,
    /// MTU in bytes.
    pub mtu: u16,
}

#[derive(Serialize, Deserialize)]
#[serde(untagged)]
enum Answer {
    Port(PortReply),
    Interfaces { interfaces: Vec<GivenInterface> },
    Refused { refused: String },
}

/// Why there is no port.
#[derive(Debug, thiserror::Error)]
pub enum PortError {
    /// Nobody answers.
    #[error("cannot ask for a lan port at {0}; is the node agent running?")]
    Connect(PathBuf, #[source] io::Error),
    /// The connection broke.
    #[error("the node agent did not answer")]
    Talk(#[source] io::Error),
    /// The answer is none.
    #[error("the node agent's answer has no {0}")]
    Malformed(&'static str),
    /// The node agent said no.
    #[error("no lan port: {0}")]
    Refused(String),
}

/// Asks for a port and waits for it.
///
/// # Errors
/// If nobody answers, or there is no such LAN.
pub fn request(socket: &Path, request: &PortRequest) -> Result<(OwnedFd, PortReply), PortError> {
    let stream = UnixStream::connect(socket).map_err(|error| PortError::Connect(socket.to_owned(), error))?;
    send_line(&stream, request).map_err(PortError::Talk)?;
    let (answer, device) = receive(&stream).map_err(PortError::Talk)?;
    match serde_json::from_slice(&answer).map_err(|_| PortError::Malformed("meaning"))? {
        Answer::Refused { refused } => Err(PortError::Refused(refused)),
        Answer::Port(reply) => Ok((device.ok_or(PortError::Malformed("descriptor"))?, reply)),
        Answer::Interfaces { .. } => Err(PortError::Malformed("port")),
    }
}

/// Asks for all interfaces that this pod may have, in this thread's network namespace, and waits until they are there.
///
/// # Errors
/// If nobody answers, or there is nothing to have.
pub fn request_interfaces(socket: &Path) -> Result<Vec<GivenInterface>, PortError> {
    let stream = UnixStream::connect(socket).map_err(|error| PortError::Connect(socket.to_owned(), error))?;
    let namespace = std::fs::File::open("/proc/thread-self/ns/net").map_err(PortError::Talk)?;
    stream.set_read_timeout(Some(PATIENCE)).map_err(PortError::Talk)?;
    send_with(&stream, &Ask::Interfaces { interfaces: true }, namespace.as_fd()).map_err(PortError::Talk)?;
    let (answer, _) = receive(&stream).map_err(PortError::Talk)?;
    match serde_json::from_slice(&answer).map_err(|_| PortError::Malformed("meaning"))? {
        Answer::Refused { refused } => Err(PortError::Refused(refused)),
        Answer::Interfaces { interfaces } => Ok(interfaces),
        Answer::Port(_) => Err(PortError::Malformed("interfaces")),
    }
}

/// A request that comes in pieces, for who cannot wait for it.
#[derive(Debug, Default)]
pub struct Incoming {
    line: Vec<u8>,
    descriptor: Option<OwnedFd>,
}

impl Incoming {
    /// Reads what is there of the request, once; the whole of it if it is complete.
    ///
    /// # Errors
    /// With [`io::ErrorKind::WouldBlock`] if nothing is there; if it is too long, no request, or the other side is gone.
    pub fn read(&mut self, stream: BorrowedFd<'_>) -> io::Result<Option<(Ask, Option<OwnedFd>)>> {
        let (bytes, descriptor) = receive_once(stream)?;
        self.descriptor = descriptor.or(self.descriptor.take());
        Ok(self.take(&bytes)?.map(|ask| (ask, self.descriptor.take())))
    }

    /// Takes the next piece of the line; the request if it is complete.
    ///
    /// # Errors
    /// If the line is too long, or no request.
    pub fn take(&mut self, piece: &[u8]) -> io::Result<Option<Ask>> {
        self.line.extend(piece);
        let end = self.line.iter().position(|byte| *byte == b'\n');
        match end {
            None if self.line.len() < LINE_LIMIT => Ok(None),
            Some(end) if end < LINE_LIMIT => {
                Ok(Some(serde_json::from_slice(self.line.get(..end).unwrap_or_default())?))
            }
            _ => Err(io::ErrorKind::FileTooLarge.into()),
        }
    }
}

/// Answers that the interfaces are there.
///
/// # Errors
/// If the other side is gone.
pub fn grant_interfaces(stream: &UnixStream, interfaces: Vec<GivenInterface>) -> io::Result<()> {
    send_line(stream, &Answer::Interfaces { interfaces })
}

/// Reads a request.
///
/// # Errors
/// If it does not come in time, is too long or no request.
pub fn read_request(stream: &UnixStream) -> io::Result<PortRequest> {
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    let mut line = Vec::new();
    let (mut byte, mut reader) = ([0], stream);
    while line.len() < LINE_LIMIT && reader.read(&mut byte)? == 1 && byte != *b"\n" {
        line.extend(byte);
    }
    Ok(serde_json::from_slice(&line)?)
}

/// Answers with a port.
///
/// # Errors
/// If the other side is gone; the device then goes with the caller's descriptor.
pub fn grant(stream: &UnixStream, reply: PortReply, device: BorrowedFd<'_>) -> io::Result<()> {
    send_with(stream, &Answer::Port(reply), device)
}

fn send_with(stream: &UnixStream, value: &impl Serialize, device: BorrowedFd<'_>) -> io::Result<()> {
    let mut line = serde_json::to_vec(value)?;
    line.push(b'\n');
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    let devices = [device];
    if !control.push(SendAncillaryMessage::ScmRights(&devices)) {
        return Err(io::ErrorKind::OutOfMemory.into());
    }
    let sent = rustix::net::sendmsg(stream, &[IoSlice::new(&line)], &mut control, SendFlags::NOSIGNAL)?;
    let mut writer = stream;
    writer.write_all(line.get(sent..).unwrap_or_default())
}

/// Answers that there is no port, and why.
///
/// # Errors
/// If the other side is gone.
pub fn refuse(stream: &UnixStream, reason: &str) -> io::Result<()> {
    send_line(stream, &Answer::Refused { refused: reason.to_owned() })
}

fn send_line(stream: &UnixStream, value: &impl Serialize) -> io::Result<()> {
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    let mut line = serde_json::to_vec(value)?;
    line.push(b'\n');
    let mut writer = stream;
    writer.write_all(&line)
}

/// Reads one line and the descriptor that came with its first byte.
fn receive(stream: &UnixStream) -> io::Result<(Vec<u8>, Option<OwnedFd>)> {
    let (mut line, mut device) = (Vec::new(), None);
    while line.last() != Some(&b'\n') && line.len() < LINE_LIMIT {
        let (bytes, descriptor) = receive_once(stream.as_fd())?;
        device = descriptor.or(device);
        line.extend(bytes);
    }
    Ok((line, device))
}

/// Reads what is there, and a descriptor if one came along.
fn receive_once(stream: BorrowedFd<'_>) -> io::Result<(Vec<u8>, Option<OwnedFd>)> {
    let mut buffer = vec![0; LINE_LIMIT];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut slices = [IoSliceMut::new(&mut buffer)];
    let received = rustix::net::recvmsg(stream, &mut slices, &mut control, RecvFlags::CMSG_CLOEXEC)?;
    let mut device = None;
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(mut devices) = message {
            device = devices.next().or(device);
        }
    }
    if received.bytes == 0 {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    buffer.truncate(received.bytes);
    Ok((buffer, device))
}

/// Makes the device of a port, labelled and not yet attached: planning its LAN again attaches it.
///
/// # Errors
/// If the system refuses.
pub fn create(
    links: &mut KernelLinks,
    installation: &Installation,
    request: &PortRequest,
) -> Result<(OwnedFd, LinkName), KernelError> {
    let role = LinkRole::Port(request.label.clone());
    let label = Label { installation: installation.clone(), lan: LanKey::of(&request.lan), role };
    let (device, link) = create_tap(&label)?;
    if let Some(mac) = request.mac.map(outer_mac) {
        links.execute(&Step::SetMac { link: link.clone(), mac })?;
    }
    links.execute(&Step::SetLabel { link: link.clone(), label })?;
    Ok((device, link))
}

fn create_tap(label: &Label) -> Result<(OwnedFd, LinkName), KernelError> {
    let failed = |error| KernelError::Tap(label.to_string(), error);
    for attempt in 0..NAME_ATTEMPTS {
        let name = port_name(label, attempt);
        match stoke_sys::tap::create(name.as_str()) {
            // Somebody has this name: the machine's earlier process, or one whose name has the same hash.
            Err(error) if error.kind() == io::ErrorKind::ResourceBusy => {}
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => return Err(KernelError::TapClosed(error)),
            Err(error) => return Err(failed(error)),
            Ok(device) => return Ok((device, name)),
        }
    }
    Err(failed(io::ErrorKind::AddrInUse.into()))
}

/// The host's side of a port must have another address than the machine: the bridge would take frames for the machine
/// as its own. The first octet of both is what differs, as in libvirt.
fn outer_mac(mac: MacAddr) -> MacAddr {
    let mut octets = mac.0;
    let [first, ..] = &mut octets;
    *first = if *first == 0xfe { 0xfa } else { 0xfe };
    MacAddr(octets)
}

/// `sv-` and a hash of the label: the same port has the same name after a restart, if it is free.
fn port_name(label: &Label, attempt: u32) -> LinkName {
    crate::names::hashed("sv-", &format!("{label}#{attempt}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn a_request() -> PortRequest {
        serde_json::from_str(
            r#"{"lan":{"kind":"Lan","namespace":"default","name":"lab"},"mac":"52:54:00:00:00:01","label":"machine/a/lab"}"#,
        )
        .unwrap()
    }

    /// Any descriptor can stand for a device.
    fn a_device() -> (OwnedFd, PortReply) {
        let file = tempfile::tempfile().unwrap();
        (file.into(), PortReply { link: "sv-0".parse().unwrap(), mtu: 1450 })
    }

    fn serve_once(answer: impl FnOnce(&UnixStream, PortRequest) + Send + 'static) -> (tempfile::TempDir, PathBuf) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("ports.sock");
        let listener = std::os::unix::net::UnixListener::bind(&path).unwrap();
        std::thread::spawn(move || {
            let (stream, _) = listener.accept().unwrap();
            let request = read_request(&stream).unwrap();
            answer(&stream, request);
        });
        (folder, path)
    }

    #[test]
    fn a_device_comes_as_a_descriptor() {
        let (_folder, path) = serve_once(|stream, request| {
            assert_eq!(request, a_request());
            let (device, reply) = a_device();
            let mut file = std::fs::File::from(device.try_clone().unwrap());
            file.write_all(b"same device").unwrap();
            grant(stream, reply, device.as_fd()).unwrap();
        });
        let (device, reply) = request(&path, &a_request()).unwrap();
        assert_eq!((reply.link.as_str(), reply.mtu), ("sv-0", 1450));
        assert_eq!(std::fs::File::from(device).metadata().unwrap().len(), 11);
    }

    #[test]
    fn a_refusal_has_its_reason() {
        let (_folder, path) = serve_once(|stream, _| refuse(stream, "there is no lan default/lab").unwrap());
        let refused = request(&path, &a_request()).unwrap_err();
        assert_eq!(refused.to_string(), "no lan port: there is no lan default/lab");
    }

    #[test]
    fn nobody_there_says_who_should_be() {
        let refused = request(Path::new("/nonexistent/ports.sock"), &a_request()).unwrap_err();
        assert!(refused.to_string().ends_with("is the node agent running?"), "{refused}");
    }

    #[test]
    fn the_hosts_side_never_has_the_machines_address() {
        for mac in [MacAddr([0x52, 0x54, 0, 0, 0, 1]), MacAddr([0xfe, 0x54, 0, 0, 0, 1])] {
            assert_ne!(outer_mac(mac), mac);
            assert!(outer_mac(mac).is_unicast());
        }
    }
}

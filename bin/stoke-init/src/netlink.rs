//! Netlink messages: encoded and decoded without I/O, and a small synchronous socket for them.
//!
//! Layouts are those of Linux' `include/uapi/linux/netlink.h` and `genetlink.h`: everything in the machine's byte
//! order, every attribute padded to four bytes.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::netlink::SocketAddrNetlink;
use rustix::net::{AddressFamily, Protocol, RecvFlags, SendFlags, SocketFlags, SocketType};

/// `NLM_F_REQUEST | NLM_F_ACK`.
const REQUEST_AND_ACK: u16 = 1 | 4;
/// `NLM_F_REPLACE`: change what is there.
pub(crate) const REPLACE: u16 = 0x100;
/// `NLM_F_CREATE`: make it if it is not there.
pub(crate) const CREATE: u16 = 0x400;
/// `NLMSG_ERROR`, which is also the acknowledgement.
const ERROR: u16 = 2;
/// Bits of an attribute's type that are flags (`NLA_TYPE_MASK`).
const TYPE_MASK: u16 = 0x3fff;
/// `NLA_F_NESTED`.
const NESTED: u16 = 0x8000;
const HEADER: usize = 16;
/// How long the kernel may take for an answer. It answers within the call that asked; this only bounds a defect.
const PATIENCE: Duration = Duration::from_secs(30);

/// A message under construction.
#[derive(Clone, Debug)]
pub(crate) struct Message {
    kind: u16,
    flags: u16,
    body: Vec<u8>,
}

impl Message {
    /// A request of this type with the fixed part of its body.
    pub(crate) fn new(kind: u16, flags: u16, fixed: &[u8]) -> Self {
        Self { kind, flags: flags | REQUEST_AND_ACK, body: fixed.to_vec() }
    }

    /// A generic netlink request: `struct genlmsghdr` is the fixed part.
    pub(crate) fn generic(family: u16, command: u8) -> Self {
        Self::new(family, 0, &[command, 1, 0, 0])
    }

    /// Adds an attribute.
    #[must_use]
    pub(crate) fn with(mut self, kind: u16, value: &[u8]) -> Self {
        append(&mut self.body, kind, value);
        self
    }

    /// Adds an attribute that holds attributes.
    #[must_use]
    pub(crate) fn with_nested(self, kind: u16, attributes: &[u8]) -> Self {
        self.with(kind | NESTED, attributes)
    }

    fn encode(&self, sequence: u32) -> Vec<u8> {
        let length = u32::try_from(HEADER + self.body.len()).unwrap_or(u32::MAX);
        let mut bytes = Vec::with_capacity(HEADER + self.body.len());
        bytes.extend(length.to_ne_bytes());
        bytes.extend(self.kind.to_ne_bytes());
        bytes.extend(self.flags.to_ne_bytes());
        bytes.extend(sequence.to_ne_bytes());
        bytes.extend([0; 4]);
        bytes.extend(&self.body);
        bytes
    }
}

/// Appends an attribute to a buffer of attributes.
pub(crate) fn append(buffer: &mut Vec<u8>, kind: u16, value: &[u8]) {
    let length = u16::try_from(value.len() + 4).unwrap_or(u16::MAX);
    buffer.extend(length.to_ne_bytes());
    buffer.extend(kind.to_ne_bytes());
    buffer.extend(value);
    buffer.resize(buffer.len().next_multiple_of(4), 0);
}

/// The attributes in a buffer. Ends at the first that does not fit.
pub(crate) fn attributes(mut buffer: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let length = usize::from(u16_at(buffer, 0)?);
        let kind = u16_at(buffer, 2)? & TYPE_MASK;
        let value = buffer.get(4..length)?;
        buffer = buffer.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, value))
    })
}

/// The first attribute of this type.
pub(crate) fn attribute(buffer: &[u8], kind: u16) -> Option<&[u8]> {
    attributes(buffer).find_map(|(found, value)| (found == kind).then_some(value))
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    bytes.get(at..)?.first_chunk().map(|bytes| u16::from_ne_bytes(*bytes))
}

pub(crate) fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..)?.first_chunk().map(|bytes| u32::from_ne_bytes(*bytes))
}

/// A message as received: its type, sequence number and body.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Received {
    pub(crate) kind: u16,
    sequence: u32,
    pub(crate) body: Vec<u8>,
}

/// Splits a datagram into its messages.
fn decode(mut datagram: &[u8]) -> Vec<Received> {
    let mut messages = Vec::new();
    while let (Some(length), Some(kind), Some(sequence)) =
        (u32_at(datagram, 0), u16_at(datagram, 4), u32_at(datagram, 8))
    {
        let length = usize::try_from(length).unwrap_or(usize::MAX);
        let Some(body) = datagram.get(HEADER..length) else { break };
        messages.push(Received { kind, sequence, body: body.to_vec() });
        datagram = datagram.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    messages
}

/// A netlink socket.
#[derive(Debug)]
pub(crate) struct Socket {
    fd: OwnedFd,
    sequence: u32,
}

impl Socket {
    /// For links, addresses and routes.
    pub(crate) fn route() -> Result<Self> {
        Self::open(None, 0)
    }

    /// For generic netlink families; listens to the multicast groups in the mask.
    pub(crate) fn generic(groups: u32) -> Result<Self> {
        Self::open(Some(rustix::net::netlink::GENERIC), groups)
    }

    fn open(protocol: Option<Protocol>, groups: u32) -> Result<Self> {
        let fd = rustix::net::socket_with(AddressFamily::NETLINK, SocketType::RAW, SocketFlags::CLOEXEC, protocol)
            .context("could not open a netlink socket")?;
        rustix::net::bind(&fd, &SocketAddrNetlink::new(0, groups)).context("could not bind a netlink socket")?;
        Ok(Self { fd, sequence: 0 })
    }

    /// Sends a request and waits for its acknowledgement. Returns what the kernel said before it.
    pub(crate) fn request(&mut self, message: &Message) -> Result<Vec<Received>> {
        self.sequence = self.sequence.wrapping_add(1);
        let bytes = message.encode(self.sequence);
        rustix::net::send(&self.fd, &bytes, SendFlags::empty()).context("could not send to netlink")?;
        let mut answers = Vec::new();
        loop {
            let Some(batch) = self.receive(PATIENCE)? else { bail!("netlink did not answer") };
            for received in batch.into_iter().filter(|received| received.sequence == self.sequence) {
                if received.kind != ERROR {
                    answers.push(received);
                    continue;
                }
                acknowledged(&received.body)?;
                return Ok(answers);
            }
        }
    }

    /// The messages of the next datagram; none if there is none in time.
    pub(crate) fn receive(&self, patience: Duration) -> Result<Option<Vec<Received>>> {
        let mut ready = [PollFd::new(&self.fd, PollFlags::IN)];
        let timeout = Timespec::try_from(patience).ok();
        match poll(&mut ready, timeout.as_ref()) {
            Ok(0) | Err(Errno::INTR) => return Ok(None),
            other => other.context("could not wait for netlink")?,
        };
        let mut buffer = vec![0; 16 << 10];
        let (_, length) = rustix::net::recv(&self.fd, &mut *buffer, RecvFlags::empty()).context("netlink")?;
        Ok(Some(decode(buffer.get(..length).unwrap_or_default())))
    }

    /// A generic netlink family: its number and its multicast groups.
    pub(crate) fn family(&mut self, name: &str) -> Result<Family> {
        let name_and_zero = [name.as_bytes(), &[0]].concat();
        // GENL_ID_CTRL, CTRL_CMD_GETFAMILY, CTRL_ATTR_FAMILY_NAME.
        let request = Message::generic(0x10, 3).with(2, &name_and_zero);
        let answers = self.request(&request).with_context(|| format!("there is no netlink family {name:?}"))?;
        let found = answers.iter().find_map(|answer| Family::decode(answer.body.get(4..)?));
        found.with_context(|| format!("netlink describes the family {name:?} in a way that is not understood"))
    }
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// `struct nlmsgerr`: zero is an acknowledgement.
fn acknowledged(body: &[u8]) -> Result<()> {
    match u32_at(body, 0).map(u32::cast_signed) {
        Some(0) => Ok(()),
        Some(code) => Err(std::io::Error::from_raw_os_error(code.saturating_neg()).into()),
        None => bail!("netlink sent a cut-off error"),
    }
}

/// A generic netlink family.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Family {
    /// What messages to it have as their type.
    pub(crate) id: u16,
    /// Numbers of its multicast groups.
    pub(crate) groups: Vec<u32>,
}

impl Family {
    fn decode(body: &[u8]) -> Option<Self> {
        // CTRL_ATTR_FAMILY_ID, CTRL_ATTR_MCAST_GROUPS, in each CTRL_ATTR_MCAST_GRP_ID.
        let id = u16_at(attribute(body, 1)?, 0)?;
        let groups = attribute(body, 7).unwrap_or_default();
        let groups = attributes(groups).filter_map(|(_, group)| u32_at(attribute(group, 2)?, 0));
        Some(Self { id, groups: groups.collect() })
    }

    /// The groups as a mask for [`Socket::generic`]. Groups above 32 have no place in it; who misses their messages
    /// has to look from time to time.
    pub(crate) fn mask(&self) -> u32 {
        self.groups.iter().filter(|group| (1..=32).contains(*group)).fold(0, |mask, group| mask | 1 << (group - 1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn an_attribute_is_padded_and_its_length_is_not() {
        let mut buffer = Vec::new();
        append(&mut buffer, 3, b"eth0\0");
        append(&mut buffer, 4, &7_u32.to_ne_bytes());
        assert_eq!(buffer.len(), 12 + 8);
        let read: Vec<_> = attributes(&buffer).collect();
        assert_eq!(read, [(3, &b"eth0\0"[..]), (4, &7_u32.to_ne_bytes()[..])]);
    }

    #[test]
    fn nested_attributes_are_marked_and_read_without_the_mark() {
        let mut inner = Vec::new();
        append(&mut inner, 1, &9_u32.to_ne_bytes());
        let message = Message::generic(20, 1).with_nested(7, &inner);
        assert_eq!(u16_at(&message.body, 6), Some(0x8007));
        let value = attribute(&message.body[4..], 7).unwrap();
        assert_eq!(u32_at(attribute(value, 1).unwrap(), 0), Some(9));
    }

    #[test]
    fn the_kernel_describes_its_own_control_family() {
        let family = Socket::generic(0).unwrap().family("nlctrl").unwrap();
        assert_eq!(family.id, 0x10);
        assert_ne!(family.mask(), 0);
    }

    #[test]
    fn an_unknown_family_is_named() {
        let error = Socket::generic(0).unwrap().family("no_such").unwrap_err();
        assert_eq!(error.to_string(), "there is no netlink family \"no_such\"");
    }

    proptest! {
        #[test]
        fn no_datagram_panics(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            for message in decode(&bytes) {
                let _ = (Family::decode(&message.body), acknowledged(&message.body));
            }
            let _ = attributes(&bytes).count();
        }

        #[test]
        fn what_is_encoded_is_decoded(kind: u16, sequence: u32, body in proptest::collection::vec(any::<u8>(), 0..60)) {
            let bytes = Message::new(kind, 0, &body).encode(sequence);
            prop_assert_eq!(decode(&bytes), vec![Received { kind, sequence, body }]);
        }
    }
}

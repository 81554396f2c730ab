//! Who serves the root: connections that are known to be to the right content, and how they are spread over the servers.

use std::net::{SocketAddr, TcpStream};
use std::os::fd::AsFd;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use aws_lc_rs::digest::{SHA256, digest};
use serde::{Deserialize, Serialize};
use socket2::{SockRef, TcpKeepalive};
use stoke_api::node::Verity;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
const NEGOTIATE_TIMEOUT: Duration = Duration::from_secs(10);
/// How long data may be on their way without a sign that they have arrived, and how soon an idle connection whose server
/// is gone without a word is noticed: the others take over then.
const SILENCE: Duration = Duration::from_secs(10);
/// Bytes of a hash block of dm-verity.
const BLOCK: usize = 4096;

/// Servers of the root, best first. Clones share the list, which may change while the node runs.
#[derive(Clone, Debug, Default)]
pub(crate) struct Servers(Arc<Mutex<Vec<SocketAddr>>>);

impl Servers {
    /// These.
    pub(crate) fn new(servers: Vec<SocketAddr>) -> Self {
        Self(Arc::new(Mutex::new(servers)))
    }

    /// The list as it is now.
    pub(crate) fn list(&self) -> Vec<SocketAddr> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Others from now on. An empty list changes nothing: a root without servers is of no use to anybody.
    pub(crate) fn replace(&self, servers: Vec<SocketAddr>) {
        if !servers.is_empty() {
            *self.0.lock().unwrap_or_else(PoisonError::into_inner) = servers;
        }
    }
}

/// What the root is called where it is served, and what it must be there.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Export {
    pub(crate) servers: Vec<SocketAddr>,
    pub(crate) name: String,
    /// What its size must be.
    pub(crate) size: u64,
    /// Of its content: the first block of its hash tree has the root hash.
    pub(crate) verity: Verity,
}

impl Export {
    /// Connects to a server and makes sure that it has the root. With the transmission flags that it told.
    pub(crate) fn connect_to(&self, server: SocketAddr) -> Result<(TcpStream, u16)> {
        self.negotiate(server).with_context(|| format!("NBD server {server}"))
    }

    fn negotiate(&self, server: SocketAddr) -> Result<(TcpStream, u16)> {
        let mut stream = TcpStream::connect_timeout(&server, CONNECT_TIMEOUT).context("could not connect")?;
        stream.set_read_timeout(Some(NEGOTIATE_TIMEOUT))?;
        stream.set_write_timeout(Some(NEGOTIATE_TIMEOUT))?;
        stream.set_nodelay(true)?;
        let negotiated = stoke_nbd::client::negotiate(&mut stream, &self.name)?;
        if negotiated.size < self.size {
            bail!("export {:?} has {} bytes, the root has {}", self.name, negotiated.size, self.size);
        }
        let mut block = [0; BLOCK];
        stoke_nbd::client::read(&mut stream, self.verity.hash_offset, &mut block)?;
        if !self.is_root_of_tree(&block) {
            bail!("export {:?} has other content than the root: {} is wanted", self.name, self.verity.root_hash);
        }
        // From here on the kernel reads, and it would take our limits for its own.
        stream.set_read_timeout(None)?;
        stream.set_write_timeout(None)?;
        let alive = TcpKeepalive::new().with_time(SILENCE).with_interval(SILENCE / 4).with_retries(4);
        let socket = SockRef::from(&stream);
        socket.set_tcp_keepalive(&alive)?;
        socket.set_tcp_user_timeout(Some(SILENCE))?;
        Ok((stream, negotiated.flags))
    }

    /// Whether this is the first block of the hash tree: the top is first, and its hash, after the salt, is the root hash
    /// (`verity_verify_level` in Linux' drivers/md/dm-verity-target.c, hash version 1).
    fn is_root_of_tree(&self, block: &[u8]) -> bool {
        let Some(mut content) = from_hexadecimal(&self.verity.salt) else { return false };
        content.extend_from_slice(block);
        from_hexadecimal(&self.verity.root_hash).is_some_and(|hash| digest(&SHA256, &content).as_ref() == hash)
    }
}

fn from_hexadecimal(text: &str) -> Option<Vec<u8>> {
    let digit = |byte: &u8| char::from(*byte).to_digit(16);
    let pair = |pair: &[u8]| match pair {
        [high, low] => u8::try_from(digit(high)? << 4 | digit(low)?).ok(),
        _ => None,
    };
    text.as_bytes().chunks(2).map(pair).collect()
}

/// The server at the other end.
pub(crate) fn server_of(connection: impl AsFd) -> Option<SocketAddr> {
    SockRef::from(&connection).peer_addr().ok()?.as_socket()
}

/// Which connection should be moved to which server: off servers that are not named any more, and to those that have none
/// while others have several. A connection whose server is not known has ended and counts for none.
pub(crate) fn misplaced(connections: &[Option<SocketAddr>], servers: &[SocketAddr]) -> Option<(usize, SocketAddr)> {
    let load = |server: &SocketAddr| connections.iter().flatten().filter(|other| *other == server).count();
    let (least, to) = servers.iter().map(|server| (load(server), *server)).min_by_key(|(load, _)| *load)?;
    let known = || connections.iter().enumerate().filter_map(|(number, server)| Some((number, (*server)?)));
    let stray = known().find(|(_, server)| !servers.contains(server));
    let crowded = || known().max_by_key(|(_, server)| load(server)).filter(|(_, server)| load(server) > least + 1);
    stray.or_else(crowded).map(|(number, _)| (number, to))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(port: u16) -> SocketAddr {
        SocketAddr::from(([10, 10, 0, 1], port))
    }

    fn export(content: &[u8]) -> Export {
        let salted = [b"\xab".as_slice(), content].concat();
        let hash = digest(&SHA256, &salted);
        let digits = |byte: &u8| [byte >> 4, byte & 15].map(|digit| char::from_digit(digit.into(), 16).unwrap());
        let root_hash = hash.as_ref().iter().flat_map(digits).collect();
        let verity = Verity { root_hash, salt: "ab".into(), data_blocks: 1, hash_offset: 4096 };
        Export { servers: Vec::new(), name: "x".into(), size: 1, verity }
    }

    #[test]
    fn only_the_root_of_the_tree_has_the_root_hash() {
        let export = export(&[7; BLOCK]);
        assert!(export.is_root_of_tree(&[7; BLOCK]));
        assert!(!export.is_root_of_tree(&[8; BLOCK]));
    }

    #[test]
    fn the_error_names_the_server() {
        let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let export = export(&[]);
        assert_eq!(export.connect_to(closed).unwrap_err().to_string(), format!("NBD server {closed}"));
    }

    #[test]
    fn connections_are_spread_and_follow_the_list() {
        let two = [at(1), at(2)];
        assert_eq!(misplaced(&[Some(at(1)), Some(at(2))], &two), None);
        assert_eq!(misplaced(&[Some(at(1)), Some(at(1))], &two), Some((1, at(2))), "one came back");
        assert_eq!(misplaced(&[Some(at(1)), Some(at(2)), Some(at(1))], &two), None, "as even as can be");
        assert_eq!(misplaced(&[Some(at(1)), Some(at(3))], &two), Some((1, at(2))), "one is not named any more");
        assert_eq!(misplaced(&[Some(at(1)), None], &two), None, "what has ended is replaced elsewhere");
        assert_eq!(misplaced(&[Some(at(1))], &[]), None);
    }

    #[test]
    fn a_list_is_never_emptied() {
        let servers = Servers::new(vec![at(1)]);
        let shared = servers.clone();
        shared.replace(vec![at(2)]);
        shared.replace(Vec::new());
        assert_eq!(servers.list(), [at(2)]);
    }
}

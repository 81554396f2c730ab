//! The root: copied in pieces from the best source that works, or read over NBD where a boot reads.

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use stoke_nbd::client::negotiate;
use stoke_nbd::wire;

use crate::content::{Checker, Content};
use crate::http::{Connection, connect, parts};

/// As `stoke-init` fetches.
const PIECE: u64 = 8 << 20;
const TRIES: usize = 6;
const PAUSE: Duration = Duration::from_millis(500);
/// A boot reads about an eighth of a Debian image, mostly in reads as large as the kernel's read-ahead.
const READ: u32 = 128 << 10;
const EVERY: u64 = 8;
const REPLY: usize = 16;

/// Bytes that a source has given.
pub(crate) type Given = Vec<(String, u64)>;

/// Copies a root of this size, each piece from the source that has failed least, the first of them.
pub(crate) fn copy(from: Ipv4Addr, urls: &[String], size: u64, content: Content) -> Result<Given> {
    let mut sources: Vec<_> = urls.iter().map(|url| Source { url, connection: None, failures: 0, given: 0 }).collect();
    let mut at = 0;
    while at < size {
        let length = PIECE.min(size - at);
        piece(from, &mut sources, at, length, content)?;
        at += length;
    }
    Ok(sources.into_iter().map(|source| (source.url.to_owned(), source.given)).collect())
}

struct Source<'a> {
    url: &'a str,
    connection: Option<Connection>,
    failures: usize,
    given: u64,
}

fn piece(from: Ipv4Addr, sources: &mut [Source<'_>], at: u64, length: u64, content: Content) -> Result<()> {
    let mut last = anyhow::anyhow!("no source of the root is named");
    for _ in 0..TRIES {
        let Some(source) = sources.iter_mut().min_by_key(|source| source.failures) else { return Err(last) };
        match source.fetch(from, at, length, content) {
            Ok(()) => return Ok(()),
            Err(error) => last = error.context(format!("root from {}", source.url)),
        }
        (source.connection, source.failures) = (None, source.failures + 1);
        std::thread::sleep(PAUSE);
    }
    Err(last)
}

impl Source<'_> {
    fn fetch(&mut self, from: Ipv4Addr, at: u64, length: u64, content: Content) -> Result<()> {
        let (host, path) = parts(self.url)?;
        let connection = match &mut self.connection {
            Some(connection) => connection,
            none => none.insert(Connection::open(from, host, None)?),
        };
        let range = format!("range: bytes={at}-{}\r\n", at + length - 1);
        let head = connection.ask("GET", path, &range, b"")?;
        ensure!(head.status == 206 && head.length == length, "status {} with {} bytes", head.status, head.length);
        let (mut checker, given) = (Checker::new(content, at), &mut self.given);
        connection.body(length, |piece| {
            *given += piece.len() as u64;
            checker.take(piece)
        })
    }
}

/// Reads over NBD what a boot reads, and gives the connection back: it stays for as long as the machine runs.
pub(crate) fn attach(
    from: Ipv4Addr,
    servers: &[SocketAddr],
    export: &str,
    size: u64,
    content: Content,
) -> Result<TcpStream> {
    let mut last = anyhow::anyhow!("no NBD server is named");
    for attempt in 0..TRIES {
        let Some(server) = servers.get(attempt % servers.len().max(1)) else { return Err(last) };
        match read_hot(from, *server, export, size, content) {
            Ok(stream) => return Ok(stream),
            Err(error) => last = error.context(format!("root from nbd://{server}")),
        }
        std::thread::sleep(PAUSE);
    }
    Err(last)
}

fn read_hot(from: Ipv4Addr, server: SocketAddr, export: &str, size: u64, content: Content) -> Result<TcpStream> {
    let mut stream = connect(from, server)?;
    let negotiated = negotiate(&mut stream, export)?;
    ensure!(negotiated.size == size, "the export has {} bytes", negotiated.size);
    let mut buffer = vec![0; usize::try_from(READ)?];
    for number in (0..size / u64::from(READ)).step_by(usize::try_from(EVERY)?) {
        read(&mut stream, number, number * u64::from(READ), &mut buffer)?;
        ensure!(content.is_at(number * u64::from(READ), &buffer), "wrong bytes in block {number}");
    }
    Ok(stream)
}

fn read(stream: &mut TcpStream, cookie: u64, offset: u64, buffer: &mut [u8]) -> Result<()> {
    let mut request = wire::REQUEST_MAGIC.to_be_bytes().to_vec();
    request.extend([0, 0]);
    request.extend(wire::CMD_READ.to_be_bytes());
    request.extend(cookie.to_be_bytes());
    request.extend(offset.to_be_bytes());
    request.extend(u32::try_from(buffer.len())?.to_be_bytes());
    stream.write_all(&request)?;
    let mut reply = [0; REPLY];
    stream.read_exact(&mut reply).context("no reply")?;
    let (magic, rest) = reply.split_at(4);
    let (error, its_cookie) = rest.split_at(4);
    if magic != wire::SIMPLE_REPLY_MAGIC.to_be_bytes() || error != [0; 4] || its_cookie != cookie.to_be_bytes() {
        bail!("reply {reply:?} to request {cookie}");
    }
    stream.read_exact(buffer).context("half a reply")
}

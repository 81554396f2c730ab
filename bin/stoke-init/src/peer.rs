//! The root in memory, given to nodes that boot: a very small HTTP server of one file, with ranges.
//!
//! What it gives is not to be trusted and need not be: who gets it checks every block by dm-verity. It gives to a few at
//! once, each with time limits, so that neither a slow reader nor many of them cost the node anything worth speaking of:
//! pages of the root go to the socket without a copy.

use std::io::{self, Read as _, Write as _};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::os::fd::{AsFd as _, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::{Context as _, Result};
use rustix::fs::sendfile;
use stoke_api::names::Digest;

/// Connections at once: four of each of the children that the farm assigns, and as many again.
const CONNECTIONS: usize = 32;
/// Longest head of a request.
const HEAD: usize = 4096;
/// How long a connection may be without a request, and a reader without reading.
const PATIENCE: Duration = Duration::from_secs(20);
/// Bytes that are sent at once.
const PIECE: u64 = 1 << 20;
const STACK: usize = 128 << 10;

/// What is given.
#[derive(Debug)]
pub struct Gift {
    memory: OwnedFd,
    size: u64,
    path: String,
    busy: AtomicUsize,
}

impl Gift {
    /// A root in this memory.
    pub fn new(memory: OwnedFd, blob: &Digest, size: u64) -> Self {
        Self { memory, size, path: format!("/v1/blob/sha256/{}", blob.hex()), busy: AtomicUsize::new(0) }
    }

    /// Begins to give it. Returns the URL of the root on this node with that address.
    ///
    /// # Errors
    /// If there is no port or no thread for it.
    pub fn offer(self, address: Ipv4Addr) -> Result<String> {
        let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, 0)).context("no port to give the root from")?;
        let port = listener.local_addr().context("no port to give the root from")?.port();
        let (gift, url) = (Arc::new(self), format!("http://{address}:{port}"));
        let url = format!("{url}{}", gift.path);
        std::thread::Builder::new().stack_size(STACK).spawn(move || accept(&gift, &listener)).context("no thread")?;
        Ok(url)
    }

    fn serve(&self, mut stream: TcpStream) -> io::Result<()> {
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        stream.set_nodelay(true)?;
        let mut read = Vec::new();
        while let Some(head) = read_head(&mut stream, &mut read)? {
            let Some(request) = Request::parse(&head) else {
                return refuse(&mut stream, "400 Bad Request");
            };
            self.answer(&mut stream, &request)?;
            if request.last {
                break;
            }
        }
        Ok(())
    }

    fn answer(&self, stream: &mut TcpStream, request: &Request) -> io::Result<()> {
        if request.path != self.path {
            return stream.write_all(b"HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n");
        }
        let range = request.range.map(|(first, last)| (first, last.map_or(self.size, |last| last.saturating_add(1))));
        let (first, end) = range.map_or((0, self.size), |(first, end)| (first, end.min(self.size)));
        if first >= end {
            let head = format!(
                "HTTP/1.1 416 Range Not Satisfiable\r\ncontent-range: bytes */{}\r\ncontent-length: 0\r\n\r\n",
                self.size
            );
            return stream.write_all(head.as_bytes());
        }
        let (status, about) = match range {
            Some(_) => ("206 Partial Content", format!("content-range: bytes {first}-{}/{}\r\n", end - 1, self.size)),
            None => ("200 OK", String::new()),
        };
        let length = end - first;
        let head = format!("HTTP/1.1 {status}\r\naccept-ranges: bytes\r\ncontent-length: {length}\r\n{about}\r\n");
        stream.write_all(head.as_bytes())?;
        if request.head_only { Ok(()) } else { self.send(stream, first, end) }
    }

    fn send(&self, stream: &TcpStream, first: u64, end: u64) -> io::Result<()> {
        let mut offset = first;
        while offset < end {
            let piece = usize::try_from((end - offset).min(PIECE)).unwrap_or(usize::MAX);
            match sendfile(stream.as_fd(), self.memory.as_fd(), Some(&mut offset), piece) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }
}

fn accept(gift: &Arc<Gift>, listener: &TcpListener) {
    for stream in listener.incoming() {
        let Ok(mut stream) = stream else {
            // Out of descriptors: some will be free again.
            std::thread::sleep(Duration::from_millis(100));
            continue;
        };
        if gift.busy.fetch_add(1, Ordering::AcqRel) >= CONNECTIONS {
            let _ =
                stream.set_write_timeout(Some(PATIENCE)).and_then(|()| refuse(&mut stream, "503 Service Unavailable"));
            gift.busy.fetch_sub(1, Ordering::AcqRel);
            continue;
        }
        let ours = Arc::clone(gift);
        let started = std::thread::Builder::new().stack_size(STACK).spawn(move || {
            // Who hangs up or is too slow asks somebody else.
            let _ = ours.serve(stream);
            ours.busy.fetch_sub(1, Ordering::AcqRel);
        });
        if started.is_err() {
            gift.busy.fetch_sub(1, Ordering::AcqRel);
        }
    }
}

fn refuse(stream: &mut TcpStream, status: &str) -> io::Result<()> {
    stream.write_all(format!("HTTP/1.1 {status}\r\ncontent-length: 0\r\nconnection: close\r\n\r\n").as_bytes())
}

/// The head of the next request, without its empty line; none when the client is done. What was read beyond it stays.
fn read_head(stream: &mut TcpStream, read: &mut Vec<u8>) -> io::Result<Option<Vec<u8>>> {
    loop {
        if let Some(end) = read.windows(4).position(|bytes| bytes == b"\r\n\r\n") {
            let rest = read.split_off(end + 4);
            let mut head = std::mem::replace(read, rest);
            head.truncate(end);
            return Ok(Some(head));
        }
        if read.len() >= HEAD {
            return Err(io::ErrorKind::InvalidData.into());
        }
        let mut buffer = [0; 1024];
        let count = stream.read(&mut buffer)?;
        if count == 0 {
            return Ok(None);
        }
        read.extend_from_slice(buffer.get(..count).unwrap_or_default());
    }
}

/// A request, as far as it matters.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Request {
    head_only: bool,
    path: String,
    /// First byte, and last one if it is named.
    range: Option<(u64, Option<u64>)>,
    /// Whether the client asks nothing more on this connection.
    last: bool,
}

impl Request {
    fn parse(head: &[u8]) -> Option<Self> {
        let mut lines = std::str::from_utf8(head).ok()?.split("\r\n");
        let mut words = lines.next()?.split(' ');
        let (method, path, version) = (words.next()?, words.next()?, words.next()?);
        let head_only = match method {
            "GET" => false,
            "HEAD" => true,
            _ => return None,
        };
        let mut request = Self { head_only, path: path.to_owned(), range: None, last: version != "HTTP/1.1" };
        for (name, value) in lines.filter_map(|line| line.split_once(':')) {
            match name.trim().to_ascii_lowercase().as_str() {
                "range" => request.range = range(value),
                "connection" if value.trim().eq_ignore_ascii_case("close") => request.last = true,
                _ => {}
            }
        }
        Some(request)
    }
}

/// One range from its beginning; for any other the whole is an answer, too (RFC 9110, section 14.2).
fn range(value: &str) -> Option<(u64, Option<u64>)> {
    let (first, last) = value.trim().strip_prefix("bytes=")?.split_once('-')?;
    let (first, last) = (first.trim().parse().ok()?, last.trim());
    if last.is_empty() {
        return Some((first, None));
    }
    let last = last.parse().ok().filter(|last| *last >= first)?;
    Some((first, Some(last)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Instant;

    const SIZE: usize = 300_000;

    fn content() -> Vec<u8> {
        (0..SIZE).map(|at| u8::try_from(at % 251).unwrap()).collect()
    }

    fn offered() -> String {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&content()).unwrap();
        let gift = Gift::new(file.into(), &Digest([7; 32]), SIZE as u64);
        gift.offer(Ipv4Addr::LOCALHOST).unwrap()
    }

    fn get(url: &str, range: Option<&str>) -> (u16, Vec<u8>) {
        let request = ureq::get(url).config().http_status_as_error(false).build();
        let request = range.into_iter().fold(request, |request, range| request.header("range", range));
        let mut response = request.call().unwrap();
        (response.status().as_u16(), response.body_mut().read_to_vec().unwrap())
    }

    #[test]
    fn the_whole_and_parts_of_it() {
        let (url, content) = (offered(), content());
        assert!(get(&url, None) == (200, content.clone()));
        assert!(get(&url, Some("bytes=5-9")) == (206, content[5..10].to_vec()));
        assert!(get(&url, Some("bytes=299990-")) == (206, content[299_990..].to_vec()));
        assert!(get(&url, Some("bytes=0-999999999")) == (206, content));
        assert_eq!(get(&url, Some("bytes=300000-")).0, 416);
        assert_eq!(get(&format!("{url}x"), None).0, 404);
    }

    /// Whether a request is answered: who is too many is refused or cut off.
    fn is_served(url: &str) -> bool {
        ureq::get(url).header("range", "bytes=0-0").call().is_ok()
    }

    #[test]
    fn nobody_is_served_beyond_the_bound_and_others_are_again_afterwards() {
        let url = offered();
        let place = url.strip_prefix("http://").unwrap().split('/').next().unwrap().to_owned();
        let mut idle: Vec<_> = (0..CONNECTIONS).map(|_| TcpStream::connect(&place).unwrap()).collect();
        let begin = Instant::now();
        while is_served(&url) {
            assert!(begin.elapsed() < PATIENCE / 2, "the bound does not hold");
        }
        idle.clear();
        while !is_served(&url) {
            assert!(begin.elapsed() < PATIENCE * 3, "connections that ended still count");
        }
    }

    #[test]
    fn requests_as_clients_write_them() {
        let parse = |text: &str| Request::parse(text.as_bytes());
        let request = parse("GET /a HTTP/1.1\r\nHost: x\r\nRange: bytes=1-2").unwrap();
        assert_eq!((request.range, request.last, request.head_only), (Some((1, Some(2))), false, false));
        assert!(parse("HEAD /a HTTP/1.0").unwrap().last);
        assert!(parse("GET /a HTTP/1.1\r\nconnection: Close").unwrap().last);
        for whole in ["bytes=5-2", "bytes=-5", "bytes=0-1,3-4", "lines=1-2", "bytes=x-"] {
            assert_eq!(range(whole), None, "{whole}");
        }
        for wrong in ["POST /a HTTP/1.1", "GET /a", "", "\u{0}"] {
            assert_eq!(parse(wrong), None, "{wrong:?}");
        }
    }

    proptest::proptest! {
        #[test]
        fn no_head_panics(head: Vec<u8>) {
            let _ = Request::parse(&head);
        }
    }
}

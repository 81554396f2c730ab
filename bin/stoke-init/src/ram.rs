//! The root in memory: fetched over HTTP in parallel pieces, offered as a loop device.
//!
//! The copy is not hashed as a whole: dm-verity over the device checks every block before anything gets to see it, which is
//! the same work, block by block, and only for what a boot reads. A copy with wrong blocks is noticed as one on the farm
//! is: by the first read of such a block, or when the resident has read all of it ([`crate::verity::read_all`]).

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt as _;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, bail};
use rustix::fs::{MemfdFlags, memfd_create};
use stoke_api::node::RootInfo;
use stoke_sys::loopdev::{self, LoopDevice};
use ureq::Agent;

use crate::journal::Journal;

/// Size of a piece: large enough that a request costs nothing, small enough that a lost one does not either.
const PIECE: u64 = 8 << 20;
const FETCHERS: usize = 4;
/// How often a piece is tried, each time at the best source that there is.
const TRIES: usize = 6;
const BLOCK_SIZE: u32 = 4096;
const CONNECT: Duration = Duration::from_secs(5);
const PIECE_TIMEOUT: Duration = Duration::from_mins(1);
const PAUSE: Duration = Duration::from_millis(500);

/// Fetches the root from these URLs, best first, and makes a block device of it; with it comes the memory itself.
pub(crate) fn attach(urls: &[String], root: &RootInfo, journal: &Journal) -> Result<(LoopDevice, OwnedFd)> {
    let memory = memfd_create("root", MemfdFlags::CLOEXEC).context("could not get memory for the root")?;
    let file = File::from(memory);
    file.set_len(root.size).context("could not get memory for the root")?;
    let sources = Sources::new(urls);
    fetch(&sources, root.size, &file)?;
    journal.say(&format!("copied {} MiB from {}", root.size >> 20, sources.best().map_or("nowhere", |(url, _)| url)));
    let device = loopdev::attach(&file, BLOCK_SIZE)?;
    Ok((device, file.into()))
}

/// Where a root can be had, best first, and how often each source has failed.
pub(crate) struct Sources<'a>(Vec<(&'a str, AtomicU32)>);

impl<'a> Sources<'a> {
    /// These, best first.
    pub(crate) fn new(urls: &'a [String]) -> Self {
        Self(urls.iter().map(|url| (url.as_str(), AtomicU32::new(0))).collect())
    }

    /// Tries until one source has given it. A source that fails comes after the others from then on, whatever is asked.
    pub(crate) fn try_each<T>(&self, get: impl Fn(&str) -> Result<T>) -> Result<T> {
        let mut last = anyhow!("no URL of the root is named");
        for _ in 0..TRIES {
            let Some((url, failures)) = self.best() else { return Err(last) };
            match get(url) {
                Ok(got) => return Ok(got),
                Err(error) => last = error.context(format!("could not fetch the root from {url}")),
            }
            failures.fetch_add(1, Ordering::Relaxed);
            std::thread::sleep(PAUSE);
        }
        Err(last)
    }

    /// The first of those that have failed least.
    fn best(&self) -> Option<(&'a str, &AtomicU32)> {
        let best = self.0.iter().min_by_key(|(_, failures)| failures.load(Ordering::Relaxed));
        best.map(|(url, failures)| (*url, failures))
    }
}

/// Fetches `size` bytes into the file, several pieces at a time.
fn fetch(sources: &Sources<'_>, size: u64, file: &File) -> Result<()> {
    let agent = agent();
    let (next, failure) = (AtomicU64::new(0), Mutex::new(None));
    let worker = || {
        loop {
            let start = next.fetch_add(PIECE, Ordering::Relaxed);
            if start >= size {
                return;
            }
            if let Err(error) = fetch_piece(&agent, sources, start, PIECE.min(size - start), file) {
                // The others find nothing left to do.
                next.store(size, Ordering::Relaxed);
                if let Ok(mut failure) = failure.lock() {
                    failure.get_or_insert(error);
                }
                return;
            }
        }
    };
    std::thread::scope(|scope| {
        for _ in 0..FETCHERS {
            scope.spawn(worker);
        }
    });
    failure
        .into_inner()
        .map_or_else(|_| Err(anyhow!("fetching the root failed")), |failure| failure.map_or(Ok(()), Err))
}

/// Who fetches.
pub(crate) fn agent() -> Agent {
    Agent::config_builder()
        .timeout_connect(Some(CONNECT))
        .timeout_global(Some(PIECE_TIMEOUT))
        .max_redirects(0)
        .build()
        .into()
}

fn fetch_piece(agent: &Agent, sources: &Sources<'_>, start: u64, length: u64, file: &File) -> Result<()> {
    sources.try_each(|url| fetch_range(agent, url, start, length, file))
}

/// So many bytes from there on.
pub(crate) fn read_range(agent: &Agent, url: &str, start: u64, length: u64) -> Result<Vec<u8>> {
    let mut content = Vec::new();
    request_range(agent, url, start, length)?.read_to_end(&mut content)?;
    if content.len() as u64 != length {
        bail!("it ends after {} bytes", start + content.len() as u64);
    }
    Ok(content)
}

fn fetch_range(agent: &Agent, url: &str, start: u64, length: u64, file: &File) -> Result<()> {
    let copied = copy_to(&mut request_range(agent, url, start, length)?, file, start)?;
    if copied != length {
        bail!("it ends after {} bytes", start + copied);
    }
    Ok(())
}

fn request_range(agent: &Agent, url: &str, start: u64, length: u64) -> Result<impl Read + use<>> {
    let range = format!("bytes={start}-{}", start + length - 1);
    let response = agent.get(url).header("range", range).call()?;
    let status = response.status().as_u16();
    let mut body = response.into_body().into_reader();
    if status == 200 && start > 0 {
        // A server without ranges sends all from the beginning.
        io::copy(&mut body.by_ref().take(start), &mut io::sink())?;
    }
    Ok(body.take(length))
}

fn copy_to(from: &mut impl Read, file: &File, start: u64) -> Result<u64> {
    let (mut buffer, mut at) = (vec![0; 256 << 10], start);
    loop {
        let length = match from.read(&mut buffer) {
            Ok(0) => return Ok(at - start),
            Ok(length) => length,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error.into()),
        };
        file.write_all_at(buffer.get(..length).unwrap_or_default(), at).context("memory is full")?;
        at += u64::try_from(length)?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{BufRead as _, BufReader, Write as _};
    use std::net::TcpListener;

    /// Serves these bytes over HTTP, one request per connection, with or without ranges.
    fn serve(content: Vec<u8>, ranges: bool) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}/root", listener.local_addr().unwrap());
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let mut stream = stream.unwrap();
                let lines: Vec<_> =
                    BufReader::new(&stream).lines().map_while(Result::ok).take_while(|line| !line.is_empty()).collect();
                let range = lines.iter().find_map(|line| line.strip_prefix("range: bytes=")).filter(|_| ranges);
                let (status, body) = match range.and_then(|range| range.split_once('-')) {
                    Some((from, to)) => {
                        let (from, to): (usize, usize) = (from.parse().unwrap(), to.parse().unwrap());
                        ("206 Partial Content", &content[from..=to])
                    }
                    None => ("200 OK", &content[..]),
                };
                let head = format!("HTTP/1.1 {status}\r\ncontent-length: {}\r\nconnection: close\r\n\r\n", body.len());
                // A client that has enough hangs up.
                let _ = stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(body));
            }
        });
        url
    }

    fn content() -> Vec<u8> {
        (0..(PIECE * 2 + 4096)).map(|byte| u8::try_from(byte % 251).unwrap()).collect()
    }

    fn fetched(url: String) -> Result<File> {
        let file = tempfile::tempfile()?;
        fetch(&Sources::new(&[url]), content().len() as u64, &file)?;
        Ok(file)
    }

    #[test]
    fn a_source_that_fails_is_left_for_the_next_one() {
        let closed = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let urls = [format!("http://{closed}/root"), serve(content(), true)];
        let (sources, mut file) = (Sources::new(&urls), tempfile::tempfile().unwrap());
        fetch(&sources, content().len() as u64, &file).unwrap();
        let mut found = Vec::new();
        io::Seek::rewind(&mut file).unwrap();
        file.read_to_end(&mut found).unwrap();
        assert!(found == content());
        assert_eq!(sources.best().map(|(url, _)| url), Some(urls[1].as_str()));
    }

    #[test]
    fn pieces_make_up_the_whole_with_ranges_and_without() {
        for ranges in [true, false] {
            let (mut file, mut found) = (fetched(serve(content(), ranges)).unwrap(), Vec::new());
            file.read_to_end(&mut found).unwrap();
            assert!(found == content(), "ranges: {ranges}");
        }
    }

    #[test]
    fn a_root_that_is_too_short_is_refused() {
        let mut short = content();
        short.truncate(100);
        let error = format!("{:#}", fetched(serve(short, false)).unwrap_err());
        assert!(error.contains("could not fetch the root from http://127.0.0.1"), "{error}");
    }
}

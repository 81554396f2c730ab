//! The root in memory: fetched over HTTP in parallel pieces, offered as a loop device.
//!
//! The copy is not hashed as a whole: dm-verity over the device checks every block before anything gets to see it, which is
//! the same work, block by block, and only for what a boot reads. A copy with wrong blocks is noticed as one on the farm
//! is: by the first read of such a block, or when the resident has read all of it ([`crate::verity::read_all`]).

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt as _;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
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
/// How often a piece is tried, each time at the next source.
const TRIES: usize = 6;
const BLOCK_SIZE: u32 = 4096;
const CONNECT: Duration = Duration::from_secs(5);
const PIECE_TIMEOUT: Duration = Duration::from_mins(1);
const PAUSE: Duration = Duration::from_millis(500);

/// Fetches the root from these URLs and makes a block device of it.
pub(crate) fn attach(urls: &[String], root: &RootInfo, journal: &Journal) -> Result<LoopDevice> {
    let memory = memfd_create("root", MemfdFlags::CLOEXEC).context("could not get memory for the root")?;
    let file = File::from(memory);
    file.set_len(root.size).context("could not get memory for the root")?;
    fetch(urls, root.size, &file)?;
    journal.say(&format!("copied {} MiB", root.size >> 20));
    loopdev::attach(&file, BLOCK_SIZE).map_err(Into::into)
}

/// Fetches `size` bytes into the file, several pieces at a time.
fn fetch(urls: &[String], size: u64, file: &File) -> Result<()> {
    let agent = agent();
    let (next, failure) = (AtomicU64::new(0), Mutex::new(None));
    let worker = || {
        loop {
            let start = next.fetch_add(PIECE, Ordering::Relaxed);
            if start >= size {
                return;
            }
            if let Err(error) = fetch_piece(&agent, urls, start, PIECE.min(size - start), file) {
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

fn agent() -> Agent {
    Agent::config_builder()
        .timeout_connect(Some(CONNECT))
        .timeout_global(Some(PIECE_TIMEOUT))
        .max_redirects(0)
        .build()
        .into()
}

/// Tries the sources in turn, beginning with another one for each piece.
fn fetch_piece(agent: &Agent, urls: &[String], start: u64, length: u64, file: &File) -> Result<()> {
    let first = usize::try_from(start / PIECE).unwrap_or_default();
    let mut last = anyhow!("no URL of the root is named");
    for attempt in 0..TRIES {
        let Some(url) = urls.get((first + attempt) % urls.len().max(1)) else { return Err(last) };
        match fetch_range(agent, url, start, length, file) {
            Ok(()) => return Ok(()),
            Err(error) => last = error.context(format!("could not fetch the root from {url}")),
        }
        std::thread::sleep(PAUSE);
    }
    Err(last)
}

fn fetch_range(agent: &Agent, url: &str, start: u64, length: u64, file: &File) -> Result<()> {
    let range = format!("bytes={start}-{}", start + length - 1);
    let mut response = agent.get(url).header("range", range).call()?;
    let status = response.status().as_u16();
    let mut body = response.body_mut().as_reader();
    if status == 200 && start > 0 {
        // A server without ranges sends all from the beginning.
        io::copy(&mut body.by_ref().take(start), &mut io::sink())?;
    }
    let copied = copy_to(&mut body.take(length), file, start)?;
    if copied != length {
        bail!("it ends after {} bytes", start + copied);
    }
    Ok(())
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
        fetch(&[url], content().len() as u64, &file)?;
        Ok(file)
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

//! A server in this process, with made-up files, and what it says of its transfers.

use std::net::{SocketAddr, UdpSocket};
use std::process::{Command, Output, Stdio};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use stoke_tftp::server::{Asked, Content, Counters, Ended, Files, Settings, serve};
use tokio_util::sync::CancellationToken;

/// How long anything may take before a test gives up.
pub(crate) const LIMIT: Duration = Duration::from_mins(1);

/// A file whose name is its size: `bytes-180000`; a text `lines`; and one that cannot be read.
pub(crate) struct Made {
    pub(crate) ended: Mutex<Vec<String>>,
}

struct Broken;

impl Content for Broken {
    fn size(&self) -> u64 {
        10_000
    }

    fn read_exact_at(&self, _: &mut [u8], _: u64) -> std::io::Result<()> {
        Err(std::io::Error::other("the disk is gone"))
    }
}

/// Lines with the ends that Unix has.
pub(crate) const LINES: &str = "first\nsecond\n\nfourth, and no end";

impl Files for Made {
    fn open(&self, name: &str, _: SocketAddr) -> Option<Arc<dyn Content>> {
        match name {
            "lines" => Some(Arc::new(LINES.as_bytes().to_vec())),
            "broken" => Some(Arc::new(Broken)),
            name => Some(Arc::new(pattern(name.strip_prefix("bytes-")?.parse().ok()?))),
        }
    }

    fn find(&self, asked: &Asked<'_>) -> Option<Arc<dyn Content>> {
        self.open(asked.name, asked.client)
    }

    fn ended(&self, ended: &Ended<'_>) {
        let text = format!("{} {:?} {} of {}", ended.name, ended.outcome, ended.bytes, ended.size);
        self.ended.lock().unwrap().push(text);
    }

    fn refused(&self, _: SocketAddr, name: &str, reason: &str) {
        self.ended.lock().unwrap().push(format!("{name} refused: {reason}"));
    }
}

/// Content that repeats late, so that a block out of place shows.
pub(crate) fn pattern(length: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let words = std::iter::repeat_with(move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    });
    words.flatten().take(length).collect()
}

pub(crate) struct Bed {
    pub(crate) address: SocketAddr,
    pub(crate) files: Arc<Made>,
    pub(crate) counters: Arc<Counters>,
    pub(crate) stop: CancellationToken,
    server: Option<std::thread::JoinHandle<std::io::Result<()>>>,
}

impl Bed {
    /// A server on the loopback address of this text.
    pub(crate) fn on(address: &str, settings: Settings) -> Self {
        let files = Arc::new(Made { ended: Mutex::default() });
        let (counters, stop) = (Arc::new(Counters::default()), CancellationToken::new());
        let socket = UdpSocket::bind((address, 0)).unwrap();
        socket.set_nonblocking(true).unwrap();
        let address = socket.local_addr().unwrap();
        let (content, counted, told) = (files.clone(), counters.clone(), stop.clone());
        let server = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            runtime.block_on(async {
                let socket = tokio::net::UdpSocket::from_std(socket)?;
                serve(socket, content, settings, counted, told).await
            })
        });
        Self { address, files, counters, stop, server: Some(server) }
    }

    /// What was said of transfers so far.
    pub(crate) fn ended(&self) -> Vec<String> {
        self.files.ended.lock().unwrap().clone()
    }

    /// Waits until this was said of a transfer.
    pub(crate) fn wait_ended(&self, wanted: &str) {
        wait(wanted, || self.ended().iter().any(|ended| ended == wanted));
    }

    pub(crate) fn active(&self) -> u64 {
        self.counters.active.load(Ordering::Relaxed)
    }

    /// Stops the server, which carries transfers to their end.
    pub(crate) fn end(&mut self) {
        self.stop.cancel();
        if let Some(server) = self.server.take() {
            server.join().unwrap().unwrap();
        }
    }
}

impl Drop for Bed {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

pub(crate) fn wait(what: &str, done: impl Fn() -> bool) {
    let begin = Instant::now();
    while !done() {
        assert!(begin.elapsed() < LIMIT, "gave up waiting for {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

pub(crate) fn run(program: &str, arguments: &[&str]) -> Output {
    let output = Command::new(program).args(arguments).stdin(Stdio::null()).output();
    output.unwrap_or_else(|error| panic!("{program} cannot be run ({error}); is its Debian package installed?"))
}

pub(crate) fn must(program: &str, arguments: &[&str]) {
    let output = run(program, arguments);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {arguments:?}: {}\n{errors}", output.status);
}

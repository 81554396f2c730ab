//! A server over one file, and what runs against it.

use std::fs::File;
use std::io::{BufRead as _, BufReader};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use stoke_nbd::client;

/// Size of the image in bytes.
pub(crate) const SIZE: u64 = 8 << 20;
/// Where nothing is stored in it.
pub(crate) const HOLE: std::ops::Range<u64> = 2 << 20..5 << 20;
/// How long an answer may take.
const LIMIT: Duration = Duration::from_mins(1);

/// A server that runs.
pub(crate) struct Bed {
    pub(crate) folder: tempfile::TempDir,
    pub(crate) address: SocketAddr,
    server: Child,
}

impl Bed {
    pub(crate) fn new() -> Self {
        Self::with(tempfile::tempdir().unwrap(), &[])
    }

    /// With more arguments for the server, and a folder in which something is already.
    pub(crate) fn with(folder: tempfile::TempDir, arguments: &[&str]) -> Self {
        let image = folder.path().join("image");
        let file = File::create(&image).unwrap();
        file.set_len(SIZE).unwrap();
        for range in [0..HOLE.start, HOLE.end..SIZE] {
            let data: Vec<u8> = range.clone().map(byte_at).collect();
            file.write_all_at(&data, range.start).unwrap();
        }
        let mut command = Command::new(example());
        command.arg("127.0.0.1:0").arg(&image).args(arguments);
        let mut server = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(server.stdout.take().unwrap()).read_line(&mut line).unwrap();
        Self { folder, address: line.trim().parse().unwrap(), server }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub(crate) fn uri(&self) -> String {
        format!("nbd://{}/image", self.address)
    }

    /// A connection on which the export was chosen, with simple replies.
    pub(crate) fn attach(&self) -> TcpStream {
        let mut stream = TcpStream::connect(self.address).unwrap();
        stream.set_read_timeout(Some(LIMIT)).unwrap();
        let negotiated = client::negotiate(&mut stream, "image").unwrap();
        assert_eq!(negotiated.size, SIZE);
        stream
    }

    /// Resident memory of the server in KiB.
    pub(crate) fn memory(&self) -> i64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.server.id())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
        line.trim().trim_end_matches(" kB").parse().unwrap()
    }
}

impl Drop for Bed {
    fn drop(&mut self) {
        let _ = self.server.kill();
        let _ = self.server.wait();
    }
}

/// What the image has there.
pub(crate) fn byte_at(offset: u64) -> u8 {
    if HOLE.contains(&offset) { 0 } else { (offset.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56).to_le_bytes()[0] | 1 }
}

/// The example, which cargo builds together with the tests.
fn example() -> PathBuf {
    let target = std::env::current_exe().unwrap();
    let path = target.parent().and_then(Path::parent).unwrap().join("examples/nbd");
    assert!(path.exists(), "{} is missing: run the tests by cargo test", path.display());
    path
}

pub(crate) fn run(program: &str, arguments: &[&str]) -> Output {
    let output = Command::new(program).args(arguments).stdin(Stdio::null()).output();
    output.unwrap_or_else(|error| panic!("{program} cannot be run ({error}); is its Debian package installed?"))
}

/// Runs a program that must succeed and returns what it wrote.
pub(crate) fn must(program: &str, arguments: &[&str]) -> String {
    let output = run(program, arguments);
    let (text, errors) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{program} {arguments:?}: {}\n{text}{errors}", output.status);
    text.into_owned()
}

//! A TPM of its own for each test: swtpm on a Unix socket.

use std::io::{self, Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use stoke_tpm::{Tpm, Transport};

/// How long a busy machine may take to start it.
const LIMIT: Duration = Duration::from_mins(1);

/// A running swtpm; ended when dropped.
pub(crate) struct Simulator {
    process: Child,
    folder: tempfile::TempDir,
}

/// A connection to it.
pub(crate) struct Connection(UnixStream);

impl Transport for Connection {
    fn exchange(&mut self, command: &[u8]) -> io::Result<Vec<u8>> {
        self.0.write_all(command)?;
        let mut header = [0; 10];
        self.0.read_exact(&mut header)?;
        let length = u32::from_be_bytes([header[2], header[3], header[4], header[5]]);
        let mut rest = vec![0; usize::try_from(length).unwrap() - header.len()];
        self.0.read_exact(&mut rest)?;
        Ok([&header[..], &rest].concat())
    }
}

impl Simulator {
    pub(crate) fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let socket = |name: &str| format!("type=unixio,path={}", folder.path().join(name).display());
        let process = Command::new("swtpm")
            .args(["socket", "--tpm2", "--flags", "not-need-init,startup-clear"])
            .args(["--tpmstate", &format!("dir={}", folder.path().display())])
            .args(["--server", &socket("tpm.sock"), "--ctrl", &socket("tpm.sock.ctrl")])
            .stdin(Stdio::null())
            .spawn()
            .expect("swtpm is missing: install the package swtpm");
        Self { process, folder }
    }

    fn socket(&self) -> PathBuf {
        self.folder.path().join("tpm.sock")
    }

    /// It serves one connection at a time: the last one is to be dropped first.
    pub(crate) fn connect(&self) -> Tpm<Connection> {
        Tpm::new(self.connection())
    }

    pub(crate) fn connection(&self) -> Connection {
        let until = Instant::now() + LIMIT;
        loop {
            match UnixStream::connect(self.socket()) {
                Ok(stream) => return Connection(stream),
                Err(error) if Instant::now() > until => panic!("swtpm does not listen: {error}"),
                Err(_) => std::thread::sleep(Duration::from_millis(20)),
            }
        }
    }
}

impl Drop for Simulator {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

//! A TPM without a machine: swtpm on a Unix socket, ended when it is dropped.

use std::io::{self, Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use stoke_tpm::{Hash, Tpm, Transport};

/// How long a busy machine may take to start it.
const LIMIT: Duration = Duration::from_mins(1);
/// TPM2_PCR_Extend.
const EXTEND: u32 = 0x182;

/// A TPM as it is when a machine is switched on: all registers are zero.
pub struct Simulator {
    process: Child,
    folder: tempfile::TempDir,
}

/// A connection to it.
pub struct Connection(UnixStream);

impl Transport for Connection {
    fn exchange(&mut self, command: &[u8]) -> io::Result<Vec<u8>> {
        self.0.write_all(command)?;
        let mut answer = vec![0; 10];
        self.0.read_exact(&mut answer)?;
        let length = answer.get(2..6).and_then(|length| length.first_chunk().copied()).map_or(0, u32::from_be_bytes);
        let rest = usize::try_from(length).unwrap_or_default().saturating_sub(answer.len());
        let begin = answer.len();
        answer.resize(begin + rest, 0);
        self.0.read_exact(answer.get_mut(begin..).unwrap_or_default())?;
        Ok(answer)
    }
}

impl Simulator {
    /// A new one.
    ///
    /// # Errors
    /// If swtpm is missing.
    pub fn start() -> anyhow::Result<Self> {
        let folder = tempfile::tempdir()?;
        let socket = |name: &str| format!("type=unixio,path={}", folder.path().join(name).display());
        let process = Command::new("swtpm")
            .args(["socket", "--tpm2", "--flags", "not-need-init,startup-clear", "--log", "level=0"])
            .args(["--tpmstate", &format!("dir={}", folder.path().display())])
            .args(["--server", &socket("tpm.sock"), "--ctrl", &socket("tpm.sock.ctrl")])
            .stdin(Stdio::null())
            .stderr(Stdio::null())
            .spawn();
        let process = process.context("swtpm cannot be run; is the package swtpm installed?")?;
        Ok(Self { process, folder })
    }

    /// Connects to it. It serves one connection at a time: the last one is to be dropped first.
    ///
    /// # Errors
    /// If it does not listen.
    pub fn connect(&self) -> anyhow::Result<Tpm<Connection>> {
        self.connection().map(Tpm::new)
    }

    fn connection(&self) -> anyhow::Result<Connection> {
        let until = Instant::now() + LIMIT;
        loop {
            match UnixStream::connect(self.folder.path().join("tpm.sock")) {
                Ok(stream) => return Ok(Connection(stream)),
                Err(error) if Instant::now() > until => return Err(error).context("swtpm does not listen"),
                Err(_) => std::thread::sleep(Duration::from_millis(20)),
            }
        }
    }

    /// Takes a measurement into a register, as firmware does.
    ///
    /// # Errors
    /// If the TPM refuses.
    pub fn extend(&self, register: u32, digest: &Hash) -> anyhow::Result<()> {
        // The empty password, one bank: SHA-256 (part 3, section 22.2).
        let auth = [&9_u32.to_be_bytes()[..], &0x4000_0009_u32.to_be_bytes(), &[0; 5]].concat();
        let body = [&register.to_be_bytes()[..], &auth, &1_u32.to_be_bytes(), &[0, 0x0b], digest].concat();
        let size = u32::try_from(10 + body.len())?;
        let command = [&[0x80, 2][..], &size.to_be_bytes(), &EXTEND.to_be_bytes(), &body].concat();
        let answer = self.connection()?.exchange(&command)?;
        ensure!(answer.get(6..10) == Some(&[0; 4]), "register {register} cannot be extended");
        Ok(())
    }
}

impl Drop for Simulator {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

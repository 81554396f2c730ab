//! `stoke logs`: the log of what serves an object. Needs nobody who runs: the file is where it always is.

use std::io::{self, Read as _, Seek as _, SeekFrom, Write as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use stoke_api::ObjectRef;

use super::blocking;
use crate::cli::Logs;
use crate::client::Client;
use crate::failure::Failure;
use crate::folders::{Folders, log};

/// How often a file is looked at again.
const PAUSE: Duration = Duration::from_millis(200);

pub(crate) fn run(folders: &Folders, logs: &Logs) -> anyhow::Result<ExitCode> {
    let reference = logs.object.reference(&crate::cluster::default_namespace(None)?)?;
    let path = blocking(find(folders, &reference))?;
    let mut log = Log::open(&path)?;
    loop {
        log.copy()?;
        if !logs.follow {
            return Ok(ExitCode::SUCCESS);
        }
        std::thread::sleep(PAUSE);
        log.reopen_if_replaced()?;
    }
}

/// The log file: by what runs, else by its name.
async fn find(folders: &Folders, reference: &ObjectRef) -> anyhow::Result<PathBuf> {
    let client = Client::new(&folders.control_socket())?;
    if client.is_alive().await? {
        let workloads = client.host().await?.workloads;
        if let Some(workload) = workloads.into_iter().find(|workload| workload.owner == *reference) {
            return Ok(workload.log);
        }
    }
    let path = log(folders, reference);
    let hint = "stoke status shows what runs here, stoke describe what happened to an object";
    path.exists().then_some(path).ok_or_else(|| Failure::hinted(format!("nothing has run for {reference}"), hint))
}

/// A file that grows, and may be replaced by another of its name.
struct Log {
    path: PathBuf,
    file: fs_err::File,
    inode: u64,
}

impl Log {
    fn open(path: &Path) -> anyhow::Result<Self> {
        let file = fs_err::File::open(path)?;
        let inode = file.metadata()?.ino();
        Ok(Self { path: path.to_owned(), file, inode })
    }

    /// Prints what is new.
    fn copy(&mut self) -> io::Result<()> {
        let mut stdout = io::stdout().lock();
        let mut buffer = vec![0; 64 << 10];
        loop {
            let length = self.file.read(&mut buffer)?;
            if length == 0 {
                return stdout.flush();
            }
            stdout.write_all(buffer.get(..length).unwrap_or_default())?;
        }
    }

    fn reopen_if_replaced(&mut self) -> anyhow::Result<()> {
        let Ok(metadata) = fs_err::metadata(&self.path) else { return Ok(()) };
        if metadata.ino() != self.inode {
            *self = Self::open(&self.path)?;
        } else if metadata.len() < self.file.stream_position()? {
            self.file.seek(SeekFrom::Start(0))?;
        }
        Ok(())
    }
}

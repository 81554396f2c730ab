//! What callers ask for: each verb is a function that returns when it is done, and says what went wrong.

pub mod create;
mod delete;
pub mod exec;
mod features;
mod inherit;
mod kill;
mod limits;
mod look;
mod process;
pub mod run;
mod start;
mod template;
mod terminal;
mod trees;

use std::path::{Path, PathBuf};

pub use create::create;
pub use delete::delete;
pub use exec::exec;
pub use features::features;
pub use kill::{kill, parse_signal};
pub use limits::{pause, resume, update};
pub use look::{Listed, list, processes, state, stats};
pub use run::run;
pub use start::start;
pub use template::template;

use crate::error::{Context as _, Error, Result};
use crate::state::{Folder, Record, Root, Status};

/// What every verb is called with.
#[derive(Clone, Debug)]
pub struct Runtime {
    /// Where containers are remembered.
    pub root: Root,
    /// From which level on liblxc logs.
    pub lxc_log_level: String,
}

impl Runtime {
    /// A container, what is remembered of it, and what it does.
    fn open(&self, id: &str) -> Result<(Folder, Record, Status)> {
        let folder = self.root.open(id)?;
        let record = folder.expect_record()?;
        let status = folder.status(&record);
        Ok((folder, record, status))
    }
}

/// Writes a process's number where the caller looks for it: whole or not at all.
fn write_pid_file(path: &Path, pid: i32) -> Result<()> {
    let what = || format!("cannot write the pid file {}", path.display());
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let staged: PathBuf = path.with_file_name(format!(".{name}.new"));
    std::fs::write(&staged, pid.to_string()).context(what)?;
    std::fs::rename(&staged, path).context(what)
}

/// The error for a verb that needs another status.
fn wrong_status(id: &str, status: Status, verb: &str) -> Error {
    match status {
        // Callers look for these words.
        Status::Stopped => Error::State(format!("cannot {verb} container {id}: container not running")),
        _ => Error::State(format!("cannot {verb} container {id}: it is {status}")),
    }
}

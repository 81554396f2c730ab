//! `delete`: nothing of a container is left. It goes on past what it cannot do, and says it.

use rustix::process::Signal;

use super::Runtime;
use super::create::remove_groups;
use super::start::end;
use crate::error::{Error, Result};
use crate::hooks;
use crate::state::{Folder, Record, Status};

/// Deletes a container that has stopped; with `force` any, and none is no error. What it gives are warnings.
///
/// # Errors
/// If it runs, or something of it cannot be removed.
pub fn delete(runtime: &Runtime, id: &str, force: bool) -> Result<Vec<Error>> {
    let folder = match runtime.root.open(id) {
        Err(Error::NotFound(_)) if force => return Ok(Vec::new()),
        other => other?,
    };
    let Some(record) = folder.record()? else {
        // `create` was killed before it had written anything: there is nothing but the folder.
        folder.remove()?;
        return Ok(Vec::new());
    };
    let status = folder.status(&record);
    if status != Status::Stopped {
        if !force {
            return Err(Error::State(format!(
                "cannot delete container {id}: it is {status}: kill it first, or use --force"
            )));
        }
        stop(&record)?;
    }
    take_away(&folder, &record)
}

fn stop(record: &Record) -> Result<()> {
    if let Some(creator) = record.creator {
        end(creator)?;
    }
    if let Some(group) = record.group()? {
        if group.is_frozen() {
            // Version 1 delivers no signal to who is frozen.
            record.init.map_or(Ok(true), |init| init.signal(Signal::KILL))?;
            group.freeze(false)?;
        }
        group.signal(Signal::KILL)?;
    }
    record.init.map_or(Ok(()), end)
}

fn take_away(folder: &Folder, record: &Record) -> Result<Vec<Error>> {
    if let Some(cgroup) = &record.cgroup {
        remove_groups(cgroup)?;
    }
    let spec = folder.spec();
    folder.remove()?;
    let Ok(spec) = spec else { return Ok(Vec::new()) };
    let state = record.state(Status::Stopped);
    Ok(hooks::run_all("poststop", &spec.hooks().poststop, &state, &record.bundle))
}

//! `pause`, `resume` and `update`: a container's cgroup while it runs.

use super::{Runtime, wrong_status};
use crate::cgroup::{devices, limits, stats as usage};
use crate::error::{Error, Result};
use crate::spec::Resources;
use crate::state::Status;

/// Freezes all processes.
///
/// # Errors
/// If the container does not run.
pub fn pause(runtime: &Runtime, id: &str) -> Result<()> {
    let (_, record, status) = runtime.open(id)?;
    if !matches!(status, Status::Running | Status::Created) {
        return Err(wrong_status(id, status, "pause"));
    }
    record.group()?.map_or(Ok(()), |group| group.freeze(true))
}

/// Thaws all processes.
///
/// # Errors
/// If the container is not paused.
pub fn resume(runtime: &Runtime, id: &str) -> Result<()> {
    let (_, record, status) = runtime.open(id)?;
    if status != Status::Paused {
        return Err(wrong_status(id, status, "resume"));
    }
    record.group()?.map_or(Ok(()), |group| group.freeze(false))
}

/// Changes limits. What is not said stays.
///
/// # Errors
/// If the container has stopped, or the kernel refuses a limit.
pub fn update(runtime: &Runtime, id: &str, resources: &Resources) -> Result<()> {
    let (_, record, status) = runtime.open(id)?;
    if status == Status::Stopped {
        return Err(wrong_status(id, status, "update"));
    }
    let group = record.group()?.ok_or_else(|| Error::State(format!("container {id} has no cgroup")))?;
    let memory = resources.memory.clone().unwrap_or_default();
    let is_checked = memory.check_before_update == Some(true);
    if let Some(limit) = memory.limit.filter(|limit| is_checked && *limit > 0) {
        let used = usage::memory_used(&group);
        // Version 2 takes a limit below what is used, and kills for it.
        if i128::from(used) > i128::from(limit) {
            let reason = format!("{limit} is less than the {used} bytes that are used");
            return Err(Error::field("linux.resources.memory.limit", reason));
        }
    }
    let writes = limits::plan(resources, group.view())?;
    group.enable(&writes)?;
    group.apply(&writes)?;
    devices::apply(&group, &resources.devices)
}

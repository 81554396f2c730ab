//! `state`, `list`, `ps` and `events --stats`: what there is.

use std::path::PathBuf;

use serde::Serialize;
use serde_json::Value;

use super::Runtime;
use crate::cgroup::stats as usage;
use crate::error::{Error, Result};
use crate::state::{State, Status};

/// State of a container, as the specification has it.
///
/// # Errors
/// If there is none.
pub fn state(runtime: &Runtime, id: &str) -> Result<State> {
    let (_, record, status) = runtime.open(id)?;
    Ok(record.state(status))
}

/// A line of `list`.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
#[expect(missing_docs, reason = "the fields of runc's and crun's list")]
pub struct Listed {
    pub oci_version: String,
    pub id: String,
    pub pid: i32,
    pub status: Status,
    pub bundle: PathBuf,
    pub rootfs: PathBuf,
    pub created: String,
    pub owner: u32,
}

/// All containers. One that vanishes meanwhile is left out.
///
/// # Errors
/// If the root cannot be read.
pub fn list(runtime: &Runtime) -> Result<Vec<Listed>> {
    let line = |id: String| {
        let (_, record, status) = runtime.open(&id).ok()?;
        let state = record.state(status);
        let (oci_version, pid, bundle) = (state.oci_version, state.pid, state.bundle);
        let (rootfs, created, owner) = (record.rootfs, record.created, record.owner);
        Some(Listed { oci_version, id, pid, status, bundle, rootfs, created, owner })
    };
    Ok(runtime.root.list()?.into_iter().filter_map(line).collect())
}

/// Numbers of a container's processes.
///
/// # Errors
/// If there is no container.
pub fn processes(runtime: &Runtime, id: &str) -> Result<Vec<i32>> {
    let (_, record, _) = runtime.open(id)?;
    let found = record.group()?.map(|group| group.processes()).unwrap_or_default();
    Ok(found.into_iter().map(|process| process.as_raw_nonzero().get()).collect())
}

/// What a container uses.
///
/// # Errors
/// If it does not run.
pub fn stats(runtime: &Runtime, id: &str) -> Result<Value> {
    let (_, record, status) = runtime.open(id)?;
    if status == Status::Stopped {
        return Err(super::wrong_status(id, status, "look at"));
    }
    let group = record.group()?.ok_or_else(|| Error::State(format!("container {id} has no cgroup")))?;
    Ok(serde_json::json!({"type": "stats", "id": id, "data": usage::read(&group)}))
}

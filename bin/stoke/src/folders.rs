//! Where the files of an object's workload are, as far as people are shown them.
//!
//! A machine, its console and its log go on without `stoke up`: they are found by name when nobody can be asked.

use std::path::PathBuf;

use stoke_api::{Kind, ObjectName, ObjectRef};
pub(crate) use stoke_host::Folders;

/// The log of what serves an object.
pub(crate) fn log(folders: &Folders, reference: &ObjectRef) -> PathBuf {
    folders.log(&workload(reference))
}

/// The console of a machine.
pub(crate) fn console(folders: &Folders, reference: &ObjectRef) -> PathBuf {
    folders.workloads().join(workload(reference)).join("console.sock")
}

/// The name of the workload that serves an object: `vm-default-node-1`.
fn workload(reference: &ObjectRef) -> String {
    let word = match reference.kind {
        Kind::Image => "build",
        Kind::Lan => "router",
        Kind::Farm | Kind::Server => "farm",
        Kind::Machine | Kind::MachineSet => "vm",
    };
    let namespace = reference.namespace.as_ref().map_or("cluster", ObjectName::as_str);
    format!("{word}-{namespace}-{}", reference.name)
}

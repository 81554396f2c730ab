//! What of a configuration cannot be meant, and what of it is not done: each is refused with the field's name. Pure.

use std::collections::BTreeSet;

use crate::error::{Error, Result};
use crate::namespaces;
use crate::spec::{IdMapping, Linux, Process, Spec};

/// Resource limits of a process, by the specification's names.
pub const RLIMITS: [&str; 16] = [
    "RLIMIT_CPU",
    "RLIMIT_FSIZE",
    "RLIMIT_DATA",
    "RLIMIT_STACK",
    "RLIMIT_CORE",
    "RLIMIT_RSS",
    "RLIMIT_NPROC",
    "RLIMIT_NOFILE",
    "RLIMIT_MEMLOCK",
    "RLIMIT_AS",
    "RLIMIT_LOCKS",
    "RLIMIT_SIGPENDING",
    "RLIMIT_MSGQUEUE",
    "RLIMIT_NICE",
    "RLIMIT_RTPRIO",
    "RLIMIT_RTTIME",
];

/// Refuses what cannot be meant.
///
/// # Errors
/// The first field that is wrong.
pub fn check(spec: &Spec) -> Result<()> {
    version(&spec.oci_version)?;
    let root = spec.root.as_ref().ok_or_else(|| Error::field("root", "is missing"))?;
    if root.path.as_os_str().is_empty() {
        return Err(Error::field("root.path", "is empty"));
    }
    if let Some(process) = &spec.process {
        check_process(process)?;
    }
    let linux = spec.linux();
    namespaces_of(&linux, spec)?;
    not_done(&linux)?;
    sysctls(&linux)?;
    for (index, mount) in spec.mounts.iter().enumerate() {
        if mount.destination.as_os_str().is_empty() {
            return Err(Error::field(format!("mounts[{index}].destination"), "is empty"));
        }
    }
    let propagations = ["", "shared", "rshared", "slave", "rslave", "private", "rprivate", "unbindable", "runbindable"];
    if !propagations.contains(&linux.rootfs_propagation.as_str()) {
        return Err(Error::field("linux.rootfsPropagation", format!("{:?} is none", linux.rootfs_propagation)));
    }
    Ok(())
}

/// Any 1.x is taken: callers write versions that are newer than the runtime.
fn version(version: &str) -> Result<()> {
    let mut parts = version.split(['.', '-', '+']);
    let is_number = |part: Option<&str>| part.is_some_and(|part| part.parse::<u32>().is_ok());
    if parts.next() == Some("1") && is_number(parts.next()) && is_number(parts.next()) {
        return Ok(());
    }
    Err(Error::field("ociVersion", format!("{version:?} is not supported: 1.0.0 to 1.3.0 are")))
}

/// Refuses what cannot be meant about a process, of a container or of `exec`.
pub fn check_process(process: &Process) -> Result<()> {
    if !process.cwd.starts_with('/') {
        return Err(Error::field("process.cwd", format!("{:?} is no absolute path", process.cwd)));
    }
    let mut kinds = BTreeSet::new();
    for limit in &process.rlimits {
        if !RLIMITS.contains(&limit.kind.as_str()) {
            return Err(Error::field("process.rlimits", format!("{:?} is none", limit.kind)));
        }
        if !kinds.insert(&limit.kind) {
            return Err(Error::field("process.rlimits", format!("{} is there twice", limit.kind)));
        }
        if limit.soft > limit.hard {
            return Err(Error::field(
                "process.rlimits",
                format!("{}: the soft limit is above the hard one", limit.kind),
            ));
        }
    }
    if process.exec_cpu_affinity.as_ref().is_some_and(|affinity| !affinity.is_null()) {
        return Err(Error::field("process.execCPUAffinity", "is not supported"));
    }
    if process.oom_score_adj.is_some_and(|score| !(-1000..=1000).contains(&score)) {
        return Err(Error::field("process.oomScoreAdj", "must be from -1000 to 1000"));
    }
    Ok(())
}

fn namespaces_of(linux: &Linux, spec: &Spec) -> Result<()> {
    let field = "linux.namespaces";
    let mut kinds = BTreeSet::new();
    for namespace in &linux.namespaces {
        if namespaces::named(&namespace.kind).is_none() {
            return Err(Error::field(field, format!("{:?} is none", namespace.kind)));
        }
        if !kinds.insert(namespace.kind.as_str()) {
            return Err(Error::field(field, format!("{} is there twice", namespace.kind)));
        }
        if namespace.path().is_some_and(|path| !path.is_absolute()) {
            return Err(Error::field(field, format!("the path of the {} namespace is not absolute", namespace.kind)));
        }
    }
    let find = |kind: &str| linux.namespaces.iter().find(|namespace| namespace.kind == kind);
    match find("mount") {
        None => return Err(Error::field(field, "a mount namespace is needed")),
        Some(mount) if mount.path().is_some() => {
            return Err(Error::field(field, "a mount namespace cannot be joined: leave its path out"));
        }
        Some(_) => {}
    }
    let is_new = |kind: &str| find(kind).is_some_and(|namespace| namespace.path().is_none());
    let needs = [
        ("uts", "hostname", !spec.hostname.is_empty()),
        ("uts", "domainname", !spec.domainname.is_empty()),
        ("time", "linux.timeOffsets", !linux.time_offsets.is_empty()),
    ];
    for (kind, name, is_set) in needs {
        if is_set && find(kind).is_none() {
            return Err(Error::field(name, format!("needs a {kind} namespace in linux.namespaces")));
        }
    }
    if is_new("user") && (linux.uid_mappings.is_empty() || linux.gid_mappings.is_empty()) {
        return Err(Error::field("linux.uidMappings", "a user namespace needs maps of users and groups"));
    }
    mappings("linux.uidMappings", &linux.uid_mappings)?;
    mappings("linux.gidMappings", &linux.gid_mappings)?;
    let clocks = ["monotonic", "boottime"];
    match linux.time_offsets.keys().find(|clock| !clocks.contains(&clock.as_str())) {
        Some(clock) => Err(Error::field("linux.timeOffsets", format!("{clock:?} is no clock with an offset"))),
        None => Ok(()),
    }
}

fn mappings(field: &str, mappings: &[IdMapping]) -> Result<()> {
    match mappings.iter().find(|mapping| mapping.size == 0) {
        Some(_) => Err(Error::field(field, "a range of no ids")),
        None => Ok(()),
    }
}

/// Kernel parameters must be of a namespace that the container has of its own: any other is the host's.
fn sysctls(linux: &Linux) -> Result<()> {
    const IPC: [&str; 8] = [
        "kernel.msgmax",
        "kernel.msgmnb",
        "kernel.msgmni",
        "kernel.sem",
        "kernel.shmall",
        "kernel.shmmax",
        "kernel.shmmni",
        "kernel.shm_rmid_forced",
    ];
    for key in linux.sysctl.keys() {
        // Both ways of writing one are in use; in a name of an interface a dot becomes a slash.
        let name = key.replace('/', ".");
        let kind = match name.as_str() {
            name if IPC.contains(&name) || name.starts_with("fs.mqueue.") => "ipc",
            name if name.starts_with("net.") => "network",
            "kernel.domainname" => "uts",
            "kernel.hostname" => return Err(Error::field("linux.sysctl", "kernel.hostname: use the field hostname")),
            _ => return Err(Error::field("linux.sysctl", format!("{key} is the whole host's"))),
        };
        let leaves = name.split('.').any(str::is_empty);
        if leaves || !linux.namespaces.iter().any(|namespace| namespace.kind == kind) {
            return Err(Error::field("linux.sysctl", format!("{key} needs a {kind} namespace in linux.namespaces")));
        }
    }
    Ok(())
}

/// What the specification has and this runtime has not.
fn not_done(linux: &Linux) -> Result<()> {
    let is_there = |value: &Option<serde_json::Value>| value.as_ref().is_some_and(|value| !value.is_null());
    let fields = [
        ("linux.intelRdt", is_there(&linux.intel_rdt)),
        ("linux.memoryPolicy", is_there(&linux.memory_policy)),
        ("linux.netDevices", !linux.net_devices.is_empty()),
        (
            "linux.personality.flags",
            linux.personality.as_ref().is_some_and(|personality| !personality.flags.is_empty()),
        ),
    ];
    match fields.iter().find(|(_, is_set)| *is_set) {
        Some((field, _)) => Err(Error::field(*field, "is not supported")),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(change: &str) -> String {
        let mut spec: serde_json::Value = serde_json::from_str(
            r#"{"ociVersion": "1.2.0", "root": {"path": "rootfs"}, "process": {"cwd": "/", "args": ["x"]},
                "linux": {"namespaces": [{"type": "mount"}]}}"#,
        )
        .unwrap();
        let change: serde_json::Value = serde_json::from_str(change).unwrap();
        merge(&mut spec, &change);
        check(&serde_json::from_value(spec).unwrap()).map_or_else(|error| error.line(), |()| "accepted".to_owned())
    }

    fn merge(into: &mut serde_json::Value, from: &serde_json::Value) {
        match (into, from) {
            (serde_json::Value::Object(into), serde_json::Value::Object(from)) => {
                for (key, value) in from {
                    merge(into.entry(key).or_insert(serde_json::Value::Null), value);
                }
            }
            (into, from) => *into = from.clone(),
        }
    }

    #[test]
    fn versions_of_the_future_and_unknown_fields_are_accepted() {
        assert_eq!(refused("{}"), "accepted");
        assert_eq!(refused(r#"{"ociVersion": "1.9.0-dev+x", "futureField": {"a": 1}}"#), "accepted");
        assert_eq!(refused(r#"{"mounts": null, "hooks": null, "linux": {"devices": null}}"#), "accepted");
    }

    #[test]
    fn each_wrong_field_is_named() {
        let wrong = [
            (r#"{"ociVersion": "2.0.0"}"#, "ociVersion"),
            (r#"{"root": null}"#, "root"),
            (r#"{"process": {"cwd": "x"}}"#, "process.cwd"),
            (r#"{"process": {"rlimits": [{"type": "RLIMIT_X", "hard": 1, "soft": 1}]}}"#, "process.rlimits"),
            (r#"{"process": {"rlimits": [{"type": "RLIMIT_CPU", "hard": 1, "soft": 2}]}}"#, "process.rlimits"),
            (r#"{"process": {"oomScoreAdj": 1001}}"#, "process.oomScoreAdj"),
            (r#"{"process": {"execCPUAffinity": {"initial": "0"}}}"#, "process.execCPUAffinity"),
            (r#"{"hostname": "x"}"#, "hostname"),
            (r#"{"linux": {"namespaces": []}}"#, "linux.namespaces"),
            (r#"{"linux": {"namespaces": [{"type": "mount"}, {"type": "mount"}]}}"#, "linux.namespaces"),
            (r#"{"linux": {"namespaces": [{"type": "mount"}, {"type": "space"}]}}"#, "linux.namespaces"),
            (r#"{"linux": {"namespaces": [{"type": "mount", "path": "/x"}]}}"#, "linux.namespaces"),
            (r#"{"linux": {"namespaces": [{"type": "mount"}, {"type": "user"}]}}"#, "linux.uidMappings"),
            (r#"{"linux": {"rootfsPropagation": "odd"}}"#, "linux.rootfsPropagation"),
            (r#"{"linux": {"intelRdt": {"closID": "x"}}}"#, "linux.intelRdt"),
            (r#"{"linux": {"memoryPolicy": {"mode": "x"}}}"#, "linux.memoryPolicy"),
            (r#"{"linux": {"netDevices": {"eth0": {}}}}"#, "linux.netDevices"),
            (r#"{"mounts": [{"type": "tmpfs"}]}"#, "mounts[0].destination"),
            (r#"{"linux": {"sysctl": {"kernel.panic": "1"}}}"#, "linux.sysctl"),
            (r#"{"linux": {"sysctl": {"net.ipv4.ip_forward": "1"}}}"#, "linux.sysctl"),
            (r#"{"linux": {"sysctl": {"net/../kernel/panic": "1"}}}"#, "linux.sysctl"),
            (r#"{"linux": {"personality": {"domain": "LINUX", "flags": ["X"]}}}"#, "linux.personality.flags"),
        ];
        for (change, field) in wrong {
            let message = refused(change);
            assert!(message.starts_with(&format!("{field}: ")), "{change}: {message}");
        }
    }
}

//! What liblxc is told of a container: namespaces, id maps and the program that becomes its first process. Pure.
//!
//! Cgroups (module [`crate::cgroup`]), mounts, devices, capabilities and filters are ours (module [`crate::init`]): liblxc's own way of them is not the
//! specification's. That it has no root file system configured makes liblxc leave the mounts as a copy of the host's.

use std::path::Path;

use crate::namespaces;
use crate::spec::{IdMapping, Spec};

/// What a container of liblxc needs beside its configuration.
#[derive(Clone, Debug)]
pub struct Parts<'a> {
    /// The program that waits in the container: our own, from sealed memory.
    pub program: &'a Path,
    /// What it is called with.
    pub arguments: &'a [String],
}

/// Keys and values of liblxc's configuration, in the order in which they are set.
pub fn items(spec: &Spec, parts: &Parts<'_>) -> Vec<(String, String)> {
    let mut items = vec![
        item("lxc.console.path", "none"),
        item("lxc.autodev", "0"),
        item("lxc.pty.max", "0"),
        item("lxc.apparmor.profile", "unconfined"),
    ];
    items.extend(namespaces(spec));
    items.extend(mappings(spec));
    let words = std::iter::once(parts.program.display().to_string()).chain(parts.arguments.iter().cloned());
    items.push(item("lxc.init.cmd", &words.collect::<Vec<_>>().join(" ")));
    items
}

fn item(key: &str, value: &str) -> (String, String) {
    (key.to_owned(), value.to_owned())
}

fn namespaces(spec: &Spec) -> Vec<(String, String)> {
    let linux = spec.linux();
    let (mut new, mut items) = (Vec::new(), Vec::new());
    for namespace in &linux.namespaces {
        let Some(kind) = namespaces::named(&namespace.kind) else { continue };
        match namespace.path() {
            // liblxc cannot join one, nor set its clocks to the nanosecond: the first process does both itself.
            _ if kind.spec == "time" => {}
            None => new.push(kind.short),
            Some(path) => items.push(item(&format!("lxc.namespace.share.{}", kind.short), &path.display().to_string())),
        }
    }
    items.push(item("lxc.namespace.clone", &new.join(" ")));
    let other_pids = linux.namespaces.iter().any(|namespace| namespace.kind == "pid");
    if other_pids {
        // Else liblxc, which sees that `/proc` is of another namespace, unmounts it and fails to mount one.
        items.push(item("lxc.mount.entry", "proc /proc proc nosuid,nodev,noexec 0 0"));
    }
    items
}

fn mappings(spec: &Spec) -> Vec<(String, String)> {
    let linux = spec.linux();
    let is_new = |namespace: &crate::spec::Namespace| namespace.kind == "user" && namespace.path().is_none();
    if !linux.namespaces.iter().any(is_new) {
        return Vec::new();
    }
    let line = |which: &str, mapping: &IdMapping| {
        item("lxc.idmap", &format!("{which} {} {} {}", mapping.container_id, mapping.host_id, mapping.size))
    };
    let users = linux.uid_mappings.iter().map(|mapping| line("u", mapping));
    let groups = linux.gid_mappings.iter().map(|mapping| line("g", mapping));
    users.chain(groups).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(linux: &str) -> Spec {
        serde_json::from_str(&format!(r#"{{"linux": {linux}}}"#)).unwrap()
    }

    fn lines(spec: &Spec) -> Vec<String> {
        let parts = Parts { program: Path::new("/proc/self/fd/9"), arguments: &["init".to_owned()] };
        items(spec, &parts).into_iter().map(|(key, value)| format!("{key} = {value}")).collect()
    }

    #[test]
    fn an_ordinary_container() {
        let spec = spec(
            r#"{"namespaces": [{"type": "pid"}, {"type": "mount"}, {"type": "network", "path": "/run/netns/x"}]}"#,
        );
        insta::assert_debug_snapshot!(lines(&spec), @r#"
        [
            "lxc.console.path = none",
            "lxc.autodev = 0",
            "lxc.pty.max = 0",
            "lxc.apparmor.profile = unconfined",
            "lxc.namespace.share.net = /run/netns/x",
            "lxc.namespace.clone = pid mnt",
            "lxc.mount.entry = proc /proc proc nosuid,nodev,noexec 0 0",
            "lxc.init.cmd = /proc/self/fd/9 init",
        ]
        "#);
    }

    #[test]
    fn a_user_namespace_has_its_maps() {
        let spec = spec(
            r#"{"namespaces": [{"type": "mount"}, {"type": "user"}],
                "uidMappings": [{"containerID": 0, "hostID": 100000, "size": 65536}],
                "gidMappings": [{"containerID": 0, "hostID": 200000, "size": 10}]}"#,
        );
        let lines = lines(&spec);
        for line in ["lxc.namespace.clone = mnt user", "lxc.idmap = u 0 100000 65536", "lxc.idmap = g 0 200000 10"] {
            assert!(lines.iter().any(|other| other == line), "{line}: {lines:#?}");
        }
    }
}

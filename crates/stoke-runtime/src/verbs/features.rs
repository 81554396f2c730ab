//! `features`: what this runtime can do, as the specification's `features.md` has it. The same on every host.

use serde_json::{Value, json};

use crate::namespaces::KINDS;
use crate::{init, seccomp};

/// The features.
pub fn features() -> Value {
    let [actions, flags, operators, architectures] = seccomp::names();
    let namespaces: Vec<_> = KINDS.iter().map(|kind| kind.spec).collect();
    json!({
        "ociVersionMin": "1.0.0",
        "ociVersionMax": "1.3.0",
        "hooks": ["prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop"],
        "mountOptions": init::mount_option_names(),
        "linux": {
            "namespaces": namespaces,
            "capabilities": init::CAPABILITIES.as_slice(),
            "cgroup": {"v1": true, "v2": true, "systemd": false, "systemdUser": false, "rdma": true},
            "seccomp": {
                "enabled": true,
                "actions": actions,
                "operators": operators,
                "archs": architectures,
                "knownFlags": flags,
                "supportedFlags": flags,
            },
            "apparmor": {"enabled": true},
            "selinux": {"enabled": true},
            "intelRdt": {"enabled": false},
            "memoryPolicy": {},
            "mountExtensions": {"idmap": {"enabled": true}},
            "netDevices": {"enabled": false},
        },
    })
}

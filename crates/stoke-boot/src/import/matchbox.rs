//! Groups and profiles of matchbox: a group's selector is a server, its profile a class.

use serde_json::Value;
use stoke_api::MacAddr;
use stoke_api::objects::NodeConfig;

use super::draft::Draft;
use super::{fields, object_name, take, text, texts};

/// Kernel arguments that are about how matchbox's systems boot.
const OF_ITS_BOOT: [&str; 8] = [
    "initrd=",
    "coreos.",
    "ignition.",
    "root=",
    "rd.",
    "systemd.unified_cgroup_hierarchy=",
    "flatcar.",
    "cloud-config-url=",
];

pub(super) fn add_group(draft: &mut Draft, file: &str, mut group: Value) {
    let id = take(&mut group, "id").as_ref().and_then(text).unwrap_or_default();
    let at = format!("group {id}");
    let name = take(&mut group, "name").as_ref().and_then(text).unwrap_or_else(|| id.clone());
    let profile = take(&mut group, "profile").as_ref().and_then(text).unwrap_or_default();
    let mut selector = take(&mut group, "selector").unwrap_or_default();
    let macs: Vec<MacAddr> = texts(take(&mut selector, "mac")).iter().filter_map(|mac| mac.parse().ok()).collect();
    let uuid = take(&mut selector, "uuid").as_ref().and_then(text);
    draft.configure(&profile, &NodeConfig::default());
    if macs.is_empty() {
        draft.nothing(
            file,
            &format!("{at}: selector"),
            "a Server is known by its MAC addresses, and the group names none",
        );
    } else {
        let (server_name, server) = draft.server(if name.is_empty() { &id } else { &name }, &macs);
        server.uuid = uuid;
        server.tags.insert(profile.clone());
        draft.field(file, &format!("{at}: selector.mac"), format!("Server {server_name}: spec.macs"));
        draft.field(file, &format!("{at}: profile"), format!("Server {server_name}: label {}", object_name(&profile)));
    }
    for (key, _) in fields(Some(selector)) {
        draft.nothing(
            file,
            &format!("{at}: selector.{key}"),
            "a class chooses by labels and inventory: spec.classes of the Farm",
        );
    }
    for (key, _) in fields(take(&mut group, "metadata")) {
        draft.nothing(
            file,
            &format!("{at}: metadata.{key}"),
            "it is a value for templates: write what the template made of it",
        );
    }
    draft.rest(file, &at, &group);
}

pub(super) fn add_profile(draft: &mut Draft, file: &str, mut profile: Value) {
    let id = take(&mut profile, "id").as_ref().and_then(text).unwrap_or_default();
    let at = format!("profile {id}");
    take(&mut profile, "name");
    let mut boot = take(&mut profile, "boot").unwrap_or_default();
    let ours = |argument: &String| !OF_ITS_BOOT.iter().any(|beginning| argument.starts_with(beginning));
    let (kept, others): (Vec<_>, Vec<_>) = texts(take(&mut boot, "args")).into_iter().partition(ours);
    let field = draft.configure(&id, &NodeConfig { kernel_arguments: kept.clone(), ..NodeConfig::default() });
    for argument in kept {
        draft.field(file, &format!("{at}: boot.args {argument}"), format!("{field}.kernelArguments"));
    }
    for argument in others {
        draft.nothing(file, &format!("{at}: boot.args {argument}"), "it is about the boot of another system");
    }
    for part in ["kernel", "initrd"] {
        if take(&mut boot, part).is_some() {
            let why = "kernel and initramfs belong to the image: an Image with source oci, containerfile or debian";
            draft.nothing(file, &format!("{at}: boot.{part}"), why);
        }
    }
    for key in ["ignition_id", "cloud_id", "generic_id"] {
        if take(&mut profile, key).is_some_and(|value| value != "") {
            draft.nothing(file, &format!("{at}: {key}"), "what that file sets up is said in the class's config");
        }
    }
    draft.rest(file, &format!("{at}: boot"), &boot);
    draft.rest(file, &at, &profile);
}

//! Container runtime and kubelet, as their packages read their configuration.

use std::fmt::Write as _;

use anyhow::Result;
use stoke_api::objects::{KubeletSpec, RegistryMirror, RuntimeSpec};

use super::Remarks;
use super::root::Root;

/// Programs by which a runtime is known.
const CONTAINERD: [&str; 2] = ["usr/bin/containerd", "usr/local/bin/containerd"];
const CRIO: [&str; 2] = ["usr/bin/crio", "usr/local/bin/crio"];
const PODMAN: [&str; 1] = ["usr/bin/podman"];
const KUBELET: [&str; 2] = ["usr/bin/kubelet", "usr/local/bin/kubelet"];

const CONTAINERD_CONFIG: &str = "etc/containerd/config.toml";
/// Where containerd looks for a registry's hosts (containerd's `docs/hosts.md`).
const CONTAINERD_HOSTS: &str = "/etc/containerd/certs.d";
/// What the kubelet's unit of Kubernetes' packages reads (kubeadm's `10-kubeadm.conf`): in Debian's packages, in RPMs.
const KUBELET_FILES: [&str; 2] = ["etc/default/kubelet", "etc/sysconfig/kubelet"];
const KUBELET_VARIABLE: &str = "KUBELET_EXTRA_ARGS";

/// Writes the runtime's settings.
pub(super) fn runtime(root: Root<'_>, runtime: &RuntimeSpec, remarks: &mut Remarks) -> Result<()> {
    if runtime.is_empty() {
        return Ok(());
    }
    let containerd = root.first(&CONTAINERD).is_some();
    let crio = root.first(&CRIO).is_some();
    let podman = root.first(&PODMAN).is_some();
    if containerd {
        write_containerd(root, runtime)?;
    }
    if crio || podman {
        for mirror in &runtime.registry_mirrors {
            let file =
                format!("etc/containers/registries.conf.d/50-stokehold-{}.conf", mirror.registry.replace(':', "_"));
            root.write(&file, registries_conf(mirror), 0o644)?;
        }
    }
    for drop_in in runtime.drop_ins.iter().filter(|_| crio) {
        let file = format!("etc/crio/crio.conf.d/{}", drop_in.file_name(".conf"));
        root.write(&file, &drop_in.content, 0o644)?;
    }
    if !containerd && !crio && !podman {
        remarks.add("runtime: the image has neither containerd nor CRI-O nor podman");
    } else if !containerd && !crio && !runtime.drop_ins.is_empty() {
        remarks.add("runtime.dropIns: podman has none; the image has neither containerd nor CRI-O");
    }
    Ok(())
}

fn write_containerd(root: Root<'_>, runtime: &RuntimeSpec) -> Result<()> {
    for mirror in &runtime.registry_mirrors {
        root.write(&format!("{CONTAINERD_HOSTS}/{}/hosts.toml", mirror.registry), hosts_toml(mirror), 0o644)?;
    }
    for drop_in in &runtime.drop_ins {
        let file = format!("etc/containerd/conf.d/{}", drop_in.file_name(".toml"));
        root.write(&file, &drop_in.content, 0o644)?;
    }
    let before = root.read(CONTAINERD_CONFIG);
    let after = containerd_config(&before, runtime);
    if before == after { Ok(()) } else { root.write(CONTAINERD_CONFIG, after, 0o644) }
}

/// The image's configuration of containerd, made to read what was written: one that says these things itself is left as it
/// is.
fn containerd_config(image: &str, runtime: &RuntimeSpec) -> String {
    let says = |key: &str| image.lines().any(|line| line.trim_start().starts_with(key));
    let mut text = image.to_owned();
    if text.trim().is_empty() {
        "version = 2\n".clone_into(&mut text);
    }
    if !runtime.drop_ins.is_empty() && !says("imports") {
        // Before any table: what follows one belongs to it.
        text = format!("imports = [\"/etc/containerd/conf.d/*.toml\"]\n{text}");
    }
    if !runtime.registry_mirrors.is_empty() && !says("config_path") {
        let table = "[plugins.\"io.containerd.grpc.v1.cri\".registry]";
        let setting = format!("{table}\n  config_path = \"{CONTAINERD_HOSTS}\"\n");
        if text.contains(table) {
            text = text.replacen(&format!("{table}\n"), &setting, 1);
        } else {
            let gap = if text.ends_with('\n') { "" } else { "\n" };
            let _ = write!(text, "{gap}\n{setting}");
        }
    }
    text
}

fn hosts_toml(mirror: &RegistryMirror) -> String {
    // Docker's own registry is reached by another name than images have.
    let server = if mirror.registry == "docker.io" { "registry-1.docker.io" } else { &mirror.registry };
    let mut text = format!("server = \"https://{server}\"\n");
    for endpoint in &mirror.endpoints {
        let _ = write!(text, "\n[host.\"{endpoint}\"]\n  capabilities = [\"pull\", \"resolve\"]\n");
    }
    text
}

/// containers-registries.conf(5).
fn registries_conf(mirror: &RegistryMirror) -> String {
    let mut text = format!("[[registry]]\nprefix = \"{0}\"\nlocation = \"{0}\"\n", mirror.registry);
    for endpoint in &mirror.endpoints {
        let location = endpoint.split_once("://").map_or(endpoint.as_str(), |(_, location)| location);
        let insecure = endpoint.starts_with("http://");
        let _ = write!(text, "\n[[registry.mirror]]\nlocation = \"{location}\"\ninsecure = {insecure}\n");
    }
    text
}

/// Writes the kubelet's arguments.
pub(super) fn kubelet(root: Root<'_>, kubelet: &KubeletSpec, remarks: &mut Remarks) -> Result<()> {
    if kubelet.is_empty() {
        return Ok(());
    }
    if root.first(&KUBELET).is_none() {
        remarks.add("kubelet: the image has none");
        return Ok(());
    }
    let file = if root.has("etc/default") { KUBELET_FILES[0] } else { KUBELET_FILES[1] };
    root.write(file, kubelet_file(&root.read(file), kubelet), 0o644)
}

/// The image's file with our arguments behind its own: of two that say the same the last one holds.
fn kubelet_file(image: &str, kubelet: &KubeletSpec) -> String {
    let own = format!("{KUBELET_VARIABLE}=");
    let mut arguments = Vec::new();
    let mut text = String::new();
    for line in image.lines() {
        match line.trim().strip_prefix(&own) {
            Some(value) => arguments.push(value.trim_matches(['"', '\'']).to_owned()),
            None => text.extend([line, "\n"]),
        }
    }
    if !kubelet.labels.is_empty() {
        let labels: Vec<_> = kubelet.labels.iter().map(|(name, value)| format!("{name}={value}")).collect();
        arguments.push(format!("--node-labels={}", labels.join(",")));
    }
    if !kubelet.taints.is_empty() {
        arguments.push(format!("--register-with-taints={}", kubelet.taints.join(",")));
    }
    arguments.extend(kubelet.extra_args.iter().map(|(name, value)| format!("--{name}={value}")));
    arguments.retain(|argument| !argument.is_empty());
    let _ = writeln!(text, "{own}\"{}\"", arguments.join(" "));
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    fn runtime_spec() -> RuntimeSpec {
        serde_json::from_str(
            r#"{"registryMirrors":[{"registry":"docker.io","endpoints":["http://10.10.0.5:5000"]}],
                "dropIns":[{"name":"50-x","content":"version = 2\n"}]}"#,
        )
        .unwrap()
    }

    fn image(programs: &[&str]) -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        for file in programs {
            let path = root.path().join(file);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, "").unwrap();
        }
        root
    }

    fn read(root: &tempfile::TempDir, file: &str) -> String {
        fs::read_to_string(root.path().join(file)).unwrap()
    }

    #[test]
    fn containerd_reads_what_is_written() {
        let debian = "version = 2\n\n[plugins]\n  [plugins.\"io.containerd.grpc.v1.cri\"]\n";
        let text = containerd_config(debian, &runtime_spec());
        assert!(text.starts_with("imports = [\"/etc/containerd/conf.d/*.toml\"]\nversion = 2\n"), "{text}");
        let tail = "\n[plugins.\"io.containerd.grpc.v1.cri\".registry]\n  config_path = \"/etc/containerd/certs.d\"\n";
        assert!(text.ends_with(tail), "{text}");
        assert_eq!(containerd_config(&text, &runtime_spec()), text);
        let root = image(&["usr/bin/containerd"]);
        let mut remarks = Remarks::default();
        runtime(Root(root.path()), &runtime_spec(), &mut remarks).unwrap();
        let hosts = read(&root, "etc/containerd/certs.d/docker.io/hosts.toml");
        assert!(hosts.starts_with("server = \"https://registry-1.docker.io\"\n\n[host.\"http://10.10.0.5:5000\"]\n"));
        assert_eq!(read(&root, "etc/containerd/conf.d/50-x.toml"), "version = 2\n");
        assert_eq!(remarks.into_lines(), [""; 0]);
    }

    #[test]
    fn crio_and_podman_share_their_registries() {
        let root = image(&["usr/bin/crio"]);
        runtime(Root(root.path()), &runtime_spec(), &mut Remarks::default()).unwrap();
        let text = read(&root, "etc/containers/registries.conf.d/50-stokehold-docker.io.conf");
        assert!(text.contains("[[registry.mirror]]\nlocation = \"10.10.0.5:5000\"\ninsecure = true\n"), "{text}");
        assert!(root.path().join("etc/crio/crio.conf.d/50-x.conf").is_file());
    }

    #[test]
    fn an_image_without_them_says_so() {
        let root = image(&[]);
        let mut remarks = Remarks::default();
        runtime(Root(root.path()), &runtime_spec(), &mut remarks).unwrap();
        let spec = serde_json::from_str(r#"{"taints":["a:NoSchedule"]}"#).unwrap();
        kubelet(Root(root.path()), &spec, &mut remarks).unwrap();
        assert_eq!(remarks.into_lines().len(), 2);
    }

    #[test]
    fn the_kubelets_arguments_follow_the_images() {
        let spec = serde_json::from_str(
            r#"{"labels":{"a":"1","b":"2"},"taints":["a=b:NoSchedule","c:NoExecute"],"extraArgs":{"max-pods":"200"}}"#,
        )
        .unwrap();
        let text = kubelet_file("# ours\nKUBELET_EXTRA_ARGS=--v=1\n", &spec);
        let wanted = "# ours\nKUBELET_EXTRA_ARGS=\"--v=1 --node-labels=a=1,b=2 \
                      --register-with-taints=a=b:NoSchedule,c:NoExecute --max-pods=200\"\n";
        assert_eq!(text, wanted);
    }
}

//! `stoke image push` and `pull` with distribution's registry, and what other tools make of what is there.

use std::net::{TcpListener, TcpStream};
use std::process::{Command, Stdio};
use std::time::Duration;

use fs_err as fs;
use serde_json::{Value, json};
use tempfile::TempDir;
use testbed::{Process, REGISTRY, go_tool, wait_for};

use crate::images::publish;
use crate::stoke::Stoke;

/// A registry on this host, without TLS.
struct Registry {
    folder: TempDir,
    port: u16,
    _process: Process,
}

impl Registry {
    fn start() -> Self {
        let folder = TempDir::new().unwrap();
        // A port that is free now; the registry ends if it is not any more, and another is tried.
        for _ in 0..10 {
            let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
            if let Some(process) = Self::serve(&folder, port) {
                return Self { folder, port, _process: process };
            }
        }
        panic!("the registry does not start: {}", fs::read_to_string(folder.path().join("log")).unwrap_or_default());
    }

    fn serve(folder: &TempDir, port: u16) -> Option<Process> {
        let data = folder.path().join("data");
        let config = json!({
            "version": "0.1", "log": {"level": "warn"}, "http": {"addr": format!("127.0.0.1:{port}")},
            "storage": {"filesystem": {"rootdirectory": data}, "delete": {"enabled": true}},
        });
        let path = folder.path().join("config.yml");
        fs::write(&path, config.to_string()).unwrap();
        let log = std::fs::File::create(folder.path().join("log")).unwrap();
        let mut command = Command::new(go_tool(REGISTRY).unwrap());
        command.arg("serve").arg(path).stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        let mut process = Process::start(command.env("OTEL_TRACES_EXPORTER", "none")).unwrap();
        let answers = wait_for("the registry", Duration::from_mins(1), || {
            if !process.is_running()? {
                return Ok(Some(false));
            }
            Ok(TcpStream::connect(("127.0.0.1", port)).is_ok().then_some(true))
        });
        answers.unwrap().then_some(process)
    }

    fn reference(&self, rest: &str) -> String {
        format!("127.0.0.1:{}/{rest}", self.port)
    }
}

/// skopeo, with a policy that believes this key alone.
fn skopeo_verifies(registry: &Registry, reference: &str, key: &str) -> bool {
    let folder = TempDir::new().unwrap();
    let file = |name: &str, content: String| {
        let path = folder.path().join(name);
        fs::write(&path, content).unwrap();
        path
    };
    let trusted = json!([{"type": "sigstoreSigned", "keyPath": file("key.pub", key.to_owned())}]);
    let policy = json!({"default": [{"type": "reject"}], "transports": {"docker": {"": trusted}}});
    let policy = file("policy.json", policy.to_string());
    // Where signatures are attached to images: containers-registries.d(5).
    let lookup = format!("docker:\n  127.0.0.1:{}:\n    use-sigstore-attachments: true\n", registry.port);
    fs::create_dir(folder.path().join("registries.d")).unwrap();
    file("registries.d/here.yaml", lookup);
    let mut command = Command::new("skopeo");
    command.arg("--policy").arg(policy).arg("--registries.d").arg(folder.path().join("registries.d"));
    command.args(["copy", "--src-tls-verify=false", "--remove-signatures", &format!("docker://{reference}")]);
    command.arg(format!("dir:{}", folder.path().join("copy").display())).stdin(Stdio::null());
    let output = command.output().expect("skopeo must be installed for this test");
    eprintln!("{}", String::from_utf8_lossy(&output.stderr));
    output.status.success()
}

#[test]
fn a_version_goes_through_a_registry_with_its_signature() {
    let (registry, here, there) = (Registry::start(), Stoke::new(), Stoke::new());
    let version = publish(&here, "default/node", 1);
    let reference = registry.reference("farm/node:1");
    let public = here.file("key.pub", &here.stdout(&["image", "keys", "create"]));

    here.stdout(&["image", "push", "node", &reference]);
    let told = there.told(&["image", "pull", &reference, "--key", &public]);
    assert!(told.starts_with("exit 1\n") && told.contains(&format!("{version} is not signed")), "{told}");
    assert_eq!(there.run(&["image", "list", "-o", "name"]).stdout, b"");

    let name = registry.reference("farm/node");
    here.stdout(&["image", "sign", "node", "--reference", &reference]);
    for _ in 0..2 {
        assert_eq!(here.stdout(&["image", "push", "node", &reference]), format!("{reference}@{version}\n"));
    }
    assert_eq!(there.stdout(&["image", "pull", &reference, "--key", &public]), format!("default/node@{version}\n"));
    assert!(there.stdout(&["image", "verify", "node", "--key", &public]).contains(" good: "));
    there.stdout(&["image", "pull", &format!("{name}@{version}"), "--name", "lab/copy"]);
    assert_eq!(there.stdout(&["image", "list", "lab/copy", "-o", "name"]), format!("lab/copy@{version}\n"));

    let key = fs::read_to_string(&public).unwrap();
    assert!(skopeo_verifies(&registry, &reference, &key));
    let other = here.stdout(&["image", "keys", "create", "other"]);
    assert!(!skopeo_verifies(&registry, &reference, &other));
}

#[test]
fn a_layer_that_was_changed_in_the_registry_is_not_taken_in() {
    let (registry, here, there) = (Registry::start(), Stoke::new(), Stoke::new());
    publish(&here, "default/node", 1);
    let reference = registry.reference("node:1");
    here.stdout(&["image", "push", "node", &reference]);
    let shown: Value = serde_json::from_str(&here.stdout(&["image", "show", "node", "-o", "json"])).unwrap();
    let root = shown["root"]["blob"].as_str().unwrap().trim_start_matches("sha256:").to_owned();
    let blob = registry.folder.path().join(format!("data/docker/registry/v2/blobs/sha256/{}/{root}/data", &root[..2]));
    let mut content = fs::read(&blob).unwrap();
    content[5000] ^= 1;
    fs::write(&blob, content).unwrap();
    let told = there.told(&["image", "pull", &reference]);
    assert!(told.starts_with("exit 1\n") && told.contains("gave other content than sha256:"), "{told}");
    assert_eq!(there.stdout(&["image", "list", "-o", "name"]), "");
    let left = std::fs::read_dir(there.state.path().join("images/tmp")).unwrap().count();
    assert_eq!(left, 0);
}

#[test]
fn what_cannot_be_had_says_what_to_do() {
    let (registry, stoke) = (Registry::start(), Stoke::new());
    let told = stoke.told(&["image", "pull", &registry.reference("no/such:1")]);
    assert!(told.contains("hint: look for another tag"), "{told}");
    let told = stoke.told(&["image", "pull", "127.0.0.1:1/node:1"]);
    assert!(told.starts_with("exit 1\n") && told.contains("cannot reach http://127.0.0.1:1/v2/node"), "{told}");
    assert_eq!(stoke.run(&["image", "pull", "UPPER/case"]).status.code(), Some(64));
}

//! `stoke image push` and `pull` with distribution's registry, and what other tools make of what is there.

use std::net::{TcpListener, TcpStream};
use std::process::{Command, Stdio};
use std::time::Duration;

use fs_err as fs;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use tempfile::TempDir;
use testbed::{Process, REGISTRY, go_tool, wait_for};

use crate::images::publish;
use crate::installation::{Ended, Up};
use crate::stoke::{Stoke, until};

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

/// What skopeo finds at a reference, if anything.
fn skopeo_finds(reference: &str) -> Option<Vec<u8>> {
    let mut command = Command::new("skopeo");
    command.args(["inspect", "--raw", "--tls-verify=false", &format!("docker://{reference}")]).stdin(Stdio::null());
    let output = command.output().expect("skopeo must be installed for this test");
    output.status.success().then_some(output.stdout)
}

/// Whether openssl verifies the signature that lies where cosign looks for it: layer 0 of the manifest `sha256-HEX.sig`.
fn openssl_verifies(registry: &Registry, version: &str, public: &str) -> bool {
    let tag = registry.reference(&format!("farm/node:{}.sig", version.replace(':', "-")));
    let manifest: Value = serde_json::from_slice(&skopeo_finds(&tag).expect("a manifest")).unwrap();
    let layer = &manifest["layers"][0];
    assert_eq!(layer["mediaType"], "application/vnd.dev.cosign.simplesigning.v1+json");
    let folder = TempDir::new().unwrap();
    let file = |name: &str| folder.path().join(name).display().to_string();
    let signature = layer["annotations"]["dev.cosignproject.cosign/signature"].as_str().unwrap();
    fs::write(file("base64"), signature).unwrap();
    let hex = layer["digest"].as_str().unwrap().trim_start_matches("sha256:").to_owned();
    let blobs = registry.folder.path().join("data/docker/registry/v2/blobs/sha256");
    let payload = blobs.join(&hex[..2]).join(&hex).join("data").display().to_string();
    let signed: Value = serde_json::from_slice(&fs::read(&payload).unwrap()).unwrap();
    assert_eq!(signed["critical"]["image"]["docker-manifest-digest"], version);
    let openssl = |words: &[&str]| {
        let mut command = Command::new("openssl");
        let command = command.args(words).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        command.status().expect("openssl must be installed for this test").success()
    };
    assert!(openssl(&["base64", "-d", "-A", "-in", &file("base64"), "-out", &file("signature")]));
    openssl(&["dgst", "-sha256", "-verify", public, "-signature", &file("signature"), &payload])
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

    assert!(openssl_verifies(&registry, &version.to_string(), &public));
    let other = here.file("other.pub", &here.stdout(&["image", "keys", "create", "other"]));
    assert!(!openssl_verifies(&registry, &version.to_string(), &other));
}

#[test]
fn an_image_goes_where_it_says_and_a_registry_that_comes_later_gets_it() {
    let stoke = Stoke::new();
    let _ended = Ended(&stoke);
    let (registry, public) = (Registry::start(), stoke.file("key.pub", &stoke.stdout(&["image", "keys", "create"])));
    let version = publish(&stoke, "default/node", 1);
    let (there, away) = (registry.reference("farm/node:stable"), "127.0.0.1:1/node:1");
    // The recipe cannot be built, which is no matter here: a version is there.
    let image = |places: &[&str]| {
        json!({
            "apiVersion": "stokehold.dev/v1alpha1", "kind": "Image", "metadata": {"name": "node"},
            "spec": {
                "source": {"tree": {"path": "/nonexistent"}}, "forms": {"netboot": {}}, "publish": places,
            },
        })
    };
    let path = stoke.file("files/image.json", &image(&[&there, away]).to_string());
    let up = Up::start(&stoke, &path);
    let said = || {
        // Until it is applied there is none.
        let image: Value = serde_json::from_slice(&stoke.run(&["get", "image", "node", "-o", "json"]).stdout).ok()?;
        let conditions = image["status"]["conditions"].as_array()?.clone();
        let published = conditions.into_iter().find(|condition| condition["type"] == "Published")?;
        Some(format!("{}: {}", published["reason"].as_str()?, published["message"].as_str()?))
    };
    until("the registry that is away", || {
        said().filter(|said| said.starts_with("PushFailed: cannot reach http://127"))
    });
    let manifest = until("the other one", || skopeo_finds(&there));
    assert_eq!(stoke_api::Digest(Sha256::digest(manifest).into()), version);

    stoke.file("files/image.json", &image(&[&there]).to_string());
    stoke.stdout(&["apply", &path]);
    until("all of it", || said().filter(|said| *said == format!("Pushed: {there}@{version}")));
    // Whoever signs it later need not push.
    stoke.stdout(&["image", "sign", "node", "--reference", &there]);
    let tag = registry.reference(&format!("farm/node:{}.sig", version.to_string().replace(':', "-")));
    until("its signature", || skopeo_finds(&tag));
    assert!(openssl_verifies(&registry, &version.to_string(), &public));
    up.interrupt_well();
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

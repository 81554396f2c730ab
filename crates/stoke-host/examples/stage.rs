//! A `stoke`, `stoke-vm` and installation for tests: the real host with roles that only say that they are well.
//!
//! ```text
//! stage up STATE                                     stoke_host::up with this program for every role
//! stage serve ROLE --config FILE --socket SOCKET     a role that is ready at once
//! stage-vm --config FILE --socket SOCKET             a link to this program: a machine that runs at once
//! ```
//!
//! Each role appends a line to `STATE/starts`, `STATE/reloads` when it starts and when it is told another configuration.

#![expect(clippy::expect_used, reason = "a part of tests")]

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use anyhow::Context as _;
use serde_json::{Value, json};
use stoke_api::objects::Power;
use stoke_api::report::{FarmReport, ImageBuildReport, LanReport, NodeAgentReport, Report, RouterReport, VmReport};
use stoke_api::workload::{BlobRef, ImageBuildConfig, NodeAgentConfig};
use stoke_daemon::Launch;
use stoke_host::{Binaries, UpOptions};

fn main() -> anyhow::Result<()> {
    let words: Vec<_> = std::env::args().collect();
    let words: Vec<_> = words.iter().map(String::as_str).collect();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    runtime.block_on(async {
        match words.as_slice() {
            [program, "up", state] => up(program.as_ref(), state.as_ref()).await,
            [_, "serve", role, "--config", config, "--socket", socket, ..] => serve(role, config, socket).await,
            [_, "--config", config, "--socket", socket] => serve("vm", config, socket).await,
            _ => anyhow::bail!("no such use: {words:?}"),
        }
    })
}

async fn up(program: &Path, state: &Path) -> anyhow::Result<()> {
    stoke_daemon::init_tracing();
    let program = program.to_owned();
    let binaries = Binaries { stoke_vm: program.clone(), stoke_init: program.clone(), stoke: program };
    stoke_host::up::up_with(UpOptions { state: state.to_owned(), run: state.join("run") }, binaries).await
}

struct Player {
    role: String,
    config: Mutex<Value>,
    folder: PathBuf,
}

impl stoke_daemon::Role for Player {
    type Config = Value;
    const NAME: &'static str = "stage";

    fn report(&self) -> Report {
        let config = self.config.lock().expect("no thread panics").clone();
        match self.role.as_str() {
            "node" => node(&serde_json::from_value(config).expect("a configuration of the node agent")),
            "router" => Report::Router(RouterReport { ready: true, capacity: 100, ..RouterReport::default() }),
            "farm" => Report::Farm(FarmReport { ready: true, ..FarmReport::default() }),
            "vm" => vm(&config),
            _ => Report::ImageBuild(ImageBuildReport::default()),
        }
    }

    fn ready(&self) -> bool {
        true
    }

    fn routes(self: Arc<Self>) -> axum::Router {
        axum::Router::new().route("/teardown", axum::routing::post(|| async { axum::Json([(); 0]) }))
    }

    async fn reload(&self, config: Value) -> anyhow::Result<()> {
        *self.config.lock().expect("no thread panics") = config;
        self.note("reloads")
    }
}

impl Player {
    /// `STATE/run/workloads/NAME` is the folder; the line is NAME.
    fn note(&self, file: &str) -> anyhow::Result<()> {
        let state = self.folder.ancestors().nth(3).context("a folder of a workload")?;
        let name = self.folder.file_name().context("a folder of a workload")?.to_string_lossy().into_owned();
        let mut file = fs_err::OpenOptions::new().create(true).append(true).open(state.join(file))?;
        Ok(file.write_all(format!("{name}\n").as_bytes())?)
    }
}

fn node(config: &NodeAgentConfig) -> Report {
    let laid = |plan: &stoke_api::workload::LanPlan| LanReport {
        lan: plan.lan.clone(),
        bridge: plan.bridge.clone(),
        failure: None,
    };
    Report::Node(NodeAgentReport { lans: config.lans.iter().map(laid).collect(), ..NodeAgentReport::default() })
}

fn vm(config: &Value) -> Report {
    let on = config.get("power").and_then(Value::as_str) == Some("On");
    let power = if on { Power::On } else { Power::Off };
    Report::Vm(VmReport { power, accelerator: "tcg".to_owned(), ..VmReport::default() })
}

async fn serve(role: &str, config: &str, socket: &str) -> anyhow::Result<()> {
    let launch = Launch { config: config.into(), socket: socket.into() };
    let folder = launch.socket.parent().context("a socket in a folder")?.to_owned();
    let player = |config| Player { role: role.to_owned(), config: Mutex::new(config), folder };
    if role == "build" {
        let config: ImageBuildConfig = stoke_daemon::read_config(&launch)?;
        player(Value::Null).note("starts")?;
        return build(&config, &stoke_host::build::report_path(&launch.socket));
    }
    stoke_daemon::run::<Player, _>(launch, |config, _| async move {
        let player = player(config);
        player.note("starts")?;
        Ok(Arc::new(player))
    })
    .await
}

/// Publishes a version of a few bytes and leaves the report that a real build leaves.
fn build(config: &ImageBuildConfig, report: &Path) -> anyhow::Result<()> {
    let fail = config.spec.source.debian.as_ref().is_some_and(|debian| debian.suite == "nowhere");
    let failure = fail.then(|| "suite nowhere is not there".to_owned());
    if !fail {
        publish(config)?;
    }
    let image = stoke_image::Store::open(&config.store)?.find(&config.name)?;
    let report_of = ImageBuildReport { image: image.filter(|_| !fail), failure, ..ImageBuildReport::default() };
    Ok(fs_err::write(report, serde_json::to_vec(&report_of)?)?)
}

/// By hand, as another tool would that knows the layout (`stoke_image::Store`).
fn publish(config: &ImageBuildConfig) -> anyhow::Result<()> {
    let store = stoke_image::Store::open(&config.store)?;
    let put = |value: &Value| anyhow::Ok(store.put_bytes(&serde_json::to_vec(value)?)?);
    let part = store.put_bytes(&serde_json::to_vec(&config.spec)?)?;
    let descriptor = |kind: &str, blob: BlobRef| json!({"mediaType": kind, "digest": blob.digest, "size": blob.size});
    let verity = json!({"rootHash": "00", "salt": "", "dataBlocks": 1, "hashOffset": 4096});
    let root = json!({"format": "Squashfs", "blob": part.digest, "size": 8192, "verity": verity});
    let about = json!({"architecture": "amd64", "kernelVersion": "6.1", "kernelArguments": [], "root": root});
    let layer = |kind: &str| descriptor(&format!("application/vnd.stokehold.{kind}"), part);
    let manifest = put(&json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "artifactType": "application/vnd.stokehold.netboot.v1",
        "config": descriptor("application/vnd.stokehold.netboot.config.v1+json", put(&about)?),
        "layers": [layer("kernel"), layer("initramfs"), layer("root.verity")],
    }))?;
    let mut entry = descriptor("application/vnd.oci.image.manifest.v1+json", manifest);
    let name = json!({"dev.stokehold.image.name": config.name, "dev.stokehold.image.inputs": part.digest});
    entry.as_object_mut().context("an object")?.insert("annotations".to_owned(), name);
    let path = config.store.join("index.json");
    let old = fs_err::read(&path).ok().and_then(|text| serde_json::from_slice::<Value>(&text).ok());
    let mut index = old.unwrap_or_else(
        || json!({"schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json", "manifests": []}),
    );
    let entries = index.get_mut("manifests").and_then(Value::as_array_mut).context("an index")?;
    entries.retain(|old| old.get("digest") != entry.get("digest"));
    entries.push(entry);
    Ok(fs_err::write(path, serde_json::to_vec(&index)?)?)
}

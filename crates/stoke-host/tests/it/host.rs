//! One host in a folder of its own: `examples/stage.rs` as every program, driven by its control socket.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use hyper::{Method, StatusCode};
use serde::Serialize;
use serde::de::DeserializeOwned;
use stoke_api::control::{Applied, AppliedFile, Apply, Downed, HostInfo, Planned};
use stoke_api::meta::Truth;
use stoke_api::{AnyObject, ObjectRef};
use stoke_host::http;

/// How long anything here may take on a busy machine.
const LIMIT: Duration = Duration::from_mins(1);

pub(crate) struct Host {
    pub(crate) state: tempfile::TempDir,
    up: Option<Child>,
}

impl Drop for Host {
    fn drop(&mut self) {
        self.kill();
        // Whatever a failed test left: only processes with a socket in this folder.
        for (socket, process) in stoke_host::process::serving() {
            if socket.starts_with(self.state.path()) {
                process.signal(rustix::process::Signal::KILL);
            }
        }
    }
}

fn stage() -> PathBuf {
    let own = std::env::current_exe().expect("a test has a path");
    let folder = own.parent().and_then(Path::parent).expect("tests are in target/PROFILE/deps");
    let stage = folder.join("examples").join("stage");
    assert!(stage.exists(), "{} is missing; cargo test builds it", stage.display());
    stage
}

impl Host {
    pub(crate) async fn start() -> Self {
        let state = tempfile::Builder::new().prefix("stoke").tempdir().expect("a folder");
        let mut host = Self { state, up: None };
        host.up().await;
        host
    }

    /// Starts `stoke up` and waits for its socket.
    pub(crate) async fn up(&mut self) {
        let log = std::fs::File::options().create(true).append(true).open(self.state.path().join("up.log"));
        let mut command = Command::new(stage());
        command.arg("up").arg(self.state.path()).stdin(Stdio::null()).stderr(log.expect("a log"));
        self.up = Some(command.spawn().expect("the stage starts"));
        until("the control socket answers", || async { self.try_get::<HostInfo>("/v1/host").await.is_some() }).await;
    }

    /// `kill -9` of `stoke up`.
    pub(crate) fn kill(&mut self) {
        if let Some(mut up) = self.up.take() {
            let _ = up.kill();
            up.wait().expect("it was ours");
        }
    }

    /// Waits until `stoke up` has ended by itself.
    pub(crate) async fn ended(&mut self) {
        let mut up = self.up.take().expect("it runs");
        tokio::task::spawn_blocking(move || up.wait()).await.expect("no panic").expect("it was ours");
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.state.path().join("run/control.sock")
    }

    pub(crate) async fn ask(&self, method: Method, path: &str, body: &impl Serialize) -> http::Answer {
        let body = serde_json::to_vec(body).expect("requests are JSON");
        http::request(&self.socket(), method, path, body, LIMIT).await.expect("the control socket answers")
    }

    async fn try_get<T: DeserializeOwned>(&self, path: &str) -> Option<T> {
        let answer = http::request(&self.socket(), Method::GET, path, Vec::new(), LIMIT).await.ok()?;
        serde_json::from_slice(&answer.body).ok()
    }

    pub(crate) async fn get<T: DeserializeOwned>(&self, path: &str) -> T {
        self.try_get(path).await.expect("the control socket answers")
    }

    fn files(objects: &[AnyObject]) -> Apply {
        Apply { files: vec![AppliedFile { path: "/dev/null".into(), objects: objects.to_vec() }] }
    }

    pub(crate) async fn try_apply(&self, objects: &[AnyObject]) -> http::Answer {
        self.ask(Method::POST, "/v1/apply", &Self::files(objects)).await
    }

    pub(crate) async fn apply(&self, objects: &[AnyObject]) -> Applied {
        let answer = self.try_apply(objects).await;
        assert_eq!(answer.status, StatusCode::OK, "{}", answer.text());
        serde_json::from_slice(&answer.body).expect("an answer of the protocol")
    }

    pub(crate) async fn plan(&self, objects: &[AnyObject]) -> Planned {
        let answer = self.ask(Method::POST, "/v1/plan", &Self::files(objects)).await;
        assert_eq!(answer.status, StatusCode::OK, "{}", answer.text());
        serde_json::from_slice(&answer.body).expect("an answer of the protocol")
    }

    pub(crate) async fn down(&self, purge: bool) -> Downed {
        let answer = self.ask(Method::POST, "/v1/down", &serde_json::json!({"purge": purge})).await;
        serde_json::from_slice(&answer.body).expect("an answer of the protocol")
    }

    /// Workloads that run, and their processes.
    pub(crate) async fn pids(&self) -> BTreeMap<String, u32> {
        let host: HostInfo = self.get("/v1/host").await;
        host.workloads.into_iter().filter_map(|workload| Some((workload.name, workload.pid?))).collect()
    }

    pub(crate) async fn object(&self, object: &ObjectRef) -> AnyObject {
        let namespace = object.namespace.as_ref().map_or("-", |namespace| namespace.as_str());
        self.get(&format!("/v1/objects/{}/{namespace}/{}", object.kind.plural(), object.name)).await
    }

    /// A condition's truth, reason and message.
    pub(crate) async fn condition(&self, object: &ObjectRef, kind: &str) -> (Truth, String, String) {
        let object = self.object(object).await;
        let condition = object.conditions().iter().find(|condition| condition.kind == kind);
        condition.map_or((Truth::Unknown, String::new(), String::new()), |condition| {
            (condition.status, condition.reason.clone(), condition.message.clone())
        })
    }

    /// Waits until these workloads run and are ready, and no others.
    pub(crate) async fn settled(&self, names: &[&str]) {
        until(&format!("{names:?} run"), || async {
            let host: HostInfo = self.get("/v1/host").await;
            let ready = host.workloads.iter().filter(|workload| workload.ready).map(|workload| workload.name.as_str());
            ready.collect::<Vec<_>>() == names && host.workloads.len() == names.len()
        })
        .await;
    }

    /// How often roles were started, or told another configuration.
    pub(crate) fn lines(&self, file: &str) -> BTreeMap<String, usize> {
        let text = std::fs::read_to_string(self.state.path().join(file)).unwrap_or_default();
        let mut counts = BTreeMap::new();
        text.lines().for_each(|line| *counts.entry(line.to_owned()).or_default() += 1);
        counts
    }
}

/// Waits for a condition.
pub(crate) async fn until<F: Future<Output = bool>>(what: &str, mut condition: impl FnMut() -> F) {
    let begin = Instant::now();
    while !condition().await {
        assert!(begin.elapsed() < LIMIT, "waited in vain until {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

//! The control socket of a running installation, from outside: see [`stoke_api::control`].

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context as _;
use reqwest::{Method, Response, StatusCode};
use serde::Serialize;
use serde::de::DeserializeOwned;
use stoke_api::control::{
    Applied, Apply, Down, Downed, EnrollRequest, FarmView, HostInfo, ObjectEvent, Planned, PowerAction, PowerRequest,
    Refused, RolloutAction, RolloutRequest, Traced, WatchEvent,
};
use stoke_api::load::Finding;
use stoke_api::{AnyObject, Kind, MacAddr, ObjectName, ObjectRef};

use crate::failure::Failure;
use crate::folders::Folders;

/// How long an answer may take. Ending all machines waits for their systems to shut down.
const LIMIT: Duration = Duration::from_secs(30);
const LIMIT_DOWN: Duration = Duration::from_mins(5);

/// A client of one installation.
#[derive(Clone, Debug)]
pub(crate) struct Client {
    http: reqwest::Client,
    socket: PathBuf,
}

/// A request that the installation refused.
#[derive(Debug, thiserror::Error)]
#[error("{}", .0.message)]
pub(crate) struct RefusedError(pub(crate) Refused);

impl Client {
    /// A client for the socket, whether somebody listens there or not.
    pub(crate) fn new(socket: &Path) -> anyhow::Result<Self> {
        let http = reqwest::Client::builder().unix_socket(socket).build().context("cannot make a client")?;
        Ok(Self { http, socket: socket.to_owned() })
    }

    /// A client for what runs here; fails plainly if nothing does.
    pub(crate) async fn connect(folders: &Folders) -> anyhow::Result<Self> {
        let client = Self::new(&folders.control_socket())?;
        client.is_alive().await?.then_some(client).ok_or_else(|| nothing_runs(folders))
    }

    /// Whether somebody listens.
    pub(crate) async fn is_alive(&self) -> anyhow::Result<bool> {
        use std::io::ErrorKind::{ConnectionRefused, InvalidInput, NotADirectory, NotFound, PermissionDenied};
        match tokio::net::UnixStream::connect(&self.socket).await {
            Ok(_) => Ok(true),
            Err(error) if [NotFound, ConnectionRefused, NotADirectory].contains(&error.kind()) => Ok(false),
            Err(error) if error.kind() == PermissionDenied => Err(Failure::hinted(
                format!("the Stokehold at {} belongs to another user", self.socket.display()),
                "be that user, or name an installation of your own with --state",
            )),
            // The kernel's limit of a socket's path (`struct sockaddr_un` in Linux' `un.h`).
            Err(error) if error.kind() == InvalidInput => Err(Failure::hinted(
                format!("the path of the socket {} is too long", self.socket.display()),
                "name a folder with a shorter path with --state: a socket's path has at most 107 bytes",
            )),
            Err(error) => Err(error).with_context(|| format!("cannot reach {}", self.socket.display())),
        }
    }

    /// What the installation says of itself.
    pub(crate) async fn host(&self) -> anyhow::Result<HostInfo> {
        self.get("/v1/host").await
    }

    /// All objects of a kind.
    pub(crate) async fn list(&self, kind: Kind, namespace: Option<&ObjectName>) -> anyhow::Result<Vec<AnyObject>> {
        let query = namespace.map(|namespace| format!("?namespace={namespace}")).unwrap_or_default();
        self.get(&format!("/v1/objects/{}{query}", kind.plural())).await
    }

    /// One object.
    pub(crate) async fn object(&self, reference: &ObjectRef) -> anyhow::Result<AnyObject> {
        self.get(&format!("/v1/objects/{}", path(reference))).await
    }

    /// What happened to an object.
    pub(crate) async fn events(&self, reference: &ObjectRef) -> anyhow::Result<Vec<ObjectEvent>> {
        self.get(&format!("/v1/events/{}", path(reference))).await
    }

    /// A farm as it runs.
    pub(crate) async fn farm(&self, farm: &ObjectRef) -> anyhow::Result<FarmView> {
        let namespace = farm.namespace.as_ref().map_or("-", ObjectName::as_str);
        self.get(&format!("/v1/farms/{namespace}/{}", farm.name)).await
    }

    /// What is remembered of the boots of a machine.
    pub(crate) async fn trace(&self, mac: MacAddr) -> anyhow::Result<Vec<Traced>> {
        self.get(&format!("/v1/trace/{mac}")).await
    }

    /// What is remembered of the boots of an object's machine.
    pub(crate) async fn trace_object(&self, reference: &ObjectRef) -> anyhow::Result<Vec<Traced>> {
        self.get(&format!("/v1/trace/{}", path(reference))).await
    }

    /// Applies files.
    pub(crate) async fn apply(&self, apply: &Apply) -> anyhow::Result<Applied> {
        decode(self.request(Method::POST, "/v1/apply", Some(apply), LIMIT).await?).await
    }

    /// What applying files would change.
    pub(crate) async fn plan(&self, apply: &Apply) -> anyhow::Result<Planned> {
        decode(self.request(Method::POST, "/v1/plan", Some(apply), LIMIT).await?).await
    }

    /// Asks for power.
    pub(crate) async fn power(&self, reference: &ObjectRef, action: PowerAction) -> anyhow::Result<()> {
        let request = PowerRequest { action };
        self.request(Method::POST, &format!("/v1/power/{}", path(reference)), Some(&request), LIMIT).await.map(drop)
    }

    /// Accepts the TPM of a machine or server.
    pub(crate) async fn enroll(&self, reference: &ObjectRef, request: EnrollRequest) -> anyhow::Result<()> {
        self.request(Method::POST, &format!("/v1/enroll/{}", path(reference)), Some(&request), LIMIT).await.map(drop)
    }

    /// Steers a farm's update.
    pub(crate) async fn rollout(&self, farm: &ObjectRef, action: RolloutAction) -> anyhow::Result<()> {
        let namespace = farm.namespace.as_ref().map_or("-", ObjectName::as_str);
        let path = format!("/v1/rollout/{namespace}/{}", farm.name);
        self.request(Method::POST, &path, Some(&RolloutRequest { action }), LIMIT).await.map(drop)
    }

    /// Deletes an object.
    pub(crate) async fn delete(&self, reference: &ObjectRef) -> anyhow::Result<()> {
        self.request::<()>(Method::DELETE, &format!("/v1/objects/{}", path(reference)), None, LIMIT).await.map(drop)
    }

    /// Ends everything.
    pub(crate) async fn down(&self, down: Down) -> anyhow::Result<Downed> {
        decode(self.request(Method::POST, "/v1/down", Some(&down), LIMIT_DOWN).await?).await
    }

    /// All objects, then each change.
    pub(crate) async fn watch(&self) -> anyhow::Result<Watch> {
        let response = self.http.get(url("/v1/watch")).send().await.map_err(lost)?;
        Ok(Watch { response: accept(response).await?, buffer: Vec::new() })
    }

    async fn get<T: DeserializeOwned>(&self, path: &str) -> anyhow::Result<T> {
        decode(self.request::<()>(Method::GET, path, None, LIMIT).await?).await
    }

    async fn request<T: Serialize>(
        &self,
        method: Method,
        path: &str,
        body: Option<&T>,
        limit: Duration,
    ) -> anyhow::Result<Response> {
        let mut request = self.http.request(method, url(path)).timeout(limit);
        if let Some(body) = body {
            request = request.json(body);
        }
        accept(request.send().await.map_err(lost)?).await
    }
}

/// Changes of objects as they happen.
#[derive(Debug)]
pub(crate) struct Watch {
    response: Response,
    buffer: Vec<u8>,
}

impl Watch {
    /// The next change; `None` when the installation ended. Cancel-safe: what was read stays in the buffer.
    pub(crate) async fn next(&mut self) -> anyhow::Result<Option<WatchEvent>> {
        loop {
            if let Some(end) = self.buffer.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.buffer.drain(..=end).collect();
                if line.trim_ascii().is_empty() {
                    continue;
                }
                return serde_json::from_slice(&line).map(Some).context("the installation said something unknown");
            }
            match self.response.chunk().await {
                Ok(Some(chunk)) => self.buffer.extend_from_slice(&chunk),
                // A connection that breaks is an installation that ended.
                Ok(None) | Err(_) => return Ok(None),
            }
        }
    }
}

/// What people are told when nothing runs here.
pub(crate) fn nothing_runs(folders: &Folders) -> anyhow::Error {
    let run = folders.run.canonicalize().unwrap_or_else(|_| folders.run.clone());
    let workloads = stoke_host::process::serving().into_keys().filter(|socket| socket.starts_with(&run)).count();
    if workloads > 0 {
        return Failure::hinted(
            format!("stoke up does not run here, but {workloads} of the processes that it started go on"),
            "find them again with: stoke up PATH; or end them with: stoke down",
        );
    }
    Failure::hinted(
        format!("no Stokehold runs here (looked at {})", folders.control_socket().display()),
        "start one with: stoke up PATH",
    )
}

/// The refusal in an error, as findings where its files are known.
pub(crate) fn findings(error: &anyhow::Error, loaded: &[stoke_api::load::Loaded]) -> Option<Vec<Finding>> {
    let RefusedError(refused) = error.downcast_ref()?;
    let located = |problem| {
        stoke_api::load::locate(loaded, problem).unwrap_or_else(|| Finding {
            path: PathBuf::from(problem.object.to_string()),
            at: None,
            field: problem.field.clone(),
            message: problem.message.clone(),
            hint: None,
        })
    };
    (!refused.problems.is_empty()).then(|| refused.problems.iter().map(located).collect())
}

fn url(path: &str) -> String {
    format!("http://stokehold{path}")
}

fn path(reference: &ObjectRef) -> String {
    let namespace = reference.namespace.as_ref().map_or("-", ObjectName::as_str);
    format!("{}/{namespace}/{}", reference.kind.plural(), reference.name)
}

fn lost(error: reqwest::Error) -> anyhow::Error {
    anyhow::Error::from(error.without_url()).context("the installation does not answer")
}

async fn accept(response: Response) -> anyhow::Result<Response> {
    let status = response.status();
    if status.is_success() {
        return Ok(response);
    }
    let body = response.bytes().await.map_err(lost)?;
    let refused = serde_json::from_slice::<Refused>(&body).unwrap_or_else(|_| Refused {
        message: match status {
            StatusCode::NOT_FOUND => "there is no such object".to_owned(),
            _ => format!("the installation refused: {status} {}", String::from_utf8_lossy(&body)),
        },
        problems: Vec::new(),
    });
    Err(RefusedError(refused).into())
}

async fn decode<T: DeserializeOwned>(response: Response) -> anyhow::Result<T> {
    let body = response.bytes().await.map_err(lost)?;
    serde_json::from_slice(&body).context("the installation said something unknown: is it of another version?")
}

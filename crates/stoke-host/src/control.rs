//! The control socket: [`stoke_api::control`] over axum. Each handler is one question to the store or to the loop.

use std::convert::Infallible;
use std::sync::Arc;

use axum::body::{Body, Bytes};
use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use futures::stream::{self, StreamExt as _};
use serde::Deserialize;
use stoke_api::control::{
    Apply, Change, Down, Downed, EnrollRequest, FarmView, HostInfo, Planned, PowerAction, PowerRequest, Refused,
    RolloutRequest, Traced, WatchEvent, WorkloadInfo,
};
use stoke_api::objects::{Kind, RunStrategy};
use stoke_api::{AnyObject, ObjectName, ObjectRef};
use stoke_reconcile::{Observed, Status};
use tokio::sync::{Notify, broadcast, mpsc, oneshot, watch};

use crate::apply::{self, ApplyError};
use crate::enroll::enrolled;
use crate::paths::Folders;
use crate::steer::steered;
use crate::store::{LocalStore, Store, StoreError};
use crate::watching;

/// What the loop saw last.
#[derive(Clone, Debug, Default)]
pub struct Picture {
    /// What the reconcilers were given.
    pub observed: Observed,
    /// What runs.
    pub workloads: Vec<WorkloadInfo>,
    /// Whether the namespaces are there.
    pub has_namespaces: bool,
}

/// A request to end everything, and who waits for the answer.
pub type DownRequest = (Down, oneshot::Sender<Downed>);

/// What the handlers share with the loop.
pub struct Control {
    /// The objects.
    pub store: Arc<LocalStore>,
    /// Where the installation is.
    pub folders: Folders,
    /// What the loop saw last.
    pub picture: watch::Receiver<Arc<Picture>>,
    /// Wakes the loop.
    pub wake: Arc<Notify>,
    /// Asks the loop to end everything.
    pub down: mpsc::Sender<DownRequest>,
}

/// The routes.
pub fn router(control: Arc<Control>) -> Router {
    Router::new()
        .route("/v1/host", get(host))
        .route("/v1/objects/{kinds}", get(list))
        .route("/v1/objects/{kinds}/{namespace}/{name}", get(read).delete(delete))
        .route("/v1/apply", post(apply_files))
        .route("/v1/plan", post(plan))
        .route("/v1/power/{kinds}/{namespace}/{name}", post(power))
        .route("/v1/enroll/{kinds}/{namespace}/{name}", post(enroll))
        .route("/v1/events/{kinds}/{namespace}/{name}", get(events))
        .route("/v1/farms/{namespace}/{name}", get(farm))
        .route("/v1/rollout/{namespace}/{name}", post(rollout))
        .route("/v1/trace/{mac}", get(trace))
        .route("/v1/trace/{kinds}/{namespace}/{name}", get(trace_object))
        .route("/v1/watch", get(watch_objects))
        .route("/v1/down", post(down))
        .fallback(|| async {
            Failure::new(StatusCode::NOT_FOUND, "no such path in this version of the control socket")
        })
        // Files come in whole: a folder of a thousand objects fits.
        .layer(axum::extract::DefaultBodyLimit::max(64 << 20))
        .with_state(control)
}

/// A refusal with its status.
struct Failure(StatusCode, Refused);

impl Failure {
    fn new(status: StatusCode, message: impl Into<String>) -> Self {
        Self(status, Refused { message: message.into(), problems: Vec::new() })
    }
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        (self.0, Json(self.1)).into_response()
    }
}

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Self {
        let status = match &error {
            StoreError::NotFound(_) => StatusCode::NOT_FOUND,
            StoreError::Conflict(_) => StatusCode::CONFLICT,
            _ => StatusCode::INTERNAL_SERVER_ERROR,
        };
        Self::new(status, format!("{:#}", anyhow::Error::new(error)))
    }
}

impl From<ApplyError> for Failure {
    fn from(error: ApplyError) -> Self {
        match error {
            ApplyError::Refused(refused) if refused.problems.is_empty() => Self(StatusCode::CONFLICT, refused),
            ApplyError::Refused(refused) => Self(StatusCode::UNPROCESSABLE_ENTITY, refused),
            ApplyError::Store(error) => error.into(),
        }
    }
}

type Answer<T> = Result<T, Failure>;
type Shared = State<Arc<Control>>;

fn kind(word: &str) -> Answer<Kind> {
    word.parse::<Kind>().map_err(|error| Failure::new(StatusCode::NOT_FOUND, error.to_string()))
}

type ObjectPath = Path<(String, String, String)>;

fn reference((kinds, namespace, name): (String, String, String)) -> Answer<ObjectRef> {
    let wrong = |error: stoke_api::names::ParseError| Failure::new(StatusCode::BAD_REQUEST, error.to_string());
    let kind = kind(&kinds)?;
    let namespace = kind.is_namespaced().then(|| namespace.parse::<ObjectName>().map_err(wrong)).transpose()?;
    Ok(ObjectRef { kind, namespace, name: name.parse().map_err(wrong)? })
}

fn json<T: serde::de::DeserializeOwned>(body: &Bytes) -> Answer<T> {
    serde_json::from_slice(body).map_err(|error| Failure::new(StatusCode::BAD_REQUEST, format!("no request: {error}")))
}

async fn host(State(control): Shared) -> Json<HostInfo> {
    let picture = control.picture.borrow().clone();
    Json(HostInfo {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        pid: std::process::id(),
        state: control.folders.state.clone(),
        namespaces: picture.has_namespaces.then(|| control.folders.namespaces()),
        ssh_key: control.folders.ssh_key(),
        workloads: picture.workloads.clone(),
    })
}

#[derive(Deserialize)]
struct Selection {
    namespace: Option<ObjectName>,
}

async fn list(
    State(control): Shared,
    Path(kinds): Path<String>,
    Query(selection): Query<Selection>,
) -> Answer<Json<Vec<AnyObject>>> {
    let kind = kind(&kinds)?;
    let mut objects = control.store.list()?;
    let inside = |object: &AnyObject| {
        let namespace = object.reference().namespace;
        namespace.is_none() || selection.namespace.is_none() || namespace == selection.namespace
    };
    objects.retain(|object| object.kind() == kind && inside(object));
    Ok(Json(objects))
}

async fn read(State(control): Shared, Path(path): ObjectPath) -> Answer<Json<AnyObject>> {
    let reference = reference(path)?;
    let object = control.store.get(&reference)?.ok_or(StoreError::NotFound(reference))?;
    Ok(Json(object))
}

async fn delete(State(control): Shared, Path(path): ObjectPath) -> Answer<StatusCode> {
    apply::delete(&control.store, &reference(path)?)?;
    control.wake.notify_one();
    Ok(StatusCode::NO_CONTENT)
}

async fn apply_files(State(control): Shared, body: Bytes) -> Answer<Response> {
    let applied = apply::apply(&control.store, &json::<Apply>(&body)?)?;
    for (object, change) in applied.changes.iter().filter(|(_, change)| *change != Change::Unchanged) {
        tracing::info!(%object, "{change:?}");
    }
    control.wake.notify_one();
    Ok(Json(applied).into_response())
}

async fn plan(State(control): Shared, body: Bytes) -> Answer<Json<Planned>> {
    let current = control.store.list()?;
    let merge = apply::merge(&control.store, &json::<Apply>(&body)?)?;
    let changes = apply::changes(&current, &merge).into_iter().filter(|(_, change)| *change != Change::Unchanged);
    let changes = changes.collect();
    let picture = control.picture.borrow().clone();
    let steps = crate::plan::steps(&control.folders, &picture.observed, merge.objects).await;
    Ok(Json(Planned { changes, steps }))
}

async fn power(State(control): Shared, Path(path): ObjectPath, body: Bytes) -> Answer<StatusCode> {
    let PowerRequest { action } = json(&body)?;
    change_status(&control, reference(path)?, |object| powered(object, action))
}

async fn enroll(State(control): Shared, Path(path): ObjectPath, body: Bytes) -> Answer<StatusCode> {
    let request: EnrollRequest = json(&body)?;
    change_status(&control, reference(path)?, |object| enrolled(object, &request))
}

async fn rollout(
    State(control): Shared,
    Path((namespace, name)): Path<(String, String)>,
    body: Bytes,
) -> Answer<StatusCode> {
    let reference = reference(("farms".to_owned(), namespace, name))?;
    let RolloutRequest { action } = json(&body)?;
    let picture = control.picture.borrow().clone();
    let images = &picture.observed.environment.images;
    let image = |farm: &AnyObject| match farm {
        AnyObject::Farm(farm) => Some(stoke_reconcile::names::key(&farm.spec.image.of(&reference, Kind::Image))),
        _ => None,
    };
    change_status(&control, reference.clone(), |farm| {
        let known = image(farm).and_then(|image| images.get(&image));
        let versions: Vec<_> =
            known.into_iter().flat_map(|known| &known.versions).map(|version| version.digest).collect();
        steered(farm, action, &versions)
    })
}

/// Writes what people ask for into an object's status.
fn change_status(
    control: &Control,
    reference: ObjectRef,
    change: impl Fn(&AnyObject) -> Result<Status, String>,
) -> Answer<StatusCode> {
    // The reconcilers write statuses, too; who comes second reads again.
    for _ in 0..16 {
        let object = control.store.get(&reference)?.ok_or_else(|| StoreError::NotFound(reference.clone()))?;
        let status = change(&object).map_err(|why| Failure::new(StatusCode::CONFLICT, why))?;
        let version = object.metadata().resource_version.clone().unwrap_or_default();
        match control.store.write_status(&reference, &version, status) {
            Err(StoreError::Conflict(_)) => {}
            Err(error) => return Err(error.into()),
            Ok(_) => {
                control.wake.notify_one();
                return Ok(StatusCode::ACCEPTED);
            }
        }
    }
    Err(StoreError::Conflict(reference).into())
}

/// The status with a request of power in it, or why it cannot be.
///
/// # Errors
/// If the object has none, or not now.
pub fn powered(object: &AnyObject, action: PowerAction) -> Result<Status, String> {
    match (object, action) {
        (AnyObject::Machine(machine), action) => {
            let halted = machine.spec.run_strategy == RunStrategy::Halted;
            let manual = machine.spec.run_strategy == RunStrategy::Manual;
            let mut status = machine.status.clone();
            match action {
                PowerAction::Stop => (status.stop_requested, status.start_requested) = (true, false),
                _ if halted => return Err("its runStrategy is Halted; change that in its file".to_owned()),
                PowerAction::Reboot if status.stop_requested || (manual && !status.start_requested) => {
                    return Err("it is stopped; start it".to_owned());
                }
                PowerAction::Start => (status.stop_requested, status.start_requested) = (false, manual),
                PowerAction::Reboot => status.reboots_requested += 1,
            }
            Ok(Status::Machine(status))
        }
        (AnyObject::Server(server), action) => crate::power::of_server(server, action).map(Status::Server),
        (other, _) => Err(format!("{} has no power", other.reference())),
    }
}

async fn events(State(control): Shared, Path(path): ObjectPath) -> Answer<Response> {
    Ok(Json(control.store.events(&reference(path)?)?).into_response())
}

async fn farm(State(control): Shared, Path((namespace, name)): Path<(String, String)>) -> Answer<Json<FarmView>> {
    let reference = reference(("farms".to_owned(), namespace, name))?;
    let view = watching::farm(&control.picture.borrow().clone(), &reference);
    let none = || Failure::new(StatusCode::NOT_FOUND, format!("nothing runs for {reference}; stoke describe says why"));
    view.map(Json).ok_or_else(none)
}

async fn trace(State(control): Shared, Path(mac): Path<String>) -> Answer<Json<Vec<Traced>>> {
    let mac = mac
        .parse()
        .map_err(|error: stoke_api::names::ParseError| Failure::new(StatusCode::BAD_REQUEST, error.to_string()))?;
    let picture = control.picture.borrow().clone();
    Ok(Json(watching::traces(&picture, &[mac]).await))
}

async fn trace_object(State(control): Shared, Path(path): ObjectPath) -> Answer<Json<Vec<Traced>>> {
    let reference = reference(path)?;
    let picture = control.picture.borrow().clone();
    let macs = watching::macs(&picture, &reference);
    if macs.is_empty() {
        let message = format!("no LAN or farm knows an interface of {reference}");
        return Err(Failure::new(StatusCode::NOT_FOUND, message));
    }
    Ok(Json(watching::traces(&picture, &macs).await))
}

/// All objects first, then each change. Ends when the watcher is too slow, so that it begins again with all.
async fn watch_objects(State(control): Shared) -> Answer<Response> {
    let changes = control.store.watch();
    let now = control
        .store
        .list()?
        .into_iter()
        .map(|object| WatchEvent { change: Change::Created, object: Box::new(object) });
    let later = stream::unfold(changes, |mut changes| async move {
        match changes.recv().await {
            Ok(event) => Some((event, changes)),
            Err(broadcast::error::RecvError::Lagged(_) | broadcast::error::RecvError::Closed) => None,
        }
    });
    let lines = stream::iter(now).chain(later).map(|event| {
        let mut line = serde_json::to_vec(&event).unwrap_or_default();
        line.push(b'\n');
        Ok::<_, Infallible>(line)
    });
    Ok(([("content-type", "application/x-ndjson")], Body::from_stream(lines)).into_response())
}

async fn down(State(control): Shared, body: Bytes) -> Answer<Json<Downed>> {
    let request = if body.is_empty() { Down::default() } else { json(&body)? };
    let ending = || Failure::new(StatusCode::SERVICE_UNAVAILABLE, "this installation is ending already");
    let (answer, downed) = oneshot::channel();
    control.down.send((request, answer)).await.map_err(|_| ending())?;
    downed.await.map(Json).map_err(|_| ending())
}

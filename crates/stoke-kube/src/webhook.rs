//! The validating webhook: what `stoke up` says of files, `kubectl apply` says of objects, in the same words.
//!
//! It is no gate that anything relies on (`failurePolicy: Ignore`): the reconcilers find the same and say it in a condition.
//! It looks at what people want: a status, a finalizer, a deletion is never held up, and what was wrong before with other
//! objects is nobody's fault now. References to nothing are allowed: files are applied one by one, in any order.

mod serve;

use std::sync::Arc;

use axum::extract::{DefaultBodyLimit, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse as _, Response};
use axum::{Json, Router};
use k8s_openapi::ByteString;
use k8s_openapi::api::admissionregistration::v1::ValidatingWebhookConfiguration;
use kube::api::{Patch, PatchParams};
use kube::{Api, Client};
use serde::Deserialize;
use serde_json::{Map, Value, json};
use stoke_api::load::{Finding, load_text};
use stoke_api::objects::Problem;
use stoke_api::{API_VERSION, AnyObject, Kind, ObjectRef};
use stoke_host::store::Store as _;
use stoke_reconcile::{Environment, Layout};

pub use serve::serve;

use crate::claims::Claims;
use crate::object::Unreadable;
use crate::store::KubeStore;

/// The path that API servers ask at.
pub const PATH: &str = "/validate";
/// An object as it was and as it shall be, each as large as etcd takes it, and their frame.
const LARGEST: usize = 8 << 20;
/// A copy of the whole object that `kubectl apply` keeps: nobody's note.
const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";

/// What the webhook answers by.
#[derive(Clone)]
struct Known {
    store: Arc<KubeStore>,
    claims: Arc<Claims>,
}

impl Known {
    /// What is known of the place. Labels of namespaces are not: the reconcilers look at them.
    fn environment(&self) -> Environment {
        let unreadable = self.store.unreadable().iter().filter_map(Unreadable::reference).collect();
        Environment { layout: Layout::Pods, claims: self.claims.held(), unreadable, ..Environment::default() }
    }
}

/// The pages of the webhook.
pub fn router(store: Arc<KubeStore>, claims: Arc<Claims>) -> Router {
    let pages = Router::new().route(PATH, axum::routing::post(validate));
    pages.layer(DefaultBodyLimit::max(LARGEST)).with_state(Known { store, claims })
}

async fn validate(State(known): State<Known>, body: axum::body::Bytes) -> Response {
    let review: Review = match serde_json::from_slice(&body) {
        Ok(review) => review,
        Err(error) => return (StatusCode::BAD_REQUEST, format!("this is no AdmissionReview: {error}")).into_response(),
    };
    // Reading from memory cannot fail; if it does, the reconcilers will say what is wrong.
    let objects = known.store.list().unwrap_or_default();
    let verdict = judge(&objects, &known.environment(), &review.request);
    Json(answer(&review.request, verdict)).into_response()
}

/// What an API server asks.
#[derive(Clone, Debug, Deserialize)]
struct Review {
    request: Question,
}

/// What is to be done with an object.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Question {
    uid: String,
    kind: GroupKind,
    operation: String,
    #[serde(default)]
    sub_resource: String,
    #[serde(default)]
    object: Value,
    #[serde(default)]
    old_object: Value,
}

#[derive(Clone, Debug, Deserialize)]
struct GroupKind {
    kind: String,
}

fn answer(question: &Question, verdict: Result<(), String>) -> Value {
    let mut response = json!({ "uid": question.uid, "allowed": verdict.is_ok() });
    if let (Err(message), Some(fields)) = (verdict, response.as_object_mut()) {
        let status = json!({ "code": 422, "reason": "Invalid", "status": "Failure", "message": message });
        fields.insert("status".to_owned(), status);
    }
    json!({ "apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "response": response })
}

/// Why an object is refused, a line for each thing that is wrong.
fn judge(known: &[AnyObject], environment: &Environment, question: &Question) -> Result<(), String> {
    let wanted = |object: &Value| object.get("spec").cloned();
    let is_wish = matches!(question.operation.as_str(), "CREATE" | "UPDATE") && question.sub_resource.is_empty();
    let goes = question.object.pointer("/metadata/deletionTimestamp").is_some();
    let same = question.operation == "UPDATE" && wanted(&question.object) == wanted(&question.old_object);
    let kind = Kind::ALL.into_iter().find(|kind| kind.to_string() == question.kind.kind);
    let Some(kind) = kind.filter(|_| is_wish && !goes && !same) else { return Ok(()) };
    let lines = match read(kind, &question.object) {
        Err(findings) => {
            let name = question.object.pointer("/metadata/name").and_then(Value::as_str).unwrap_or("-");
            findings.iter().map(|finding| format!("{}/{name}: {}", kind.singular(), words(finding))).collect()
        }
        Ok(object) => between(known, environment, object),
    };
    if lines.is_empty() { Ok(()) } else { Err(lines.join("\n")) }
}

/// The object, read by what reads files, so that what is wrong is said in the same words.
fn read(kind: Kind, object: &Value) -> Result<AnyObject, Vec<Finding>> {
    let text = as_written(kind, object).to_string();
    let mut loaded = load_text(std::path::Path::new("-"), &text)?;
    let mut read = loaded.objects.pop().map(|(object, _)| object).ok_or_else(Vec::new)?;
    let created = object.pointer("/metadata/creationTimestamp").and_then(Value::as_str);
    // Of two that want the same the younger one is at fault; one that is only now made comes last.
    if is_stored(object) {
        read.metadata_mut().creation_timestamp = created.map(str::to_owned);
    }
    Ok(read)
}

/// Whether the object is stored: a new one is given its time before it is asked about, too, but no version.
fn is_stored(object: &Value) -> bool {
    object.pointer("/metadata/resourceVersion").is_some()
}

/// An object without what Kubernetes adds to it.
fn as_written(kind: Kind, object: &Value) -> Value {
    let mut metadata = Map::new();
    // A name that is made when the object is stored is a good one.
    metadata.insert("name".to_owned(), "new".into());
    let fields: &[_] = if kind.is_namespaced() { &["name", "namespace", "labels"] } else { &["name", "labels"] };
    for field in fields {
        if let Some(value) = object.pointer(&format!("/metadata/{field}")).filter(|value| !value.is_null()) {
            metadata.insert((*field).to_owned(), value.clone());
        }
    }
    let mut notes = object.pointer("/metadata/annotations").and_then(Value::as_object).cloned().unwrap_or_default();
    notes.remove(LAST_APPLIED);
    if !notes.is_empty() {
        metadata.insert("annotations".to_owned(), notes.into());
    }
    let spec = object.get("spec").cloned().unwrap_or_default();
    json!({ "apiVersion": API_VERSION, "kind": kind.to_string(), "metadata": metadata, "spec": spec })
}

/// What a finding says, without the place in a file that nobody has.
fn words(finding: &Finding) -> String {
    let field = if finding.field.is_empty() { String::new() } else { format!("{}: ", finding.field) };
    let hint = finding.hint.as_ref().map(|hint| format!("; {hint}")).unwrap_or_default();
    format!("{field}{}{hint}", finding.message)
}

/// What is wrong between an object and the others, if it is the object's doing.
fn between(known: &[AnyObject], environment: &Environment, object: AnyObject) -> Vec<String> {
    let reference = object.reference();
    let before = stoke_reconcile::check_between_in(known, environment);
    let others = known.iter().filter(|other| other.reference() != reference).cloned();
    let after: Vec<_> = others.chain([object]).collect();
    let is_its_doing = |problem: &(ObjectRef, _)| problem.0 == reference || !before.contains(problem);
    let found = stoke_reconcile::check_between_in(&after, environment).into_iter().filter(is_its_doing);
    let mut lines: Vec<_> = found.map(|(object, problem)| line(&reference, &object, &problem)).collect();
    lines.dedup();
    lines
}

/// What is said of a problem to the owner of an object: what is in other namespaces is not theirs to know.
fn line(reference: &ObjectRef, object: &ObjectRef, problem: &Problem) -> String {
    if reference.namespace.is_some() && object.namespace != reference.namespace {
        return format!("{reference}: an object that is not in this namespace could not stay as it is");
    }
    format!("{object}: {}: {}", problem.field, problem.message)
}

/// Tells API servers which authority the webhook's certificate is of. Whether that was news; nothing is done if there is no
/// such configuration.
///
/// # Errors
/// If the API server does not answer or refuses.
pub async fn inject(client: &Client, configuration: &str, bundle: &str) -> Result<bool, kube::Error> {
    let api = Api::<ValidatingWebhookConfiguration>::all(client.clone());
    let Some(mut found) = api.get_opt(configuration).await? else { return Ok(false) };
    let bundle = ByteString(bundle.as_bytes().to_vec());
    let mut changed = false;
    for webhook in found.webhooks.iter_mut().flatten() {
        changed |= webhook.client_config.ca_bundle.replace(bundle.clone()) != Some(bundle.clone());
    }
    if changed {
        // Over the version that was read: who comes in between is looked at again the next time.
        let metadata = json!({ "resourceVersion": found.metadata.resource_version });
        let patch = Patch::Merge(json!({ "metadata": metadata, "webhooks": found.webhooks }));
        api.patch(configuration, &PatchParams::default(), &patch).await?;
    }
    Ok(changed)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn question(operation: &str, object: Value, old: Value) -> Question {
        let kind = object.get("kind").or_else(|| old.get("kind")).and_then(Value::as_str).unwrap().to_owned();
        let (operation, sub_resource) = (operation.to_owned(), String::new());
        Question { uid: "u".into(), kind: GroupKind { kind }, operation, sub_resource, object, old_object: old }
    }

    fn lan(name: &str, cidr: &str) -> Value {
        json!({
            "apiVersion": API_VERSION, "kind": "Lan",
            "metadata": { "name": name, "namespace": "default", "managedFields": [], "uid": "u" },
            "spec": { "subnets": [{ "name": "v4", "cidr": cidr }] },
        })
    }

    fn known(object: &Value) -> AnyObject {
        read(Kind::Lan, object).unwrap()
    }

    fn judge_alone(known: &[AnyObject], question: &Question) -> Result<(), String> {
        judge(known, &Environment { layout: Layout::Pods, ..Environment::default() }, question)
    }

    #[test]
    fn what_is_wrong_is_said_as_it_is_said_of_files() {
        let said = judge_alone(&[], &question("CREATE", lan("lab", "10.0.0.1/24"), Value::Null)).unwrap_err();
        let text = "apiVersion: stokehold.dev/v1alpha1\nkind: Lan\nmetadata: {name: lab}\n\
                    spec: {subnets: [{name: v4, cidr: 10.0.0.1/24}]}\n";
        let of_file = load_text(std::path::Path::new("lab.yaml"), text).unwrap_err();
        let of_file: Vec<_> = of_file.iter().map(|finding| format!("lan/lab: {}", words(finding))).collect();
        assert_eq!(said, of_file.join("\n"));
    }

    #[test]
    fn an_object_is_refused_for_what_it_breaks_and_not_for_what_was_broken() {
        let numbered = |name: &str, vni: u32| {
            let mut lan = lan(name, "10.0.0.0/24");
            lan["spec"]["overlay"] = json!({ "vni": vni });
            lan
        };
        let others = [known(&numbered("a", 77)), known(&numbered("b", 77))];
        let new = question("CREATE", numbered("c", 78), Value::Null);
        assert_eq!(judge_alone(&others, &new), Ok(()), "each LAN has a router of its own");
        let said = judge_alone(&others, &question("CREATE", numbered("c", 77), Value::Null)).unwrap_err();
        assert_eq!(said, "lan/c: spec.overlay.vni: lan/a has this network identifier");
    }

    #[test]
    fn nobody_is_told_of_what_is_in_another_namespace() {
        let mut theirs = lan("theirs", "10.0.0.0/24");
        theirs["metadata"]["namespace"] = "theirs".into();
        theirs["metadata"]["resourceVersion"] = "1".into();
        theirs["metadata"]["creationTimestamp"] = "2026-01-02T00:00:00Z".into();
        theirs["spec"]["overlay"] = json!({ "vni": 77 });
        let theirs = known(&theirs);
        let mut mine = lan("mine", "10.0.0.0/24");
        mine["metadata"]["resourceVersion"] = "2".into();
        mine["metadata"]["creationTimestamp"] = "2026-01-01T00:00:00Z".into();
        let old = mine.clone();
        mine["spec"]["overlay"] = json!({ "vni": 77 });
        let edited = question("UPDATE", mine, old);
        let others = [theirs.clone()];
        let said = judge_alone(&others, &edited).unwrap_err();
        assert_eq!(said, "lan/mine: an object that is not in this namespace could not stay as it is");
        // With a claim there is nothing that they would take from it.
        let claims = Arc::new([("vni-77".to_owned(), theirs.reference())].into());
        let environment = Environment { layout: Layout::Pods, claims, ..Environment::default() };
        let said = judge(&others, &environment, &edited).unwrap_err();
        let words = "an object that is not in this namespace has this network identifier";
        assert_eq!(said, format!("lan/mine: spec.overlay.vni: {words}"));
    }

    #[test]
    fn what_is_no_wish_is_never_held_up() {
        let bad = lan("lab", "10.0.0.1/24");
        let mut going = bad.clone();
        going["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z".into();
        let mut status = question("UPDATE", bad.clone(), lan("lab", "10.0.0.0/24"));
        status.sub_resource = "status".to_owned();
        for allowed in [
            question("DELETE", Value::Null, bad.clone()),
            question("UPDATE", bad.clone(), bad.clone()),
            question("UPDATE", going, lan("lab", "10.0.0.0/24")),
            status,
        ] {
            assert_eq!(judge_alone(&[], &allowed), Ok(()), "{allowed:?}");
        }
        assert!(judge_alone(&[], &question("UPDATE", bad, lan("lab", "10.0.0.0/24"))).is_err());
    }
}

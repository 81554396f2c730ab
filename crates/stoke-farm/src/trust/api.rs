//! The two requests by which a node proves what it runs and gets its secrets: [`stoke_api::trust`].
//!
//! What came of a proof, and that secrets are handed out, is on disk before the node hears of it.

use std::sync::Arc;

use anyhow::Context as _;
use axum::extract::{DefaultBodyLimit, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use axum::routing::post;
use axum::{Json, Router};
use stoke_api::objects::{NodeTpm, Trust, Verdict};
use stoke_api::trust::{Challenge, Presented, Secrets, SecretsRequest};
use stoke_api::workload::{FarmImage, FarmNode};
use stoke_api::{Digest, ObjectRef};
use stoke_tpm::{Point, Template, credential};

use crate::attest::{Asked, Expected, Proof, Unproven};
use crate::clock::now_ms;
use crate::config::Serving;
use crate::farm::{Farm, RecordError};
use crate::sessions::{Node, SessionOver};
use crate::trace::Noted;

/// Longest request: a log of measurements in hexadecimal.
const BODY: usize = 2 << 20;
/// Seconds until a node may ask again.
const AGAIN: &str = "5";

/// The routes.
pub(crate) fn router(farm: Arc<Farm>) -> Router {
    Router::new()
        .route("/v1/node/attest", post(attest))
        .route("/v1/node/secrets", post(secrets))
        .layer(DefaultBodyLimit::max(BODY))
        .with_state(farm)
}

/// Why a node gets nothing.
#[derive(Debug, thiserror::Error)]
enum Refusal {
    #[error(transparent)]
    Over(#[from] SessionOver),
    #[error("secrets are handed out once, and only at the beginning of a boot; say hello again")]
    Late,
    #[error("no Server or Machine of this farm is this node; it has no secrets")]
    Stranger,
    #[error("this farm trusts its network; no proof is wanted")]
    NoProofWanted,
    #[error("its TPM {key} is not enrolled; if it is the right one: stoke farm enroll {owner}")]
    NotEnrolled { key: Digest, owner: ObjectRef },
    #[error("its TPM is {key}, and the enrolled one is {enrolled}; if it was replaced: stoke farm enroll {owner}")]
    AnotherTpm { key: Digest, enrolled: Digest, owner: ObjectRef },
    #[error("that is no public key")]
    NoKey,
    #[error("prove first what you run: POST /v1/node/attest")]
    NotAsked,
    #[error("not proven: {0}")]
    Unproven(#[from] Unproven),
    #[error("the farm has not been given the secret {0} yet")]
    NoSecret(String),
    #[error("the farm cannot tell what it expects: {0:#}")]
    Unknown(anyhow::Error),
    #[error("the farm cannot write this down: {0:#}")]
    Journal(anyhow::Error),
}

impl From<RecordError> for Refusal {
    fn from(error: RecordError) -> Self {
        match error {
            RecordError::Over(over) => Self::Over(over),
            RecordError::Journal(error) => Self::Journal(error),
        }
    }
}

impl Refusal {
    fn status(&self) -> StatusCode {
        match self {
            Self::Over(_) | Self::Late => StatusCode::GONE,
            Self::Stranger | Self::AnotherTpm { .. } | Self::Unproven(_) => StatusCode::FORBIDDEN,
            Self::NoProofWanted | Self::NotAsked => StatusCode::CONFLICT,
            Self::NoKey => StatusCode::BAD_REQUEST,
            Self::NotEnrolled { .. } | Self::NoSecret(_) | Self::Unknown(_) | Self::Journal(_) => {
                StatusCode::SERVICE_UNAVAILABLE
            }
        }
    }

    fn answer(&self) -> Response {
        let text = format!("{self}\n");
        match self.status() {
            status @ StatusCode::SERVICE_UNAVAILABLE => (status, [(header::RETRY_AFTER, AGAIN)], text).into_response(),
            status => (status, text).into_response(),
        }
    }
}

async fn attest(State(farm): State<Arc<Farm>>, Json(presented): Json<Presented>) -> Response {
    match challenge(&farm, &presented).await {
        Ok(challenge) => Json(challenge).into_response(),
        Err(refusal) => refused(&farm, &presented.session, "attest", &refusal),
    }
}

async fn secrets(State(farm): State<Arc<Farm>>, Json(request): Json<SecretsRequest>) -> Response {
    match release(&farm, &request).await {
        Ok((node, secrets)) => {
            let count = secrets.secrets.len();
            tracing::info!(node = node.label(), mac = %node.mac, count, "secrets handed out");
            farm.metrics.secrets_given.inc();
            farm.trace.machine(node.mac, Noted::now("node", "secrets", format!("{count} handed out")));
            Json(secrets).into_response()
        }
        Err(refusal) => refused(&farm, &request.session, "secrets", &refusal),
    }
}

fn refused(farm: &Farm, session: &str, what: &'static str, refusal: &Refusal) -> Response {
    if let Ok(node) = farm.with_sessions(|sessions| sessions.of_session(session).cloned()) {
        tracing::warn!(node = node.label(), mac = %node.mac, "no secrets: {refusal}");
        farm.trace.machine(node.mac, Noted::now("node", what, refusal.to_string()));
    }
    if matches!(refusal, Refusal::Unproven(_) | Refusal::AnotherTpm { .. }) {
        farm.metrics.unproven.inc();
    }
    refusal.answer()
}

/// The node of a session, if it may still be given secrets, and its object.
fn node_of<'a>(farm: &Farm, serving: &'a Serving, session: &str) -> Result<(Node, &'a FarmNode), Refusal> {
    let node = farm.with_sessions(|sessions| sessions.of_session(session).cloned())?;
    if !node.may_have_secrets(now_ms()) {
        return Err(Refusal::Late);
    }
    let object = node.owner.as_ref().and_then(|owner| serving.node(owner)).ok_or(Refusal::Stranger)?;
    Ok((node, object))
}

async fn challenge(farm: &Farm, presented: &Presented) -> Result<Challenge, Refusal> {
    let serving = farm.serving();
    let (node, object) = node_of(farm, &serving, &presented.session)?;
    if serving.config.trust != Trust::Tpm {
        return Err(Refusal::NoProofWanted);
    }
    let point = |bytes: &stoke_api::trust::Hex| Point::from_bytes(&bytes.0).ok_or(Refusal::NoKey);
    let (endorsement, attestation) = (point(&presented.endorsement)?, point(&presented.attestation)?);
    let key = Digest(Template::Endorsement.fingerprint(&endorsement));
    let judged = enrolled(object, key);
    let (verdict, message) = match &judged {
        Ok(()) => (Verdict::Asked, String::new()),
        Err(refusal @ Refusal::NotEnrolled { .. }) => (Verdict::NotEnrolled, refusal.to_string()),
        Err(refusal) => (Verdict::Refused, refusal.to_string()),
    };
    let certificate = Some(&presented.certificate.0).filter(|der| !der.is_empty());
    let certificate = certificate.map(|der| Digest(stoke_tpm::digest(der)));
    let tpm = NodeTpm { key, verdict, message, secure_boot: None, secure_boot_is_on: false, certificate };
    farm.record(|sessions| sessions.tpm(&presented.session, tpm, now_ms())).await?;
    judged?;
    let random = || stoke_tpm::random().map_err(|error| Refusal::Unknown(error.into()));
    let asked = Asked { session: presented.session.clone(), secret: random()?, nonce: random()?, attestation };
    let made = credential::wrap(&endorsement, &attestation, &asked.secret).map_err(|_| Refusal::NoKey)?;
    let challenge = asked.challenge(made);
    farm.trust.ask(node.key(), asked);
    Ok(challenge)
}

/// Whether this is the TPM that the node shall have.
fn enrolled(object: &FarmNode, key: Digest) -> Result<(), Refusal> {
    let owner = || object.owner.clone();
    match &object.enrolment {
        None => Err(Refusal::NotEnrolled { key, owner: owner() }),
        Some(enrolment) if enrolment.key != key => {
            Err(Refusal::AnotherTpm { key, enrolled: enrolment.key, owner: owner() })
        }
        Some(_) => Ok(()),
    }
}

async fn release(farm: &Arc<Farm>, request: &SecretsRequest) -> Result<(Node, Secrets), Refusal> {
    let serving = farm.serving();
    let (node, object) = node_of(farm, &serving, &request.session)?;
    let tpm = match serving.config.trust {
        Trust::Network => None,
        Trust::Tpm => Some(proven(farm, &serving, &node, object, request).await?),
    };
    let secrets = farm.trust.secrets(serving.secrets_of(object, &node).into_iter()).map_err(Refusal::NoSecret)?;
    let any = !secrets.is_empty();
    let given = farm.record(|sessions| sessions.secrets_given(&request.session, any, tpm, now_ms())).await;
    Ok((given?, Secrets { secrets }))
}

/// Checks a node's proof, and writes down what came of it if it is none.
async fn proven(
    farm: &Arc<Farm>,
    serving: &Arc<Serving>,
    node: &Node,
    object: &FarmNode,
    request: &SecretsRequest,
) -> Result<NodeTpm, Refusal> {
    let asked = farm.trust.answered(&node.key(), &request.session).ok_or(Refusal::NotAsked)?;
    let (evidence, known) = (request.evidence.clone().ok_or(Refusal::NotAsked)?, node.tpm.clone());
    let known = known.ok_or(Refusal::NotAsked)?;
    // It may have been taken back since it was asked.
    enrolled(object, known.key)?;
    let secure_boot = object.enrolment.as_ref().and_then(|enrolment| enrolment.secure_boot);
    let (farm_too, serving, node_too) = (farm.clone(), serving.clone(), node.clone());
    let judged = tokio::task::spawn_blocking(move || {
        let expected = |image: &FarmImage| farm_too.trust.expected(&serving, image, secure_boot);
        judge(&serving, &node_too, expected, |expected| asked.verify(&evidence, expected))
    });
    let judged = judged.await.map_err(|error| Refusal::Unknown(error.into()))?.map_err(Refusal::Unknown)?;
    match judged {
        Ok(proof) => Ok(NodeTpm {
            verdict: Verdict::Proven,
            secure_boot: Some(proof.secure_boot),
            secure_boot_is_on: proof.secure_boot_is_on,
            message: String::new(),
            ..known
        }),
        Err(unproven) => {
            let tpm = NodeTpm { verdict: Verdict::Refused, message: unproven.to_string(), ..known };
            farm.record(|sessions| sessions.tpm(&request.session, tpm, now_ms())).await?;
            Err(unproven.into())
        }
    }
}

/// Whether a proof is that of a version that the node may run. Versions may have one root and differ in their kernels: what the
/// node runs is one of them, the one that its session is for most likely.
fn judge(
    serving: &Serving,
    node: &Node,
    expected: impl Fn(&FarmImage) -> anyhow::Result<Expected>,
    verify: impl Fn(&Expected) -> Result<Proof, Unproven>,
) -> anyhow::Result<Result<Proof, Unproven>> {
    let minimum = serving.config.minimum_built_at;
    let fits = |served: &&FarmImage| Some(served.root.blob) == node.root_blob && served.built_at >= minimum;
    let mut images: Vec<_> = serving.config.images.iter().filter(fits).collect();
    images.sort_by_key(|served| Some(served.digest) != node.image);
    let mut judged = None;
    for image in images {
        let proof = verify(&expected(image)?);
        if proof.is_ok() || judged.is_none() {
            judged = Some(proof);
        }
    }
    judged.context("its version is not served any more")
}

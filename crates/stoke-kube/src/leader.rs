//! One of several operators leads: the holder of a `Lease`.
//!
//! ```text
//!   Follower --- the lease is free, or its holder was silent for its duration ---> Leader
//!       ^                                                                           |
//!       +---- another holder is in the lease, or it could not be renewed in time ---+
//! ```
//!
//! Time is this process's own: how long the lease has looked the same, never what another clock wrote into it. A leader
//! that cannot renew gives up before anybody else may begin: a share of the duration, counted from before the
//! request that succeeded last was sent.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};
use kube::api::{Api, PostParams};
use kube::{Client, ResourceExt as _};
use tokio::time::sleep;

/// A leader ends after this many parts of three of the duration, and renews after each ninth.
const RENEW_SHARE: u32 = 2;
/// Pause of a follower between two looks.
const LOOK: Duration = Duration::from_secs(2);

/// A candidate.
pub struct Candidate {
    leases: Api<Lease>,
    name: String,
    identity: String,
    duration: Duration,
    /// The lease as it was seen last, and since when it has looked like that.
    seen: Option<(Option<String>, Instant)>,
}

/// Why somebody does not lead any more.
#[derive(Debug, thiserror::Error)]
pub enum Lost {
    /// Another one does.
    #[error("{0} leads now")]
    ToAnother(String),
    /// The API server was out of reach for too long.
    #[error("the lease could not be renewed in time")]
    OutOfReach(#[source] Box<kube::Error>),
    /// This process was too busy, or stood still.
    #[error("the lease was not renewed in time")]
    TooLate,
    /// It was gone.
    #[error("the lease is gone")]
    Gone,
}

/// Leadership; whoever has it renews it by [`Leadership::hold`].
pub struct Leadership {
    candidate: Candidate,
    renewed: Instant,
}

impl Candidate {
    /// One for the lease `name` in `namespace`.
    pub fn new(client: Client, namespace: &str, name: &str, identity: String, seconds: u32) -> Self {
        let duration = Duration::from_secs(u64::from(seconds.max(3)));
        Self { leases: Api::namespaced(client, namespace), name: name.to_owned(), identity, duration, seen: None }
    }

    /// Waits until it leads.
    pub async fn lead(mut self) -> Leadership {
        loop {
            let began = Instant::now();
            match self.look().await {
                Ok(true) => {
                    tracing::info!(identity = self.identity, lease = self.name, "leads");
                    return Leadership { candidate: self, renewed: began };
                }
                Ok(false) => {}
                Err(error) => tracing::warn!("cannot look at the lease {}: {error}", self.name),
            }
            sleep(LOOK.min(self.duration / 5)).await;
        }
    }

    /// Whether it has taken the lease.
    async fn look(&mut self) -> Result<bool, kube::Error> {
        let Some(lease) = self.leases.get_opt(&self.name).await? else {
            let metadata = ObjectMeta { name: Some(self.name.clone()), ..ObjectMeta::default() };
            let lease = Lease { metadata, spec: Some(self.taken(None)) };
            return taken(self.leases.create(&PostParams::default(), &lease).await);
        };
        let version = lease.resource_version();
        if self.seen.as_ref().is_none_or(|(seen, _)| *seen != version) {
            self.seen = Some((version, Instant::now()));
        }
        let holder = lease.spec.as_ref().and_then(|spec| spec.holder_identity.clone()).unwrap_or_default();
        let seconds = lease.spec.as_ref().and_then(|spec| spec.lease_duration_seconds);
        let theirs = seconds.and_then(|s| u64::try_from(s).ok()).map_or(self.duration, Duration::from_secs);
        let silent = self.seen.as_ref().map_or(Duration::ZERO, |(_, since)| since.elapsed());
        if !holder.is_empty() && holder != self.identity && silent <= theirs {
            return Ok(false);
        }
        let spec = self.taken(lease.spec.as_ref());
        let lease = Lease { spec: Some(spec), ..lease };
        taken(self.leases.replace(&self.name, &PostParams::default(), &lease).await)
    }

    fn taken(&self, before: Option<&LeaseSpec>) -> LeaseSpec {
        let now = Some(MicroTime(Timestamp::now()));
        let transitions = before.and_then(|spec| spec.lease_transitions).unwrap_or_default();
        LeaseSpec {
            holder_identity: Some(self.identity.clone()),
            lease_duration_seconds: i32::try_from(self.duration.as_secs()).ok(),
            acquire_time: now.clone(),
            renew_time: now,
            lease_transitions: Some(transitions + i32::from(before.is_some())),
            ..LeaseSpec::default()
        }
    }
}

/// Somebody else was faster if the API server says so.
fn taken(answer: Result<Lease, kube::Error>) -> Result<bool, kube::Error> {
    match answer {
        Ok(_) => Ok(true),
        Err(kube::Error::Api(status)) if status.code == 409 => Ok(false),
        Err(error) => Err(error),
    }
}

impl Leadership {
    /// Renews until it cannot; whoever races this against its work stops working at once. `seen` is called with the
    /// annotations of the lease, by which people ask for an uninstallation.
    pub async fn hold(&mut self, mut seen: impl FnMut(&BTreeMap<String, String>)) -> Lost {
        let duration = self.candidate.duration;
        let until = duration * RENEW_SHARE / 3;
        let mut failure = None;
        loop {
            let left = until.saturating_sub(self.renewed.elapsed());
            if left.is_zero() {
                return failure.map_or(Lost::TooLate, |error| Lost::OutOfReach(Box::new(error)));
            }
            let began = Instant::now();
            match tokio::time::timeout(left, self.renew()).await {
                Ok(Ok(lease)) => {
                    (self.renewed, failure) = (began, None);
                    seen(lease.annotations());
                    sleep(duration / 9).await;
                }
                Ok(Err(Renewal::Lost(lost))) => return lost,
                Ok(Err(Renewal::Failed(error))) => {
                    tracing::warn!("cannot renew the lease: {error}");
                    failure = Some(error);
                    sleep((duration / 15).min(left)).await;
                }
                Err(_) => {}
            }
        }
    }

    async fn renew(&mut self) -> Result<Lease, Renewal> {
        let candidate = &self.candidate;
        let lease = candidate.leases.get_opt(&candidate.name).await.map_err(Renewal::Failed)?;
        let Some(mut lease) = lease else { return Err(Renewal::Lost(Lost::Gone)) };
        let holder = lease.spec.as_ref().and_then(|spec| spec.holder_identity.clone()).unwrap_or_default();
        if holder != candidate.identity {
            return Err(Renewal::Lost(Lost::ToAnother(holder)));
        }
        lease.spec.get_or_insert_default().renew_time = Some(MicroTime(Timestamp::now()));
        let renewed = candidate.leases.replace(&candidate.name, &PostParams::default(), &lease).await;
        renewed.map_err(Renewal::Failed)
    }

    /// Gives the lease up, so that another one need not wait, and becomes a candidate again.
    pub async fn give_up(self) -> Candidate {
        let candidate = self.candidate;
        let given = async {
            let Some(mut lease) = candidate.leases.get_opt(&candidate.name).await? else { return Ok(()) };
            let spec = lease.spec.get_or_insert_default();
            if spec.holder_identity.as_deref() == Some(&candidate.identity) {
                spec.holder_identity = None;
                candidate.leases.replace(&candidate.name, &PostParams::default(), &lease).await?;
            }
            Ok::<_, kube::Error>(())
        };
        // Without it the others wait for the lease's duration, as after a crash.
        if let Ok(Err(error)) = tokio::time::timeout(LOOK, given).await {
            tracing::debug!("cannot give up the lease: {error}");
        }
        Candidate { seen: None, ..candidate }
    }

    /// Becomes a candidate again, after it was lost.
    pub fn stand_again(self) -> Candidate {
        Candidate { seen: None, ..self.candidate }
    }

    /// Writes annotations of the lease: what became of an uninstallation.
    ///
    /// # Errors
    /// As the API server says.
    pub async fn annotate(&self, annotations: &BTreeMap<String, String>) -> Result<(), kube::Error> {
        let patch = serde_json::json!({"metadata": {"annotations": annotations}});
        let patch = kube::api::Patch::Merge(patch);
        self.candidate.leases.patch(&self.candidate.name, &kube::api::PatchParams::default(), &patch).await.map(drop)
    }
}

enum Renewal {
    Lost(Lost),
    Failed(kube::Error),
}

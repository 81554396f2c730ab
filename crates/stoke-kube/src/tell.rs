//! Tells running roles what has changed for them, through their nodes' agents, at once: the kubelet would bring them the new
//! file a minute later, and nobody would tell them to read it.
//!
//! What has been told is remembered here alone. A new operator tells every role once more: one that has it already changes
//! nothing.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use hyper::Method;
use k8s_openapi::api::core::v1::{ConfigMap, Pod};
use sha2::{Digest as _, Sha256};
use tokio::sync::{Notify, Semaphore};
use tokio::task::JoinSet;

use crate::agents::{AgentError, Agents, Answer};
use crate::render::CONFIG_KEY;

/// Pause before a role that refused a configuration is asked again.
const REFUSED: Duration = Duration::from_secs(15);
/// Pause before one is that could not be asked.
const UNREACHED: Duration = Duration::from_secs(1);
/// Roles that are told at a time, each on a connection of its own: a new operator tells all.
const AT_ONCE: usize = 16;

/// What has been told to whom.
pub struct Teller {
    told: BTreeMap<String, Told>,
    asked: JoinSet<(String, Said, Result<Answer, AgentError>)>,
    turns: Arc<Semaphore>,
    wake: Arc<Notify>,
}

/// One run of a role, and what it was told.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Said {
    container: String,
    config: [u8; 32],
}

struct Told {
    said: Said,
    /// Of which version of the `ConfigMap` it is.
    version: Option<String>,
    answer: State,
}

enum State {
    Asking,
    Taken,
    Refused(String, Instant),
    Unreached(Instant),
}

impl Teller {
    /// One that has told nobody anything.
    pub fn new(wake: Arc<Notify>) -> Self {
        Self { told: BTreeMap::new(), asked: JoinSet::new(), turns: Arc::new(Semaphore::new(AT_ONCE)), wake }
    }

    /// Tells the role in a pod what is in its configuration, if it runs and has not been told. Whether it has what it should
    /// have.
    pub fn tell(&mut self, agents: &Agents, name: &str, pod: &Pod, map: &ConfigMap) -> bool {
        let Some(config) = map.data.as_ref().and_then(|data| data.get(CONFIG_KEY)) else { return true };
        let Some((node, container)) = runs_at(pod) else {
            self.told.remove(name);
            return true;
        };
        let version = &map.metadata.resource_version;
        let known = self.told.get(name).filter(|told| told.version == *version && told.said.container == container);
        if known.is_some_and(|told| matches!(told.answer, State::Taken)) {
            return true;
        }
        let said = Said { container, config: Sha256::digest(config).into() };
        if let Some(told) = self.told.get_mut(name).filter(|told| told.said == said) {
            told.version.clone_from(version);
            match &told.answer {
                State::Taken => return true,
                State::Asking => return false,
                State::Refused(_, at) if at.elapsed() < REFUSED => return true,
                State::Unreached(at) if at.elapsed() < UNREACHED => return false,
                State::Refused(..) | State::Unreached(_) => {}
            }
        }
        let uid = pod.metadata.uid.clone().unwrap_or_default();
        let ask = agents.to_pod(&node, &uid, Method::POST, "/reload", config.as_bytes().to_vec());
        self.told.insert(name.to_owned(), Told { said: said.clone(), version: version.clone(), answer: State::Asking });
        let (name, wake, turns) = (name.to_owned(), self.wake.clone(), self.turns.clone());
        self.asked.spawn(async move {
            let _turn = turns.acquire().await;
            let answer = ask.await;
            wake.notify_one();
            (name, said, answer)
        });
        false
    }

    /// Takes in what roles have answered.
    pub fn collect(&mut self) {
        while let Some(answered) = self.asked.try_join_next() {
            let Ok((name, said, answer)) = answered else { continue };
            let Some(told) = self.told.get_mut(&name).filter(|told| told.said == said) else { continue };
            told.answer = match answer {
                Ok(answer) if answer.status.is_success() => State::Taken,
                Ok(answer) if answer.status == hyper::StatusCode::UNPROCESSABLE_ENTITY => {
                    tracing::warn!(workload = name, "refuses its configuration: {}", answer.text());
                    State::Refused(answer.text(), Instant::now())
                }
                // It has not bound its socket yet, or its agent is being replaced.
                Ok(_) | Err(_) => State::Unreached(Instant::now()),
            };
        }
    }

    /// Why a role refuses what it was told last.
    pub fn refused(&self, name: &str) -> Option<String> {
        match &self.told.get(name)?.answer {
            State::Refused(why, _) => Some(format!("the new configuration was refused: {why}")),
            _ => None,
        }
    }

    /// Forgets those who are gone.
    pub fn keep(&mut self, is_there: impl Fn(&str) -> bool) {
        self.told.retain(|name, _| is_there(name));
    }
}

/// Where a pod's role runs, and which run of it that is.
fn runs_at(pod: &Pod) -> Option<(String, String)> {
    let node = pod.spec.as_ref()?.node_name.clone()?;
    let status = pod.status.as_ref()?.container_statuses.as_ref()?.first()?;
    status.state.as_ref()?.running.as_ref()?;
    Some((node, status.container_id.clone()?))
}

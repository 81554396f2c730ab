//! Brings the definitions of a cluster up to date and waits until their objects can be written.

use std::time::Duration;

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::{Patch, PatchParams};
use kube::{Api, Client, ResourceExt as _};
use serde_json::Value;

use crate::object::contains;

/// How long an API server may take to serve a definition that it has.
const SERVED_WITHIN: Duration = Duration::from_secs(30);
const PAUSE: Duration = Duration::from_millis(100);

/// Why the definitions are not in force.
#[derive(Debug, thiserror::Error)]
pub enum InstallError {
    /// The API server did not take one, or did not answer.
    #[error("cannot write the definition {0}; the operator needs get, create and patch on customresourcedefinitions")]
    Write(String, #[source] kube::Error),
    /// The API server has one and refuses to serve it.
    #[error("the definition {name} is not served: {message}")]
    NotServed {
        /// Its name.
        name: String,
        /// What the API server says.
        message: String,
    },
}

/// Writes those definitions that are not as they are in this program, and waits until each is served. How many were written.
///
/// # Errors
/// With the first one that is refused or not served.
pub async fn install(client: &Client, manager: &str) -> Result<usize, InstallError> {
    let api = Api::<CustomResourceDefinition>::all(client.clone());
    let parameters = PatchParams::apply(manager).force();
    let (mut names, mut writes) = (Vec::new(), 0);
    for (name, definition) in super::all() {
        let there = api.get_opt(&name).await.map_err(|error| InstallError::Write(name.clone(), error))?;
        if there.is_none_or(|there| !is_as_wanted(&there, &definition)) {
            let written = api.patch(&name, &parameters, &Patch::Apply(definition)).await;
            written.map_err(|error| InstallError::Write(name.clone(), error))?;
            writes += 1;
        }
        names.push(name);
    }
    for name in names {
        until_served(&api, name).await?;
    }
    Ok(writes)
}

/// Whether a definition has all that it should have, and versions that have nothing else.
fn is_as_wanted(there: &CustomResourceDefinition, wanted: &Value) -> bool {
    // Both through the same type: it has bounds as floating-point numbers.
    let Ok(wanted) = serde_json::from_value::<CustomResourceDefinition>(wanted.clone()) else { return false };
    let plain = |definition: &CustomResourceDefinition| serde_json::to_value(definition).unwrap_or_default();
    let (there, wanted) = (plain(there), plain(&wanted));
    let versions = |definition: &Value| definition.pointer("/spec/versions").cloned().unwrap_or_default();
    contains(&there, &wanted) && contains(&versions(&wanted), &versions(&there))
}

async fn until_served(api: &Api<CustomResourceDefinition>, name: String) -> Result<(), InstallError> {
    let mut message = "it has no condition Established yet".to_owned();
    let served = tokio::time::timeout(SERVED_WITHIN, async {
        loop {
            let definition = api.get(&name).await.map_err(|error| InstallError::Write(name.clone(), error))?;
            match trouble(&definition) {
                None => return Ok(()),
                Some(found) => message = found,
            }
            tokio::time::sleep(PAUSE).await;
        }
    });
    match served.await {
        Ok(outcome) => outcome,
        Err(_) => Err(InstallError::NotServed { name, message }),
    }
}

/// Why a definition is not served; `None` if it is.
fn trouble(definition: &CustomResourceDefinition) -> Option<String> {
    let conditions = definition.status.iter().filter_map(|status| status.conditions.as_ref()).flatten();
    let said: Vec<_> = conditions.collect();
    let message = |kind: &str, bad: &str| {
        let found = said.iter().find(|condition| condition.type_ == kind && condition.status == bad)?;
        Some(format!("{kind}: {}", found.message.clone().unwrap_or_default()))
    };
    let established = said.iter().any(|condition| condition.type_ == "Established" && condition.status == "True");
    let refused = message("NonStructuralSchema", "True").or_else(|| message("NamesAccepted", "False"));
    refused.or_else(|| (!established).then(|| format!("{} is not established", definition.name_any())))
}

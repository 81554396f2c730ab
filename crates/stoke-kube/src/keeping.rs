//! The installation's keys in a Secret beside the operator: what an export is made of, what an import brings, and what is
//! left if the store's volume is lost. The volume is what counts; the Secret follows it.
//!
//! ```text
//!  volume has an authority ──────────────> Secret        (each time that keys change)
//!  volume has none, Secret is there ─────> volume        (when an operator begins to lead)
//!  Secret says that it was imported ─────> volume        (when an operator begins to lead; then it says so no more)
//! ```

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use kube::api::{ObjectMeta, Patch, PatchParams};
use kube::{Api, Client};
use serde_json::json;
use stoke_host::Folders;
use stoke_host::export::{self, Files};

/// The Secret.
pub(crate) const SECRET: &str = "stokehold-keys";
/// The key in it: all files, by their paths in an export.
const FILES: &str = "files.json";
/// Annotation: somebody brought these.
const IMPORTED: &str = "stokehold.dev/imported";
/// By this label an uninstallation finds it.
const MANAGED: (&str, &str) = ("app.kubernetes.io/managed-by", "stokehold");
const MANAGER: &str = "stokehold-operator";
/// Between two looks at the keys.
const LOOK: Duration = Duration::from_secs(30);
/// An API server takes no larger Secret than 1 MiB, and base64 adds a third.
const MOST: usize = 700 << 10;

/// Files as a Secret.
///
/// # Errors
/// If they are more than fits.
pub(crate) fn encode(files: &Files, imported: bool) -> anyhow::Result<Secret> {
    let texts: BTreeMap<_, _> = files.iter().map(|(path, content)| (path, ByteString(content.clone()))).collect();
    let text = serde_json::to_vec(&texts)?;
    anyhow::ensure!(text.len() <= MOST, "{} KiB of keys do not fit into a Secret", text.len() >> 10);
    let note = imported.then(|| BTreeMap::from([(IMPORTED.to_owned(), "requested".to_owned())]));
    let metadata = ObjectMeta {
        name: Some(SECRET.to_owned()),
        labels: Some(BTreeMap::from([(MANAGED.0.to_owned(), MANAGED.1.to_owned())])),
        annotations: note,
        ..ObjectMeta::default()
    };
    Ok(Secret { metadata, data: Some([(FILES.to_owned(), ByteString(text))].into()), ..Secret::default() })
}

/// The files of a Secret.
///
/// # Errors
/// If it has none that can be read.
pub(crate) fn decode(secret: &Secret) -> anyhow::Result<Files> {
    let text = secret.data.as_ref().and_then(|data| data.get(FILES));
    let text = text.with_context(|| format!("the Secret {SECRET} has no {FILES}"))?;
    let texts: BTreeMap<String, ByteString> =
        serde_json::from_slice(&text.0).with_context(|| format!("{FILES} of the Secret {SECRET} cannot be read"))?;
    Ok(texts.into_iter().map(|(path, content)| (path, content.0)).collect())
}

/// Takes over keys that were imported, or that a lost volume had. Before anything is made with others.
///
/// # Errors
/// If the Secret or the volume cannot be used.
pub(crate) async fn take_over(client: &Client, namespace: &str, folders: &Folders) -> anyhow::Result<()> {
    let secrets = Api::<Secret>::namespaced(client.clone(), namespace);
    let Some(secret) = secrets.get_opt(SECRET).await.with_context(|| format!("cannot read the Secret {SECRET}"))?
    else {
        return Ok(());
    };
    let is_imported = secret.metadata.annotations.as_ref().is_some_and(|notes| notes.contains_key(IMPORTED));
    if is_imported {
        export::replace(folders, &decode(&secret)?)?;
        let done = Patch::Merge(json!({"metadata": {"annotations": {IMPORTED: null}}}));
        secrets.patch(SECRET, &PatchParams::default(), &done).await?;
        tracing::info!("took over the keys that were imported");
    } else if !folders.keys().join("ca.pem").exists() {
        export::restore(folders, &decode(&secret)?)?;
        tracing::warn!("the volume had no keys; took those of the Secret {SECRET}");
    }
    Ok(())
}

/// Keeps the Secret as the volume is.
#[derive(Default)]
pub(crate) struct Keeper {
    kept: Option<Files>,
    looked: Option<Instant>,
}

impl Keeper {
    /// Writes the Secret if keys are others than before. What fails is tried again later.
    pub(crate) async fn keep(&mut self, client: &Client, namespace: &str, folders: &Folders) {
        if self.looked.is_some_and(|at| at.elapsed() < LOOK) {
            return;
        }
        self.looked = Some(Instant::now());
        if let Err(error) = self.write(client, namespace, folders).await {
            tracing::warn!("the Secret {SECRET}, of which exports are made, is not as it should be: {error:#}");
        }
    }

    async fn write(&mut self, client: &Client, namespace: &str, folders: &Folders) -> anyhow::Result<()> {
        let files = export::keys(folders)?;
        if self.kept.as_ref() == Some(&files) {
            return Ok(());
        }
        let secrets = Api::<Secret>::namespaced(client.clone(), namespace);
        let found = secrets.get_opt(SECRET).await?;
        let is_imported =
            |secret: &Secret| secret.metadata.annotations.as_ref().is_some_and(|notes| notes.contains_key(IMPORTED));
        // What waits to be taken over stays until it is.
        if found.as_ref().is_some_and(is_imported) {
            return Ok(());
        }
        if found.and_then(|secret| decode(&secret).ok()).as_ref() != Some(&files) {
            let parameters = PatchParams::apply(MANAGER).force();
            secrets.patch(SECRET, &parameters, &Patch::Apply(encode(&files, false)?)).await?;
        }
        self.kept = Some(files);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_fit_into_a_secret_and_come_out_as_they_were() {
        let files = Files::from([("keys/ca.pem".into(), b"c".into()), ("keys/farms/a.b/x".into(), vec![0, 255])]);
        let secret = encode(&files, true).unwrap();
        assert!(secret.metadata.annotations.as_ref().unwrap().contains_key(IMPORTED));
        assert_eq!(decode(&secret).unwrap(), files);
        let large = Files::from([("keys/x".to_owned(), vec![0; MOST])]);
        assert!(encode(&large, false).unwrap_err().to_string().contains("do not fit"));
        assert!(decode(&Secret::default()).is_err());
    }
}

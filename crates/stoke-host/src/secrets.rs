//! Secrets of nodes: read from files that only their owner may read, and given to the farms that hand them out, over their
//! admin sockets. They are in memory alone, here and there: no configuration file has them.
//!
//! Level, not edge: a farm says which secrets it has, and is given others when those are not the ones that it should have, so
//! that a farm that was started anew has them a moment later.

use std::collections::BTreeMap;
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::Path;
use std::time::Duration;

use fs_err as fs;
use hyper::Method;
use sha2::{Digest as _, Sha256};
use stoke_api::objects::{NodeConfig, SecretRef, SecretSource};
use stoke_api::report::Report;
use stoke_api::trust::{FarmSecrets, Hex, Secrets};
use stoke_api::workload::{FarmConfig, Role, Workload};
use stoke_reconcile::ObservedWorkload;

use crate::http;
use crate::paths::{Folders, WorkloadFiles};

/// Largest secret.
const MOST: u64 = 1 << 20;
/// How long a farm may take to take them over.
const LIMIT: Duration = Duration::from_secs(5);

/// Gives farms the secrets of their nodes.
#[derive(Default)]
pub struct SecretFiles {
    sets: Sets,
    failures: BTreeMap<String, String>,
}

/// Tells sets of secrets apart by names that say nothing of what is in them.
pub struct Sets {
    salt: [u8; 16],
}

impl Default for Sets {
    fn default() -> Self {
        Self { salt: uuid::Uuid::new_v4().into_bytes() }
    }
}

impl Sets {
    /// A set of secrets, by their names, as a farm is given it.
    pub fn of(&self, secrets: BTreeMap<String, Hex>) -> FarmSecrets {
        FarmSecrets { id: self.id(&secrets), secrets: Secrets { secrets } }
    }

    /// Empty for none, which is what a new farm has.
    fn id(&self, secrets: &BTreeMap<String, Hex>) -> String {
        if secrets.is_empty() {
            return String::new();
        }
        let mut hash = Sha256::new_with_prefix(self.salt);
        for (name, content) in secrets {
            for part in [name.as_bytes(), &content.0] {
                hash.update(part.len().to_be_bytes());
                hash.update(part);
            }
        }
        Hex(hash.finalize().to_vec()).to_string()
    }
}

impl SecretFiles {
    /// Why secrets could not be read, by their name.
    pub fn failures(&self) -> &BTreeMap<String, String> {
        &self.failures
    }

    /// Gives every farm that runs the secrets that it should have.
    pub async fn hand_over(
        &mut self,
        wanted: &[Workload],
        observed: &BTreeMap<String, ObservedWorkload>,
        folders: &Folders,
    ) {
        self.failures.clear();
        for workload in wanted {
            let Role::Farm(farm) = &workload.role else { continue };
            let secrets = self.of_farm(farm);
            let name = workload.name();
            let has = match observed.get(&name).filter(|seen| seen.running).and_then(|seen| seen.report.as_ref()) {
                Some(Report::Farm(report)) => &report.secrets,
                _ => continue,
            };
            if *has != secrets.id {
                give(&WorkloadFiles::new(folders, &name), &secrets).await;
            }
        }
    }

    fn of_farm(&mut self, farm: &FarmConfig) -> FarmSecrets {
        let mut secrets = BTreeMap::new();
        let scopes = farm.nodes.iter().flat_map(|node| node.scopes.iter().map(|scope| &scope.config));
        for secret in farm.nodes.iter().map(|node| &node.config).chain(scopes).flat_map(NodeConfig::secrets) {
            let name = secret.to_string();
            if secrets.contains_key(&name) || self.failures.contains_key(&name) {
                continue;
            }
            match read(secret) {
                Ok(content) => drop(secrets.insert(name, Hex(content))),
                Err(failure) => drop(self.failures.insert(name, failure)),
            }
        }
        self.sets.of(secrets)
    }
}

async fn give(files: &WorkloadFiles, secrets: &FarmSecrets) {
    let Ok(body) = serde_json::to_vec(secrets) else { return };
    // A farm that does not answer is asked again in the next round.
    match http::request(&files.socket, Method::POST, "/secrets", body, LIMIT).await {
        Ok(answer) if answer.status.is_success() => {}
        Ok(answer) => tracing::warn!(status = %answer.status, "a farm does not take its secrets: {}", answer.text()),
        Err(error) => tracing::debug!(%error, "a farm does not take its secrets yet"),
    }
}

/// The content, or what is wrong and what to do.
pub(crate) fn read(secret: &SecretRef) -> Result<Vec<u8>, String> {
    match secret.source() {
        Some(SecretSource::File(path)) => read_file(path),
        Some(SecretSource::Secret { .. }) => {
            Err(format!("{secret} is a Secret of Kubernetes; on a single host write {{file: PATH}}"))
        }
        None => Err("the secret names no place".to_owned()),
    }
}

fn read_file(path: &Path) -> Result<Vec<u8>, String> {
    use std::io::Read as _;
    let nonblocking = rustix::fs::OFlags::NONBLOCK.bits().cast_signed();
    // Without waiting: what is no file may never answer.
    let mut options = fs::OpenOptions::new();
    options.read(true).options_mut().custom_flags(nonblocking);
    let file = options.open(path).map_err(|error| error.to_string())?;
    let about = file.metadata().map_err(|error| error.to_string())?;
    let shown = path.display();
    if !about.is_file() {
        return Err(format!("{shown} is no file"));
    }
    if about.mode() & 0o077 != 0 {
        return Err(format!("others than its owner may read the secret {shown}: chmod 0600 {shown}"));
    }
    if about.len() > MOST {
        return Err(format!("the secret {shown} is larger than 1 MiB"));
    }
    let mut content = Vec::new();
    file.take(MOST).read_to_end(&mut content).map_err(|error| error.to_string())?;
    Ok(content)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;

    fn file(folder: &Path, mode: u32) -> SecretRef {
        let path = folder.join(format!("{mode:o}"));
        fs::write(&path, "s3cret").unwrap();
        fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
        SecretRef { file: Some(path), ..SecretRef::default() }
    }

    #[test]
    fn a_secret_that_others_may_read_is_none() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(read(&file(folder.path(), 0o600)), Ok(b"s3cret".to_vec()));
        assert_eq!(read(&file(folder.path(), 0o400)), Ok(b"s3cret".to_vec()));
        for mode in [0o640, 0o604, 0o644] {
            assert!(read(&file(folder.path(), mode)).unwrap_err().contains("chmod 0600"), "{mode:o}");
        }
    }

    #[test]
    fn what_cannot_be_read_says_why() {
        let folder = tempfile::tempdir().unwrap();
        let at = |path: &Path| read(&SecretRef { file: Some(path.to_owned()), ..SecretRef::default() }).unwrap_err();
        assert!(at(&folder.path().join("missing")).contains("missing"));
        assert!(at(folder.path()).contains("is no file"));
        let secret = SecretRef { secret: Some("a".parse().unwrap()), key: Some("b".into()), ..SecretRef::default() };
        assert!(read(&secret).unwrap_err().contains("Kubernetes"));
    }

    #[test]
    fn sets_of_secrets_are_told_apart_and_say_nothing_of_what_they_are() {
        let (files, others) = (Sets::default(), Sets::default());
        let set = |content: &str| BTreeMap::from([("name".to_owned(), Hex(content.into()))]);
        assert_eq!(files.id(&set("a")), files.id(&set("a")));
        assert_ne!(files.id(&set("a")), files.id(&set("b")));
        assert_ne!(files.id(&set("a")), others.id(&set("a")));
        assert_eq!(files.id(&BTreeMap::new()), "");
    }
}

//! Management controllers of servers, spoken to from the operator's pod. What is spoken and when is `stoke-host`'s; here their
//! passwords are read from `Secret`s of the operator's namespace, since servers are the administrator's and have none.
//!
//! Whoever logs in reads a file, as ipmitool wants it: it is in the run folder, which is in memory, for the operator alone, as
//! long as some server names it.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use kube::Client;
use stoke_api::objects::{BmcSpec, SecretRef};
use stoke_host::bmc::Controllers;
use stoke_host::export;
use stoke_host::store::LocalStore;
use stoke_reconcile::{BmcSeen, BmcTask, Occurrence};
use tokio::sync::Notify;

use crate::secrets;

/// How long a password that was read is as it was.
const FRESH: Duration = Duration::from_secs(30);
/// How long one is missing that was.
const MISSING: Duration = Duration::from_secs(5);
/// In the password's `Secret`, the certificates that are believed.
const CERTIFICATES: &str = "ca.crt";

/// A controller as this pod reaches it, or why it cannot log in.
type Opened = Result<BmcSpec, String>;

/// All controllers.
pub(crate) struct Bmcs {
    controllers: Controllers,
    client: Client,
    namespace: String,
    folder: PathBuf,
    /// By server, as it was described, and when that was.
    opened: BTreeMap<String, (Instant, BmcSpec, Opened)>,
}

impl Bmcs {
    /// Goes on from what was done; `wake` is told when there is something new.
    ///
    /// # Errors
    /// If notes or the run folder cannot be used.
    pub(crate) fn open(
        client: Client,
        namespace: &str,
        run: &Path,
        notes: Arc<LocalStore>,
        wake: Arc<Notify>,
    ) -> anyhow::Result<Self> {
        let folder = run.join("bmc");
        if folder.exists() {
            fs_err::remove_dir_all(&folder)?;
        }
        let controllers = Controllers::open(notes, wake)?;
        Ok(Self { controllers, client, namespace: namespace.to_owned(), folder, opened: BTreeMap::new() })
    }

    /// What they said last, by server.
    pub(crate) fn seen(&self) -> &BTreeMap<String, BmcSeen> {
        self.controllers.seen()
    }

    /// Takes in what visits found: before tasks are made of it. What happened.
    ///
    /// # Errors
    /// If it cannot be noted.
    pub(crate) fn collect(&mut self) -> anyhow::Result<Vec<Occurrence>> {
        self.controllers.collect()
    }

    /// Begins the visits that are due.
    ///
    /// # Errors
    /// If it cannot be noted.
    pub(crate) async fn carry_out(&mut self, wanted: &[BmcTask]) -> anyhow::Result<()> {
        let (mut tasks, mut locked) = (Vec::new(), BTreeMap::new());
        for task in wanted {
            let name = task.server.to_string();
            let spec = match self.opened(&name, task).await {
                Ok(spec) => spec,
                Err(why) => {
                    locked.insert(name, why);
                    task.spec.clone()
                }
            };
            tasks.push(BmcTask { spec, ..task.clone() });
        }
        self.forget(&tasks);
        self.controllers.carry_out(&tasks, &locked)
    }

    async fn opened(&mut self, name: &str, task: &BmcTask) -> Opened {
        if let Some((at, spec, opened)) = self.opened.get(name)
            && at.elapsed() < if opened.is_ok() { FRESH } else { MISSING }
            && *spec == task.spec
        {
            return opened.clone();
        }
        let opened = self.read(task).await;
        self.opened.insert(name.to_owned(), (Instant::now(), task.spec.clone(), opened.clone()));
        opened
    }

    async fn read(&self, task: &BmcTask) -> Opened {
        let (server, mut spec) = (&task.server.name, task.spec.clone());
        if let Some(redfish) = &mut spec.redfish {
            if redfish.ca_file.is_some() {
                return Err(format!(
                    "spec.bmc.redfish.caFile is a file of one host; in a cluster the certificates are {CERTIFICATES} in the \
                     Secret of the password"
                ));
            }
            let secret = redfish.password.clone();
            redfish.password = self.password(&secret, &format!("{server}.redfish")).await?;
            if !redfish.insecure {
                redfish.ca_file = self.certificates(&secret, &format!("{server}.pem")).await?;
            }
        }
        if let Some(ipmi) = &mut spec.ipmi {
            ipmi.password = self.password(&ipmi.password, &format!("{server}.ipmi")).await?;
        }
        Ok(spec)
    }

    /// A password as a file.
    async fn password(&self, secret: &SecretRef, file: &str) -> Result<SecretRef, String> {
        let content = secrets::read(&self.client, &self.namespace, secret).await?;
        let file = self.write(file, content)?;
        Ok(SecretRef { file: Some(file), ..SecretRef::default() })
    }

    async fn certificates(&self, secret: &SecretRef, file: &str) -> Result<Option<PathBuf>, String> {
        let found = secrets::beside(&self.client, &self.namespace, secret, CERTIFICATES).await?;
        found.map(|content| self.write(file, content)).transpose()
    }

    fn write(&self, file: &str, content: Vec<u8>) -> Result<PathBuf, String> {
        let path = self.folder.join(file);
        if fs_err::read(&path).is_ok_and(|there| there == content) {
            return Ok(path);
        }
        let written = export::write(&self.folder, &export::Files::from([(file.to_owned(), content)]));
        written.map(|()| path).map_err(|error| error.to_string())
    }

    /// Drops passwords that no server names any more.
    fn forget(&mut self, tasks: &[BmcTask]) {
        let wanted: BTreeSet<_> = tasks.iter().map(|task| task.server.to_string()).collect();
        self.opened.retain(|name, _| wanted.contains(name));
        let files: BTreeSet<_> = tasks.iter().flat_map(|task| files(&task.spec)).collect();
        for entry in std::fs::read_dir(&self.folder).into_iter().flatten().flatten() {
            if !files.contains(&entry.path())
                && let Err(error) = std::fs::remove_file(entry.path())
            {
                tracing::warn!(file = %entry.path().display(), "cannot forget a password: {error}");
            }
        }
    }
}

/// What a description names here.
fn files(spec: &BmcSpec) -> Vec<PathBuf> {
    let redfish = spec.redfish.iter().flat_map(|redfish| [redfish.password.file.clone(), redfish.ca_file.clone()]);
    redfish.chain(spec.ipmi.iter().map(|ipmi| ipmi.password.file.clone())).flatten().collect()
}

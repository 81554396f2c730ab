//! `stoke up`: the loop.
//!
//! ```text
//!        +--> observe processes --> reconcile --> write statuses, make farm parts --> start, tell, end processes --+
//!        |                                                                                                      |
//!        +------------------ a change in the store, a part that is done, or the next tick <---------------------+
//! ```
//!
//! Level-triggered: each round derives everything from what is there. Ctrl-C, SIGTERM and `kill -9` end this process and
//! nothing else.

use std::collections::BTreeMap;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use rustix::fs::{FlockOperation, flock};
use stoke_api::control::Downed;
use stoke_api::objects::AnyObject;
use stoke_api::workload::Role;
use stoke_reconcile::{Desired, Environment, FarmPorts, Observed, reconcile};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{Notify, mpsc, watch};
use tokio_util::sync::CancellationToken;

use crate::authority::Authority;
use crate::bmc::Controllers;
use crate::boot_programs::boot_programs;
use crate::control::{Control, DownRequest, Picture};
use crate::down::end_everything;
use crate::egress::Egress;
use crate::images::Images;
use crate::paths::{Binaries, Folders};
use crate::publisher::{Publisher, RegistryLogin};
use crate::record::now_ms;
use crate::secrets::SecretFiles;
use crate::ssh_reboots::{Login, SshReboots};
use crate::store::{LocalStore, Store, StoreError};
use crate::supervise::{EndedBuild, Supervisor};
use crate::{children, control, keys, secureboot};

/// Pause between two rounds while something is under way.
const BUSY: Duration = Duration::from_millis(200);
/// Pause between two rounds when all is as wanted.
const CALM: Duration = Duration::from_secs(1);
/// How long answers that are under way may take when it ends.
const LAST_ANSWERS: Duration = Duration::from_secs(1);

/// Where an installation is.
#[derive(Clone, Debug)]
pub struct UpOptions {
    /// The state folder.
    pub state: PathBuf,
    /// The run folder.
    pub run: PathBuf,
}

/// Runs the installation until SIGINT or SIGTERM, which leave all workloads running, or until it is asked to end them.
///
/// # Errors
/// If another one runs, or its folders cannot be used.
pub async fn up(options: UpOptions) -> anyhow::Result<()> {
    up_with(options, Binaries::find()?).await
}

/// [`up`](fn@up) with programs of one's own.
///
/// # Errors
/// As [`up`](fn@up).
pub async fn up_with(options: UpOptions, binaries: Binaries) -> anyhow::Result<()> {
    let folders = make_folders(options)?;
    let _lock = lock(&folders)?;
    let (picture, seen) = watch::channel(Arc::new(Picture::default()));
    let (down, down_requests) = mpsc::channel(1);
    let mut host = Host::open(folders.clone(), binaries, picture)?;
    let control = Control { store: host.store.clone(), folders, picture: seen, wake: host.wake.clone(), down };
    host.observe().await;
    let listener = stoke_daemon::bind(&host.folders.control_socket())?;
    let closing = CancellationToken::new();
    let server = axum::serve(listener, control::router(Arc::new(control)));
    let mut server = tokio::spawn(server.with_graceful_shutdown(closing.clone().cancelled_owned()).into_future());
    let request = host.run(down_requests).await;
    let ended = host.finish(request).await;
    // Whoever asked for the end is told so; whoever only watches is cut off.
    closing.cancel();
    if tokio::time::timeout(LAST_ANSWERS, &mut server).await.is_err() {
        server.abort();
    }
    ended
}

/// The objects of an installation whose `stoke up` does not run, and what runs of it all the same; `None` if there is no
/// installation. Changes nothing.
///
/// # Errors
/// If it runs after all, or its folders cannot be used.
pub async fn look(folders: &Folders) -> anyhow::Result<Option<(Arc<LocalStore>, Observed)>> {
    if !folders.store().exists() {
        return Ok(None);
    }
    let state = fs_err::canonicalize(&folders.state)?;
    let run = fs_err::canonicalize(&folders.run).unwrap_or_else(|_| folders.run.clone());
    let folders = Folders { state, run };
    let _lock = lock(&folders)?;
    let (picture, seen) = watch::channel(Arc::new(Picture::default()));
    let mut host = Host::open(folders, Binaries::find()?, picture)?;
    host.observe().await;
    let observed = seen.borrow().observed.clone();
    Ok(Some((host.store.clone(), observed)))
}

fn make_folders(options: UpOptions) -> anyhow::Result<Folders> {
    for folder in [&options.state, &options.run] {
        let mut builder = std::fs::DirBuilder::new();
        let made = builder.recursive(true).mode(0o700).create(folder);
        made.with_context(|| format!("cannot make {}; choose another folder with --state", folder.display()))?;
    }
    // One name for one folder: the installation's links carry a hash of it.
    Ok(Folders { state: fs_err::canonicalize(options.state)?, run: fs_err::canonicalize(options.run)? })
}

/// Takes the installation for this process until the file is closed, which the kernel does at the latest.
pub(crate) fn lock(folders: &Folders) -> anyhow::Result<fs_err::File> {
    let file = fs_err::OpenOptions::new().create(true).truncate(false).write(true).open(folders.state.join("lock"))?;
    let taken = flock(&file, FlockOperation::NonBlockingLockExclusive);
    taken.with_context(|| format!("another stoke uses {}; wait for it or end it", folders.state.display()))?;
    Ok(file)
}

struct Host {
    folders: Folders,
    store: Arc<LocalStore>,
    supervisor: Supervisor,
    egress: Egress,
    images: Images,
    publisher: Publisher,
    ssh_reboots: SshReboots,
    login: Login,
    controllers: Controllers,
    secrets: SecretFiles,
    environment: Environment,
    picture: watch::Sender<Arc<Picture>>,
    wake: Arc<Notify>,
}

impl Host {
    fn open(folders: Folders, binaries: Binaries, picture: watch::Sender<Arc<Picture>>) -> anyhow::Result<Self> {
        let store = Arc::new(
            LocalStore::open(&folders.store()).with_context(|| format!("cannot open {}", folders.store().display()))?,
        );
        let authority = Arc::new(Authority::open(&folders)?);
        let tools = binaries.fingerprint();
        let ssh_public_key = keys::ssh_public_key(&folders)?;
        let image_store = stoke_image::Store::open(folders.images())?;
        let own_keys = folders.image_keys();
        let objects = store.list()?;
        let publisher = Publisher::open(store.clone(), image_store.clone(), RegistryLogin::OfUser)?;
        let images = Images::open(store.clone(), image_store, authority.clone(), tools.clone(), own_keys, &objects)?;
        let environment = Environment {
            installation: folders.installation(),
            state: folders.state.clone(),
            run: folders.run.clone(),
            ports: FarmPorts::default(),
            boot_programs: boot_programs(&folders.boot_programs()),
            ssh_public_key,
            tools,
            ..Environment::default()
        };
        let ssh_reboots = SshReboots::open(store.clone())?;
        let login = Login::new(binaries.stoke.clone(), &folders);
        let wake = Arc::<Notify>::default();
        let controllers = Controllers::open(store.clone(), wake.clone())?;
        let supervisor = Supervisor::adopt(folders.clone(), binaries, authority);
        let egress = Egress::adopt(folders.clone());
        Ok(Self {
            folders,
            store,
            supervisor,
            egress,
            images,
            publisher,
            ssh_reboots,
            login,
            controllers,
            secrets: SecretFiles::default(),
            environment,
            picture,
            wake,
        })
    }

    /// Rounds until it is time to end; then who asked for it, if somebody did.
    async fn run(&mut self, mut down: mpsc::Receiver<DownRequest>) -> anyhow::Result<Option<DownRequest>> {
        let mut interrupt = signal(SignalKind::interrupt())?;
        let mut terminate = signal(SignalKind::terminate())?;
        loop {
            let pause = match self.round().await {
                Ok(true) => BUSY,
                Ok(false) => CALM,
                Err(error) => {
                    tracing::error!("{error:#}");
                    CALM
                }
            };
            tokio::select! {
                () = self.wake.notified() => {}
                () = tokio::time::sleep(pause) => {}
                request = down.recv() => return Ok(request),
                _ = interrupt.recv() => return Ok(None),
                _ = terminate.recv() => return Ok(None),
            }
        }
    }

    async fn finish(self, request: anyhow::Result<Option<DownRequest>>) -> anyhow::Result<()> {
        let Some((down, answer)) = request? else { return Ok(()) };
        let folders = self.folders.clone();
        // The supervisor first: it would start again what is ended now.
        drop(self);
        let downed: Downed = end_everything(&folders, down.purge).await;
        // Who asked may be gone; everything is ended all the same.
        drop(answer.send(downed));
        Ok(())
    }

    /// One round. Whether something is under way.
    async fn round(&mut self) -> anyhow::Result<bool> {
        let ended = self.supervisor.observe().await;
        self.note_builds(ended)?;
        self.images.collect()?;
        self.publisher.collect()?;
        self.store.record_events(self.controllers.collect()?)?;
        let observed = self.observed()?;
        let desired = reconcile(&observed);
        let changed = self.write(&observed.objects, &desired)? | self.write_children(&observed.objects, &desired)?;
        self.images.make(desired.farm_parts, &self.wake);
        self.publisher.publish(desired.publications, &self.wake)?;
        let under_way = self.supervisor.apply(&desired.workloads).await;
        let rebooted = self.ssh_reboots.carry_out(&desired.ssh_reboots, |node| self.login.reboot(node))?;
        self.store.record_events(rebooted)?;
        self.controllers.carry_out(&desired.bmcs, &BTreeMap::new())?;
        self.secrets.hand_over(&desired.workloads, &self.supervisor.observed(), &self.folders).await;
        let wants_out = desired.workloads.iter().any(|w| matches!(&w.role, Role::Node(node) if node.egress));
        self.egress.ensure(wants_out && self.supervisor.has_namespaces());
        self.show(observed);
        let settled = self.store.list()?.iter().all(is_settled);
        Ok(changed || under_way || self.images.is_busy() || self.publisher.is_busy() || !settled)
    }

    /// What is there before the first round: who asks before that must not see an empty host.
    async fn observe(&mut self) {
        let ended = self.supervisor.observe().await;
        let noted = self.note_builds(ended).and_then(|()| self.observed());
        match noted {
            Ok(observed) => self.show(observed),
            Err(error) => tracing::error!("{error:#}"),
        }
    }

    fn note_builds(&mut self, ended: Vec<EndedBuild>) -> anyhow::Result<()> {
        // Without knowing what is used nothing goes.
        let objects = if ended.is_empty() { Vec::new() } else { self.store.list()? };
        self.images.ended(ended, &objects)
    }

    fn observed(&mut self) -> anyhow::Result<Observed> {
        self.environment.now_ms = now_ms();
        let objects = self.store.list()?;
        self.images.look(&objects);
        self.environment.images.clone_from(self.images.known());
        self.environment.signed.clone_from(self.images.signed());
        self.environment.farm_parts.clone_from(self.images.parts());
        self.environment.farm_part_failures = self.images.failures();
        self.environment.publications = self.publisher.seen();
        self.environment.secret_failures.clone_from(self.secrets.failures());
        self.environment.bmcs.clone_from(self.controllers.seen());
        self.environment.farm_keys = secureboot::farm_keys(&self.folders.state, &objects);
        Ok(Observed { objects, workloads: self.supervisor.observed(), environment: self.environment.clone() })
    }

    /// Shows what is there now: the workloads as they are after the round.
    fn show(&self, observed: Observed) {
        let picture = Picture {
            observed: Observed { workloads: self.supervisor.observed(), ..observed },
            workloads: self.supervisor.infos(),
            has_namespaces: self.supervisor.has_namespaces(),
        };
        self.picture.send_replace(Arc::new(picture));
    }

    /// Makes, changes and deletes objects that others want.
    fn write_children(&self, objects: &[AnyObject], desired: &Desired) -> anyhow::Result<bool> {
        let mut changed = false;
        for write in children::writes(&desired.objects, objects) {
            match self.store.write(vec![write]) {
                Ok(_) | Err(StoreError::Conflict(_) | StoreError::NotFound(_)) => changed = true,
                Err(error) => return Err(error.into()),
            }
        }
        Ok(changed)
    }

    /// Writes what is new. An object that was changed in the meantime is looked at again in the next round.
    fn write(&self, objects: &[AnyObject], desired: &Desired) -> anyhow::Result<bool> {
        let mut changed = false;
        for (reference, status) in &desired.statuses {
            let Some(object) = objects.iter().find(|object| object.reference() == *reference) else { continue };
            if !status.clone().write_into(&mut object.clone()) {
                continue;
            }
            let version = object.metadata().resource_version.as_deref().unwrap_or_default();
            match self.store.write_status(reference, version, status.clone()) {
                Ok(written) => changed |= written,
                Err(StoreError::Conflict(_) | StoreError::NotFound(_)) => {
                    changed = true;
                }
                Err(error) => return Err(error.into()),
            }
        }
        let exists = |object: &&stoke_reconcile::Occurrence| objects.iter().any(|o| o.reference() == object.object);
        self.store.record_events(desired.events.iter().filter(exists).cloned().collect())?;
        Ok(changed)
    }
}

/// Whether an object is where it stays: ready, or not for a reason that only people can change.
fn is_settled(object: &AnyObject) -> bool {
    let ready = object.conditions().iter().find(|condition| condition.kind == "Ready");
    let rests =
        ["Invalid", "Stopped", "PoweredOff", "BuildFailed", "NotHeardOf", "Building", "Booting", "MachinesNotReady"];
    ready.is_some_and(|ready| ready.status == stoke_api::meta::Truth::True || rests.contains(&ready.reason.as_str()))
}

/// [`crate::down::down`], here because it is what ends an `up`.
///
/// # Errors
/// If a `stoke up` runs and does not answer.
pub async fn down(state: &Path, run: &Path, purge: bool) -> anyhow::Result<Downed> {
    crate::down::down(&Folders { state: state.to_owned(), run: run.to_owned() }, purge).await
}

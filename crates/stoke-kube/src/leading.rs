//! What a leader does: rounds.

mod builds;
mod farms;
mod herald;
mod known;
mod laps;
mod objects;
mod removal;
mod workloads;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use k8s_openapi::api::core::v1::Namespace;
use kube::ResourceExt as _;
use kube::api::Api;
use rustls::ClientConfig;
use stoke_api::meta::Truth;
use stoke_api::workload::{Role, Workload};
use stoke_api::{AnyObject, Kind};
use stoke_host::authority::Authority;
use stoke_host::boot_programs::boot_programs;
use stoke_host::images::Images;
use stoke_host::paths::Folders;
use stoke_host::publisher::{Publisher, RegistryLogin};
use stoke_host::ssh_reboots::SshReboots;
use stoke_host::store::{LocalStore, Store as _};
use stoke_host::{keys, secureboot};
use stoke_reconcile::{
    Desired, Environment, FarmPorts, Layout, Observed, ObservedWorkload, Occurrence, RegistryPlaces, reconcile,
};
use tokio::sync::Notify;

use self::herald::Herald;
pub(crate) use self::known::NodeBasis;
use self::known::{Basis, Read};
use self::laps::Laps;
pub use self::objects::FINALIZER;
use crate::agents::Agents;
use crate::apply::Applier;
use crate::bmc::Bmcs;
use crate::claims::ClaimKeeper;
use crate::drain::Drains;
use crate::join::{Joins, Others};
use crate::keeping::{self, Keeper};
use crate::leases::Copies;
use crate::nodes;
use crate::object::Unreadable;
use crate::observe::AgentSeen;
use crate::offers;
use crate::operator::{Operator, Uninstall};
use crate::secrets::FarmSecrets;
use crate::services::{self, Services};
use crate::ssh::Login;
use crate::store::KubeStore;
use crate::tell::Teller;
use crate::watched::Watched;

/// Pause between two rounds while something is under way.
const BUSY: Duration = Duration::from_millis(250);
/// Pause between two rounds when all is as wanted.
const CALM: Duration = Duration::from_secs(2);
/// The least time from the beginning of one round to that of the next: what changes at once is looked at once.
const LEAST: Duration = Duration::from_millis(100);
/// How long a new leader waits for node agents.
const HEARING: Duration = Duration::from_secs(5);

/// The operator that leads.
pub struct Leader<'a> {
    operator: &'a Operator,
    folders: Folders,
    store: Arc<KubeStore>,
    watched: Watched,
    agents: Agents,
    applier: Applier,
    teller: Teller,
    secrets: FarmSecrets,
    joins: Joins,
    drains: Drains,
    others: Others,
    keeper: Keeper,
    services: Services,
    copies: Copies,
    claims: ClaimKeeper,
    bmcs: Bmcs,
    ssh_reboots: SshReboots,
    login: Login,
    authority: Arc<Authority>,
    images: Images,
    publisher: Publisher,
    environment: Environment,
    /// The workload that lays LANs, as it was wanted last: no pod, so nothing in the cluster remembers it.
    lans: Option<Workload>,
    /// Names of farms' `Secret`s that hold what they should.
    certified: BTreeSet<String>,
    /// What was read in `ConfigMap`s.
    read: Read,
    /// Machines of which nothing was to be done.
    rests: BTreeMap<String, Basis>,
    /// Of what nodes' configurations were made last.
    told: Option<NodeBasis>,
    /// Tells people what happens.
    herald: Herald,
    /// The farms' workloads when it was last looked for certificates that nobody needs.
    farms: Option<BTreeSet<String>>,
    wake: Arc<Notify>,
}

impl<'a> Leader<'a> {
    /// Takes over what there is.
    ///
    /// # Errors
    /// If the store's volume or the API server cannot be read.
    pub async fn begin(operator: &'a Operator, tls: Arc<ClientConfig>) -> anyhow::Result<Self> {
        let Operator { settings, client, .. } = operator;
        let installation = installation(client, &settings.namespace).await?;
        let (store, wake) = (operator.store.clone(), operator.wake.clone());
        let watched = Watched::begin(client, settings, &installation, &wake);
        watched.filled().await?;
        operator.claims.filled().await?;
        let objects = store.list()?;
        let folders = Folders { state: settings.state.clone(), run: settings.run.clone() };
        make_folders(&folders)?;
        keeping::take_over(client, &settings.namespace, &folders).await?;
        let authority = Arc::new(Authority::open(&folders)?);
        // Another builder may build something else out of the same recipe.
        let tools = format!("{} {}", env!("CARGO_PKG_VERSION"), settings.images.builder);
        let notes =
            Arc::new(LocalStore::open(&folders.store()).context("cannot open the notes on the store's volume")?);
        let image_store = stoke_image::Store::open(folders.images())?;
        let bmcs = Bmcs::open(client.clone(), &settings.namespace, &folders.run, notes.clone(), wake.clone())?;
        let ssh_reboots = SshReboots::open(notes.clone())?;
        let login = Login::new(client.clone(), &settings.namespace, folders.ssh_key(), &folders.run);
        let registries = RegistryLogin::Folder(settings.registries.folder.clone());
        let publisher = Publisher::open(notes.clone(), image_store.clone(), registries)?;
        let images =
            Images::open(notes, image_store, authority.clone(), tools.clone(), folders.image_keys(), &objects)?;
        let claims = ClaimKeeper::new(operator.claims.clone(), &installation);
        let drains = Drains::new(client.clone(), &installation);
        let joins =
            Joins::open(client.clone(), &installation).await.context("cannot look for tokens of joining nodes")?;
        let others = Others::new(client.clone(), &installation);
        let environment = Environment {
            installation,
            layout: Layout::Pods,
            state: settings.state.clone(),
            run: settings.run.clone(),
            ports: FarmPorts::default(),
            boot_programs: boot_programs(&folders.boot_programs()),
            ssh_public_key: keys::ssh_public_key(&folders)?,
            tools,
            registries: RegistryPlaces::These(settings.registries.allowed.clone()),
            ..Environment::default()
        };
        let herald = Herald::begin(store.clone());
        Ok(Self {
            operator,
            store,
            agents: Agents::new(tls, wake.clone()),
            applier: Applier::new(client.clone()),
            teller: Teller::new(wake.clone()),
            secrets: FarmSecrets::new(client.clone()),
            joins,
            drains,
            others,
            keeper: Keeper::default(),
            services: Services::new(client.clone()),
            copies: Copies::new(client.clone(), &settings.namespace),
            claims,
            bmcs,
            ssh_reboots,
            login,
            folders,
            watched,
            authority,
            images,
            publisher,
            environment,
            lans: None,
            certified: BTreeSet::new(),
            read: Read::default(),
            rests: BTreeMap::new(),
            told: None,
            herald,
            farms: None,
            wake,
        })
    }

    /// Rounds without end; or until everything is removed, if that is asked for.
    ///
    /// # Errors
    /// Never by what a round runs into: that is in the log, and the next round tries again.
    pub async fn rounds(&mut self, uninstall: &Uninstall) -> anyhow::Result<()> {
        let metrics = &self.operator.metrics.clone();
        self.hear_agents().await;
        loop {
            if uninstall.is_asked() {
                return self.remove_all(uninstall).await;
            }
            let began = Instant::now();
            let pause = match self.round().await {
                Ok(true) => BUSY,
                Ok(false) => CALM,
                Err(error) => {
                    tracing::error!("{error:#}");
                    metrics.failed_rounds.inc();
                    CALM
                }
            };
            metrics.rounds.inc();
            metrics.round_seconds.observe(began.elapsed().as_secs_f64());
            tokio::time::sleep(LEAST.saturating_sub(began.elapsed())).await;
            tokio::select! {
                () = self.wake.notified() => {}
                () = tokio::time::sleep(pause) => {}
            }
        }
    }

    /// Waits for what the node agents say, and finds out which LANs there are: who takes over must not take for gone what
    /// it has not heard of yet.
    async fn hear_agents(&mut self) {
        self.agents.set(&nodes::agents(&self.watched.agents.state(), self.operator.settings.agent.port));
        let heard = |seen: &AgentSeen| seen.report.is_some() || seen.failure.is_some();
        let began = Instant::now();
        while !self.agents.seen().values().all(heard) && began.elapsed() < HEARING {
            tokio::time::sleep(LEAST).await;
        }
        let objects = self.store.list().unwrap_or_default();
        let observed = self.observed(objects, BTreeMap::new());
        self.lans = lans_of(&reconcile(&observed));
    }

    /// One round. Whether something is under way.
    ///
    /// # Errors
    /// If what is on the store's volume cannot be read or written.
    pub async fn round(&mut self) -> anyhow::Result<bool> {
        let mut laps = Laps::begin();
        let objects = self.store.list()?;
        let (leaving, objects): (Vec<_>, Vec<_>) =
            objects.into_iter().partition(|object| object.metadata().deletion_timestamp.is_some());
        self.agents.set(&nodes::agents(&self.watched.agents.state(), self.operator.settings.agent.port));
        self.teller.collect();
        let agents = self.agents.seen();
        let seen = self.seen(&objects);
        let workloads = self.workloads(&seen, &agents);
        laps.end("look");
        self.note_builds(&seen, &objects)?;
        self.images.collect()?;
        self.publisher.collect()?;
        let mut events = self.bmcs.collect()?;
        self.environment.cluster = self.joins.cluster().await;
        self.environment.other_clusters = self.others.clusters(&objects).await;
        self.environment.overlay_mtu = offers::overlay_mtu(&agents);
        let mut observed = self.observed(objects, workloads);
        let mut desired = reconcile(&observed);
        laps.end("reconcile");
        let claims_left = self.claim(&mut observed, &mut desired).await;
        laps.end("claims");
        events.extend(self.switch(&desired).await?);
        desired.events.append(&mut events);
        let mut busy = claims_left | self.write(&observed, &desired).await;
        laps.end("statuses");
        self.images.make(std::mem::take(&mut desired.farm_parts), &self.wake);
        self.publisher.publish(std::mem::take(&mut desired.publications), &self.wake)?;
        let facts = self.facts(&agents);
        let (steps, later) = self.plan(&observed, &desired.workloads, &facts, seen.clone());
        laps.end("plan");
        self.certify(&desired.workloads, &seen).await;
        self.drop_certificates(&seen, &desired.workloads).await;
        self.keep_leases(&observed, &desired).await;
        self.keeper.keep(&self.operator.client, &self.operator.settings.namespace, &self.folders).await;
        busy |= self.applier.apply(steps, &later).await;
        busy |= self.expose(&observed.objects, &desired.workloads).await;
        laps.end("apply");
        self.count(&desired, &agents);
        self.configure_nodes(&observed, &desired, &agents);
        self.label_nodes(&agents).await;
        laps.end("nodes");
        busy |= self.tell(&desired.workloads, &seen);
        laps.end("tell");
        let pods: BTreeMap<_, _> =
            seen.iter().filter_map(|(name, seen)| Some((name.clone(), seen.pod.clone()?))).collect();
        let (nodes, requests) = (self.watched.nodes.state(), self.watched.requests.state());
        let known = self.store.unreadable().is_empty();
        busy |= self.drains.round(&desired.cluster_nodes, &nodes, known).await;
        let mut made = self.joins.round(&desired.joins, &nodes, &requests).await;
        made.extend(self.others.round(&desired.joins).await);
        self.secrets.hand_over(&desired.workloads, &observed.workloads, &pods, &self.agents, &made).await;
        busy |= self.let_go(&leaving, &seen).await;
        self.hold_on(&observed.objects, &seen).await;
        laps.end("rest");
        tracing::debug!("a round took {laps}");
        Ok(busy || self.images.is_busy() || self.publisher.is_busy() || !observed.objects.iter().all(is_settled))
    }

    /// Has Services lead to machines. Whether there was anything to do.
    async fn expose(&mut self, objects: &[AnyObject], workloads: &[Workload]) -> bool {
        let pods = self.watched.pods.state();
        let wanted = services::wanted(&self.environment.installation, objects, workloads, &pods);
        self.services.keep(&wanted, &self.watched.services).await
    }

    /// Has the store keep what only one may have. What was decided without knowing of a claim is decided again. Whether there is
    /// more to do.
    async fn claim(&mut self, observed: &mut Observed, desired: &mut Desired) -> bool {
        let kept = self.claims.keep(&desired.claims, &self.store).await;
        self.operator.metrics.writes.inc_by(kept.writes);
        if kept.learned {
            observed.environment.claims = self.operator.claims.held();
            *desired = reconcile(observed);
        }
        kept.busy || kept.learned
    }

    /// Has servers switched and rebooted. What happened to them.
    async fn switch(&mut self, desired: &Desired) -> anyhow::Result<Vec<Occurrence>> {
        self.bmcs.carry_out(&desired.bmcs).await?;
        let login = &self.login;
        self.ssh_reboots.carry_out(&desired.ssh_reboots, |node| login.clone().reboot(node.clone()))
    }

    /// Keeps copies of leases. Those of LANs that are gone go, if all objects could be read.
    async fn keep_leases(&mut self, observed: &Observed, desired: &Desired) {
        let lans = || observed.objects.iter().map(AnyObject::reference).filter(|object| object.kind == Kind::Lan);
        let lans = self.store.unreadable().is_empty().then(|| lans().collect());
        let writes = self.copies.keep(&desired.workloads, &observed.workloads, lans.as_ref()).await;
        self.operator.metrics.writes.inc_by(writes);
    }

    fn observed(&mut self, objects: Vec<AnyObject>, workloads: BTreeMap<String, ObservedWorkload>) -> Observed {
        self.environment.now_ms = now_ms();
        self.environment.namespaces = nodes::labels(&self.watched.namespaces.state());
        self.images.look(&objects);
        self.environment.images.clone_from(self.images.known());
        self.environment.signed.clone_from(self.images.signed());
        self.environment.farm_parts.clone_from(self.images.parts());
        self.environment.farm_part_failures = self.images.failures();
        self.environment.publications = self.publisher.seen();
        self.environment.secret_failures.clone_from(self.secrets.failures());
        self.environment.secret_failures.extend(self.joins.failures());
        self.environment.cluster_nodes = self.drains.seen(&objects, &self.watched.nodes.state());
        self.environment.services.clone_from(self.services.state());
        self.environment.secret_failures.extend(self.others.failures());
        self.environment.bmcs.clone_from(self.bmcs.seen());
        self.environment.claims = self.operator.claims.held();
        self.environment.unreadable = self.store.unreadable().iter().filter_map(Unreadable::reference).collect();
        self.environment.farm_keys = secureboot::farm_keys(&self.folders.state, &objects);
        Observed { objects, workloads, environment: self.environment.clone() }
    }

    /// Says on nodes which devices they have, to whoever chooses nodes by that.
    async fn label_nodes(&mut self, agents: &BTreeMap<String, AgentSeen>) {
        let Operator { settings, client, .. } = self.operator;
        if settings.agent.node_labels {
            self.applier.writes += offers::label_nodes(client, &self.watched.nodes.state(), agents).await;
        }
    }

    fn count(&mut self, desired: &Desired, agents: &BTreeMap<String, AgentSeen>) {
        let metrics = &self.operator.metrics;
        metrics.writes.inc_by(std::mem::take(&mut self.applier.writes) + std::mem::take(&mut self.services.writes));
        for role in ["router", "farm", "vm", "build"] {
            let count = desired.workloads.iter().filter(|workload| workload.role.word() == role).count();
            let label = crate::metrics::RoleLabel { role: role.to_owned() };
            metrics.workloads.get_or_create(&label).set(i64::try_from(count).unwrap_or(i64::MAX));
        }
        let silent = agents.values().filter(|agent| agent.failure.is_some() || agent.report.is_none()).count();
        metrics.silent_agents.set(i64::try_from(silent).unwrap_or(i64::MAX));
        metrics.agents.set(i64::try_from(agents.len() - silent).unwrap_or(i64::MAX));
    }
}

/// The workload that lays LANs.
fn lans_of(desired: &Desired) -> Option<Workload> {
    desired.workloads.iter().find(|workload| matches!(workload.role, Role::Node(_))).cloned()
}

/// Ties what is ours in a cluster together: eight hexadecimal digits of the cluster and of the namespace.
async fn installation(client: &kube::Client, namespace: &str) -> anyhow::Result<String> {
    let system = Api::<Namespace>::all(client.clone()).get("kube-system").await;
    let uid = system.context("cannot read the namespace kube-system, whose uid names the cluster")?.uid();
    let name = format!("kubernetes {} {namespace}", uid.unwrap_or_default());
    Ok(stoke_reconcile::names::installation(Path::new(&name)))
}

fn make_folders(folders: &Folders) -> anyhow::Result<()> {
    for folder in [folders.state.clone(), folders.state.join("builds"), folders.boot_programs(), folders.images()] {
        fs_err::create_dir_all(&folder).context("cannot use the store's volume")?;
    }
    Ok(())
}

fn now_ms() -> u64 {
    u64::try_from(jiff::Timestamp::now().as_millisecond()).unwrap_or_default()
}

/// Whether an object is where it stays: ready, or not for a reason that only people can change.
fn is_settled(object: &AnyObject) -> bool {
    let ready = object.conditions().iter().find(|condition| condition.kind == "Ready");
    let rests = ["Invalid", "Stopped", "PoweredOff", "BuildFailed", "NotHeardOf", "Building", "Booting"];
    ready.is_some_and(|ready| ready.status == Truth::True || rests.contains(&ready.reason.as_str()))
}

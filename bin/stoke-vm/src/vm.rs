//! The role: a configuration in, a report out, and [`crate::machine`] in between.

use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context as _, ensure};
use axum::Router;
use axum::routing::get;
use prometheus_client::registry::Registry;
use stoke_api::report::{Report, VmReport};
use stoke_api::workload::VmConfig;
use stoke_daemon::{Launch, Role};
use stoke_vmm::spec::VmFiles;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::console::Console;
use crate::log::ConsoleLog;
use crate::machine::Machine;
use crate::metrics::Metrics;

/// What the machine's owner last said of it.
pub(crate) type SharedReport = Arc<Mutex<VmReport>>;

/// The role.
pub(crate) struct Vm {
    config: watch::Sender<VmConfig>,
    report: SharedReport,
    log: ConsoleLog,
    metrics: Registry,
    owner: Mutex<Option<JoinHandle<()>>>,
}

/// Runs the role. When it is told to stop, the guest is shut down before this returns.
pub(crate) async fn run(launch: Launch, stdio: bool) -> anyhow::Result<()> {
    let mut started = None;
    let served = stoke_daemon::run::<Vm, _>(launch, |config, shutdown| {
        let vm = Vm::start(config, shutdown, stdio);
        started = vm.as_ref().ok().map(Arc::clone);
        async { vm }
    })
    .await;
    let owner = started.and_then(|vm| vm.owner.lock().unwrap_or_else(PoisonError::into_inner).take());
    if let Some(owner) = owner {
        owner.await.context("the machine's owner failed")?;
    }
    served
}

impl Vm {
    fn start(config: VmConfig, shutdown: CancellationToken, stdio: bool) -> anyhow::Result<Arc<Self>> {
        fs_err::create_dir_all(&config.state)?;
        fs_err::create_dir_all(&config.run)?;
        let files = VmFiles::new(&config.state, &config.run);
        let log = ConsoleLog::new(files.console_log());
        let console = Console::serve(&files, log.clone(), stdio)?;
        let report = SharedReport::default();
        let (sender, receiver) = watch::channel(config);
        let metrics = Metrics::default();
        let registry = metrics.registry();
        let machine = Machine::new(receiver, files, console, Arc::clone(&report), shutdown, metrics)?;
        let owner = Mutex::new(Some(tokio::spawn(machine.run())));
        Ok(Arc::new(Self { config: sender, report, log, metrics: registry, owner }))
    }

    fn report(&self) -> VmReport {
        self.report.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Role for Vm {
    type Config = VmConfig;
    const NAME: &'static str = "vm";

    fn report(&self) -> Report {
        Report::Vm(self.report())
    }

    fn ready(&self) -> bool {
        self.report().failure.is_none()
    }

    async fn reload(&self, config: VmConfig) -> anyhow::Result<()> {
        let current = self.config.borrow().clone();
        let identity = |config: &VmConfig| (config.machine.clone(), config.uuid.clone(), config.state.clone());
        ensure!(
            identity(&current) == identity(&config) && current.run == config.run,
            "another machine or other folders need another process, not a reload"
        );
        self.config.send_replace(config);
        Ok(())
    }

    fn metrics(&self) -> Option<&Registry> {
        Some(&self.metrics)
    }

    fn routes(self: Arc<Self>) -> Router {
        Router::new().route("/console-log", get(async move || self.log.tail()))
    }
}

//! The one task that owns the machine's state.
//!
//! ```text
//!                 wanted                 QEMU answers
//!   +--> Off ----------------> (start) ----------------> Running <---------------+
//!   |     ^                   /   |                      |  |  |                 | the guest came
//!   |     |      pause over  /    | cannot be started    |  |  | reboot asked    | back by itself
//!   |     |                 /     v                      |  |  +--> Stopping ----+
//!   |     +------------- Failed <------------------------+  |       {Restart} ---> (start)
//!   |    no longer              it ended by itself,         |                 it ended
//!   |    wanted                 and should not have         | not wanted
//!   |                                                       v
//!   +------------------------------------------------- Stopping {Off}
//!                           it ended
//! ```
//!
//! Level, not edge: after everything that happens, [`Machine::approach`] compares what is with what is wanted and takes
//! one step. A start tries to adopt first, so a machine that runs is never started twice, whoever started it.

mod describe;
mod events;
mod stopping;

use std::time::Duration;

use stoke_api::objects::{Power, RunStrategy};
use stoke_api::workload::{FirmwareKind, VmConfig};
use stoke_vmm::qmp::Event;
use stoke_vmm::spec::VmFiles;
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

use crate::console::Console;
use crate::hypervisor::{Happening, Hypervisor};
use crate::metrics::Metrics;
use crate::record::Memory;
use crate::vm::SharedReport;
use stopping::{Goal, Stage};

/// First and longest pause before a machine that ended is started again; doubled each time.
const BACK_OFF: (Duration, Duration) = (Duration::from_millis(500), Duration::from_mins(1));

/// A machine that ran this long is no failure of its start.
const STABLE: Duration = Duration::from_mins(1);

/// How long firmware that found nothing to boot from is left alone before it is made to try again.
const TRY_AGAIN: Duration = Duration::from_secs(3);

/// The machine's state.
#[derive(Debug)]
enum State {
    /// There is no QEMU.
    Off,
    /// QEMU runs, and should.
    Running(Hypervisor),
    /// QEMU runs, and is on its way out.
    Stopping(Hypervisor, Goal, Stage),
    /// There is no QEMU, and there should be.
    Failed { retry_at: Instant },
}

/// The owner of a machine.
pub(crate) struct Machine {
    config: watch::Receiver<VmConfig>,
    files: VmFiles,
    console: Console,
    report: SharedReport,
    shutdown: CancellationToken,
    memory: Memory,
    state: State,
    /// QEMU's word for the guest's state.
    status: String,
    failure: Option<String>,
    failures: u32,
    last_words: Option<Event>,
    boot_retry: BootRetry,
    metrics: Metrics,
}

/// What is done about firmware that found nothing to boot from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum BootRetry {
    /// It did not say so.
    None,
    /// It is reset at this moment.
    At(Instant),
    /// It tries again by itself.
    ByItself,
}

impl Machine {
    /// The owner of a machine whose state is not known yet.
    ///
    /// # Errors
    /// If what is remembered of it cannot be read.
    pub(crate) fn new(
        config: watch::Receiver<VmConfig>,
        files: VmFiles,
        console: Console,
        report: SharedReport,
        shutdown: CancellationToken,
        metrics: Metrics,
    ) -> anyhow::Result<Self> {
        let mut memory = Memory::open(&files.record())?;
        if !memory.existed() {
            // A machine that never ran has nothing to reboot.
            let requested = config.borrow().reboots_requested;
            memory.change(|record| record.reboots = requested)?;
        }
        let (state, status) = (State::Off, "shutdown".to_owned());
        Ok(Self {
            config,
            files,
            console,
            report,
            shutdown,
            memory,
            state,
            status,
            failure: None,
            failures: 0,
            last_words: None,
            boot_retry: BootRetry::None,
            metrics,
        })
    }

    /// Owns the machine until it is off and this process is told to stop.
    pub(crate) async fn run(mut self) {
        self.adopt().await;
        loop {
            while self.approach().await {
                self.publish();
            }
            self.publish();
            if self.shutdown.is_cancelled() && matches!(self.state, State::Off) {
                return;
            }
            self.wait().await;
        }
    }

    async fn adopt(&mut self) {
        let config = self.config.borrow().clone();
        match Hypervisor::adopt(&config, &self.files, &self.memory).await {
            Ok(None) => {}
            Ok(Some(hypervisor)) => self.run_with(hypervisor, true).await,
            Err(error) => self.fail(&error),
        }
    }

    fn wanted(&self) -> bool {
        let config = self.config.borrow();
        let strategy = match config.run_strategy {
            RunStrategy::Always => true,
            RunStrategy::Once | RunStrategy::Manual => !self.memory.record().ended,
            RunStrategy::RerunOnFailure => !self.memory.record().ended || self.memory.record().failed,
            RunStrategy::Halted => false,
        };
        strategy && config.power == Power::On && !self.shutdown.is_cancelled()
    }

    fn reboot_wanted(&self) -> bool {
        self.config.borrow().reboots_requested > self.memory.record().reboots
    }

    /// One step towards what is wanted; says whether there may be another one.
    async fn approach(&mut self) -> bool {
        if self.config.borrow().power == Power::Off {
            // Switched off on purpose: when it is switched on again, it is a new run.
            self.remember(|record| record.ended = false);
        }
        let (wanted, reboot_wanted) = (self.wanted(), self.reboot_wanted());
        match &mut self.state {
            State::Off if wanted => {
                self.start().await;
                true
            }
            State::Failed { .. } if !wanted => {
                // A QEMU that does not answer cannot be asked.
                Hypervisor::put_down(&self.config.borrow().uuid, &self.files);
                self.failure = None;
                self.state = State::Off;
                true
            }
            State::Failed { retry_at } if *retry_at <= Instant::now() => {
                self.start().await;
                true
            }
            State::Running(_) if !wanted => self.stop(Goal::Off).await,
            State::Running(_) if reboot_wanted => self.stop(Goal::Restart).await,
            State::Stopping(_, goal, _) => {
                *goal = if wanted { Goal::Restart } else { Goal::Off };
                false
            }
            State::Off | State::Running(_) | State::Failed { .. } => false,
        }
    }

    async fn start(&mut self) {
        "starting".clone_into(&mut self.status);
        self.publish();
        let config = self.config.borrow().clone();
        match Hypervisor::adopt(&config, &self.files, &self.memory).await {
            Ok(Some(hypervisor)) => return self.run_with(hypervisor, true).await,
            Ok(None) => {}
            Err(error) => return self.fail(&error),
        }
        match Hypervisor::start(&config, &self.files, &mut self.memory).await {
            Ok(hypervisor) => {
                self.metrics.starts.inc();
                // Whoever starts has rebooted.
                self.remember(|record| record.reboots = record.reboots.max(config.reboots_requested));
                self.run_with(hypervisor, false).await;
            }
            Err(error) => self.fail(&error),
        }
    }

    async fn run_with(&mut self, hypervisor: Hypervisor, adopted: bool) {
        self.last_words = None;
        self.boot_retry = BootRetry::None;
        self.failure = None;
        self.status = hypervisor.status().await.unwrap_or_else(|_| "unknown".to_owned());
        self.console.guest_runs(hypervisor.started_with().spec.firmware, adopted);
        self.state = State::Running(hypervisor);
    }

    fn fail(&mut self, error: &anyhow::Error) {
        let pause = BACK_OFF.0.saturating_mul(1 << self.failures.min(10)).min(BACK_OFF.1);
        self.failures += 1;
        self.metrics.failures.inc();
        let failure = format!("{error:#}");
        tracing::warn!(failure, next_try_in_ms = pause.as_millis(), "the machine does not run");
        self.failure = Some(failure);
        "shutdown".clone_into(&mut self.status);
        self.state = State::Failed { retry_at: Instant::now() + pause };
    }

    /// Waits until something may have to be done.
    async fn wait(&mut self) {
        let stopping = self.shutdown.is_cancelled();
        let due = self.due();
        let happening = tokio::select! {
            happening = happening(&mut self.state) => Some(happening),
            // The sender lives as long as the admin socket, and then shutdown comes.
            Ok(()) = self.config.changed() => {
                // What failed may succeed with another configuration.
                self.failures = 0;
                if let State::Failed { retry_at } = &mut self.state {
                    *retry_at = Instant::now();
                }
                None
            }
            () = self.shutdown.cancelled(), if !stopping => None,
            Some(()) = self.console.nothing_to_boot.recv() => {
                self.found_nothing_to_boot();
                None
            }
            () = sleep_until(due.unwrap_or_else(Instant::now)), if due.is_some() => None,
        };
        match happening {
            Some(Happening::Event(event)) => self.heard(event).await,
            Some(Happening::Reconnected) => self.refresh_status().await,
            Some(Happening::Ended(status)) => self.ended(status),
            None => self.when_due().await,
        }
    }

    /// When something has to be done even if nothing happens.
    fn due(&self) -> Option<Instant> {
        match &self.state {
            State::Off => None,
            State::Running(_) => match self.boot_retry {
                BootRetry::At(retry_at) => Some(retry_at),
                BootRetry::None | BootRetry::ByItself => None,
            },
            State::Failed { retry_at } => Some(*retry_at),
            State::Stopping(_, _, stage) => Some(stage.due()),
        }
    }

    fn found_nothing_to_boot(&mut self) {
        if let State::Running(hypervisor) = &self.state {
            tracing::warn!("the firmware found nothing to boot from");
            self.boot_retry = match hypervisor.started_with().spec.firmware {
                FirmwareKind::Bios => BootRetry::ByItself,
                FirmwareKind::Uefi => BootRetry::At(Instant::now() + TRY_AGAIN),
            };
        }
    }

    async fn when_due(&mut self) {
        let now = Instant::now();
        if let (State::Running(hypervisor), BootRetry::At(retry_at)) = (&self.state, self.boot_retry)
            && retry_at <= now
        {
            self.boot_retry = BootRetry::ByItself;
            if let Err(error) = hypervisor.command("system_reset").await {
                tracing::warn!(error = format!("{error:#}"), "cannot reset the guest");
            }
        }
        if let State::Stopping(hypervisor, goal, stage) = &mut self.state {
            stage.go_on(hypervisor, *goal, now).await;
        }
    }

    async fn refresh_status(&mut self) {
        if let State::Running(hypervisor) | State::Stopping(hypervisor, _, _) = &self.state {
            self.status = hypervisor.status().await.unwrap_or_else(|_| "unknown".to_owned());
        }
    }

    fn remember(&mut self, change: impl FnOnce(&mut crate::record::Record)) {
        if let Err(error) = self.memory.change(change) {
            tracing::error!(error = format!("{error:#}"), "cannot write what is to be remembered of the machine");
        }
    }
}

async fn happening(state: &mut State) -> Happening {
    match state {
        State::Running(hypervisor) | State::Stopping(hypervisor, _, _) => hypervisor.next().await,
        State::Off | State::Failed { .. } => std::future::pending().await,
    }
}

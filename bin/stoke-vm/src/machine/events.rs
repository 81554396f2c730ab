//! What a machine did by itself: events of its QEMU, and its end.

use std::process::ExitStatus;
use std::time::{Duration, UNIX_EPOCH};

use anyhow::anyhow;
use stoke_vmm::qmp::Event;

use super::stopping::Goal;
use super::{BootRetry, Machine, STABLE, State};
use crate::hypervisor::Hypervisor;

impl Machine {
    pub(super) async fn heard(&mut self, event: Event) {
        tracing::info!(event = event.name, reason = event.reason(), by_guest = event.by_guest(), "machine");
        match event.name.as_str() {
            "SHUTDOWN" => self.last_words = Some(event),
            "RESET" => self.was_reset().await,
            "STOP" | "RESUME" => self.refresh_status().await,
            _ => {}
        }
    }

    /// A new boot began: by the guest itself, or because it was reset.
    async fn was_reset(&mut self) {
        self.console.guest_reset();
        self.boot_retry = BootRetry::None;
        self.state = match std::mem::replace(&mut self.state, State::Off) {
            State::Running(hypervisor) => State::Running(self.in_a_new_boot(hypervisor)),
            State::Stopping(hypervisor, Goal::Restart, _) => {
                self.count_reboot();
                State::Running(self.in_a_new_boot(hypervisor))
            }
            // It went down in good order, and QEMU is too old to end then by itself, or was told too late.
            State::Stopping(hypervisor, Goal::Off, mut stage) => {
                stage.cut_off(&hypervisor, Goal::Off).await;
                State::Stopping(hypervisor, Goal::Off, stage)
            }
            other @ (State::Off | State::Failed { .. }) => other,
        };
    }

    fn in_a_new_boot(&mut self, mut hypervisor: Hypervisor) -> Hypervisor {
        if let Err(error) = hypervisor.was_reset(&mut self.memory) {
            tracing::error!(error = format!("{error:#}"), "cannot write when the guest was reset");
        }
        hypervisor
    }

    pub(super) fn ended(&mut self, status: Option<ExitStatus>) {
        self.console.guest_ended();
        "shutdown".clone_into(&mut self.status);
        match std::mem::replace(&mut self.state, State::Off) {
            State::Stopping(_, goal, _) => {
                tracing::info!(?goal, "the machine is off");
                if goal == Goal::Restart {
                    self.count_reboot();
                }
            }
            State::Running(hypervisor) => self.ended_by_itself(&hypervisor, status),
            State::Off | State::Failed { .. } => {}
        }
    }

    fn ended_by_itself(&mut self, hypervisor: &Hypervisor, status: Option<ExitStatus>) {
        let words = self.last_words.take();
        if self.wanted() && words.as_ref().is_some_and(|words| words.reason().ends_with("reset")) {
            tracing::info!("the guest reboots with a new QEMU");
            return;
        }
        let asked = words.is_some_and(|words| words.by_guest());
        tracing::info!(asked, ?status, "the machine ended by itself");
        self.remember(|record| (record.ended, record.failed) = (true, !asked));
        let started = Duration::from_millis(hypervisor.started_with().at_ms);
        let ran = UNIX_EPOCH.elapsed().unwrap_or_default().saturating_sub(started);
        if ran >= STABLE {
            self.failures = 0;
        }
        if !self.wanted() {
            self.failure = (!asked).then(|| hypervisor.obituary().to_string());
        } else if asked && ran >= STABLE {
            self.state = State::Off;
        } else if asked {
            self.fail(&anyhow!("the guest switched itself off {} s after its start", ran.as_secs()));
        } else {
            self.fail(&hypervisor.obituary());
        }
    }

    fn count_reboot(&mut self) {
        let requested = self.config.borrow().reboots_requested;
        self.remember(|record| record.reboots = requested);
    }
}

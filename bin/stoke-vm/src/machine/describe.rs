//! What the outside is told of a machine.

use std::sync::PoisonError;

use stoke_api::objects::Power;
use stoke_api::report::VmReport;
use stoke_vmm::spec::VmSpec;

use super::{BootRetry, Machine, State};

impl Machine {
    pub(super) fn publish(&self) {
        let report = self.describe();
        self.metrics.on.set((report.power == Power::On).into());
        *self.report.lock().unwrap_or_else(PoisonError::into_inner) = report;
    }

    fn describe(&self) -> VmReport {
        let (reboots, ended) = (self.memory.record().reboots, self.memory.record().ended);
        let off = VmReport { power: Power::Off, state: self.status.clone(), reboots, ended, ..VmReport::default() };
        match &self.state {
            State::Off | State::Failed { .. } => VmReport { failure: self.failure.clone(), ..off },
            State::Running(hypervisor) | State::Stopping(hypervisor, _, _) => {
                let start = hypervisor.started_with();
                VmReport {
                    power: Power::On,
                    ended: false,
                    pid: Some(hypervisor.pid()),
                    accelerator: start.accelerator.to_string(),
                    accelerator_reason: start.reason.clone(),
                    started_ms: Some(start.boot_ms()),
                    links: start.links.clone(),
                    failure: self.trouble(&start.spec),
                    ..off
                }
            }
        }
    }

    /// What is not as wanted of a machine that runs.
    fn trouble(&self, runs_with: &VmSpec) -> Option<String> {
        if self.status == "internal-error" {
            return Some("the guest stopped at an instruction that this host cannot run: reboot it".to_owned());
        }
        if self.boot_retry != BootRetry::None {
            return Some("the firmware found nothing to boot from and tries again: is the farm ready?".to_owned());
        }
        let pending = self.pending(runs_with);
        let pending = (!pending.is_empty()).then(|| pending.join(", "));
        pending.map(|what| format!("{what} will change at the next start: reboot the machine"))
    }

    /// What is configured otherwise than it runs.
    pub(super) fn pending(&self, runs_with: &VmSpec) -> Vec<&'static str> {
        runs_with.differences(&VmSpec::of(&self.config.borrow()))
    }
}

//! How a guest is brought to its end: asked first, and cut off when its time is over.
//!
//! ```text
//!             at once          after 2 s, then every 5 s            after the grace time
//!   Asked: power button ---> Ctrl-Alt-Delete and the button ----> Quitting: quit or reset ---> kill
//! ```
//!
//! The power button is what a guest expects, but only some listen to it: on Linux that takes logind with D-Bus, or acpid.
//! Ctrl-Alt-Delete works without any of them, since the kernel itself gives it to PID 1, which reboots in good order. That
//! a reboot ends the machine, if it shall, is QEMU's part. A guest that goes down already because of the button goes on
//! doing so: systemd then only changes where it ends (`ctrl-alt-del.target` replaces `poweroff.target`).

use std::time::Duration;

use stoke_vmm::client::OnReboot;
use tokio::time::Instant;

use super::{Machine, State};
use crate::hypervisor::Hypervisor;

/// What a guest that listens to its power button needs to be gone, or not: it does not say that it heard.
const PRESS_MORE: Duration = Duration::from_secs(2);

/// Keys are pressed again this often: a guest that is still booting does not see the first press. systemd takes seven
/// within two seconds for an order to reboot at once.
const PRESS_AGAIN: Duration = Duration::from_secs(5);

/// What QEMU has to end after `quit`.
const QUIT_LIMIT: Duration = Duration::from_secs(5);

/// What comes after the stop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Goal {
    Off,
    Restart,
}

/// How a stop goes on.
#[derive(Clone, Copy, Debug)]
pub(super) enum Stage {
    /// The guest was asked to end by itself, which it may do until `deadline`.
    Asked { press_at: Instant, deadline: Instant },
    /// QEMU was told to quit; it is killed at this moment.
    Quitting { kill_at: Instant },
}

impl Machine {
    /// Asks the guest to end. It may be none that listens: then it is cut off when its time is over.
    pub(super) async fn stop(&mut self, goal: Goal) -> bool {
        let grace = Duration::from_secs(self.config.borrow().grace_seconds.into());
        if let State::Running(hypervisor) = std::mem::replace(&mut self.state, State::Off) {
            tracing::info!(?goal, ?grace, "shutting the guest down");
            // What takes a new QEMU gets one by a reboot.
            let ends = goal == Goal::Off || !self.pending(&hypervisor.started_with().spec).is_empty();
            hypervisor.on_reboot(if ends { OnReboot::Shutdown } else { hypervisor.usual_reboot() }).await;
            hypervisor.press_power_button().await;
            let now = Instant::now();
            let stage = Stage::Asked { press_at: now + PRESS_MORE, deadline: now + grace };
            self.state = State::Stopping(hypervisor, goal, stage);
        }
        false
    }
}

impl Stage {
    /// When it goes on even if nothing happens.
    pub(super) fn due(&self) -> Instant {
        match self {
            Self::Asked { press_at, deadline } => *press_at.min(deadline),
            Self::Quitting { kill_at } => *kill_at,
        }
    }

    /// Goes on if it is time.
    pub(super) async fn go_on(&mut self, hypervisor: &Hypervisor, goal: Goal, now: Instant) {
        match self {
            Self::Asked { deadline, .. } if *deadline <= now => {
                tracing::warn!("the guest did not end in time");
                self.cut_off(hypervisor, goal).await;
            }
            Self::Asked { press_at, .. } if *press_at <= now => {
                *press_at = now + PRESS_AGAIN;
                hypervisor.press_power_button().await;
                hypervisor.press_ctrl_alt_delete().await;
            }
            Self::Quitting { kill_at } if *kill_at <= now => {
                hypervisor.kill();
                *kill_at = now + QUIT_LIMIT;
            }
            Self::Asked { .. } | Self::Quitting { .. } => {}
        }
    }

    /// Does without the guest.
    pub(super) async fn cut_off(&mut self, hypervisor: &Hypervisor, goal: Goal) {
        let command = if goal == Goal::Restart { "system_reset" } else { "quit" };
        if hypervisor.command(command).await.is_err() {
            hypervisor.kill();
        }
        *self = Self::Quitting { kill_at: Instant::now() + QUIT_LIMIT };
    }
}

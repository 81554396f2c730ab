//! What people can type behind `stoke rollout`.

use clap::{Args, Subcommand};

use super::Report;
use super::farm::OneFarm;

#[derive(Debug, Subcommand)]
pub(crate) enum Rollout {
    /// Show which version each node has and shall have, and why an update stopped
    ///
    /// If the version's rehearsal failed, the end of that machine's console is shown, too.
    Status(RolloutStatus),
    /// Let no more nodes go over to another version
    Pause(OneFarm),
    /// Go on after a pause, or try again after an update stopped
    Resume(OneFarm),
    /// Take the version back that nodes go over to, or have; they get the one before
    Undo(OneFarm),
}

#[derive(Debug, Args)]
pub(crate) struct RolloutStatus {
    #[command(flatten)]
    pub(crate) farm: OneFarm,
    /// Form of the output
    #[arg(short, long, default_value = "text")]
    pub(crate) output: Report,
}

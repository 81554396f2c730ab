//! What a process gets from outside, where the rights for it are: limits, scheduling, and how soon it dies when memory ends.

use rustix::process::Pid;
use stoke_sys::attributes;

use crate::check;
use crate::error::{Context as _, Error, Result};
use crate::spec::Process as ProcessSpec;

/// Scheduling and the kernel's choice of victims when memory ends.
pub(super) fn priorities(process: &ProcessSpec, pid: Pid) -> Result<()> {
    if let Some(score) = process.oom_score_adj {
        let file = format!("/proc/{pid}/oom_score_adj");
        std::fs::write(file, score.to_string()).context(|| format!("process.oomScoreAdj: cannot set {score}"))?;
    }
    if let Some(scheduler) = &process.scheduler {
        let scheduling = scheduling(scheduler)?;
        attributes::set_scheduling(pid, &scheduling).context(|| "process.scheduler".to_owned())?;
    }
    if let Some(priority) = &process.io_priority {
        let class = ["IOPRIO_CLASS_RT", "IOPRIO_CLASS_BE", "IOPRIO_CLASS_IDLE"];
        let class = class.iter().position(|class| *class == priority.class).and_then(|at| u32::try_from(at + 1).ok());
        let class =
            class.ok_or_else(|| Error::field("process.ioPriority.class", format!("{:?} is none", priority.class)))?;
        let level = u32::try_from(priority.priority).ok().filter(|level| *level < 8);
        let level = level.ok_or_else(|| Error::field("process.ioPriority.priority", "must be from 0 to 7"))?;
        attributes::set_io_priority(pid, class, level).context(|| "process.ioPriority".to_owned())?;
    }
    Ok(())
}

fn scheduling(scheduler: &crate::spec::Scheduler) -> Result<attributes::Scheduling> {
    // `SCHED_*` of Linux' `include/uapi/linux/sched.h`; 4 was never given away.
    let policies =
        ["SCHED_OTHER", "SCHED_FIFO", "SCHED_RR", "SCHED_BATCH", "SCHED_ISO", "SCHED_IDLE", "SCHED_DEADLINE"];
    let flags = [
        ("SCHED_FLAG_RESET_ON_FORK", 1),
        ("SCHED_FLAG_RECLAIM", 2),
        ("SCHED_FLAG_DL_OVERRUN", 4),
        ("SCHED_FLAG_KEEP_POLICY", 8),
        ("SCHED_FLAG_KEEP_PARAMS", 16),
        ("SCHED_FLAG_UTIL_CLAMP_MIN", 32),
        ("SCHED_FLAG_UTIL_CLAMP_MAX", 64),
    ];
    let policy = policies.iter().position(|policy| *policy == scheduler.policy).and_then(|at| u32::try_from(at).ok());
    let policy =
        policy.ok_or_else(|| Error::field("process.scheduler.policy", format!("{:?} is none", scheduler.policy)))?;
    let mut all = 0;
    for name in &scheduler.flags {
        let flag = flags.iter().find(|(flag, _)| flag == name).map(|(_, bit)| *bit);
        all |= flag.ok_or_else(|| Error::field("process.scheduler.flags", format!("{name:?} is none")))?;
    }
    let mut scheduling = attributes::Scheduling::default();
    scheduling.policy = policy;
    scheduling.flags = all;
    scheduling.nice = scheduler.nice;
    scheduling.priority = u32::try_from(scheduler.priority).unwrap_or_default();
    (scheduling.runtime, scheduling.deadline, scheduling.period) =
        (scheduler.runtime, scheduler.deadline, scheduler.period);
    Ok(scheduling)
}

/// Resource limits: set from outside, where the right to raise them is.
pub(super) fn resource_limits(process: &ProcessSpec, pid: Pid) -> Result<()> {
    use rustix::process::{Resource, Rlimit, prlimit};
    const KINDS: [Resource; 16] = [
        Resource::Cpu,
        Resource::Fsize,
        Resource::Data,
        Resource::Stack,
        Resource::Core,
        Resource::Rss,
        Resource::Nproc,
        Resource::Nofile,
        Resource::Memlock,
        Resource::As,
        Resource::Locks,
        Resource::Sigpending,
        Resource::Msgqueue,
        Resource::Nice,
        Resource::Rtprio,
        Resource::Rttime,
    ];
    for limit in &process.rlimits {
        let at = check::RLIMITS.iter().position(|name| *name == limit.kind);
        let Some(resource) = at.and_then(|at| KINDS.get(at)) else { continue };
        let value = |value: u64| (value != u64::MAX).then_some(value);
        let new = Rlimit { current: value(limit.soft), maximum: value(limit.hard) };
        let field = || format!("process.rlimits: cannot set {} to {}:{}", limit.kind, limit.soft, limit.hard);
        prlimit(Some(pid), *resource, new).context(field)?;
    }
    Ok(())
}

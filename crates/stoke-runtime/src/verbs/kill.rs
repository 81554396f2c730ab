//! `kill`: a signal to the container's first process, or to all of them.

use rustix::process::Signal;

use super::{Runtime, wrong_status};
use crate::error::{Error, Result};
use crate::state::Status;

/// Names of signals, by their numbers from 1 on (signal(7), x86 and arm).
const NAMES: [&str; 31] = [
    "HUP", "INT", "QUIT", "ILL", "TRAP", "ABRT", "BUS", "FPE", "KILL", "USR1", "SEGV", "USR2", "PIPE", "ALRM", "TERM",
    "STKFLT", "CHLD", "CONT", "STOP", "TSTP", "TTIN", "TTOU", "URG", "XCPU", "XFSZ", "VTALRM", "PROF", "WINCH", "IO",
    "PWR", "SYS",
];
/// The first and the last signal of the real-time range as C programs see it.
const REAL_TIME: std::ops::RangeInclusive<i32> = 34..=64;

/// Reads a signal: a number, or a name in any case, with or without `SIG`.
///
/// # Errors
/// If there is none of this name.
pub fn parse_signal(text: &str) -> Result<Signal> {
    let unknown = || Error::Input(format!("{text:?} is no signal"));
    let number = text.parse::<i32>().ok().or_else(|| named(text)).ok_or_else(unknown)?;
    match number {
        1..=31 => Signal::from_named_raw(number).ok_or_else(unknown),
        _ if REAL_TIME.contains(&number) => stoke_sys::attributes::real_time_signal(number).ok_or_else(unknown),
        _ => Err(unknown()),
    }
}

fn named(text: &str) -> Option<i32> {
    let name = text.to_ascii_uppercase();
    let name = name.strip_prefix("SIG").unwrap_or(&name);
    let at = NAMES.iter().position(|known| *known == name).and_then(|at| i32::try_from(at + 1).ok());
    at.or_else(|| Some(REAL_TIME.start() + name.strip_prefix("RTMIN+")?.parse::<i32>().ok()?))
}

/// Sends a signal.
///
/// # Errors
/// If the container has stopped.
pub fn kill(runtime: &Runtime, id: &str, signal: Signal, all: bool) -> Result<()> {
    let (folder, record, status) = runtime.open(id)?;
    if matches!(status, Status::Stopped | Status::Creating) && !all {
        return Err(wrong_status(id, status, "kill"));
    }
    let spec = folder.spec()?;
    let has_own_pids = spec.linux().namespaces.iter().any(|other| other.kind == "pid" && other.path().is_none());
    // Without a namespace of its own nobody else ends the rest when the first process ends.
    if let (true, Some(group)) = (all || (!has_own_pids && signal == Signal::KILL), record.group()?) {
        group.signal(signal)?;
    }
    if let Some(init) = record.init
        && !all
        && !init.signal(signal)?
        && has_own_pids
    {
        return Err(wrong_status(id, Status::Stopped, "kill"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signals_are_numbers_or_names() {
        for text in ["9", "KILL", "kill", "SIGKILL", "sigkill"] {
            assert_eq!(parse_signal(text).unwrap(), Signal::KILL, "{text}");
        }
        assert_eq!(parse_signal("37").unwrap().as_raw(), 37);
        assert_eq!(parse_signal("SIGRTMIN+3").unwrap().as_raw(), 37);
        for text in ["0", "65", "SIGX", "", "-1"] {
            assert!(parse_signal(text).is_err(), "{text}");
        }
    }
}

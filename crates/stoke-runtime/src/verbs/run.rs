//! `run`: create, start, wait and delete in one.

use rustix::process::{Pid, WaitOptions};

use super::create::Creation;
use super::terminal::Proxy;
use super::{Runtime, create, delete, start};
use crate::error::{Context as _, Error, Result};
use crate::spec::Spec;

/// Runs a container. Gives what its first process exited with, and warnings; of a detached one nothing is known.
///
/// # Errors
/// Whatever `create` and `start` refuse.
pub fn run(runtime: &Runtime, creation: &Creation, detach: bool, keep: bool) -> Result<(u8, Vec<Error>)> {
    let (proxy, creation) = with_terminal(creation, detach)?;
    create(runtime, &creation)?;
    let started = start(runtime, &creation.id);
    let mut warnings = match started {
        Err(error) => {
            let _also = delete(runtime, &creation.id, true);
            return Err(error);
        }
        Ok(warnings) => warnings,
    };
    if detach {
        return Ok((0, warnings));
    }
    if let Some(proxy) = proxy {
        proxy.run()?;
    }
    let (_, record, _) = runtime.open(&creation.id)?;
    let code = record.init.and_then(|init| Pid::from_raw(init.pid)).map_or(Ok(1), wait)?;
    if !keep {
        warnings.extend(delete(runtime, &creation.id, true)?);
    }
    Ok((code, warnings))
}

/// In the foreground our own terminal stands in for a console socket, by a socket that has a name in memory only.
fn with_terminal(creation: &Creation, detach: bool) -> Result<(Option<Proxy>, Creation)> {
    let config = creation.config.clone().unwrap_or_else(|| creation.bundle.join("config.json"));
    let wants = Spec::load(&config)?.process.is_some_and(|process| process.terminal);
    if !wants || detach || creation.console_socket.is_some() {
        return Ok((None, creation.clone()));
    }
    let (proxy, socket) = Proxy::new()?;
    Ok((Some(proxy), Creation { console: Some(std::sync::Arc::new(socket)), ..creation.clone() }))
}

/// Waits for the first process, which is our child since liblxc's monitor is gone.
fn wait(init: Pid) -> Result<u8> {
    loop {
        match rustix::process::waitpid(Some(init), WaitOptions::empty()) {
            Err(rustix::io::Errno::INTR) | Ok(None) => {}
            Ok(Some((_, status))) => {
                let signal = status.terminating_signal().map(|signal| 128 + signal);
                let code = status.exit_status().or(signal).unwrap_or(1);
                return Ok(u8::try_from(code).unwrap_or(u8::MAX));
            }
            Err(error) => return Err(error).context(|| "cannot wait for the container".to_owned()),
        }
    }
}

//! `stoke console`: a machine's serial console, on a terminal or in a pipe.
//!
//! ```text
//!   attached --- the socket ends (stoke-vm is replaced) ---> waiting --- it is there again ---> attached
//!      |                                                        |
//!      +-- Ctrl-], end of input (pipe) -- detached --- Ctrl-] --+
//! ```
//!
//! One thread and `poll`: bytes go from standard input to the socket and from the socket to standard output. After
//! a reconnection the history comes again; what was shown already is not shown twice.

use std::io::{self, IsTerminal as _, Read as _, Write as _};
use std::os::fd::AsFd as _;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::termios::{OptionalActions, Termios, tcgetattr, tcsetattr};
use stoke_api::objects::Power;
use stoke_api::{AnyObject, Kind, ObjectRef};

use super::blocking;
use super::get::ready_condition;
use crate::cli::{OneMachine, references};
use crate::client::Client;
use crate::cluster::default_namespace;
use crate::failure::Failure;
use crate::folders::{Folders, console};

/// Ctrl-], as telnet has it.
pub(crate) const DETACH: u8 = 0x1d;
/// How long to wait for a console that is being replaced, between two looks.
const RETRY: Duration = Duration::from_millis(200);
/// In a pipe: silence after the end of the input that ends the command.
const SILENCE: Duration = Duration::from_secs(1);
/// How long the history takes to arrive after a reconnection.
const HISTORY: Duration = Duration::from_millis(300);
/// How much of what was shown is remembered, to find it in the history.
const TAIL: usize = 4096;

pub(crate) fn run(folders: &Folders, machine: &OneMachine) -> anyhow::Result<ExitCode> {
    let words = [machine.name.clone()];
    let found = references(&words, Some(Kind::Machine), &default_namespace(machine.namespace.as_ref())?)?;
    let reference = found.first().ok_or_else(|| Failure::plain("no machine is named"))?;
    if reference.kind == Kind::Server {
        return super::serial::run(folders, reference);
    }
    if reference.kind != Kind::Machine {
        return Err(Failure::usage(format!("{reference} has no console here"), "machines and servers have one"));
    }
    let path = blocking(find(folders, reference))?;
    let socket = connect(&path).map_err(|_| absent(reference))?;
    attach(reference, &path, socket)?;
    Ok(ExitCode::SUCCESS)
}

/// The socket: by what runs, else by its name, since a machine goes on without `stoke up`.
async fn find(folders: &Folders, reference: &ObjectRef) -> anyhow::Result<PathBuf> {
    let client = Client::new(&folders.control_socket())?;
    if client.is_alive().await? {
        // Says it if there is no such machine.
        tell_if_off(&client.object(reference).await?);
        let workloads = client.host().await?.workloads;
        let console = workloads.into_iter().find(|workload| workload.owner == *reference).and_then(|w| w.console);
        return console.ok_or_else(|| absent(reference));
    }
    let path = console(folders, reference);
    path.exists().then_some(path).ok_or_else(|| crate::client::nothing_runs(folders))
}

/// A console of a machine that is off shows what was, and would look as if nothing came.
fn tell_if_off(object: &AnyObject) {
    let AnyObject::Machine(machine) = object else { return };
    let why = ready_condition(object).map(|condition| condition.message.as_str()).unwrap_or_default();
    if machine.status.power == Power::Off {
        eprintln!("{} is off: {why}", object.reference());
    }
}

fn absent(reference: &ObjectRef) -> anyhow::Error {
    let hint = format!("stoke describe {reference} says why it does not run");
    Failure::hinted(format!("{reference} has no console now"), hint)
}

fn connect(path: &Path) -> io::Result<UnixStream> {
    UnixStream::connect(path)
}

fn attach(reference: &ObjectRef, path: &Path, socket: UnixStream) -> anyhow::Result<()> {
    let terminal = io::stdin().is_terminal();
    if terminal {
        eprintln!("attached to {reference}; Ctrl-] detaches");
    }
    let raw = if terminal { Some(RawTerminal::enter()?) } else { None };
    let mut session = Session { socket, input: true, tail: Vec::new() };
    let ended = loop {
        match session.talk()? {
            Ended::Detached => break "detached",
            Ended::Silence => break "",
            Ended::Lost if !session.input && !terminal => break "",
            Ended::Lost => {
                if !session.reconnect(path)? {
                    break "detached";
                }
            }
        }
    };
    drop(raw);
    if terminal {
        eprintln!("\n{ended} from {reference}; it keeps running");
    }
    Ok(())
}

/// Why a session does not go on.
enum Ended {
    Detached,
    /// The input ended, and nothing came any more.
    Silence,
    /// The other side went away.
    Lost,
}

struct Session {
    socket: UnixStream,
    /// Whether standard input has not ended.
    input: bool,
    /// The end of what was shown.
    tail: Vec<u8>,
}

impl Session {
    fn talk(&mut self) -> io::Result<Ended> {
        loop {
            let limit = (!self.input).then_some(SILENCE);
            let (typed, shown) = wait(self.input, Some(&self.socket), limit)?;
            if !typed && !shown {
                return Ok(Ended::Silence);
            }
            if shown && !self.show()? {
                return Ok(Ended::Lost);
            }
            if typed {
                match read_input()? {
                    Typed::Detach => return Ok(Ended::Detached),
                    Typed::End => self.input = false,
                    // A socket that breaks here is found lost when it is read.
                    Typed::Bytes(bytes) => drop(self.socket.write_all(&bytes)),
                }
            }
        }
    }

    /// Shows what has come; whether the other side is still there.
    fn show(&mut self) -> io::Result<bool> {
        let mut buffer = [0; 16 << 10];
        let length = match self.socket.read(&mut buffer) {
            Ok(length) => length,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => return Ok(true),
            Err(_) => 0,
        };
        let bytes = buffer.get(..length).unwrap_or_default();
        self.print(bytes)?;
        Ok(length > 0)
    }

    fn print(&mut self, bytes: &[u8]) -> io::Result<()> {
        let mut stdout = io::stdout().lock();
        stdout.write_all(bytes)?;
        stdout.flush()?;
        self.tail.extend_from_slice(bytes);
        let surplus = self.tail.len().saturating_sub(TAIL);
        self.tail.drain(..surplus);
        Ok(())
    }

    /// Waits until the console is there again; `false` if the viewer detached in the meantime.
    fn reconnect(&mut self, path: &Path) -> io::Result<bool> {
        loop {
            if let Ok(socket) = connect(path) {
                self.socket = socket;
                let history = self.history()?;
                let new = unseen(&self.tail, &history).to_vec();
                self.print(&new)?;
                return Ok(true);
            }
            let (typed, _) = wait(self.input, None, Some(RETRY))?;
            if typed {
                match read_input()? {
                    Typed::Detach => return Ok(false),
                    Typed::End => self.input = false,
                    Typed::Bytes(_) => {}
                }
            }
        }
    }

    /// What comes right after a connection.
    fn history(&mut self) -> io::Result<Vec<u8>> {
        let (until, mut all) = (Instant::now() + HISTORY, Vec::new());
        loop {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() || !wait(false, Some(&self.socket), Some(left))?.1 {
                return Ok(all);
            }
            let mut buffer = [0; 16 << 10];
            match self.socket.read(&mut buffer) {
                Ok(0) | Err(_) => return Ok(all),
                Ok(length) => all.extend_from_slice(buffer.get(..length).unwrap_or_default()),
            }
        }
    }
}

/// What of the history comes after what was shown; all of it if what was shown is not in it.
fn unseen<'a>(shown: &[u8], history: &'a [u8]) -> &'a [u8] {
    if shown.is_empty() {
        return history;
    }
    let at = history.windows(shown.len()).rposition(|window| window == shown);
    at.and_then(|at| history.get(at + shown.len()..)).unwrap_or(history)
}

enum Typed {
    Bytes(Vec<u8>),
    Detach,
    End,
}

fn read_input() -> io::Result<Typed> {
    let mut buffer = [0; 4096];
    // Not through `std::io::stdin`: its buffer would hide bytes from `poll`.
    let length = match rustix::io::read(io::stdin(), &mut buffer) {
        Err(rustix::io::Errno::INTR) => return Ok(Typed::Bytes(Vec::new())),
        other => other?,
    };
    let bytes = buffer.get(..length).unwrap_or_default();
    let detach = io::stdin().is_terminal() && bytes.contains(&DETACH);
    Ok(match (detach, length) {
        (true, _) => Typed::Detach,
        (false, 0) => Typed::End,
        (false, _) => Typed::Bytes(bytes.to_vec()),
    })
}

/// Waits for standard input (if it is `wanted`) and the socket; which of them has something.
fn wait(wanted: bool, socket: Option<&UnixStream>, limit: Option<Duration>) -> io::Result<(bool, bool)> {
    let stdin = io::stdin();
    let mut fds = Vec::new();
    if wanted {
        fds.push(PollFd::from_borrowed_fd(stdin.as_fd(), PollFlags::IN));
    }
    fds.extend(socket.map(|socket| PollFd::new(socket, PollFlags::IN)));
    let limit = limit.and_then(|limit| Timespec::try_from(limit).ok());
    match poll(&mut fds, limit.as_ref()) {
        Ok(_) => {}
        Err(rustix::io::Errno::INTR) => return Ok((false, false)),
        Err(error) => return Err(error.into()),
    }
    let mut ready = fds.iter().map(|fd| !fd.revents().is_empty());
    let typed = wanted && ready.next().unwrap_or(false);
    Ok((typed, socket.is_some() && ready.next().unwrap_or(false)))
}

/// The terminal passes every key on; put back when this is dropped.
pub(crate) struct RawTerminal(Termios);

impl RawTerminal {
    pub(crate) fn enter() -> anyhow::Result<Self> {
        let before = tcgetattr(io::stdin()).map_err(io::Error::from)?;
        let mut raw = before.clone();
        raw.make_raw();
        tcsetattr(io::stdin(), OptionalActions::Now, &raw).map_err(io::Error::from)?;
        Ok(Self(before))
    }
}

impl Drop for RawTerminal {
    fn drop(&mut self) {
        // A terminal that is gone needs nothing put back.
        let _ = tcsetattr(io::stdin(), OptionalActions::Now, &self.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn history_is_not_shown_twice() {
        let cases = [("", "abc", "abc"), ("abc", "abcdef", "def"), ("bc", "abcbcd", "d"), ("xyz", "abc", "abc")];
        for (shown, history, new) in cases {
            assert_eq!(unseen(shown.as_bytes(), history.as_bytes()), new.as_bytes(), "{shown} {history}");
        }
    }
}

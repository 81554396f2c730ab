//! `stoke console` in a cluster: pods/attach to the machine's pod, whose standard input and output are its console.

use std::io::{self, IsTerminal as _, Write as _};
use std::process::ExitCode;
use std::time::Duration;

use stoke_api::{Kind, ObjectRef};
use stoke_kube::client::{Cluster, Console};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::sync::mpsc;

use super::explained;
use crate::cli::OneMachine;
use crate::commands::{DETACH, RawTerminal};
use crate::failure::Failure;

/// Between two tries while a machine's pod is replaced.
const RETRY: Duration = Duration::from_secs(1);
/// In a pipe: silence after the end of the input that ends the command. The way is longer than on one host.
const SILENCE: Duration = Duration::from_secs(3);

pub(crate) async fn run(cluster: &Cluster, machine: &OneMachine) -> anyhow::Result<ExitCode> {
    let namespace = machine.namespace.as_ref().unwrap_or(cluster.namespace());
    let words = [machine.name.clone()];
    let found = crate::cli::references(&words, Some(Kind::Machine), namespace)?;
    let reference = found.first().ok_or_else(|| Failure::plain("no machine is named"))?;
    if reference.kind != Kind::Machine {
        return Err(Failure::usage(format!("{reference} has no console in a cluster"), "machines have one"));
    }
    // Says it if there is no such machine.
    cluster.object(reference).await.map_err(explained)?;
    let console = cluster.console(reference).await.map_err(explained)?;
    let terminal = io::stdin().is_terminal();
    if terminal {
        eprintln!("attached to {reference}; Ctrl-] detaches; press Enter if nothing comes");
    }
    let raw = if terminal { Some(RawTerminal::enter()?) } else { None };
    let ended = follow(cluster, reference, console, terminal).await;
    drop(raw);
    if terminal {
        eprintln!("\ndetached from {reference}; it keeps running");
    }
    ended?;
    // The thread that reads standard input may still wait for a key: it must not keep this process.
    io::stdout().flush()?;
    std::process::exit(0)
}

async fn follow(cluster: &Cluster, machine: &ObjectRef, first: Console, terminal: bool) -> anyhow::Result<()> {
    let mut typed = read_input(terminal);
    let mut console = first;
    loop {
        match talk(&mut console, &mut typed).await? {
            Ended::Detached => return Ok(()),
            Ended::Lost if !terminal => return Ok(()),
            Ended::Lost => eprintln!("\r\nthe console went away; waiting for it\r"),
        }
        console = loop {
            tokio::select! {
                key = typed.recv() => if !matches!(key, Some(Typed::Bytes(_))) { return Ok(()) },
                () = tokio::time::sleep(RETRY) => {
                    if let Ok(found) = cluster.console(machine).await {
                        break found;
                    }
                }
            }
        };
    }
}

enum Ended {
    Detached,
    /// The other side went away.
    Lost,
}

enum Typed {
    Bytes(Vec<u8>),
    Detach,
    End,
}

async fn talk(console: &mut Console, typed: &mut mpsc::Receiver<Typed>) -> anyhow::Result<Ended> {
    let (mut buffer, mut ending) = (vec![0; 16 << 10], false);
    loop {
        let silence = async { if ending { tokio::time::sleep(SILENCE).await } else { std::future::pending().await } };
        tokio::select! {
            shown = console.output.read(&mut buffer) => match shown {
                Ok(0) | Err(_) => return Ok(Ended::Lost),
                Ok(length) => {
                    let mut stdout = io::stdout().lock();
                    stdout.write_all(buffer.get(..length).unwrap_or_default())?;
                    stdout.flush()?;
                }
            },
            key = typed.recv(), if !ending => match key {
                Some(Typed::Bytes(bytes)) => {
                    // One that breaks here is found lost when it is read.
                    if console.input.write_all(&bytes).await.is_ok() {
                        let _ = console.input.flush().await;
                    }
                }
                Some(Typed::Detach) => return Ok(Ended::Detached),
                Some(Typed::End) | None => ending = true,
            },
            () = silence => return Ok(Ended::Detached),
        }
    }
}

/// What is typed, read by a thread: a terminal cannot be waited for otherwise without changing it for others.
fn read_input(terminal: bool) -> mpsc::Receiver<Typed> {
    let (tell, typed) = mpsc::channel(64);
    std::thread::spawn(move || {
        let mut buffer = [0; 4096];
        loop {
            let told = match rustix::io::read(io::stdin(), &mut buffer) {
                Err(rustix::io::Errno::INTR) => continue,
                Err(_) | Ok(0) => Typed::End,
                Ok(length) => {
                    let bytes = buffer.get(..length).unwrap_or_default();
                    if terminal && bytes.contains(&DETACH) { Typed::Detach } else { Typed::Bytes(bytes.to_vec()) }
                }
            };
            let last = !matches!(told, Typed::Bytes(_));
            if tell.blocking_send(told).is_err() || last {
                return;
            }
        }
    });
    typed
}

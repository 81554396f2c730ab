//! The serial console, for any number of people at once.
//!
//! ```text
//!                    appends                     reads, each at its own pace
//!   QEMU ----------------------> console.log ----------------------------------> viewer
//!     ^  \  serial socket: something happened -> look at the log                  /
//!      \  `-------------------> line -------------------------------------------/
//!       `---------------------- keys <------------------------------------------
//! ```
//!
//! QEMU serves one client on its socket; that is [`line`]. It drops the bytes that it reads (they are in the log) and
//! tells the viewers to look. So a viewer who is slow, or late, or comes back after a restart of this process, misses
//! nothing and holds up nobody: neither the guest nor another viewer.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt, Interest};
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep, sleep_until, timeout};

use stoke_vmm::spec::VmFiles;

use crate::log::{ConsoleLog, HISTORY};

/// How long a viewer may leave bytes unread before it is dropped.
const VIEWER_PATIENCE: Duration = Duration::from_mins(1);

/// A viewer that is further behind is shown the newest part instead.
const FAR_BEHIND: u64 = 2 << 20;

/// QEMU writes to its socket first and to the log right after: look again after this.
const LOG_FOLLOWS: Duration = Duration::from_millis(20);

/// The log is looked at this often even if nothing was heard.
const LOOK: Duration = Duration::from_secs(1);

/// Pause between two attempts to reach QEMU's socket while the machine runs.
const RECONNECT: Duration = Duration::from_millis(100);

/// The console of a machine.
#[derive(Debug)]
pub(crate) struct Console {
    running: watch::Sender<bool>,
}

/// What all viewers share.
#[derive(Debug)]
struct Shared {
    log: ConsoleLog,
    length: watch::Receiver<u64>,
    keys: mpsc::Sender<Vec<u8>>,
}

impl Console {
    /// Serves viewers from now on, whether the machine runs or not.
    ///
    /// # Errors
    /// If the socket cannot be made.
    pub(crate) fn serve(files: &VmFiles, log: ConsoleLog) -> anyhow::Result<Self> {
        let listener = stoke_daemon::bind(&files.console())?;
        let (running, is_running) = watch::channel(false);
        let (length_sender, length) = watch::channel(log.length());
        let (keys, typed) = mpsc::channel(64);
        let line = Line { socket: files.serial(), log: log.clone(), length: length_sender, hole_end: 0, typed };
        tokio::spawn(line.keep(is_running));
        tokio::spawn(accept(listener, Arc::new(Shared { log, length, keys })));
        Ok(Self { running })
    }

    /// Says whether there is a QEMU to connect to.
    pub(crate) fn set_running(&self, running: bool) {
        self.running.send_if_modified(|current| std::mem::replace(current, running) != running);
    }
}

/// Our end of QEMU's serial socket.
struct Line {
    socket: PathBuf,
    log: ConsoleLog,
    length: watch::Sender<u64>,
    hole_end: u64,
    typed: mpsc::Receiver<Vec<u8>>,
}

impl Line {
    async fn keep(mut self, mut running: watch::Receiver<bool>) {
        loop {
            self.look();
            if !*running.borrow_and_update() {
                if running.changed().await.is_err() {
                    return;
                }
                continue;
            }
            if let Ok(stream) = UnixStream::connect(&self.socket).await {
                self.carry(stream).await;
            }
            sleep(RECONNECT).await;
        }
    }

    /// Until QEMU hangs up.
    async fn carry(&mut self, stream: UnixStream) {
        let (mut from, mut to) = stream.into_split();
        let mut buffer = vec![0; 16 * 1024];
        let mut next_look = Instant::now() + LOOK;
        loop {
            tokio::select! {
                read = from.read(&mut buffer) => match read {
                    Ok(0) | Err(_) => return self.look(),
                    Ok(_) => {
                        self.look();
                        next_look = Instant::now() + LOG_FOLLOWS;
                    }
                },
                Some(keys) = self.typed.recv() => {
                    // A guest that does not read its serial port fills the socket; keys are lost then, as on a real one.
                    let _ = timeout(LOOK, to.write_all(&keys)).await;
                }
                () = sleep_until(next_look) => {
                    self.look();
                    self.hole_end = self.log.trim(self.hole_end);
                    next_look = Instant::now() + LOOK;
                }
            }
        }
    }

    fn look(&self) {
        let length = self.log.length();
        self.length.send_if_modified(|known| std::mem::replace(known, length) != length);
    }
}

async fn accept(listener: UnixListener, shared: Arc<Shared>) {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                let (from, to) = stream.into_split();
                let viewer = tokio::spawn(show(to, Arc::clone(&shared)));
                tokio::spawn(listen(from, shared.keys.clone(), viewer.abort_handle()));
            }
            Err(error) => {
                tracing::warn!(%error, "cannot accept a console viewer");
                sleep(LOOK).await;
            }
        }
    }
}

/// Passes on what a viewer types; ends the viewer when it hangs up.
async fn listen(mut from: OwnedReadHalf, keys: mpsc::Sender<Vec<u8>>, viewer: tokio::task::AbortHandle) {
    let mut buffer = [0; 1024];
    while let Ok(size @ 1..) = from.read(&mut buffer).await {
        // With no machine to type at, keys are dropped rather than kept for the next one.
        let _ = keys.try_send(buffer.get(..size).unwrap_or_default().to_vec());
    }
    // It may only have stopped typing (`socat -u`, input from /dev/null): it is gone when nothing can be written either.
    while let Ok(ready) = from.ready(Interest::WRITABLE).await {
        if ready.is_write_closed() || viewer.is_finished() {
            break;
        }
        sleep(LOOK).await;
    }
    viewer.abort();
}

/// Shows a viewer the history, then what comes.
async fn show(mut to: OwnedWriteHalf, shared: Arc<Shared>) {
    let mut length = shared.length.clone();
    let mut offset = shared.log.history_start();
    loop {
        let known = *length.borrow_and_update();
        offset = next_offset(offset, known);
        let piece = shared.log.read(offset);
        if piece.is_empty() {
            if length.changed().await.is_err() {
                return;
            }
            continue;
        }
        offset += piece.len() as u64;
        if !matches!(timeout(VIEWER_PATIENCE, to.write_all(&piece)).await, Ok(Ok(()))) {
            return;
        }
    }
}

/// Where to read on: further on if the viewer fell far behind, at the new end if somebody emptied the log.
fn next_offset(offset: u64, length: u64) -> u64 {
    if length.saturating_sub(offset) > FAR_BEHIND { length - HISTORY } else { offset.min(length) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_viewer_far_behind_is_shown_the_newest_part() {
        assert_eq!(next_offset(0, FAR_BEHIND + 1), FAR_BEHIND + 1 - HISTORY);
        assert_eq!(next_offset(7, 1000), 7);
        assert_eq!(next_offset(7, 3), 3);
    }
}

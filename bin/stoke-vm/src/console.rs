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
//! QEMU serves one client on its socket; that is [`Line`]. It drops the bytes that it reads (they are in the log),
//! listens to the firmware among them, and tells the viewers to look. So a viewer who is slow, or late, or comes back after a restart of this process, misses
//! nothing and holds up nobody: neither the guest nor another viewer.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use stoke_api::workload::FirmwareKind;
use stoke_vmm::dialog::{Dialog, Reaction};
use stoke_vmm::spec::VmFiles;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, Interest};
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{mpsc, watch};
use tokio::time::{sleep, timeout};

use crate::log::{ConsoleLog, HISTORY};

/// How long a viewer may leave bytes unread before it is dropped.
const VIEWER_PATIENCE: Duration = Duration::from_mins(1);

/// The same for this process' own output, whose reader is a container runtime: it may be stopped for as long as it likes.
const RUNTIME_PATIENCE: Duration = Duration::from_hours(24 * 365);

/// A viewer that is further behind is shown the newest part instead.
const FAR_BEHIND: u64 = 2 << 20;

/// Pause after a read: QEMU writes to its socket first and to the log right after. Not longer: a guest writes byte by
/// byte, the kernel accounts for each as for a page of its own, and after some 270 unread ones the guest has to wait.
const BREATH: Duration = Duration::from_millis(1);

/// The log is looked at this often even if nothing was heard.
const LOOK: Duration = Duration::from_secs(1);

/// Pause between two attempts to reach QEMU's socket while the machine runs.
const RECONNECT: Duration = Duration::from_millis(100);

/// What is on the other end of QEMU's serial socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Guest {
    running: bool,
    /// Counts starts and resets: each begins with firmware.
    boots: u64,
    firmware: FirmwareKind,
    /// Whether it was running before this process was.
    adopted: bool,
}

/// The console of a machine.
#[derive(Debug)]
pub(crate) struct Console {
    guest: watch::Sender<Guest>,
    /// Says so each time when firmware finds nothing to boot from.
    pub(crate) nothing_to_boot: mpsc::Receiver<()>,
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
    pub(crate) fn serve(files: &VmFiles, log: ConsoleLog, stdio: bool) -> anyhow::Result<Self> {
        let listener = stoke_daemon::bind(&files.console())?;
        let off = Guest { running: false, boots: 0, firmware: FirmwareKind::Bios, adopted: false };
        let (guest, current) = watch::channel(off);
        let (length_sender, length) = watch::channel(log.length());
        let (keys, typed) = mpsc::channel(64);
        let (notices, nothing_to_boot) = mpsc::channel(1);
        let line = Line {
            socket: files.serial(),
            log: log.clone(),
            length: length_sender,
            hole_end: 0,
            typed,
            guest: current,
            boots: 0,
            dialog: Dialog::new(off.firmware),
            notices,
        };
        tokio::spawn(line.keep());
        let shared = Arc::new(Shared { log, length, keys });
        if stdio {
            attach(tokio::io::stdin(), tokio::io::stdout(), &shared);
        }
        tokio::spawn(accept(listener, shared));
        Ok(Self { guest, nothing_to_boot })
    }

    /// There is a QEMU to connect to from now on.
    pub(crate) fn guest_runs(&self, firmware: FirmwareKind, adopted: bool) {
        self.guest.send_modify(|guest| *guest = Guest { running: true, boots: guest.boots + 1, firmware, adopted });
    }

    /// The guest was reset: its firmware talks now.
    pub(crate) fn guest_reset(&self) {
        self.guest.send_modify(|guest| *guest = Guest { boots: guest.boots + 1, adopted: false, ..*guest });
    }

    /// There is no QEMU any more.
    pub(crate) fn guest_ended(&self) {
        self.guest.send_modify(|guest| guest.running = false);
    }
}

/// Our end of QEMU's serial socket.
struct Line {
    socket: PathBuf,
    log: ConsoleLog,
    length: watch::Sender<u64>,
    hole_end: u64,
    typed: mpsc::Receiver<Vec<u8>>,
    guest: watch::Receiver<Guest>,
    boots: u64,
    dialog: Dialog,
    notices: mpsc::Sender<()>,
}

impl Line {
    async fn keep(mut self) {
        loop {
            self.look();
            if !self.guest.borrow_and_update().running {
                if self.guest.changed().await.is_err() {
                    return;
                }
                continue;
            }
            if let Ok(stream) = UnixStream::connect(&self.socket).await {
                // What was typed at a machine that was off is not meant for this one.
                while self.typed.try_recv().is_ok() {}
                self.carry(stream).await;
            }
            sleep(RECONNECT).await;
        }
    }

    /// Until QEMU hangs up.
    async fn carry(&mut self, stream: UnixStream) {
        let (mut from, mut to) = stream.into_split();
        let mut buffer = vec![0; 64 * 1024];
        loop {
            self.meet_guest();
            tokio::select! {
                read = from.read(&mut buffer) => {
                    let Ok(size @ 1..) = read else { return self.look() };
                    self.hear(buffer.get(..size).unwrap_or_default(), &mut to).await;
                    // A guest writes byte by byte: this gathers some, and lets QEMU write the log.
                    sleep(BREATH).await;
                    self.look();
                }
                Some(keys) = self.typed.recv() => write_keys(&mut to, &keys).await,
                () = sleep(LOOK) => {
                    self.look();
                    self.hole_end = self.log.trim(self.hole_end);
                }
            }
        }
    }

    /// Begins a new dialog if the guest was started or reset since.
    fn meet_guest(&mut self) {
        let guest = *self.guest.borrow();
        if std::mem::replace(&mut self.boots, guest.boots) == guest.boots {
            return;
        }
        self.dialog = Dialog::new(guest.firmware);
        if guest.adopted {
            let (dialog, reaction) = Dialog::resume(guest.firmware, &self.log.tail());
            self.dialog = dialog;
            // A full channel holds the same notice already.
            let _ = reaction.map(|_| self.notices.try_send(()));
        }
    }

    async fn hear(&mut self, bytes: &[u8], to: &mut OwnedWriteHalf) {
        for reaction in self.dialog.feed(bytes) {
            match reaction {
                Reaction::Type(keys) => write_keys(to, keys).await,
                // A full channel holds the same notice already.
                Reaction::NothingToBoot => drop(self.notices.try_send(())),
            }
        }
    }

    fn look(&self) {
        let length = self.log.length();
        self.length.send_if_modified(|known| std::mem::replace(known, length) != length);
    }
}

/// A guest that does not read its serial port fills the socket; keys are lost then, as on a real one.
async fn write_keys(to: &mut OwnedWriteHalf, keys: &[u8]) {
    let _ = timeout(LOOK, to.write_all(keys)).await;
}

/// Lets a terminal that is standard input pass on every key as it is: the guest's own terminal line echoes and edits.
pub(crate) fn make_raw() {
    let stdin = std::io::stdin();
    if let Ok(mut attributes) = rustix::termios::tcgetattr(&stdin) {
        attributes.make_raw();
        if let Err(error) = rustix::termios::tcsetattr(&stdin, rustix::termios::OptionalActions::Now, &attributes) {
            tracing::warn!(%error, "keys are edited by the terminal before the guest sees them");
        }
    }
}

/// Makes a pair of streams a viewer for good: what is attached to a container sees what happens from now on, and types.
/// What was before is in the container's log.
fn attach(
    from: impl AsyncRead + Send + Unpin + 'static,
    to: impl AsyncWrite + Send + Unpin + 'static,
    shared: &Arc<Shared>,
) {
    let offset = shared.log.length();
    tokio::spawn(show(to, Arc::clone(shared), offset, RUNTIME_PATIENCE));
    tokio::spawn(pass_keys(from, shared.keys.clone()));
}

async fn accept(listener: UnixListener, shared: Arc<Shared>) {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                let (from, to) = stream.into_split();
                let history = shared.log.history_start();
                let viewer = tokio::spawn(show(to, Arc::clone(&shared), history, VIEWER_PATIENCE));
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
    from = pass_keys(from, keys).await;
    // It may only have stopped typing (`socat -u`, input from /dev/null): it is gone when nothing can be written either.
    while let Ok(ready) = from.ready(Interest::WRITABLE).await {
        if ready.is_write_closed() || viewer.is_finished() {
            break;
        }
        sleep(LOOK).await;
    }
    viewer.abort();
}

/// Passes on what is typed, until the end of it.
async fn pass_keys<R: AsyncRead + Unpin>(mut from: R, keys: mpsc::Sender<Vec<u8>>) -> R {
    let mut buffer = [0; 1024];
    while let Ok(size @ 1..) = from.read(&mut buffer).await {
        // With no machine to type at, keys are dropped rather than kept for the next one.
        let _ = keys.send_timeout(buffer.get(..size).unwrap_or_default().to_vec(), LOOK).await;
    }
    from
}

/// Shows a viewer what there is from an offset on, then what comes.
async fn show(mut to: impl AsyncWrite + Unpin, shared: Arc<Shared>, mut offset: u64, patience: Duration) {
    let mut length = shared.length.clone();
    loop {
        // Only a word that there is more: it is late, and reading goes on past it.
        length.mark_unchanged();
        offset = next_offset(offset, shared.log.length());
        let piece = shared.log.read(offset);
        if piece.is_empty() {
            if length.changed().await.is_err() {
                return;
            }
            continue;
        }
        offset += piece.len() as u64;
        let written = async {
            to.write_all(&piece).await?;
            to.flush().await
        };
        if !matches!(timeout(patience, written).await, Ok(Ok(()))) {
            return;
        }
    }
}

/// Where to read on: further on if the viewer fell far behind, at the new end if somebody emptied the log, whose length
/// now this is.
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

    #[tokio::test]
    async fn who_is_attached_sees_what_is_new_and_types() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("console.log");
        fs_err::write(&path, "of an earlier container\n").unwrap();
        let (news, length) = watch::channel(0);
        let (keys, mut typed) = mpsc::channel(1);
        let shared = Arc::new(Shared { log: ConsoleLog::new(&path), length, keys });
        let (mut person, ours) = tokio::io::duplex(1024);
        let (from, to) = tokio::io::split(ours);
        attach(from, to, &shared);
        fs_err::write(&path, "of an earlier container\nlogin: ").unwrap();
        news.send_replace(31);
        let mut seen = [0; 7];
        person.read_exact(&mut seen).await.unwrap();
        assert_eq!(&seen, b"login: ");
        person.write_all(b"root\r").await.unwrap();
        assert_eq!(typed.recv().await.unwrap(), b"root\r");
    }

    #[tokio::test]
    async fn a_viewer_who_reads_faster_than_the_news_spreads_sees_everything_once() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("console.log");
        let (news, length) = watch::channel(0);
        let (keys, _typed) = mpsc::channel(1);
        fs_err::write(&path, "0123456789").unwrap();
        let (viewer, ours) = UnixStream::pair().unwrap();
        // Told of nothing yet, the viewer reads what is there.
        let shared = Shared { log: ConsoleLog::new(&path), length, keys };
        let shown = tokio::spawn(show(ours.into_split().1, Arc::new(shared), 0, VIEWER_PATIENCE));
        let mut viewer = tokio::io::BufReader::new(viewer);
        let mut seen = vec![0; 10];
        viewer.read_exact(&mut seen).await.unwrap();
        for told in [5, 10] {
            news.send_replace(told);
            tokio::task::yield_now().await;
        }
        fs_err::write(&path, "0123456789abc").unwrap();
        news.send_replace(13);
        drop(news);
        shown.await.unwrap();
        viewer.read_to_end(&mut seen).await.unwrap();
        assert_eq!(String::from_utf8(seen).unwrap(), "0123456789abc");
    }
}

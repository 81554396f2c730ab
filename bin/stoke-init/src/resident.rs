//! What stays of us in the node that runs: a process from the initramfs' memory that keeps the root's connections and
//! the lease, tells the farm how it goes, and does what the farm orders.
//!
//! It works in the new root, but needs nothing of it: not a program, not a library, not a file outside of the
//! kernel's own, so that it goes on when the root does not answer.

use std::fs;
use std::io::Read as _;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::Receiver;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use rustix::mm::{MlockAllFlags, mlockall};
use rustix::process::{Pid, Signal, kill_process, setpriority_process};
use rustix::system::{RebootCommand, reboot};
use stoke_api::Digest;
use stoke_api::node::{Event, Hello, Kexec, LayerUse, Phase, Report};

use crate::configure::READY_FILE;
use crate::disk::{Slot, Verdict};
use crate::farm::{Farm, FarmError};
use crate::handoff::{FarmLink, Handoff, NbdLink};
use crate::journal::Journal;
use crate::nbd::{Device, Keeper, Servers, ahead};
use crate::{disk, findings, fullness, handoff, kexec, lease, peer, reporter, verity};

/// How often the system's state is looked at before it is up, and after.
const LOOK_BEFORE: Duration = Duration::from_millis(100);
const LOOK_AFTER: Duration = Duration::from_secs(2);
/// How long a clean reboot may take before it is forced.
const CLEAN_REBOOT: Duration = Duration::from_mins(2);
/// How long a system that has not come up goes on with a corrupted root.
const CORRUPTED: Duration = Duration::from_mins(1);
const PAUSE: Duration = Duration::from_secs(5);
/// A replica of the farm that does not answer so often in a row is given up for the next one, and the pause between.
const UNANSWERED: u32 = 2;
const SHORT_PAUSE: Duration = Duration::from_secs(1);
/// Nice value of what may wait for everything else.
const LAST: i32 = 19;

/// Runs as the resident: takes the handoff from standard input, and never ends by itself.
pub(crate) fn run() -> Result<()> {
    let mut text = String::new();
    std::io::stdin().read_to_string(&mut text).context("the handoff")?;
    let handoff: Handoff = serde_json::from_str(&text).context("the handoff cannot be read")?;
    rustix::process::chroot(".").context("could not enter the new root")?;
    // A session of its own: no terminal of the system ends it.
    let _ = rustix::process::setsid();
    // Only pages that are used: swap may be on a device that needs us.
    let _ = mlockall(MlockAllFlags::CURRENT | MlockAllFlags::FUTURE | MlockAllFlags::ONFAULT);
    // Whatever takes the memory: without us the node has no root (proc(5), OOM_SCORE_ADJ_MIN).
    let _ = fs::write("/proc/self/oom_score_adj", "-1000");
    let journal = Arc::new(Journal::on_kernel_log(handoff.events.clone()));
    journal.say(&format!("resident, root by {}", handoff.mode));
    let by_nbd = Servers::new(handoff.nbd.as_ref().map(|nbd| nbd.export.servers.clone()).unwrap_or_default());
    if let Some((device, ranges)) = handoff.nbd.as_ref().and_then(|nbd| nbd.ahead.clone()) {
        ahead::fetch(&device, ranges, &journal);
    }
    if let Some(nbd) = handoff.nbd.clone() {
        keep_connections(nbd, by_nbd.clone(), &journal);
    }
    let farm = handoff.farm.as_ref().map(|link| Farm::new(&link.urls, &link.ca_pem)).transpose()?;
    lease::keep(&handoff, farm.clone(), &journal);
    let mut attendance = None;
    if let (Some(link), Some(farm)) = (&handoff.farm, farm) {
        let serves = handoff.gift.as_ref().map(|gift| offer(gift, &handoff, &journal)).unwrap_or_default();
        attendance = Some(Attendance::start((farm, link.clone()), &handoff, (serves, by_nbd), &journal));
    }
    watch_system(&handoff, attendance.as_ref(), &journal)
}

/// Keeps the root's connections from now on, to servers that may change.
fn keep_connections(nbd: NbdLink, servers: Servers, journal: &Arc<Journal>) {
    let connections = nbd.descriptors.iter().filter_map(|number| stoke_sys::fd::inherited(*number).ok()).collect();
    let (device, journal) = (Device { index: nbd.index, connections }, Arc::clone(journal));
    std::thread::spawn(move || {
        let Err(error) = Keeper::new(nbd.export, servers, device).and_then(|mut keeper| keeper.run(&journal));
        journal.say(&format!("the root's connections are not watched: {error:#}"));
    });
}

/// Begins to give the root to other nodes: its URL here, empty if that does not work.
fn offer(gift: &handoff::Gift, handoff: &Handoff, journal: &Journal) -> String {
    let memory = stoke_sys::fd::inherited(gift.descriptor).map_err(anyhow::Error::from);
    let url = memory.and_then(|memory| peer::Gift::new(memory, &gift.blob, gift.size).offer(handoff.address()));
    match url {
        Ok(url) => {
            journal.say(&format!("gives its root to other nodes at {url}"));
            url
        }
        Err(error) => {
            journal.say(&format!("cannot give its root to other nodes: {error:#}"));
            String::new()
        }
    }
}

/// Watches whether the system is up, and whether its root is whole.
fn watch_system(handoff: &Handoff, attendance: Option<&Arc<Attendance>>, journal: &Arc<Journal>) -> ! {
    let (mut up, mut corrupted) = (false, None);
    let mut findings = findings::Watch::new(handoff.mounts.clone(), handoff.remarks.clone());
    let mut unread = (handoff.mode == "ram").then(|| handoff.device.clone());
    let slot =
        handoff.slot.map(|(disk, slot, root)| RunningSlot { disk: stoke_sys::fd::inherited(disk).ok(), slot, root });
    let (mut untold, mut layer) = (slot.as_ref(), fullness::Watch::default());
    loop {
        let is_up = !handoff.says_ready || Path::new(READY_FILE).exists();
        if let Some(device) = unread.take_if(|_| is_up) {
            read_all(device, journal);
        }
        if let Some(slot) = untold.take_if(|_| is_up && corrupted.is_none()) {
            slot.judge(Verdict::Good, journal);
        }
        if let Some(layer) = layer.look() {
            layer_changed(layer, attendance, journal);
        }
        let news = findings.look(is_up, Instant::now());
        if let Some(remarks) = news.remarks {
            remarks_changed(remarks, attendance, journal);
        }
        if let Some(failure) = news.failure {
            journal.reached(Phase::Failed, &failure);
        }
        if is_up != up {
            up = is_up;
            journal.reached(if up { Phase::Ready } else { Phase::Stopping }, "");
        }
        if corrupted.is_none() && verity::found_corruption() {
            corrupted = Some(Instant::now());
            journal.reached(Phase::Failed, "dm-verity found corrupted blocks in the root");
            if let Some(slot) = &slot {
                slot.judge(Verdict::Corrupted, journal);
            }
        }
        if !up && corrupted.is_some_and(|since: Instant| since.elapsed() > CORRUPTED) {
            journal.say("the system does not come up with a corrupted root: rebooting");
            force_reboot();
        }
        std::thread::sleep(if up { LOOK_AFTER } else { LOOK_BEFORE });
    }
}

/// Says what the system does not do that its configuration asks for.
fn remarks_changed(remarks: Vec<String>, attendance: Option<&Arc<Attendance>>, journal: &Journal) {
    for remark in &remarks {
        journal.say(remark);
    }
    if let Some(attendance) = attendance {
        let attendance = Arc::clone(attendance);
        *attendance.remarks.lock().unwrap_or_else(PoisonError::into_inner) = remarks;
        std::thread::spawn(move || attendance.send(Vec::new()));
    }
}

/// Says that the writable layer became full, or has room again.
fn layer_changed(layer: LayerUse, attendance: Option<&Arc<Attendance>>, journal: &Journal) {
    let (free, size) = (layer.free >> 20, layer.size >> 20);
    let word = if layer.full { "is full" } else { "has room again" };
    journal.say(&format!("the writable layer {word}: {free} of {size} MiB are free"));
    if let Some(attendance) = attendance {
        let attendance = Arc::clone(attendance);
        *attendance.layer.lock().unwrap_or_else(PoisonError::into_inner) = Some(layer);
        // Its own thread: a farm that does not answer holds nobody up.
        std::thread::spawn(move || attendance.send(Vec::new()));
    }
}

/// The slot of the node's disk that has the root.
struct RunningSlot {
    disk: Option<OwnedFd>,
    slot: Slot,
    root: Digest,
}

impl RunningSlot {
    /// Remembers on the disk what became of it.
    fn judge(&self, verdict: Verdict, journal: &Journal) {
        let disk = self.disk.as_ref().context("the disk was not handed over").and_then(|disk| Ok(disk.try_clone()?));
        if let Err(error) = disk.and_then(|disk| disk::judge(disk, (self.slot, self.root), verdict)) {
            journal.say(&format!("slot {:?}: {error:#}", self.slot));
        }
    }
}

/// Reads a root in memory once, when the system is up and has nothing better to do. What is found is in dm-verity's status.
fn read_all(device: PathBuf, journal: &Arc<Journal>) {
    let journal = Arc::clone(journal);
    std::thread::spawn(move || {
        // Linux sets this for the thread alone (setpriority(2)).
        let _ = setpriority_process(None, LAST);
        match verity::read_all(&device) {
            Ok(()) => journal.say("all blocks of the root in memory are as they were built"),
            Err(error) => journal.say(&format!("the root in memory: {error:#}")),
        }
    });
}

/// The node at its farm: reports, and orders.
struct Attendance {
    farm: Farm,
    link: FarmLink,
    session: Mutex<String>,
    /// Number of the last order that was heard of.
    seen: AtomicU64,
    ssh_host_keys: Vec<String>,
    mode: String,
    /// URL at which the root is given to others.
    serves: String,
    /// Servers of the root by NBD, as the farm names them.
    by_nbd: Servers,
    /// How full the writable layer is, once it has been full.
    layer: Mutex<Option<LayerUse>>,
    /// What the system does not do that its configuration asks for.
    remarks: Mutex<Vec<String>>,
    journal: Arc<Journal>,
}

impl Attendance {
    fn start(
        (farm, link): (Farm, FarmLink),
        handoff: &Handoff,
        (serves, by_nbd): (String, Servers),
        journal: &Arc<Journal>,
    ) -> Arc<Self> {
        let attendance = Arc::new(Self {
            farm,
            session: Mutex::new(link.session.clone()),
            seen: AtomicU64::new(link.orders),
            serves,
            by_nbd,
            layer: Mutex::default(),
            remarks: Mutex::new(handoff.remarks.clone()),
            link,
            ssh_host_keys: handoff.ssh_host_keys.clone(),
            mode: handoff.mode.clone(),
            journal: Arc::clone(journal),
        });
        let (reports, events) = (Arc::clone(&attendance), journal.listen());
        std::thread::spawn(move || reports.report(&events));
        let orders = Arc::clone(&attendance);
        std::thread::spawn(move || orders.follow());
        attendance
    }

    fn session(&self) -> String {
        self.session.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Reports events as they come; the first report has those of the whole boot.
    fn report(&self, events: &Receiver<Event>) {
        while let Ok(first) = events.recv() {
            let batch = std::iter::once(first).chain(events.try_iter()).collect();
            self.send(batch);
        }
    }

    fn send(&self, mut events: Vec<Event>) {
        loop {
            let session = self.session();
            let report = Report {
                session: session.clone(),
                events,
                ssh_host_keys: self.ssh_host_keys.clone(),
                root: self.mode.clone(),
                serves: self.serves.clone(),
                layer: *self.layer.lock().unwrap_or_else(PoisonError::into_inner),
                remarks: Some(self.remarks.lock().unwrap_or_else(PoisonError::into_inner).clone()),
            };
            let attempts = if self.farm.has_others() { UNANSWERED } else { u32::MAX };
            if reporter::send(&self.farm, &report, attempts).is_ok() {
                return;
            }
            // Begun anew, if the other thread has not: the new session knows nothing yet.
            self.begin_anew(&session);
            events = told_in_a_new_session(&self.journal.events());
        }
    }

    /// Waits for orders and follows them.
    fn follow(&self) {
        let (mut unanswered, mut reboots) = (0, false);
        loop {
            let session = self.session();
            match self.farm.orders(&session, self.seen.load(Ordering::Acquire)) {
                Ok(orders) => {
                    self.farm.answers(true);
                    unanswered = 0;
                    self.seen.store(orders.number, Ordering::Release);
                    if orders.reboot && !reboots {
                        reboots = true;
                        self.reboot(orders.kexec.as_ref());
                    }
                }
                Err(FarmError::SessionOver | FarmError::Unknown(_)) => self.tell_anew(&session),
                Err(FarmError::Wait { after, .. }) => std::thread::sleep(after),
                Err(_) if self.farm.has_others() => {
                    self.farm.answers(false);
                    std::thread::sleep(SHORT_PAUSE);
                    unanswered += 1;
                    if unanswered >= UNANSWERED {
                        self.journal.say(&format!("the farm at {} does not answer", self.farm.url()));
                        self.tell_anew(&session);
                        unanswered = 0;
                    }
                }
                Err(_) => {
                    self.farm.answers(false);
                    std::thread::sleep(PAUSE);
                }
            }
        }
    }

    /// Begins a new session and tells everything in it.
    fn tell_anew(&self, old: &str) {
        self.begin_anew(old);
        if self.session() != old {
            self.send(told_in_a_new_session(&self.journal.events()));
        }
    }

    /// Says hello again, unless another thread has done it since `old`.
    fn begin_anew(&self, old: &str) {
        let mut session = self.session.lock().unwrap_or_else(PoisonError::into_inner);
        if *session != old {
            return;
        }
        let hello = Hello { orders_seen: Some(self.seen.load(Ordering::Acquire)), ..self.link.hello.clone() };
        match self.farm.hello(&hello) {
            Ok(manifest) => {
                self.journal.say(&format!("a new session at {}", self.farm.url()));
                self.by_nbd.replace(manifest.nbd);
                self.farm.learn(manifest.farms);
                *session = manifest.session;
            }
            Err(error) => {
                self.journal.say(&format!("the farm does not take us back: {error:#}"));
                std::thread::sleep(PAUSE);
            }
        }
    }

    /// Whether the system goes down for another kernel, which the running one starts.
    fn goes_over(&self, kexec: &Kexec) -> bool {
        let image = kexec.image.short();
        self.journal.say(&format!("the farm orders to go over to {image} by kexec"));
        if let Err(error) = kexec::load(kexec, self.link.hello.boot_mac) {
            self.journal.say(&format!("through the firmware instead of by kexec: {error:#}"));
            return false;
        }
        self.journal.reached(Phase::Stopping, &format!("goes over to {image} by kexec, as the farm orders"));
        if kexec::start().is_err() {
            force_kexec();
        }
        std::thread::spawn(|| {
            std::thread::sleep(CLEAN_REBOOT);
            force_kexec();
        });
        true
    }

    /// Reboots cleanly: PID 1 is asked, which needs no file of the root (systemd(1): SIGINT is `ctrl-alt-del.target`).
    fn reboot(&self, kexec: Option<&Kexec>) {
        if kexec.is_some_and(|kexec| self.goes_over(kexec)) {
            return;
        }
        self.journal.reached(Phase::Stopping, "reboot ordered by the farm");
        if kill_process(Pid::INIT, Signal::INT).is_err() {
            force_reboot();
        }
        std::thread::spawn(|| {
            std::thread::sleep(CLEAN_REBOOT);
            force_reboot();
        });
    }
}

/// What a kernel that was loaded is started by, if the system does not do it.
fn force_kexec() -> ! {
    let _ = fs::write("/proc/sysrq-trigger", "s");
    let _ = reboot(RebootCommand::Kexec);
    force_reboot()
}

/// A failure that was overcome is not told again.
fn told_in_a_new_session(events: &[Event]) -> Vec<Event> {
    let last_failure = events.iter().rposition(|event| event.phase == Phase::Failed);
    let overcome = |index: usize| last_failure.is_some_and(|last| last + 1 < events.len() && index <= last);
    let kept = |(index, event): &(usize, &Event)| event.phase != Phase::Failed || !overcome(*index);
    events.iter().enumerate().filter(kept).map(|(_, event)| event.clone()).collect()
}

/// At once, without asking anybody. Does not return.
fn force_reboot() -> ! {
    loop {
        let _ = fs::write("/proc/sysrq-trigger", "s");
        let _ = reboot(RebootCommand::Restart);
        std::thread::sleep(PAUSE);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn events(phases: &[Phase]) -> Vec<Event> {
        phases.iter().map(|phase| Event { phase: *phase, uptime_ms: 0, detail: String::new() }).collect()
    }

    fn told(phases: &[Phase]) -> Vec<Phase> {
        told_in_a_new_session(&events(phases)).iter().map(|event| event.phase).collect()
    }

    #[test]
    fn an_overcome_failure_is_not_told_again_and_the_last_one_is() {
        assert_eq!(told(&[Phase::Init, Phase::Failed, Phase::Root]), [Phase::Init, Phase::Root]);
        assert_eq!(told(&[Phase::Init, Phase::Failed]), [Phase::Init, Phase::Failed]);
    }
}

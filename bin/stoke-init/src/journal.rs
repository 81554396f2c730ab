//! What happened in this boot, for the console and for the farm.

use std::fs::{File, OpenOptions};
use std::io::Write as _;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Mutex, PoisonError};

use rustix::time::{ClockId, clock_gettime};
use stoke_api::node::{Event, Phase};

/// Milliseconds since the kernel started, sleep included.
pub(crate) fn uptime_ms() -> u64 {
    let now = clock_gettime(ClockId::Boottime);
    let (seconds, nanoseconds) = (u64::try_from(now.tv_sec), u64::try_from(now.tv_nsec));
    seconds.unwrap_or_default() * 1000 + nanoseconds.unwrap_or_default() / 1_000_000
}

/// Phases reached, said on the console and kept for the farm.
#[derive(Debug)]
pub(crate) struct Journal {
    out: Mutex<Option<File>>,
    prefix: &'static str,
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    events: Vec<Event>,
    listener: Option<Sender<Event>>,
}

impl Journal {
    /// Writes to the kernel's console.
    pub(crate) fn on_console() -> Self {
        Self::on("/dev/console", "")
    }

    /// Writes to the kernel's log, from where the node's journal takes it; begins with what was before.
    pub(crate) fn on_kernel_log(events: Vec<Event>) -> Self {
        // `<30>`: facility daemon, level info, so that it is not taken for the kernel's own.
        let journal = Self::on("/dev/kmsg", "<30>");
        journal.lock().events = events;
        journal
    }

    fn on(path: &str, prefix: &'static str) -> Self {
        // A node without console boots as well.
        let out = OpenOptions::new().write(true).open(path).ok();
        Self { out: Mutex::new(out), prefix, inner: Mutex::default() }
    }

    /// Says something without a phase.
    pub(crate) fn say(&self, text: &str) {
        self.write(uptime_ms(), text);
    }

    /// Notes a phase.
    pub(crate) fn reached(&self, phase: Phase, detail: &str) {
        let event = Event { phase, uptime_ms: uptime_ms(), detail: detail.to_owned() };
        let name = format!("{phase:?}").to_lowercase();
        self.write(event.uptime_ms, format!("{name} {detail}").trim_end());
        let mut inner = self.lock();
        inner.events.push(event.clone());
        if let Some(listener) = &inner.listener {
            // Nobody listens any more: it is in the list.
            let _ = listener.send(event);
        }
    }

    /// All events so far.
    pub(crate) fn events(&self) -> Vec<Event> {
        self.lock().events.clone()
    }

    /// From now on every event is sent there; those before come first.
    pub(crate) fn listen(&self) -> Receiver<Event> {
        let (sender, receiver) = channel();
        let mut inner = self.lock();
        for event in &inner.events {
            let _ = sender.send(event.clone());
        }
        inner.listener = Some(sender);
        receiver
    }

    fn write(&self, uptime_ms: u64, text: &str) {
        let line = line(self.prefix, uptime_ms, text);
        if let Some(out) = self.out.lock().unwrap_or_else(PoisonError::into_inner).as_mut() {
            // In one call, so that lines of the kernel do not get between.
            let _ = out.write_all(line.as_bytes());
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn line(prefix: &str, uptime_ms: u64, text: &str) -> String {
    format!("{prefix}stoke-init: [{:>4}.{:02}] {text}\n", uptime_ms / 1000, uptime_ms % 1000 / 10)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_has_seconds_and_hundredths() {
        assert_eq!(line("", 3429, "network eth0"), "stoke-init: [   3.42] network eth0\n");
    }

    #[test]
    fn a_late_listener_hears_everything_in_order() {
        let journal = Journal { out: Mutex::new(None), prefix: "", inner: Mutex::default() };
        journal.reached(Phase::Init, "");
        let receiver = journal.listen();
        journal.reached(Phase::Network, "eth0");
        let heard: Vec<_> = receiver.try_iter().map(|event| event.phase).collect();
        assert_eq!(heard, [Phase::Init, Phase::Network]);
        assert_eq!(journal.events().len(), 2);
    }
}

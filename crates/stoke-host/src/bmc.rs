//! Management controllers of servers: asked how they are, and told what is wanted of them until it has come true.
//!
//! ```text
//!   round ── due? ──> a visit on a thread of its own ──> what it found ──> the next round
//!                     (power, inventory, at most one order)
//! ```
//!
//! A visit is one conversation with one controller; they are slow and few stand two at once. An order is not repeated before
//! it had time to work, and never twice when it is a power cycle.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use stoke_api::objects::Power;
use stoke_bmc::Switch;
use stoke_reconcile::{BmcSeen, BmcTask, Occurrence};
use tokio::sync::Notify;

use crate::bmc_visit::{self, Found, Order};
use crate::store::LocalStore;

const NOTE: &str = "management-controllers";
/// Between two looks at a controller of which nothing is wanted.
const CALM: Duration = Duration::from_mins(1);
/// The same while it is awaited that an order comes true.
const EAGER: Duration = Duration::from_secs(5);
/// After a failure, doubled with each further one.
const BACKOFF: Duration = Duration::from_secs(10);
const MOST_BACKOFF: Duration = Duration::from_mins(5);
/// How long an order may take to work before it is given again.
const PATIENCE: Duration = Duration::from_mins(1);
/// How long a system may take to shut down before it is switched off.
const SHUT_DOWN: Duration = Duration::from_mins(2);
/// Between two looks at what a server is.
const INVENTORY: Duration = Duration::from_hours(1);
/// Controllers that are spoken to at once: a rack that is switched on in one moment draws more than its fuse stands.
const AT_ONCE: usize = 8;

/// What was done for a server: on disk.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Done {
    requests: u64,
    cycles: u64,
}

/// How far one server is: in memory.
#[derive(Debug, Default)]
struct Pace {
    visited: bool,
    next: Option<Instant>,
    failures: u32,
    inventory: Option<Instant>,
    /// The task that was seen last, to notice a new one.
    asked: (u64, u64),
    /// The last order for a request: which request, what, when.
    ordered: Option<(u64, Switch, Instant)>,
    /// When a request was first told to shut down.
    shut_down: Option<(u64, Instant)>,
}

/// All controllers.
pub struct Controllers {
    notes: Arc<LocalStore>,
    done: BTreeMap<String, Done>,
    pace: BTreeMap<String, Pace>,
    seen: BTreeMap<String, BmcSeen>,
    found: (Sender<Found>, Receiver<Found>),
    wake: Arc<Notify>,
}

impl Controllers {
    /// Goes on from what was done; `wake` is told when there is something new.
    ///
    /// # Errors
    /// If the notes cannot be read.
    pub fn open(notes: Arc<LocalStore>, wake: Arc<Notify>) -> anyhow::Result<Self> {
        let done = notes.note(NOTE)?.unwrap_or_default();
        let (pace, seen) = (BTreeMap::new(), BTreeMap::new());
        Ok(Self { notes, done, pace, seen, found: channel(), wake })
    }

    /// What they said last, by server.
    pub fn seen(&self) -> &BTreeMap<String, BmcSeen> {
        &self.seen
    }

    /// Takes in what visits found: before tasks are made of it. What happened.
    ///
    /// # Errors
    /// If it cannot be noted.
    pub fn collect(&mut self) -> anyhow::Result<Vec<Occurrence>> {
        let mut events = Vec::new();
        while let Ok(found) = self.found.1.try_recv() {
            events.extend(self.take_in(found)?);
        }
        Ok(events)
    }

    /// Begins the visits that are due. To servers in `locked` there is none: why nobody can log in, by their names.
    ///
    /// # Errors
    /// If it cannot be noted.
    pub fn carry_out(&mut self, tasks: &[BmcTask], locked: &BTreeMap<String, String>) -> anyhow::Result<()> {
        let wanted = |name: &String| tasks.iter().any(|task| task.server.to_string() == *name);
        self.seen.retain(|name, _| wanted(name));
        self.pace.retain(|name, pace| pace.visited || wanted(name));
        for task in tasks {
            self.begin(task, locked.get(&task.server.to_string()))?;
        }
        Ok(())
    }

    fn begin(&mut self, task: &BmcTask, locked: Option<&String>) -> anyhow::Result<()> {
        let name = task.server.to_string();
        let under_way = self.pace.values().filter(|pace| pace.visited).count();
        let done = self.done.get(&name).copied().unwrap_or_default();
        let seen = self.seen.entry(name.clone()).or_default();
        seen.requests_done = done.requests;
        if let Some(why) = locked {
            why.clone_into(&mut seen.last_error);
            return Ok(());
        }
        let pace = self.pace.entry(name.clone()).or_default();
        let now = Instant::now();
        let asked = (task.requests, task.cycles);
        if pace.asked != asked && pace.failures == 0 {
            pace.next = None;
        }
        pace.asked = asked;
        if pace.visited || under_way >= AT_ONCE || pace.next.is_some_and(|next| next > now) {
            return Ok(());
        }
        // The first visit only looks: whose controller it is must be known before anything is switched.
        let order = pace.inventory.and_then(|_| pace.order(task, done, now));
        if order == Some(Order::Cycle) {
            // Noted before: a power cycle that was begun is not begun again by who comes after.
            self.done.insert(name.clone(), Done { cycles: task.cycles, ..done });
            self.notes.set_note(NOTE, &self.done)?;
        }
        pace.visited = true;
        let inventory = pace.inventory.is_none_or(|last| now.duration_since(last) > INVENTORY);
        let (task, found, wake) = (task.clone(), self.found.0.clone(), self.wake.clone());
        std::thread::spawn(move || {
            // Nobody listens any more when the installation ends.
            drop(found.send(bmc_visit::visit(task, order, inventory, done.cycles)));
            wake.notify_one();
        });
        Ok(())
    }

    fn take_in(&mut self, found: Found) -> anyhow::Result<Option<Occurrence>> {
        let name = found.task.server.to_string();
        let mut done = self.done.get(&name).copied().unwrap_or_default();
        let before = done;
        if found.order == Some(Order::Cycle) && found.sent.is_none() {
            // Nothing was sent: it is still to be done.
            done.cycles = found.cycles_before;
        }
        if found.task.requests > done.requests && found.power.is_some() && found.power == found.task.wanted {
            done.requests = found.task.requests;
        }
        if done != before {
            self.done.insert(name.clone(), done);
            self.notes.set_note(NOTE, &self.done)?;
        }
        let task = &found.task;
        let pending = task.requests > done.requests || task.cycles > done.cycles || found.sent.is_some();
        self.pace.entry(name.clone()).or_default().visited(&found, pending);
        let seen = self.seen.entry(name).or_default();
        (seen.power, seen.requests_done) = (found.power, done.requests);
        seen.inventory = found.inventory.or_else(|| seen.inventory.take());
        seen.last_error = found.error.unwrap_or_default();
        let message = found.sent.map(said);
        Ok(message.map(|message| Occurrence {
            object: found.task.server,
            reason: "Power".to_owned(),
            message: message.to_owned(),
        }))
    }
}

fn said(switch: Switch) -> &'static str {
    match switch {
        Switch::On => "switched on by its management controller",
        Switch::ShutDown => "asked to shut down by its management controller",
        Switch::Off => "switched off by its management controller",
        Switch::Cycle => "power-cycled by its management controller",
    }
}

impl Pace {
    /// What this visit is for, beside looking.
    fn order(&self, task: &BmcTask, done: Done, now: Instant) -> Option<Order> {
        if task.requests > done.requests
            && let Some(wanted) = task.wanted
        {
            let last = self.ordered.filter(|(request, _, _)| *request == task.requests);
            let works = last.is_some_and(|(_, _, at)| now.duration_since(at) < PATIENCE);
            let asked = self.shut_down.filter(|(request, _)| *request == task.requests).map(|(_, at)| at);
            let switch = match (wanted, asked) {
                (Power::On, _) => Some(Switch::On).filter(|_| !works),
                (Power::Off, None) => Some(Switch::ShutDown),
                (Power::Off, Some(at)) if now.duration_since(at) < SHUT_DOWN => None,
                (Power::Off, Some(_)) => Some(Switch::Off).filter(|_| !works),
            };
            return switch.map(|switch| Order::Bring(wanted, switch));
        }
        (task.cycles > done.cycles).then_some(Order::Cycle)
    }

    /// Notes a visit, and when the next one is.
    fn visited(&mut self, found: &Found, pending: bool) {
        let now = Instant::now();
        let first = self.inventory.is_none();
        self.visited = false;
        self.failures = if found.error.is_some() { self.failures.saturating_add(1) } else { 0 };
        if found.inventory.is_some() {
            self.inventory = Some(now);
        }
        if let Some(switch) = found.sent {
            self.ordered = Some((found.task.requests, switch, now));
        }
        // A controller that cannot ask for it lets the server be switched off after the same time.
        let tried = matches!(found.order, Some(Order::Bring(_, Switch::ShutDown)));
        if tried && (found.sent.is_some() || found.refused) {
            self.shut_down = Some((found.task.requests, now));
        }
        let pause = match (self.failures, pending) {
            (0, true) if first => Duration::ZERO,
            (0, true) => EAGER,
            (0, false) => CALM,
            (failures, _) => (BACKOFF * 2_u32.saturating_pow(failures.min(16) - 1)).min(MOST_BACKOFF),
        };
        self.next = Some(now + pause);
    }
}

#[cfg(test)]
#[path = "bmc_tests.rs"]
mod tests;

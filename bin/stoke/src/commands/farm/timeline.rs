//! A boot as a picture: its stages as bars on one axis of time, its events below.

use std::fmt::Write as _;

use serde::Serialize;
use stoke_api::node::Phase;
use stoke_api::trace::TraceEvent;

use crate::output::{self, Color, Table};

/// Milliseconds of silence after which what asks next is another boot.
const PAUSE: u64 = 600_000;
/// Phases that a node reports on its way up, in order.
const PHASES: [Phase; 6] = [Phase::Init, Phase::Network, Phase::Manifest, Phase::Root, Phase::Switched, Phase::Ready];

/// One boot.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Boot {
    /// When it began, in milliseconds since 1970.
    pub(super) at_ms: u64,
    /// How long it took as far as it came.
    pub(super) took_ms: u64,
    /// What it went through.
    pub(super) stages: Vec<Stage>,
    /// What happened, oldest first.
    pub(super) events: Vec<TraceEvent>,
}

/// A part of a boot.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Stage {
    /// Its name.
    pub(super) name: String,
    /// Milliseconds from the boot's beginning to its own.
    pub(super) at_ms: u64,
    /// Its length in milliseconds.
    pub(super) took_ms: u64,
}

/// How a picture is drawn.
#[derive(Clone, Copy, Debug)]
pub(super) struct Canvas {
    /// Columns of the terminal.
    pub(super) width: usize,
    /// Whether it shows more than ASCII.
    pub(super) unicode: bool,
}

/// Events in order as boots: firmware that asks for an address begins one, unless that boot has just begun.
pub(super) fn boots(events: Vec<TraceEvent>) -> Vec<Boot> {
    let mut all: Vec<Vec<TraceEvent>> = Vec::new();
    for event in events {
        match all.last_mut().filter(|boot| !begins(boot, &event)) {
            Some(boot) => boot.push(event),
            None => all.push(vec![event]),
        }
    }
    all.into_iter().map(Boot::of).collect()
}

/// Whether an event begins another boot than the one that is known so far.
fn begins(boot: &[TraceEvent], event: &TraceEvent) -> bool {
    let silent = boot.last().is_some_and(|last| event.at_ms.saturating_sub(end(last)) > PAUSE);
    let asks = ["DISCOVER ", "SOLICIT "].iter().any(|kind| event.what.starts_with(kind));
    let firmware = asks && event.way.starts_with("dhcp") && !event.what.ends_with("stoke-init");
    let loads = |event: &TraceEvent| !event.way.starts_with("dhcp");
    // iPXE asks in the middle of a boot, too, when firmware has loaded it; after a node has spoken it is the first again.
    let ended = if event.what.ends_with("(iPXE)") {
        boot.iter().any(|known| known.way == "node")
    } else {
        boot.iter().any(loads)
    };
    (silent && event.way != "node") || (firmware && ended)
}

fn end(event: &TraceEvent) -> u64 {
    event.at_ms.saturating_add(event.took_ms.unwrap_or_default())
}

impl Boot {
    fn of(events: Vec<TraceEvent>) -> Self {
        let at_ms = events.first().map_or(0, |event| event.at_ms);
        let reached = |phase: Phase| {
            let word = phase.to_string();
            events.iter().find(|event| event.way == "node" && event.what == word).map(|event| event.at_ms)
        };
        let stages = stages(&events, at_ms, reached);
        // A node that runs goes on to be heard; its boot is over when it is ready.
        let over = reached(Phase::Ready).or_else(|| events.iter().map(end).max());
        Self { at_ms, took_ms: over.unwrap_or(at_ms).saturating_sub(at_ms), stages, events }
    }

    /// The picture.
    pub(super) fn draw(&self, canvas: Canvas) -> String {
        let began =
            jiff::Timestamp::from_millisecond(i64::try_from(self.at_ms).unwrap_or_default()).unwrap_or_default();
        let mut text = format!("Boot of {began:.0}, {}\n\n", seconds(self.took_ms));
        for stage in &self.stages {
            text.push_str(&self.bar(stage, canvas));
        }
        let _ = write!(text, "\n{}", self.table());
        text
    }

    fn bar(&self, stage: &Stage, canvas: Canvas) -> String {
        let room = canvas.width.saturating_sub(34).clamp(16, 100);
        let column = |ms: u64| {
            let columns = u128::from(ms) * room as u128 / u128::from(self.took_ms.max(1));
            usize::try_from(columns).unwrap_or(room).min(room)
        };
        let (from, to) = (column(stage.at_ms).min(room - 1), column(stage.at_ms.saturating_add(stage.took_ms)));
        let (full, thin) = if canvas.unicode { ("█", "▏") } else { ("#", "|") };
        let bar = if to > from { full.repeat(to - from) } else { thin.to_owned() };
        let rest = " ".repeat(room.saturating_sub(from + to.saturating_sub(from).max(1)));
        let color = match stage.name.as_str() {
            "Ready" => Color::Green,
            "Failed" => Color::Red,
            "Firmware" | "Loading" => Color::Yellow,
            _ => Color::Cyan,
        };
        let bar = output::paint(color, &bar);
        format!("  {:<10}{}{bar}{rest} {:>9}\n", stage.name, " ".repeat(from), seconds(stage.took_ms))
    }

    fn table(&self) -> String {
        let mut table = Table::new(&["AT", "WAY", "WHAT", "RESULT", "TOOK", "BYTES"]);
        for event in &self.events {
            table.row(vec![
                seconds(event.at_ms.saturating_sub(self.at_ms)),
                event.way.clone(),
                plain(&event.what),
                plain(&event.result),
                event.took_ms.map(seconds).unwrap_or_default(),
                event.bytes.map(output::size).unwrap_or_default(),
            ]);
        }
        table.render("  ")
    }
}

/// Names of files and reasons come from the network: they must not move the cursor.
fn plain(text: &str) -> String {
    text.chars().map(|one| if one.is_control() { '?' } else { one }).collect()
}

/// What a boot went through: firmware until something is loaded, loading until nothing more is, the kernel until
/// `stoke-init` runs, then phase by phase.
fn stages(events: &[TraceEvent], began: u64, reached: impl Fn(Phase) -> Option<u64>) -> Vec<Stage> {
    let init =
        reached(Phase::Init).or_else(|| events.iter().find(|event| event.way == "node").map(|event| event.at_ms));
    let loads = |event: &&TraceEvent| ["tftp", "http"].contains(&event.way.as_str());
    let before_init = |event: &&TraceEvent| init.is_none_or(|init| event.at_ms < init);
    let loaded: Vec<_> = events.iter().filter(loads).filter(before_init).collect();
    let first = loaded.first().map(|event| event.at_ms);
    let last = loaded.iter().map(|event| end(event)).max().map(|last| init.map_or(last, |init| last.min(init)));
    let asked = events.iter().filter(|event| event.way.starts_with("dhcp")).map(end).max();
    let mut all = Vec::new();
    let mut from = began;
    let mut add = |stage: &str, until: Option<u64>| {
        if let Some(until) = until {
            let until = until.max(from);
            all.push(Stage { name: stage.to_owned(), at_ms: from - began, took_ms: until - from });
            from = until;
        }
    };
    add("Firmware", first.or(init).or(asked));
    add("Loading", last);
    add("Kernel", init.filter(|_| last.is_some()));
    for phase in PHASES.into_iter().skip(1) {
        add(&phase.to_string(), reached(phase));
    }
    add("Failed", reached(Phase::Failed).filter(|_| reached(Phase::Ready).is_none()));
    all
}

fn seconds(milliseconds: u64) -> String {
    format!("{}.{:03} s", milliseconds / 1000, milliseconds % 1000)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(at_ms: u64, way: &str, what: &str, result: &str) -> TraceEvent {
        let mac = "52:54:00:12:34:56".parse().unwrap();
        let (way, what, result) = (way.to_owned(), what.to_owned(), result.to_owned());
        TraceEvent { at_ms: 1_767_225_600_000 + at_ms, took_ms: None, mac, way, what, result, bytes: None }
    }

    fn lasted(event: TraceEvent, took_ms: u64, bytes: u64) -> TraceEvent {
        TraceEvent { took_ms: Some(took_ms), bytes: Some(bytes), ..event }
    }

    fn boot() -> Vec<TraceEvent> {
        vec![
            event(0, "dhcp", "DISCOVER BIOS", "OFFER 10.10.0.21 undionly.kpxe"),
            lasted(event(300, "tftp", "undionly.kpxe", "complete"), 400, 70_000),
            event(900, "dhcp", "DISCOVER BIOS (iPXE)", "OFFER 10.10.0.21"),
            event(1000, "http", "boot script", "image abcdef"),
            lasted(event(1100, "http", "kernel", "complete"), 1500, 9_000_000),
            event(4000, "node", "Init", ""),
            event(4200, "dhcp", "DISCOVER stoke-init", "OFFER 10.10.0.21"),
            event(4300, "node", "Network", ""),
            event(4400, "node", "Manifest", ""),
            event(4600, "node", "Root", "nbd"),
            event(8000, "node", "Ready", ""),
        ]
    }

    #[test]
    fn firmware_that_asks_again_begins_another_boot() {
        let mut events = boot();
        let again = boot().into_iter().map(|event| TraceEvent { at_ms: event.at_ms + 60_000, ..event });
        events.extend(again);
        let boots = boots(events);
        assert_eq!(boots.iter().map(|boot| boot.events.len()).collect::<Vec<_>>(), [11, 11]);
        assert_eq!(boots[1].took_ms, 8000);
    }

    #[test]
    fn ipxe_in_a_cards_rom_begins_a_boot_after_a_node_has_spoken() {
        let ask = |at| event(at, "dhcp", "DISCOVER BIOS (iPXE)", "OFFER 10.10.0.21");
        let events = vec![ask(0), event(10, "http", "boot script", ""), event(90, "node", "hello", ""), ask(500)];
        assert_eq!(boots(events).len(), 2);
    }

    #[test]
    fn a_boot_with_all_its_stages() {
        let boot = boots(boot()).remove(0);
        let names: Vec<_> = boot.stages.iter().map(|stage| stage.name.as_str()).collect();
        assert_eq!(names, ["Firmware", "Loading", "Kernel", "Network", "Manifest", "Root", "Ready"]);
        assert_eq!(boot.stages.iter().map(|stage| stage.took_ms).sum::<u64>(), boot.took_ms);
        insta::assert_snapshot!(boot.draw(Canvas { width: 80, unicode: true }));
    }

    #[test]
    fn a_boot_that_hangs_in_the_firmware_without_unicode() {
        let mut events = boot();
        events.truncate(2);
        events[1].result = "gave\x1b[2J up".to_owned();
        insta::assert_snapshot!(boots(events).remove(0).draw(Canvas { width: 60, unicode: false }));
    }
}

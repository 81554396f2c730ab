//! What a role remembers of the boots that it serves: a bounded number of events for a bounded number of machines.
//!
//! `GET /trace?mac=MAC` on the admin socket gives one machine's events, `GET /trace` those of all machines: a list of
//! [`TraceEvent`], oldest first. Whoever sends packets from made-up addresses pushes out what is old; memory stays bounded
//! by [`TRACED_MACHINES`] times [`TRACED_EVENTS`] times [`LONGEST`].

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use axum::extract::{Query, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse as _, Response};
use axum::routing::get;
use axum::{Json, Router};
use serde::Deserialize;
use stoke_api::MacAddr;
use stoke_api::trace::{TRACED_EVENTS, TRACED_MACHINES, TraceEvent};

/// Bytes of a text in an event; file names and reasons come from the network.
pub const LONGEST: usize = 160;

/// The events. One for each role; shared by its services.
#[derive(Debug, Default)]
pub struct Traces {
    machines: Mutex<Machines>,
}

#[derive(Debug, Default)]
struct Machines {
    by_mac: HashMap<MacAddr, Machine>,
    /// By when they were heard last, in turns of the clock that counts events.
    by_age: BTreeMap<u64, MacAddr>,
    heard: u64,
}

#[derive(Debug, Default)]
struct Machine {
    heard: u64,
    events: VecDeque<TraceEvent>,
}

impl Traces {
    /// Remembers an event.
    pub fn note(&self, mut event: TraceEvent) {
        for text in [&mut event.way, &mut event.what, &mut event.result] {
            shorten(text);
        }
        self.machines().note(event);
    }

    /// Remembers an event as a part of the machine's last one, if that says the same: what is fetched in pieces is one.
    pub fn note_part(&self, event: TraceEvent) {
        if !self.machines().join(&event) {
            self.note(event);
        }
    }

    /// Remembers that something without length happened just now.
    pub fn happened(&self, mac: MacAddr, way: &str, what: impl Into<String>, result: impl Into<String>) {
        let (way, what, result) = (way.to_owned(), what.into(), result.into());
        self.note(TraceEvent { at_ms: now_ms(), took_ms: None, mac, way, what, result, bytes: None });
    }

    /// The events of a machine, oldest first.
    pub fn of(&self, mac: MacAddr) -> Vec<TraceEvent> {
        let events = self.machines().by_mac.get(&mac).map(|machine| machine.events.iter().cloned().collect());
        in_order(events.unwrap_or_default())
    }

    /// The events of all machines, oldest first.
    pub fn all(&self) -> Vec<TraceEvent> {
        in_order(self.machines().by_mac.values().flat_map(|machine| machine.events.iter().cloned()).collect())
    }

    /// The route, for [`crate::Role::routes`].
    pub fn routes(self: Arc<Self>) -> Router {
        Router::new().route("/trace", get(answer)).with_state(self)
    }

    fn machines(&self) -> MutexGuard<'_, Machines> {
        self.machines.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Machines {
    fn note(&mut self, event: TraceEvent) {
        self.heard += 1;
        let mac = event.mac;
        let machine = self.by_mac.entry(mac).or_default();
        self.by_age.remove(&machine.heard);
        machine.heard = self.heard;
        if machine.events.len() >= TRACED_EVENTS {
            machine.events.pop_front();
        }
        machine.events.push_back(event);
        self.by_age.insert(self.heard, mac);
        while self.by_mac.len() > TRACED_MACHINES {
            let Some((_, silent)) = self.by_age.pop_first() else { return };
            self.by_mac.remove(&silent);
        }
    }
}

impl Machines {
    /// Whether the event went into the last one of its machine.
    fn join(&mut self, event: &TraceEvent) -> bool {
        let last = self.by_mac.get_mut(&event.mac).and_then(|machine| machine.events.back_mut());
        let same =
            |last: &&mut TraceEvent| last.way == event.way && last.what == event.what && last.result == event.result;
        let Some(last) = last.filter(same) else { return false };
        let ends = event.at_ms.saturating_add(event.took_ms.unwrap_or_default());
        last.took_ms = Some(ends.saturating_sub(last.at_ms).max(last.took_ms.unwrap_or_default()));
        last.bytes = last.bytes.map(|bytes| bytes.saturating_add(event.bytes.unwrap_or_default())).or(event.bytes);
        true
    }
}

/// Events are noted when they end, and shown by when they began.
fn in_order(mut events: Vec<TraceEvent>) -> Vec<TraceEvent> {
    events.sort_by_key(|event| event.at_ms);
    events
}

fn shorten(text: &mut String) {
    if text.len() > LONGEST {
        let mut end = LONGEST - '…'.len_utf8();
        while !text.is_char_boundary(end) {
            end -= 1;
        }
        text.truncate(end);
        text.push('…');
        text.shrink_to_fit();
    }
}

fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

#[derive(Deserialize)]
struct Asked {
    mac: Option<String>,
}

async fn answer(State(traces): State<Arc<Traces>>, Query(asked): Query<Asked>) -> Response {
    match asked.mac.map(|mac| mac.parse::<MacAddr>()).transpose() {
        Ok(Some(mac)) => Json(traces.of(mac)).into_response(),
        Ok(None) => Json(traces.all()).into_response(),
        Err(error) => (StatusCode::BAD_REQUEST, format!("{error}\n")).into_response(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mac(number: usize) -> MacAddr {
        let [.., a, b, c] = number.to_be_bytes();
        MacAddr([2, 0, 0, a, b, c])
    }

    fn event(number: usize, at_ms: u64) -> TraceEvent {
        let (way, what, result) = ("tftp".to_owned(), format!("file {at_ms}"), "complete".to_owned());
        TraceEvent { at_ms, took_ms: Some(5), mac: mac(number), way, what, result, bytes: Some(7) }
    }

    #[test]
    fn events_are_shown_by_when_they_began() {
        let traces = Traces::default();
        for at in [30, 10, 20] {
            traces.note(event(1, at));
        }
        traces.note(event(2, 15));
        let times = |events: Vec<TraceEvent>| events.iter().map(|event| event.at_ms).collect::<Vec<_>>();
        assert_eq!(times(traces.of(mac(1))), [10, 20, 30]);
        assert_eq!(times(traces.all()), [10, 15, 20, 30]);
        assert_eq!(times(traces.of(mac(3))), [0; 0]);
    }

    #[test]
    fn the_oldest_events_of_a_machine_go_first() {
        let traces = Traces::default();
        for at in 0..500 {
            traces.note(event(1, at));
        }
        let events = traces.of(mac(1));
        assert_eq!((events.len(), events[0].at_ms), (TRACED_EVENTS, 500 - TRACED_EVENTS as u64));
    }

    #[test]
    fn the_machine_that_was_silent_longest_goes_first() {
        let traces = Traces::default();
        for number in 0..TRACED_MACHINES {
            traces.note(event(number, 0));
        }
        traces.note(event(0, 1));
        traces.note(event(TRACED_MACHINES, 2));
        assert_eq!(traces.of(mac(0)).len(), 2);
        assert_eq!(traces.of(mac(1)).len(), 0);
        assert_eq!(traces.of(mac(2)).len(), 1);
        assert_eq!(traces.machines().by_age.len(), TRACED_MACHINES);
    }

    #[test]
    fn pieces_of_one_thing_are_one_event() {
        let traces = Traces::default();
        let piece = |at_ms| TraceEvent { what: "root".to_owned(), ..event(1, at_ms) };
        for at in [100, 200, 300] {
            traces.note_part(piece(at));
        }
        traces.note_part(event(1, 400));
        let events = traces.of(mac(1));
        assert_eq!((events.len(), events[0].at_ms, events[0].took_ms, events[0].bytes), (2, 100, Some(205), Some(21)));
    }

    #[test]
    fn long_texts_are_cut_between_characters() {
        let traces = Traces::default();
        traces.happened(mac(1), "tftp", "ä".repeat(300), "");
        let what = traces.of(mac(1))[0].what.clone();
        assert!(what.len() <= LONGEST && what.ends_with("ä…"), "{what}");
    }
}

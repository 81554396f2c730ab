//! Statuses as the reconcilers say them, and how conditions keep their times.

use stoke_api::meta::Truth;
use stoke_api::objects::{
    AnyObject, FarmStatus, ImageStatus, LanStatus, MachineSetStatus, MachineStatus, ServerStatus,
};
use stoke_api::{Condition, ObjectRef};

use crate::observed::{Desired, Occurrence};

/// The status of an object of any kind.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "each is documented where its type is")]
pub enum Status {
    Image(ImageStatus),
    Lan(LanStatus),
    Farm(FarmStatus),
    Server(ServerStatus),
    Machine(MachineStatus),
    MachineSet(MachineSetStatus),
}

impl Status {
    /// Its conditions.
    pub fn conditions_mut(&mut self) -> &mut Vec<Condition> {
        match self {
            Self::Image(status) => &mut status.conditions,
            Self::Lan(status) => &mut status.conditions,
            Self::Farm(status) => &mut status.conditions,
            Self::Server(status) => &mut status.conditions,
            Self::Machine(status) => &mut status.conditions,
            Self::MachineSet(status) => &mut status.conditions,
        }
    }

    /// Puts the status into its object. Whether that changed anything; a status of another kind changes nothing.
    pub fn write_into(self, object: &mut AnyObject) -> bool {
        fn put<T: PartialEq>(place: &mut T, value: T) -> bool {
            let differs = *place != value;
            *place = value;
            differs
        }
        match (self, object) {
            (Self::Image(status), AnyObject::Image(object)) => put(&mut object.status, status),
            (Self::Lan(status), AnyObject::Lan(object)) => put(&mut object.status, status),
            (Self::Farm(status), AnyObject::Farm(object)) => put(&mut object.status, status),
            (Self::Server(status), AnyObject::Server(object)) => put(&mut object.status, status),
            (Self::Machine(status), AnyObject::Machine(object)) => put(&mut object.status, status),
            (Self::MachineSet(status), AnyObject::MachineSet(object)) => put(&mut object.status, status),
            _ => false,
        }
    }
}

/// Why something is not ready yet: a word for programs, a sentence for people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Waiting {
    pub(crate) reason: &'static str,
    pub(crate) message: String,
}

impl Waiting {
    pub(crate) fn new(reason: &'static str, message: impl Into<String>) -> Self {
        Self { reason, message: message.into() }
    }
}

/// The `Ready` condition of a state.
pub(crate) fn ready_condition(state: &Result<(&'static str, String), Waiting>) -> Condition {
    match state {
        Ok((reason, message)) => Condition::ready(true, reason, message.clone()),
        Err(waiting) => Condition::ready(false, waiting.reason, waiting.message.clone()),
    }
}

/// Reasons of not being ready for which nothing goes on by itself: somebody wants it so, or has to do something.
const AT_REST: [&str; 16] = [
    "BootFailed",
    "BuildFailed",
    "Failed",
    "FarmMissing",
    "ImageMissing",
    "ImageNotSigned",
    "Invalid",
    "NameTaken",
    "NeedsCluster",
    "NoAddress",
    "NodeLost",
    "NotHeardOf",
    "NothingSigned",
    "PoweredOff",
    "Stopped",
    "UnknownMinimum",
];

/// Whether an object is on its way to `Ready`.
fn progressing(ready: &Condition) -> Condition {
    let holds = ready.status == Truth::False && !AT_REST.contains(&ready.reason.as_str());
    let message = if holds { ready.message.clone() } else { String::new() };
    condition("Progressing", holds, &ready.reason, message)
}

/// A condition that holds or not.
pub(crate) fn condition(kind: &str, holds: bool, reason: &str, message: impl Into<String>) -> Condition {
    Condition::new(kind, if holds { Truth::True } else { Truth::False }, reason, message)
}

/// The conditions `new` with the times of `old` where the truth is the same. An empty time is filled in by the store.
pub(crate) fn with_times(old: &[Condition], mut new: Vec<Condition>) -> Vec<Condition> {
    for condition in &mut new {
        let before = old.iter().find(|before| before.kind == condition.kind && before.status == condition.status);
        condition.last_transition_time = before.map(|before| before.last_transition_time.clone()).unwrap_or_default();
    }
    new
}

/// Adds an object's status, and an event for each condition whose truth or reason is new. A status without `Progressing` gets
/// what its `Ready` says of that, which is no event of its own.
pub(crate) fn push(desired: &mut Desired, object: &ObjectRef, old: &[Condition], mut status: Status) {
    let same = |a: &Condition, b: &Condition| a.kind == b.kind && a.status == b.status && a.reason == b.reason;
    for condition in status.conditions_mut() {
        if old.iter().any(|before| same(before, condition)) {
            continue;
        }
        let message = match condition.status {
            Truth::True if condition.message.is_empty() => format!("{} holds", condition.kind),
            _ => condition.message.clone(),
        };
        desired.events.push(Occurrence { object: object.clone(), reason: condition.reason.clone(), message });
    }
    let mut conditions = std::mem::take(status.conditions_mut());
    let ready = conditions.iter().position(|condition| condition.kind == "Ready");
    if let Some((at, ready)) = ready.and_then(|at| Some((at, conditions.get(at)?)))
        && !conditions.iter().any(|condition| condition.kind == "Progressing")
    {
        let progressing = progressing(ready);
        conditions.insert(at + 1, progressing);
    }
    *status.conditions_mut() = with_times(old, conditions);
    desired.statuses.push((object.clone(), status));
}

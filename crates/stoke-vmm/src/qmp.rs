//! QEMU's control protocol (QMP) without I/O: bytes in, lines to send and things that happened out.
//!
//! ```text
//!             greeting                    reply to qmp_capabilities
//!   Greeting ---------> Negotiating ---------------------------------> Ready
//!                       (sends qmp_capabilities)                       commands, replies, events
//! ```
//!
//! QMP is one JSON object a line (QEMU's `docs/interop/qmp-spec.txt`). Replies carry the `id` of their command. Lines
//! that are no QMP are reported, never fatal: what is on the other end of the socket runs next to a guest.

use serde_json::{Map, Value, json};

/// The longest line that is read. QEMU's longest answer (`query-qmp-schema`, never asked for) has about 200 KiB.
const LONGEST_LINE: usize = 1 << 20;

/// The `id` of the command that ends the negotiation.
const NEGOTIATION: u64 = 0;

/// A command that QEMU refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{description} ({class})")]
pub struct Refused {
    /// QEMU's class of the error: `GenericError`, `CommandNotFound`.
    pub class: String,
    /// Why.
    pub description: String,
}

/// Something that happened to the machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// Its name: `SHUTDOWN`, `RESET`.
    pub name: String,
    /// What QEMU says about it.
    pub data: Map<String, Value>,
}

impl Event {
    /// Whether the guest itself caused it.
    pub fn by_guest(&self) -> bool {
        self.data.get("guest").and_then(Value::as_bool).unwrap_or(false)
    }

    /// QEMU's word for the cause: `guest-shutdown`, `host-qmp-quit`.
    pub fn reason(&self) -> &str {
        self.data.get("reason").and_then(Value::as_str).unwrap_or("")
    }
}

/// What the caller does, or learns.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Output {
    /// Send these bytes.
    Send(Vec<u8>),
    /// Commands are accepted from now on.
    Ready {
        /// Version of QEMU: `7.2.0`.
        version: String,
    },
    /// A command was answered.
    Reply {
        /// Which one.
        id: u64,
        /// How.
        result: Result<Value, Refused>,
    },
    /// Something happened.
    Event(Event),
    /// A line that is no QMP, shortened.
    Noise(String),
}

/// One connection to QEMU.
#[derive(Debug, Default)]
pub struct Session {
    line: Vec<u8>,
    overlong: bool,
    version: String,
    phase: Phase,
    last_id: u64,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Phase {
    #[default]
    Greeting,
    Negotiating,
    Ready,
}

impl Session {
    /// A new connection; nothing is sent before QEMU's greeting.
    pub fn new() -> Self {
        Self::default()
    }

    /// A command: its id and the bytes to send. Only after [`Output::Ready`].
    pub fn command(&mut self, name: &str, arguments: Option<&Value>) -> (u64, Vec<u8>) {
        self.last_id += 1;
        (self.last_id, line(self.last_id, name, arguments))
    }

    /// Takes bytes from the socket, in pieces of any size.
    pub fn feed(&mut self, bytes: &[u8]) -> Vec<Output> {
        let mut outputs = Vec::new();
        for piece in bytes.split_inclusive(|byte| *byte == b'\n') {
            self.append(piece);
            if piece.ends_with(b"\n") {
                outputs.extend(self.end_of_line());
            }
        }
        outputs
    }

    fn append(&mut self, piece: &[u8]) {
        if self.line.len() + piece.len() > LONGEST_LINE {
            self.overlong = true;
            self.line.clear();
        }
        if !self.overlong {
            self.line.extend_from_slice(piece);
        }
    }

    fn end_of_line(&mut self) -> Option<Output> {
        let line = std::mem::take(&mut self.line);
        if std::mem::take(&mut self.overlong) {
            return Some(Output::Noise("a line of more than 1 MiB".to_owned()));
        }
        match serde_json::from_slice(line.trim_ascii()) {
            _ if line.trim_ascii().is_empty() => None,
            Ok(Value::Object(message)) => Some(self.message(message)),
            Ok(other) => Some(Output::Noise(shortened(&other.to_string()))),
            Err(_) => Some(Output::Noise(shortened(&String::from_utf8_lossy(&line)))),
        }
    }

    fn message(&mut self, mut message: Map<String, Value>) -> Output {
        if let Some(greeting) = message.get("QMP") {
            return self.greeted(greeting);
        }
        if let Some(name) = message.get("event").and_then(Value::as_str).map(str::to_owned) {
            let data = match message.remove("data") {
                Some(Value::Object(data)) => data,
                _ => Map::new(),
            };
            return Output::Event(Event { name, data });
        }
        match (message.get("id").and_then(Value::as_u64), reply(&message)) {
            (Some(NEGOTIATION), Some(Ok(_))) if self.phase == Phase::Negotiating => {
                self.phase = Phase::Ready;
                Output::Ready { version: self.version.clone() }
            }
            (Some(id), Some(result)) => Output::Reply { id, result },
            _ => Output::Noise(shortened(&Value::Object(message).to_string())),
        }
    }

    fn greeted(&mut self, greeting: &Value) -> Output {
        if self.phase != Phase::Greeting {
            return Output::Noise("a second greeting".to_owned());
        }
        self.phase = Phase::Negotiating;
        let number = |part: &str| greeting.pointer(&format!("/version/qemu/{part}")).and_then(Value::as_u64);
        self.version = ["major", "minor", "micro"].map(|part| number(part).unwrap_or(0).to_string()).join(".");
        Output::Send(line(NEGOTIATION, "qmp_capabilities", None))
    }
}

fn reply(message: &Map<String, Value>) -> Option<Result<Value, Refused>> {
    if let Some(value) = message.get("return") {
        return Some(Ok(value.clone()));
    }
    let error = message.get("error")?.as_object()?;
    let text = |field: &str| error.get(field).and_then(Value::as_str).unwrap_or("?").to_owned();
    Some(Err(Refused { class: text("class"), description: text("desc") }))
}

fn line(id: u64, name: &str, arguments: Option<&Value>) -> Vec<u8> {
    let mut command = json!({ "execute": name, "id": id });
    if let (Some(arguments), Some(object)) = (arguments, command.as_object_mut()) {
        object.insert("arguments".to_owned(), arguments.clone());
    }
    let mut bytes = command.to_string().into_bytes();
    bytes.push(b'\n');
    bytes
}

fn shortened(text: &str) -> String {
    text.trim().chars().take(120).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const GREETING: &str =
        r#"{"QMP": {"version": {"qemu": {"micro": 22, "minor": 2, "major": 7}, "package": "x"}, "capabilities": []}}"#;

    fn ready() -> Session {
        let mut session = Session::new();
        session.feed(format!("{GREETING}\n{{\"return\": {{}}, \"id\": 0}}\n").as_bytes());
        session
    }

    #[test]
    fn the_greeting_is_answered_and_then_commands_are_accepted() {
        let mut session = Session::new();
        let outputs = session.feed(format!("{GREETING}\r\n").as_bytes());
        assert_eq!(outputs, [Output::Send(b"{\"execute\":\"qmp_capabilities\",\"id\":0}\n".to_vec())]);
        let outputs = session.feed(b"{\"return\": {}, \"id\": 0}\r\n");
        assert_eq!(outputs, [Output::Ready { version: "7.2.22".into() }]);
    }

    #[test]
    fn replies_come_back_with_the_id_of_their_command() {
        let mut session = ready();
        let (id, bytes) = session.command("query-status", None);
        assert_eq!((id, bytes.as_slice()), (1, &b"{\"execute\":\"query-status\",\"id\":1}\n"[..]));
        let answer = br#"{"error": {"class": "GenericError", "desc": "no"}, "id": 1}"#;
        assert_eq!(session.feed(answer), []);
        let refused = Refused { class: "GenericError".into(), description: "no".into() };
        assert_eq!(session.feed(b"\n"), [Output::Reply { id: 1, result: Err(refused) }]);
    }

    #[test]
    fn an_event_says_who_caused_it() {
        let line = br#"{"timestamp": {"seconds": 1, "microseconds": 2}, "event": "SHUTDOWN", "data": {"guest": true, "reason": "guest-shutdown"}}"#;
        let outputs = ready().feed(&[line, &b"\n"[..]].concat());
        let [Output::Event(event)] = outputs.as_slice() else { panic!("{outputs:?}") };
        assert_eq!((event.name.as_str(), event.by_guest(), event.reason()), ("SHUTDOWN", true, "guest-shutdown"));
    }

    #[test]
    fn an_endless_line_is_dropped_and_the_next_one_is_read() {
        let mut session = ready();
        for _ in 0..20 {
            assert_eq!(session.feed(&vec![b'x'; 100_000]), []);
        }
        assert!(session.line.len() <= LONGEST_LINE);
        let outputs = session.feed(b"\n{\"return\": 1, \"id\": 4}\n");
        assert_eq!(outputs.last(), Some(&Output::Reply { id: 4, result: Ok(json!(1)) }));
    }

    fn qmp_line() -> impl Strategy<Value = String> {
        prop_oneof![
            Just(GREETING.to_owned()),
            (0..4_u64).prop_map(|id| format!("{{\"return\": {{}}, \"id\": {id}}}")),
            (0..4_u64).prop_map(|id| format!("{{\"error\": {{\"desc\": 3}}, \"id\": {id}}}")),
            Just(r#"{"event": "RESET", "data": 7}"#.to_owned()),
            "[{}\":a-z0-9]{0,40}",
        ]
    }

    proptest! {
        #[test]
        fn no_bytes_panic(pieces in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..200), 0..20)) {
            let mut session = Session::new();
            for piece in pieces {
                session.feed(&piece);
            }
        }

        #[test]
        fn how_the_bytes_are_cut_changes_nothing(
            lines in proptest::collection::vec(qmp_line(), 0..12),
            size in 1..50_usize,
        ) {
            let bytes: Vec<u8> = lines.iter().flat_map(|line| format!("{line}\n").into_bytes()).collect();
            let at_once = Session::new().feed(&bytes);
            let mut session = Session::new();
            let cut: Vec<Output> = bytes.chunks(size).flat_map(|piece| session.feed(piece)).collect();
            prop_assert_eq!(at_once, cut);
        }
    }
}

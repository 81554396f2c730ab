//! The driver of [`crate::qmp`]: one connection to a QEMU, shared by whoever has commands for it.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::sync::{mpsc, oneshot};

use crate::qmp::{Event, Output, Refused, Session};

/// How long QEMU may take for the greeting or an answer. Its main loop answers in milliseconds; a guest that dumps core
/// or a loaded host may hold it up.
const PATIENCE: Duration = Duration::from_secs(10);

/// Events that nobody has read yet; then the connection stops reading, and loses nothing.
const EVENT_QUEUE: usize = 256;

/// Why a command has no answer.
#[derive(Debug, thiserror::Error)]
pub enum QmpError {
    /// Nobody listens, or it is no socket.
    #[error("cannot connect to QEMU at {path}")]
    Connect {
        /// The socket.
        path: PathBuf,
        /// The system's reason.
        source: std::io::Error,
    },
    /// QEMU serves one client at a time, or hangs.
    #[error("QEMU does not answer {what} within {} s", PATIENCE.as_secs())]
    Silent {
        /// What it was asked.
        what: String,
    },
    /// The connection is over.
    #[error("QEMU closed the connection before it answered {what}")]
    Closed {
        /// What it was asked.
        what: String,
    },
    /// QEMU says no.
    #[error("QEMU refused {what}")]
    Refused {
        /// What it was asked.
        what: String,
        /// Its reason.
        source: Refused,
    },
}

struct Request {
    name: String,
    arguments: Option<Value>,
    answer: oneshot::Sender<Result<Value, Refused>>,
}

/// What QEMU does when the guest reboots (`set-action` in QEMU's `qapi/run-state.json`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnReboot {
    /// The guest begins anew.
    Reset,
    /// QEMU ends.
    Shutdown,
}

/// A connection to a QEMU that accepts commands. Dropping it ends the connection and leaves QEMU as it is.
#[derive(Debug)]
pub struct Client {
    requests: mpsc::Sender<Request>,
    /// Version of QEMU.
    pub version: String,
    /// Process that listens on the socket, as the kernel noted when it began to.
    pub pid: Option<i32>,
}

/// Events of one connection, in order; `None` when the connection is over.
pub type Events = mpsc::Receiver<Event>;

impl Client {
    /// Connects and negotiates.
    ///
    /// # Errors
    /// If nobody answers there as QEMU would.
    pub async fn connect(path: &Path) -> Result<(Self, Events), QmpError> {
        let refused = |source| QmpError::Connect { path: path.to_owned(), source };
        let stream = UnixStream::connect(path).await.map_err(refused)?;
        let pid = stream.peer_cred().ok().and_then(|credentials| credentials.pid());
        let mut connection = Connection::new(stream);
        let what = || "the greeting".to_owned();
        let greeted = tokio::time::timeout(PATIENCE, connection.greeted()).await;
        let version =
            greeted.map_err(|_| QmpError::Silent { what: what() })?.ok_or_else(|| QmpError::Closed { what: what() })?;
        let (requests, inbox) = mpsc::channel(16);
        let (outbox, events) = mpsc::channel(EVENT_QUEUE);
        tokio::spawn(connection.serve(inbox, outbox));
        Ok((Self { requests, version, pid }, events))
    }

    /// Carries out one command.
    ///
    /// # Errors
    /// If QEMU refuses it, does not answer, or goes away.
    pub async fn execute(&self, name: &str, arguments: Option<Value>) -> Result<Value, QmpError> {
        let (answer, answered) = oneshot::channel();
        let what = name.to_owned();
        let request = Request { name: name.to_owned(), arguments, answer };
        if self.requests.send(request).await.is_err() {
            return Err(QmpError::Closed { what });
        }
        match tokio::time::timeout(PATIENCE, answered).await {
            Err(_) => Err(QmpError::Silent { what }),
            Ok(Err(_)) => Err(QmpError::Closed { what }),
            Ok(Ok(result)) => result.map_err(|source| QmpError::Refused { what, source }),
        }
    }

    /// QEMU's word for the machine's state: `running`, `prelaunch`, `paused`.
    ///
    /// # Errors
    /// As [`Client::execute`].
    pub async fn status(&self) -> Result<String, QmpError> {
        let status = self.execute("query-status", None).await?;
        Ok(status.get("status").and_then(Value::as_str).unwrap_or("unknown").to_owned())
    }

    /// The machine's UUID.
    ///
    /// # Errors
    /// As [`Client::execute`].
    pub async fn uuid(&self) -> Result<String, QmpError> {
        let answer = self.execute("query-uuid", None).await?;
        Ok(answer.get("UUID").and_then(Value::as_str).unwrap_or("").to_owned())
    }

    /// Presses the power button for a moment. What the guest makes of it is up to the guest.
    ///
    /// # Errors
    /// As [`Client::execute`].
    pub async fn press_power_button(&self) -> Result<(), QmpError> {
        self.execute("system_powerdown", None).await.map(drop)
    }

    /// Presses Ctrl, Alt and Delete on the PS/2 keyboard: firmware resets, and Linux asks its PID 1 to reboot, which all
    /// of them do without any further program (`ctrl_alt_del` in the kernel's `kernel/reboot.c`).
    ///
    /// # Errors
    /// As [`Client::execute`].
    pub async fn press_ctrl_alt_delete(&self) -> Result<(), QmpError> {
        let keys = ["ctrl", "alt", "delete"].map(|key| json!({"type": "qcode", "data": key}));
        self.execute("send-key", Some(json!({"keys": keys}))).await.map(drop)
    }

    /// Says what a reboot of the guest does from now on; QEMU before 6.0 refuses.
    ///
    /// # Errors
    /// As [`Client::execute`].
    pub async fn on_reboot(&self, action: OnReboot) -> Result<(), QmpError> {
        let action = match action {
            OnReboot::Reset => "reset",
            OnReboot::Shutdown => "shutdown",
        };
        self.execute("set-action", Some(json!({"reboot": action}))).await.map(drop)
    }
}

struct Connection {
    stream: UnixStream,
    session: Session,
    waiting: HashMap<u64, oneshot::Sender<Result<Value, Refused>>>,
}

impl Connection {
    fn new(stream: UnixStream) -> Self {
        Self { stream, session: Session::new(), waiting: HashMap::new() }
    }

    /// The version of QEMU, when commands are accepted; `None` if the connection ends before.
    async fn greeted(&mut self) -> Option<String> {
        loop {
            for output in self.read().await? {
                match output {
                    Output::Send(bytes) => self.stream.write_all(&bytes).await.ok()?,
                    Output::Ready { version } => return Some(version),
                    Output::Reply { .. } | Output::Event(_) | Output::Noise(_) => {}
                }
            }
        }
    }

    async fn serve(mut self, mut inbox: mpsc::Receiver<Request>, outbox: mpsc::Sender<Event>) {
        loop {
            let going_on = tokio::select! {
                request = inbox.recv() => match request {
                    Some(request) => self.send(request).await,
                    None => None,
                },
                outputs = self.read() => match outputs {
                    Some(outputs) => self.deliver(outputs, &outbox).await,
                    None => None,
                },
            };
            if going_on.is_none() {
                return;
            }
        }
    }

    async fn send(&mut self, request: Request) -> Option<()> {
        let (id, bytes) = self.session.command(&request.name, request.arguments.as_ref());
        self.waiting.insert(id, request.answer);
        self.stream.write_all(&bytes).await.ok()
    }

    async fn deliver(&mut self, outputs: Vec<Output>, outbox: &mpsc::Sender<Event>) -> Option<()> {
        for output in outputs {
            match output {
                Output::Reply { id, result } => {
                    // Whoever asked may have stopped waiting.
                    let _ = self.waiting.remove(&id).map(|answer| answer.send(result));
                }
                Output::Event(event) => outbox.send(event).await.ok()?,
                Output::Noise(line) => tracing::warn!(line, "QEMU sent what is no QMP"),
                Output::Send(_) | Output::Ready { .. } => {}
            }
        }
        Some(())
    }

    /// What the next bytes mean; `None` at the end of the connection. Cancel-safe: bytes are read in one step.
    async fn read(&mut self) -> Option<Vec<Output>> {
        let mut buffer = [0; 4096];
        match self.stream.read(&mut buffer).await {
            Ok(0) | Err(_) => None,
            Ok(size) => Some(self.session.feed(buffer.get(..size).unwrap_or_default())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncBufReadExt as _, BufReader};
    use tokio::net::UnixListener;

    const GREETING: &[u8] = b"{\"QMP\": {\"version\": {\"qemu\": {\"micro\": 0, \"minor\": 2, \"major\": 7}}}}\r\n";

    /// A QEMU that answers the negotiation, and then each command with what `answers` has for it.
    /// Returns the commands.
    async fn qemu(listener: UnixListener, answers: Vec<&'static str>) -> Vec<String> {
        let (mut stream, _) = listener.accept().await.unwrap();
        stream.write_all(GREETING).await.unwrap();
        let (from, mut to) = stream.split();
        let mut lines = BufReader::new(from).lines();
        lines.next_line().await.unwrap();
        to.write_all(b"{\"return\": {}, \"id\": 0}\r\n").await.unwrap();
        let mut commands = Vec::new();
        for answer in answers {
            commands.extend(lines.next_line().await.unwrap());
            to.write_all(format!("{answer}\r\n").as_bytes()).await.unwrap();
        }
        commands
    }

    async fn connected(answers: Vec<&'static str>) -> (Client, Events) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("qmp.sock");
        tokio::spawn(qemu(UnixListener::bind(&path).unwrap(), answers));
        Client::connect(&path).await.unwrap()
    }

    #[tokio::test]
    async fn commands_and_events_share_a_connection() {
        let running = "{\"event\": \"RESUME\"}\r\n{\"return\": {\"status\": \"running\"}, \"id\": 1}";
        let (client, mut events) = connected(vec![running]).await;
        assert_eq!((client.version.as_str(), client.status().await.unwrap().as_str()), ("7.2.0", "running"));
        assert_eq!(client.pid.map(i32::unsigned_abs), Some(std::process::id()));
        assert_eq!(events.recv().await.unwrap().name, "RESUME");
    }

    #[tokio::test]
    async fn a_refused_command_says_which_and_why() {
        let refused = "{\"error\": {\"class\": \"CommandNotFound\", \"desc\": \"no such thing\"}, \"id\": 1}";
        let (client, _events) = connected(vec![refused]).await;
        let error = client.execute("fly", None).await.unwrap_err();
        assert_eq!(error.to_string(), "QEMU refused fly");
        assert_eq!(std::error::Error::source(&error).unwrap().to_string(), "no such thing (CommandNotFound)");
    }

    #[tokio::test]
    async fn a_qemu_that_goes_away_ends_events_and_commands() {
        let (client, mut events) = connected(vec![]).await;
        assert_eq!(events.recv().await, None);
        assert!(matches!(client.status().await, Err(QmpError::Closed { .. })));
    }

    #[tokio::test]
    async fn keys_are_pressed_together_and_actions_have_qemus_names() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("qmp.sock");
        let done = vec![r#"{"return": {}, "id": 1}"#, r#"{"return": {}, "id": 2}"#, r#"{"return": {}, "id": 3}"#];
        let qemu = tokio::spawn(qemu(UnixListener::bind(&path).unwrap(), done));
        let (client, _events) = Client::connect(&path).await.unwrap();
        client.press_power_button().await.unwrap();
        client.press_ctrl_alt_delete().await.unwrap();
        client.on_reboot(OnReboot::Shutdown).await.unwrap();
        insta::assert_snapshot!(qemu.await.unwrap().join("\n"), @r#"
        {"execute":"system_powerdown","id":1}
        {"arguments":{"keys":[{"data":"ctrl","type":"qcode"},{"data":"alt","type":"qcode"},{"data":"delete","type":"qcode"}]},"execute":"send-key","id":2}
        {"arguments":{"reboot":"shutdown"},"execute":"set-action","id":3}
        "#);
    }

    #[tokio::test]
    async fn nobody_there_is_said_with_the_path() {
        let error = Client::connect(Path::new("/nonexistent/qmp.sock")).await.unwrap_err();
        assert_eq!(error.to_string(), "cannot connect to QEMU at /nonexistent/qmp.sock");
    }
}

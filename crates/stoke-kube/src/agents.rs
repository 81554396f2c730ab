//! What the operator says to the node agents, and what they say: a task for each node, which tells the agent what its node
//! should have and asks what there is: often while that changes, and every so often while it does not.
//!
//! No round waits for an agent: a round reads what was said last, and leaves what is to be said.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use futures::StreamExt as _;
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::Bytes;
use hyper::client::conn::http1::{self, SendRequest};
use hyper::{Method, Request, StatusCode, header};
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use stoke_api::agent::{AgentConfig, AgentReport};
use tokio::net::TcpStream;
use tokio::sync::{Notify, Semaphore, watch};
use tokio::task::JoinHandle;
use tokio_rustls::TlsConnector;

use crate::observe::AgentSeen;

/// The name in every agent's certificate: nodes have many addresses, and get others.
pub const SERVER_NAME: &str = "stokehold-agent";
/// Pause between two looks at a node on which something changes.
const BUSY: Duration = Duration::from_secs(1);
/// The same where nothing has changed for a while. What a pod's end tells is known at once, by the API server.
const CALM: Duration = Duration::from_secs(5);
/// The same for a node with nothing of ours.
const IDLE: Duration = Duration::from_secs(15);
/// How long nothing must have changed for a node to be calm.
const CALMING: Duration = Duration::from_secs(30);
/// How long an answer may take.
const LIMIT: Duration = Duration::from_secs(5);
/// How long a teardown may take.
const TEARDOWN_LIMIT: Duration = Duration::from_mins(1);
/// Largest answer: reports of all pods of a node.
const LARGEST: usize = 32 << 20;
/// Requests at a time, over all nodes.
const AT_ONCE: usize = 64;

/// Why an agent could not be asked.
#[derive(Debug, thiserror::Error)]
pub enum AgentError {
    /// Nobody is there, or not with a certificate of ours.
    #[error("it cannot be reached at {address}: {source}")]
    Unreachable {
        /// Its address.
        address: SocketAddr,
        /// The reason.
        source: std::io::Error,
    },
    /// It went silent.
    #[error("it did not answer within {} s", .0.as_secs())]
    Silent(Duration),
    /// It broke off.
    #[error("the connection broke off: {0}")]
    Broken(String),
    /// It said no.
    #[error("it answered {status}: {message}")]
    Refused {
        /// The status.
        status: StatusCode,
        /// Its words.
        message: String,
    },
    /// There is no such node.
    #[error("there is no node agent on {0}")]
    NoAgent(String),
}

/// An answer.
#[derive(Clone, Debug)]
pub struct Answer {
    /// The status.
    pub status: StatusCode,
    /// The body.
    pub body: Bytes,
}

impl Answer {
    /// The body as words for people.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).trim().chars().take(1000).collect()
    }
}

/// All node agents.
pub struct Agents {
    connect: Connect,
    nodes: BTreeMap<String, NodeTask>,
    begun: u64,
    wake: Arc<Notify>,
}

/// How connections are made.
#[derive(Clone)]
struct Connect {
    tls: Arc<ClientConfig>,
    turns: Arc<Semaphore>,
}

struct NodeTask {
    address: SocketAddr,
    wanted: watch::Sender<Option<Arc<AgentConfig>>>,
    seen: Arc<Mutex<AgentSeen>>,
    task: JoinHandle<()>,
}

impl Drop for NodeTask {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Agents {
    /// None yet. `tls` has the operator's certificate and trusts its authority alone; `wake` is notified when something new
    /// was said.
    pub fn new(tls: Arc<ClientConfig>, wake: Arc<Notify>) -> Self {
        Self {
            connect: Connect { tls, turns: Arc::new(Semaphore::new(AT_ONCE)) },
            nodes: BTreeMap::new(),
            begun: 0,
            wake,
        }
    }

    /// Makes these the agents.
    pub fn set(&mut self, agents: &BTreeMap<String, SocketAddr>) {
        self.nodes.retain(|node, task| agents.get(node) == Some(&task.address));
        for (node, address) in agents {
            if !self.nodes.contains_key(node) {
                self.nodes.insert(node.clone(), self.begin(*address));
                self.begun += 1;
            }
        }
    }

    fn begin(&self, address: SocketAddr) -> NodeTask {
        let (wanted, told) = watch::channel(None);
        let seen = Arc::new(Mutex::new(AgentSeen::default()));
        let visit = Visit {
            connect: self.connect.clone(),
            address,
            told,
            seen: seen.clone(),
            wake: self.wake.clone(),
            connection: None,
            accepted: None,
            answer: Bytes::new(),
            changed: Instant::now(),
        };
        NodeTask { address, wanted, seen, task: tokio::spawn(visit.run()) }
    }

    /// How many agents were met so far.
    pub fn begun(&self) -> u64 {
        self.begun
    }

    /// Says what a node should have.
    pub fn configure(&self, node: &str, config: AgentConfig) {
        let Some(task) = self.nodes.get(node) else { return };
        task.wanted.send_if_modified(|wanted| {
            let differs = wanted.as_deref() != Some(&config);
            if differs {
                *wanted = Some(Arc::new(config));
            }
            differs
        });
    }

    /// What each said last.
    pub fn seen(&self) -> BTreeMap<String, AgentSeen> {
        let seen = |task: &NodeTask| task.seen.lock().unwrap_or_else(PoisonError::into_inner).clone();
        self.nodes.iter().map(|(node, task)| (node.clone(), seen(task))).collect()
    }

    /// Passes a request on to the admin socket of a pod, on a connection of its own.
    pub fn to_pod(
        &self,
        node: &str,
        pod: &str,
        method: Method,
        path: &str,
        body: Vec<u8>,
    ) -> impl Future<Output = Result<Answer, AgentError>> + Send + 'static {
        let address = self.nodes.get(node).map(|task| task.address).ok_or_else(|| AgentError::NoAgent(node.to_owned()));
        let (connect, path) = (self.connect.clone(), format!("/v1/pods/{pod}/admin{path}"));
        async move {
            let mut connection = connect.connect(address?).await?;
            // Roles may take some seconds for another configuration.
            ask(&mut connection, method, &path, body, LIMIT * 4).await
        }
    }

    /// Has all agents remove what is ours on their nodes. What could not be, as lines.
    pub async fn tear_down(&self) -> Vec<String> {
        let visits = self.nodes.iter().map(|(node, task)| async move {
            let down = async {
                let mut connection = self.connect.connect(task.address).await?;
                ask(&mut connection, Method::POST, "/v1/teardown", Vec::new(), TEARDOWN_LIMIT).await
            };
            let lines = match down.await {
                Ok(answer) if answer.status.is_success() => left(&answer),
                Ok(answer) => vec![format!("it answered {}: {}", answer.status, answer.text())],
                Err(error) => vec![error.to_string()],
            };
            lines.into_iter().map(|line| format!("node {node}: {line}")).collect::<Vec<_>>()
        });
        let lines: Vec<Vec<String>> = futures::stream::iter(visits).buffer_unordered(AT_ONCE).collect().await;
        lines.into_iter().flatten().collect()
    }
}

/// What a node agent could not remove, by its answer.
fn left(answer: &Answer) -> Vec<String> {
    serde_json::from_slice(&answer.body).unwrap_or_else(|_| answer.text().lines().map(str::to_owned).collect())
}

impl Connect {
    async fn connect(&self, address: SocketAddr) -> Result<SendRequest<Full<Bytes>>, AgentError> {
        let _turn = self.turns.acquire().await;
        let connected = tokio::time::timeout(LIMIT, self.handshake(address)).await;
        connected.map_err(|_| AgentError::Silent(LIMIT))?.map_err(|source| AgentError::Unreachable { address, source })
    }

    async fn handshake(&self, address: SocketAddr) -> std::io::Result<SendRequest<Full<Bytes>>> {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        let name = ServerName::try_from(SERVER_NAME).map_err(std::io::Error::other)?;
        let stream = TlsConnector::from(self.tls.clone()).connect(name, stream).await?;
        let (sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(std::io::Error::other)?;
        // Ends when the sender is dropped, or the agent breaks off, which the next request says.
        tokio::spawn(connection);
        Ok(sender)
    }
}

async fn ask(
    connection: &mut SendRequest<Full<Bytes>>,
    method: Method,
    path: &str,
    body: Vec<u8>,
    limit: Duration,
) -> Result<Answer, AgentError> {
    let broken = |error: &dyn std::fmt::Display| AgentError::Broken(error.to_string());
    let request = Request::builder().method(method).uri(path).header(header::HOST, SERVER_NAME);
    let request = request.header(header::CONTENT_TYPE, "application/json");
    let request = request.body(Full::new(Bytes::from(body))).map_err(|error| broken(&error))?;
    let asked = async {
        connection.ready().await.map_err(|error| broken(&error))?;
        let answer = connection.send_request(request).await.map_err(|error| broken(&error))?;
        let status = answer.status();
        let body = Limited::new(answer.into_body(), LARGEST).collect().await.map_err(|error| broken(&error))?;
        Ok(Answer { status, body: body.to_bytes() })
    };
    tokio::time::timeout(limit, asked).await.map_err(|_| AgentError::Silent(limit))?
}

/// The task of one node.
struct Visit {
    connect: Connect,
    address: SocketAddr,
    told: watch::Receiver<Option<Arc<AgentConfig>>>,
    seen: Arc<Mutex<AgentSeen>>,
    wake: Arc<Notify>,
    connection: Option<SendRequest<Full<Bytes>>>,
    /// What the agent has accepted, as long as it says that it is configured.
    accepted: Option<Arc<AgentConfig>>,
    /// What it answered last, configured: most answers are the same again, and reading them is what polling costs.
    answer: Bytes,
    /// When something was new.
    changed: Instant,
}

impl Visit {
    async fn run(mut self) {
        loop {
            let said = self.visit().await;
            let pause = self.note(said);
            if pause > BUSY {
                // Five hundred nodes that have nothing to say need no connection each: some 50 KiB.
                self.connection = None;
            }
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                changed = self.told.changed() => if changed.is_err() { return },
            }
        }
    }

    /// What it reports; nothing if that is what it reported before.
    async fn visit(&mut self) -> Result<Option<AgentReport>, AgentError> {
        let wanted = self.told.borrow_and_update().clone();
        if let Some(wanted) = wanted.filter(|wanted| self.accepted.as_ref() != Some(wanted)) {
            let body = serde_json::to_vec(&*wanted).unwrap_or_default();
            let answer = self.ask(Method::PUT, "/v1/config", body).await?;
            if !answer.status.is_success() {
                return Err(AgentError::Refused { status: answer.status, message: answer.text() });
            }
            (self.accepted, self.changed) = (Some(wanted), Instant::now());
        }
        let answer = self.ask(Method::GET, "/v1/report", Vec::new()).await?;
        if !answer.status.is_success() {
            return Err(AgentError::Refused { status: answer.status, message: answer.text() });
        }
        if answer.body == self.answer {
            return Ok(None);
        }
        let report: AgentReport =
            serde_json::from_slice(&answer.body).map_err(|error| AgentError::Broken(error.to_string()))?;
        if report.configured {
            self.answer = answer.body;
        } else {
            // It was started anew.
            (self.accepted, self.answer) = (None, Bytes::new());
        }
        Ok(Some(report))
    }

    async fn ask(&mut self, method: Method, path: &str, body: Vec<u8>) -> Result<Answer, AgentError> {
        let mut connection = match self.connection.take().filter(|connection| !connection.is_closed()) {
            Some(connection) => connection,
            None => self.connect.connect(self.address).await?,
        };
        let answer = ask(&mut connection, method, path, body, LIMIT).await?;
        self.connection = Some(connection);
        Ok(answer)
    }

    /// Takes in what was said. When to ask again.
    fn note(&mut self, said: Result<Option<AgentReport>, AgentError>) -> Duration {
        let wants =
            self.told.borrow().as_ref().is_some_and(|config| !config.lans.is_empty() || !config.pods.is_empty());
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let changed = match said {
            Ok(report) => {
                let new = report.map(Arc::new).filter(|report| seen.report.as_ref() != Some(report));
                let changed = new.is_some() || seen.failure.is_some();
                *seen = AgentSeen { report: new.or_else(|| seen.report.take()), failure: None };
                changed
            }
            Err(error) => {
                let failure = Some(error.to_string());
                let changed = seen.failure != failure;
                seen.failure = failure;
                changed
            }
        };
        let quiet = seen.failure.is_none() && seen.report.as_ref().is_some_and(|report| report.configured);
        drop(seen);
        if changed {
            self.changed = Instant::now();
            self.wake.notify_one();
        }
        if quiet && !wants {
            IDLE
        } else if self.changed.elapsed() > CALMING {
            CALM
        } else {
            BUSY
        }
    }
}

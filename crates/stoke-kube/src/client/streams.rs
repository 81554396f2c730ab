//! Streams to pods: consoles, logs, and connections to machines on LANs through their LAN's router.

use std::io;
use std::net::Ipv4Addr;

use k8s_openapi::api::core::v1::Pod;
use kube::Api;
use kube::api::{AttachParams, AttachedProcess, ListParams, LogParams};
use stoke_api::{AnyObject, Kind, ObjectName, ObjectRef};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio_util::compat::FuturesAsyncReadCompatExt as _;

use super::{Cluster, ClusterError, Result};
use crate::render::{KIND, NAME, NAMESPACE, ROLE};

/// Port on a router's own loopback that connects to addresses on its LAN (HTTP CONNECT, RFC 9110 section 9.3.6).
const PROXY_PORT: u16 = 9480;
/// The head of an answer to CONNECT is a few lines.
const LONGEST_HEAD: usize = 4096;
/// Bytes on their way to and from a console.
const BUFFER: usize = 64 << 10;

/// A machine's console: what is typed, and what is shown.
pub struct Console {
    /// What is typed goes there.
    pub input: Box<dyn AsyncWrite + Send + Unpin>,
    /// What is shown comes from there.
    pub output: Box<dyn AsyncRead + Send + Unpin>,
    /// Carries both.
    _process: AttachedProcess,
}

impl std::fmt::Debug for Console {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Console").finish_non_exhaustive()
    }
}

/// A connection.
pub trait Duplex: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Duplex for T {}

impl Cluster {
    /// Attaches to a machine's console: the standard input and output of its `stoke-vm`.
    ///
    /// # Errors
    /// If it has no pod that runs, or the person may not attach to it.
    pub async fn console(&self, machine: &ObjectRef) -> Result<Console> {
        let pod = self.pod_of(machine, "vm").await?;
        let parameters = AttachParams::default().stdin(true).stdout(true).stderr(false).tty(true);
        let parameters = parameters.max_stdin_buf_size(BUFFER).max_stdout_buf_size(BUFFER);
        let mut process = self.pods(machine).attach(&pod, &parameters).await.map_err(|error| self.stream(error))?;
        let (input, output) = (process.stdin(), process.stdout());
        let broken = || ClusterError::Missing(format!("the console of {machine} has no input or output"));
        Ok(Console {
            input: Box::new(input.ok_or_else(broken)?),
            output: Box::new(output.ok_or_else(broken)?),
            _process: process,
        })
    }

    /// Copies the log of what serves an object, and what is added to it if `follow`.
    ///
    /// # Errors
    /// If nothing runs for it, or the person may not see that; and inside, if the copying breaks off.
    pub async fn copy_log<W: AsyncWrite + Unpin>(
        &self,
        object: &ObjectRef,
        follow: bool,
        to: &mut W,
    ) -> Result<io::Result<u64>> {
        let role = role_of(object.kind);
        let pod = self.pod_of(object, role).await?;
        let parameters = LogParams { follow, ..LogParams::default() };
        let log = self.pods_of(object, role).log_stream(&pod, &parameters).await;
        let mut log = log.map_err(|error| self.stream(error))?.compat();
        Ok(tokio::io::copy(&mut log, to).await)
    }

    /// Connects to a port of a machine or server on its LAN, through the LAN's router.
    ///
    /// # Errors
    /// If it has no address or LAN yet, or the router cannot be reached or does not reach it.
    pub async fn dial(&self, object: &AnyObject, port: u16) -> Result<Box<dyn Duplex>> {
        let (lan, address) = (self.lan_of(object).await?, address_of(object)?);
        let router = self.router_of(&lan).await?;
        let pods = Api::<Pod>::namespaced(self.client.clone(), &self.system);
        let mut forward = pods.portforward(&router, &[PROXY_PORT]).await.map_err(|error| self.stream(error))?;
        let missing = || ClusterError::Missing(format!("the router of {lan} gave no connection"));
        let stream = forward.take_stream(PROXY_PORT).ok_or_else(missing)?;
        let failed = |source| {
            let what = format!("the router of {lan} ({router}) does not connect to {address}:{port}");
            ClusterError::Stream { what, source }
        };
        let mut stream = connect(stream, address, port).await.map_err(failed)?;
        // The forwarder carries the stream as long as it is there.
        let (near, mut far) = tokio::io::duplex(BUFFER);
        tokio::spawn(async move {
            // Either end may go away: that is the end of the connection.
            let _ = tokio::io::copy_bidirectional(&mut far, &mut stream).await;
            drop(stream);
            drop(forward);
        });
        Ok(Box::new(near))
    }

    /// The LAN of a machine's first interface, or of a server's farm.
    async fn lan_of(&self, object: &AnyObject) -> Result<ObjectRef> {
        let reference = object.reference();
        match object {
            AnyObject::Machine(machine) => {
                let nic = machine.spec.nics.first();
                let nic = nic.ok_or_else(|| ClusterError::Missing(format!("{reference} is on no LAN")))?;
                Ok(nic.lan.of(&reference, Kind::Lan))
            }
            AnyObject::Server(server) => {
                let farm = &server.spec.farm;
                let farm =
                    ObjectRef { kind: Kind::Farm, namespace: Some(farm.namespace.clone()), name: farm.name.clone() };
                match self.object(&farm).await? {
                    AnyObject::Farm(found) => Ok(found.spec.lan.of(&farm, Kind::Lan)),
                    _ => Err(ClusterError::NotFound(farm)),
                }
            }
            _ => Err(ClusterError::Missing(format!("{reference} is no machine"))),
        }
    }

    /// The pod of a LAN's router: named as its workload is.
    async fn router_of(&self, lan: &ObjectRef) -> Result<String> {
        match self.pod_of(lan, "router").await {
            // Who may only forward to one pod may not look for it.
            Err(ClusterError::Forbidden(_)) => {
                let namespace = lan.namespace.as_ref().map_or("default", ObjectName::as_str);
                Ok(format!("router-{namespace}-{}", lan.name))
            }
            found => found,
        }
    }

    /// The pod that runs for an object.
    async fn pod_of(&self, object: &ObjectRef, role: &str) -> Result<String> {
        let namespace = object.namespace.as_ref().map(|namespace| format!(",{NAMESPACE}={namespace}"));
        let namespace = namespace.unwrap_or_default();
        let labels = format!("{KIND}={},{NAME}={},{ROLE}={role}{namespace}", object.kind, object.name);
        let found = self.pods_of(object, role).list(&ListParams::default().labels(&labels)).await;
        let found = found.map_err(|error| self.failed(error))?;
        let running = found.items.iter().filter(|pod| pod.metadata.deletion_timestamp.is_none());
        let named = running.max_by_key(|pod| (phase(pod) == "Running", pod.metadata.creation_timestamp.clone()));
        let name = named.and_then(|pod| pod.metadata.name.clone());
        name.ok_or_else(|| ClusterError::Missing(format!("nothing runs for {object}; describe it to see why")))
    }

    fn pods_of(&self, object: &ObjectRef, role: &str) -> Api<Pod> {
        if role == "vm" { self.pods(object) } else { Api::namespaced(self.client.clone(), &self.system) }
    }

    fn pods(&self, object: &ObjectRef) -> Api<Pod> {
        let namespace = object.namespace.as_ref().unwrap_or(&self.namespace);
        Api::namespaced(self.client.clone(), namespace.as_str())
    }

    fn stream(&self, error: kube::Error) -> ClusterError {
        match error {
            kube::Error::UpgradeConnection(error) => {
                ClusterError::Refused(format!("the pod cannot be reached: {error}"))
            }
            other => self.failed(other),
        }
    }
}

fn phase(pod: &Pod) -> &str {
    pod.status.as_ref().and_then(|status| status.phase.as_deref()).unwrap_or_default()
}

/// The role that serves objects of a kind.
fn role_of(kind: Kind) -> &'static str {
    match kind {
        Kind::Image => "build",
        Kind::Lan => "router",
        Kind::Farm | Kind::Server => "farm",
        _ => "vm",
    }
}

fn address_of(object: &AnyObject) -> Result<Ipv4Addr> {
    let (node, written) = match object {
        AnyObject::Machine(machine) => {
            (machine.status.node.as_ref(), machine.spec.nics.first().and_then(|nic| nic.address))
        }
        AnyObject::Server(server) => (server.status.node.as_ref(), server.spec.address),
        _ => (None, None),
    };
    let known = node.and_then(|node| node.address).or(written);
    known.ok_or_else(|| ClusterError::Missing(format!("{} has no address yet", object.reference())))
}

/// Asks a proxy for a connection. Nothing is read beyond its answer: that is the other end's.
async fn connect<S: Duplex>(mut stream: S, address: Ipv4Addr, port: u16) -> io::Result<S> {
    let request = format!("CONNECT {address}:{port} HTTP/1.1\r\nHost: {address}:{port}\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    stream.flush().await?;
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        if head.len() >= LONGEST_HEAD {
            return Err(io::Error::other("its answer is no HTTP"));
        }
        head.push(stream.read_u8().await?);
    }
    let head = String::from_utf8_lossy(&head).into_owned();
    let line = head.lines().next().unwrap_or_default();
    match line.split(' ').nth(1) {
        Some("200") => Ok(stream),
        _ => Err(io::Error::other(format!("it says: {line}"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn answered(answer: &'static [u8]) -> (String, io::Result<Vec<u8>>) {
        let (near, mut far) = tokio::io::duplex(1024);
        let proxy = tokio::spawn(async move {
            let mut asked = vec![0; 1024];
            let length = far.read(&mut asked).await.unwrap();
            far.write_all(answer).await.unwrap();
            String::from_utf8_lossy(&asked[..length]).into_owned()
        });
        let connected = connect(near, "10.0.0.5".parse().unwrap(), 22).await;
        let asked = proxy.await.unwrap();
        match connected {
            Ok(mut stream) => {
                let mut rest = Vec::new();
                stream.read_to_end(&mut rest).await.unwrap();
                (asked, Ok(rest))
            }
            Err(error) => (asked, Err(error)),
        }
    }

    #[tokio::test]
    async fn what_comes_behind_the_answer_is_the_machines() {
        let (asked, rest) = answered(b"HTTP/1.1 200 OK\r\nVia: x\r\n\r\nSSH-2.0-x\r\n").await;
        assert_eq!(asked, "CONNECT 10.0.0.5:22 HTTP/1.1\r\nHost: 10.0.0.5:22\r\n\r\n");
        assert_eq!(rest.unwrap(), b"SSH-2.0-x\r\n");
    }

    #[tokio::test]
    async fn a_router_that_refuses_is_quoted() {
        let (_, refused) = answered(b"HTTP/1.1 403 not on this LAN\r\n\r\n").await;
        assert_eq!(refused.unwrap_err().to_string(), "it says: HTTP/1.1 403 not on this LAN");
    }
}

//! The node agents of all nodes, and the roles of their pods, as one server: each node has a loopback address of its own, by
//! which the server knows whom it is to be. They say at once that all is as the operator wants it.

use std::collections::HashMap;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context as _, Result};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig, ServerConnection, StreamOwned};
use stoke_api::agent::{AgentConfig, AgentReport, DeviceVerdict, PodGrant, PodReport};
use stoke_api::names::MacAddr;
use stoke_api::objects::{Kind, Power};
use stoke_api::report::{FarmReport, LanReport, LeaseReport, Report, RouterReport, VmReport};

/// Leases of each router.
const LEASES: u32 = 5000;
/// Leases that are renewed from one report to the next: half an hour after they were given.
const RENEWED: u64 = 3;
/// When the first leases end.
const EXPIRES: u64 = 1_900_000_000;

/// What the agents were told, by their addresses.
pub(crate) struct Agents {
    configs: Mutex<HashMap<IpAddr, AgentConfig>>,
    reports: AtomicU64,
    tls: Arc<ServerConfig>,
}

impl Agents {
    /// Serves for ever. The certificates are what the operator made for agents, as PEM.
    pub(crate) fn serve(listener: TcpListener, certificate: &[u8], key: &[u8], authority: &[u8]) -> Result<()> {
        let mut roots = RootCertStore::empty();
        for root in CertificateDer::pem_slice_iter(authority) {
            roots.add(root?)?;
        }
        let verifier = WebPkiClientVerifier::builder(Arc::new(roots)).build()?;
        let chain = CertificateDer::pem_slice_iter(certificate).collect::<Result<_, _>>()?;
        let tls = ServerConfig::builder()
            .with_client_cert_verifier(verifier)
            .with_single_cert(chain, PrivateKeyDer::from_pem_slice(key)?)?;
        let agents = Arc::new(Self { configs: Mutex::default(), reports: AtomicU64::new(0), tls: Arc::new(tls) });
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let agents = agents.clone();
                // The operator breaks off where it has nothing to say, and when it is killed.
                std::thread::spawn(move || drop(agents.talk(stream)));
            }
        });
        Ok(())
    }

    fn talk(&self, stream: TcpStream) -> Result<()> {
        stream.set_nodelay(true)?;
        let node = stream.local_addr()?.ip();
        let connection = ServerConnection::new(self.tls.clone())?;
        let mut stream = BufReader::new(StreamOwned::new(connection, stream));
        while let Some((head, body)) = request(&mut stream)? {
            let answer = self.answer(node, &head, &body)?;
            write!(stream.get_mut(), "HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{answer}", answer.len())?;
            stream.get_mut().flush()?;
        }
        Ok(())
    }

    fn answer(&self, node: IpAddr, head: &str, body: &[u8]) -> Result<String> {
        let mut configs = self.configs.lock().unwrap_or_else(PoisonError::into_inner);
        if head.starts_with("PUT /v1/config ") {
            configs.insert(node, serde_json::from_slice(body)?);
            return Ok(String::new());
        }
        if !head.starts_with("GET /v1/report ") {
            return Ok(String::new());
        }
        let config = configs.get(&node).cloned();
        drop(configs);
        Ok(serde_json::to_string(&self.report(node, config))?)
    }

    fn report(&self, node: IpAddr, config: Option<AgentConfig>) -> AgentReport {
        let configured = config.is_some();
        let config = config.unwrap_or_default();
        let lan =
            |lan: stoke_api::agent::AgentLan| LanReport { lan: lan.plan.lan, bridge: lan.plan.bridge, failure: None };
        let pod = |pod: PodGrant| PodReport {
            report: Some(self.of_pod(&pod)),
            pod: pod.pod,
            failure: None,
            links: Vec::new(),
        };
        AgentReport {
            node: node.to_string(),
            configured,
            tun: DeviceVerdict { usable: true, ..DeviceVerdict::default() },
            lans: config.lans.into_iter().map(lan).collect(),
            pods: config.pods.into_iter().map(pod).collect(),
            ..AgentReport::default()
        }
    }

    fn of_pod(&self, pod: &PodGrant) -> Report {
        match pod.owner.kind {
            Kind::Lan => {
                let renewed = self.reports.fetch_add(1, Ordering::Relaxed) * RENEWED;
                Report::Router(RouterReport { ready: true, leases: leases(renewed), ..RouterReport::default() })
            }
            Kind::Farm => Report::Farm(FarmReport { ready: true, ..FarmReport::default() }),
            _ => Report::Vm(VmReport {
                power: Power::On,
                state: "running".to_owned(),
                accelerator: "tcg".to_owned(),
                ..VmReport::default()
            }),
        }
    }
}

/// Leases, of which so many were renewed, one after the other.
fn leases(renewed: u64) -> Vec<LeaseReport> {
    let lease = |number: u32| {
        let [_, _, high, low] = number.to_be_bytes();
        let (rounds, part) = (renewed / u64::from(LEASES), renewed % u64::from(LEASES));
        LeaseReport {
            mac: MacAddr([2, 0x57, 0, 0, high, low]),
            address: Ipv4Addr::new(10, 64, 128 + high, low),
            hostname: Some(format!("client-{number}")),
            expires: EXPIRES + rounds + u64::from(u64::from(number) < part),
        }
    };
    (0..LEASES).map(lease).collect()
}

fn request(stream: &mut BufReader<StreamOwned<ServerConnection, TcpStream>>) -> Result<Option<(String, Vec<u8>)>> {
    let (mut head, mut length) = (String::new(), 0);
    if stream.read_line(&mut head)? == 0 {
        return Ok(None);
    }
    loop {
        let mut line = String::new();
        stream.read_line(&mut line)?;
        let Some((name, value)) = line.trim().split_once(':') else { break };
        if name.eq_ignore_ascii_case("content-length") {
            length = value.trim().parse().context("no length")?;
        }
    }
    let mut body = vec![0; length];
    stream.read_exact(&mut body)?;
    Ok(Some((head, body)))
}

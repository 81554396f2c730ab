//! Which sockets to open and close when the configuration changes.

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;

use stoke_api::workload::FarmConfig;

/// A service of the farm.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Service {
    /// Boot programs, UDP.
    Tftp,
    /// The same over IPv6.
    Tftp6,
    /// Boot scripts and blobs.
    Http,
    /// The same over IPv6.
    Http6,
    /// The API of nodes, HTTPS.
    NodeApi,
    /// Roots.
    Nbd,
}

impl Service {
    /// Whether it is TFTP, of either kind.
    pub fn is_tftp(self) -> bool {
        matches!(self, Self::Tftp | Self::Tftp6)
    }
}

impl fmt::Display for Service {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tftp => "TFTP",
            Self::Tftp6 => "TFTP over IPv6",
            Self::Http => "HTTP",
            Self::Http6 => "HTTP over IPv6",
            Self::NodeApi => "the node API",
            Self::Nbd => "NBD",
        })
    }
}

/// Services and where they are served.
pub type Endpoints = BTreeMap<Service, SocketAddr>;

/// Where a configuration wants its services.
pub fn endpoints(config: &FarmConfig) -> Endpoints {
    let ports = [
        (Service::Tftp, config.tftp_port),
        (Service::Http, config.http_port),
        (Service::NodeApi, config.node_port),
        (Service::Nbd, config.nbd_port),
    ];
    let ports =
        ports.map(|(service, port)| (service, SocketAddr::new(config.listen.unwrap_or(config.address).into(), port)));
    // Nodes go on by IPv4: their initramfs has no other.
    let ports6 = [(Service::Tftp6, config.tftp_port), (Service::Http6, config.http_port)];
    let at6 =
        |address: std::net::Ipv6Addr| ports6.map(|(service, port)| (service, SocketAddr::new(address.into(), port)));
    ports.into_iter().chain(config.address6.map(at6).into_iter().flatten()).collect()
}

/// One change.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the printed form says it")]
pub enum Step {
    Close { service: Service, address: SocketAddr },
    Open { service: Service, address: SocketAddr },
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Close { service, address } => write!(f, "stop listening on {address} for {service}"),
            Self::Open { service, address } => write!(f, "listen on {address} for {service}"),
        }
    }
}

/// The steps from what is open to what should be. What does not move stays open; nothing that is established ends.
pub fn plan(desired: &Endpoints, open: &Endpoints) -> Vec<Step> {
    let gone = open.iter().filter(|(service, address)| desired.get(service) != Some(address));
    let close = gone.map(|(service, address)| Step::Close { service: *service, address: *address });
    let new = desired.iter().filter(|(service, address)| open.get(service) != Some(address));
    let open = new.map(|(service, address)| Step::Open { service: *service, address: *address });
    close.chain(open).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(ports: [u16; 2]) -> Endpoints {
        let [http, nbd] = ports.map(|port| SocketAddr::from(([10, 10, 0, 1], port)));
        [(Service::Http, http), (Service::Nbd, nbd)].into()
    }

    fn lines(desired: &Endpoints, open: &Endpoints) -> Vec<String> {
        plan(desired, open).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a_second_time_nothing_is_to_do() {
        assert_eq!(lines(&at([80, 10809]), &at([80, 10809])), [""; 0]);
    }

    #[test]
    fn only_what_moves_is_touched() {
        let expected = ["stop listening on 10.10.0.1:80 for HTTP", "listen on 10.10.0.1:8080 for HTTP"];
        assert_eq!(lines(&at([8080, 10809]), &at([80, 10809])), expected);
    }
}

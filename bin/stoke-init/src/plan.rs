//! What this boot shall be, from whoever may say so: a farm's manifest, or the command line and DHCP alone.

use std::net::{SocketAddr, ToSocketAddrs as _};

use anyhow::{Context as _, Result, bail};
use stoke_api::MacAddr;
use stoke_api::names::Digest;
use stoke_api::node::{Baked, Manifest, Mode, fits_in_memory};
use stoke_api::objects::{DiskRoot, NfsRoot, NodeConfig};

use crate::cmdline::Cmdline;
use crate::dhcp::Lease;
use crate::farm;
use crate::nbd::ahead::Range;

const NBD_PORT: &str = "10809";

/// Who says what this boot shall be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Authority {
    /// The farm at these URLs, one of each replica.
    Farm(Vec<String>),
    /// Nobody: the root is at this URL, and what the initramfs knows of it is all there is to know.
    Root(String),
}

impl Authority {
    /// The command line goes before DHCP, and a root before a farm.
    pub(crate) fn find(cmdline: &Cmdline, lease: &Lease) -> Result<Self> {
        let root_path = || lease.root_path.as_ref().filter(|path| scheme(path).is_some());
        if let Some(root) = &cmdline.root {
            return Ok(Self::Root(root.clone()));
        }
        if let Some(farm) = cmdline.farm.as_ref().or(lease.farm.as_ref()).or(cmdline.fallback.as_ref()) {
            return Ok(Self::Farm(farm::urls(farm)));
        }
        match root_path() {
            Some(root) => Ok(Self::Root(root.clone())),
            None => bail!(
                "the DHCP server {} names no farm (option 224) and no root (option 17), nor does the kernel command line",
                lease.server
            ),
        }
    }
}

/// A boot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Plan {
    /// Names it in requests to the farm.
    pub(crate) session: Option<String>,
    /// The node's name.
    pub(crate) name: String,
    /// The image version, if a farm says.
    pub(crate) image: Option<Digest>,
    /// Where the root shall be.
    pub(crate) mode: Mode,
    /// Servers of the root by NBD, and the name that it has there.
    pub(crate) nbd: Vec<SocketAddr>,
    pub(crate) export: String,
    /// Parts of it that boots read.
    pub(crate) hot: Vec<Range>,
    /// URLs of the root.
    pub(crate) http: Vec<String>,
    /// The root by NFS.
    pub(crate) nfs: Option<NfsRoot>,
    /// The disk that keeps the root, and URLs of the root's table of chunks.
    pub(crate) disk: Option<DiskRoot>,
    pub(crate) chunks: Vec<String>,
    /// What the farm said, if the node may boot by it without the farm the next time.
    pub(crate) keep: Option<Box<Manifest>>,
    /// Whether a root in memory is given to other nodes.
    pub(crate) serve_peers: bool,
    pub(crate) domain: String,
    pub(crate) config: NodeConfig,
}

impl Plan {
    /// What the farm says, for the root that belongs to this initramfs and to no other.
    pub(crate) fn from_manifest(manifest: Manifest, baked: &Baked, cmdline: &Cmdline) -> Result<Self> {
        if manifest.root.blob != baked.root.blob {
            bail!(
                "the farm offers the root {}, the one built with this kernel is {}",
                manifest.root.blob,
                baked.root.blob
            );
        }
        if baked.built_at < manifest.minimum_built_at {
            bail!(
                "this image is of {} and the farm's minimum of {} (seconds since 1970): too old to be booted",
                baked.built_at,
                manifest.minimum_built_at
            );
        }
        let offline = manifest.mode == Mode::Disk && manifest.disk.as_ref().is_some_and(|disk| disk.offline);
        Ok(Self {
            keep: offline.then(|| Box::new(manifest.clone())),
            session: Some(manifest.session),
            name: manifest.name,
            image: Some(manifest.image),
            mode: cmdline.mode.unwrap_or(manifest.mode),
            nbd: manifest.nbd,
            export: baked.root.blob.to_string(),
            hot: manifest.hot,
            http: manifest.http,
            nfs: manifest.nfs,
            disk: manifest.disk,
            chunks: manifest.chunks,
            serve_peers: manifest.serve_peers,
            domain: manifest.domain,
            config: manifest.config,
        })
    }

    /// A root by its URL alone.
    pub(crate) fn from_root(url: &str, lease: &Lease, mac: MacAddr) -> Result<Self> {
        let mut plan = Self {
            session: None,
            name: lease.hostname.clone().unwrap_or_else(|| name_of(mac)),
            image: None,
            mode: Mode::Ram,
            nbd: Vec::new(),
            export: String::new(),
            hot: Vec::new(),
            http: Vec::new(),
            nfs: None,
            disk: None,
            chunks: Vec::new(),
            keep: None,
            serve_peers: false,
            domain: lease.domain.clone().unwrap_or_default(),
            config: NodeConfig::default(),
        };
        match scheme(url) {
            Some("nbd") => {
                let (server, export) = nbd_url(url)?;
                (plan.mode, plan.nbd, plan.export) = (Mode::Nbd, vec![server], export);
            }
            Some("http") => plan.http = vec![url.to_owned()],
            _ => bail!("{url:?} is no root: nbd://HOST:PORT/EXPORT or http://… is wanted"),
        }
        Ok(plan)
    }

    /// Whether the root is copied to memory.
    pub(crate) fn in_memory(&self, size: u64, memory: u64) -> bool {
        match self.mode {
            Mode::Ram => true,
            Mode::Nbd | Mode::Nfs | Mode::Disk => false,
            Mode::Auto if self.nbd.is_empty() => true,
            Mode::Auto => !self.http.is_empty() && fits_in_memory(size, memory),
        }
    }
}

fn name_of(mac: MacAddr) -> String {
    format!("node-{}", mac.to_string().replace(':', ""))
}

fn scheme(url: &str) -> Option<&str> {
    url.split_once("://").map(|(scheme, _)| scheme).filter(|scheme| matches!(*scheme, "nbd" | "http"))
}

/// `nbd://HOST[:PORT]/EXPORT` (the NBD URI specification); the host as an address: there is no resolver here.
fn nbd_url(url: &str) -> Result<(SocketAddr, String)> {
    let rest = url.strip_prefix("nbd://").unwrap_or(url);
    let (host, export) = rest.split_once('/').unwrap_or((rest, ""));
    let with_port = if host.rsplit(']').next().unwrap_or(host).contains(':') {
        host.to_owned()
    } else {
        format!("{host}:{NBD_PORT}")
    };
    let mut addresses = with_port.to_socket_addrs().with_context(|| format!("{host:?} in {url:?} is no address"))?;
    let address = addresses.next().with_context(|| format!("{host:?} in {url:?} has no address"))?;
    Ok((address, export.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::Ipv4Addr;

    fn lease() -> Lease {
        Lease {
            address: Ipv4Addr::new(10, 0, 0, 2),
            prefix: 24,
            server: Ipv4Addr::new(10, 0, 0, 1),
            router: None,
            dns: Vec::new(),
            domain: None,
            hostname: None,
            mtu: None,
            farm: Some("https://10.0.0.1:8443".into()),
            root_path: Some("nbd://10.0.0.1/x".into()),
            seconds: 60,
            renew: 30,
            rebind: 45,
        }
    }

    #[test]
    fn a_root_of_the_command_line_then_a_farm_then_a_root_of_dhcp() {
        let mut cmdline = Cmdline::parse("stoke.root=http://h/x stoke.farm=https://f");
        let mut lease = lease();
        assert_eq!(Authority::find(&cmdline, &lease).unwrap(), Authority::Root("http://h/x".into()));
        cmdline.root = None;
        assert_eq!(Authority::find(&cmdline, &lease).unwrap(), Authority::Farm(vec!["https://f".into()]));
        cmdline.farm = None;
        assert_eq!(Authority::find(&cmdline, &lease).unwrap(), Authority::Farm(vec!["https://10.0.0.1:8443".into()]));
        cmdline.fallback = Some("https://a:8443,https://b:8443".into());
        assert_eq!(Authority::find(&cmdline, &lease).unwrap(), Authority::Farm(vec!["https://10.0.0.1:8443".into()]));
        lease.farm = None;
        let replicas = vec!["https://a:8443".into(), "https://b:8443".into()];
        assert_eq!(Authority::find(&cmdline, &lease).unwrap(), Authority::Farm(replicas));
        cmdline.fallback = None;
        assert_eq!(Authority::find(&cmdline, &lease).unwrap(), Authority::Root("nbd://10.0.0.1/x".into()));
        // What other systems put into option 17 is not for us.
        lease.root_path = Some("/srv/nfs".into());
        assert!(Authority::find(&cmdline, &lease).unwrap_err().to_string().contains("option 224"));
    }

    #[test]
    fn nbd_urls_with_and_without_port_and_export() {
        let parsed = |url| nbd_url(url).map(|(address, export)| format!("{address} {export}")).unwrap();
        assert_eq!(parsed("nbd://10.0.0.1/sha256:ab"), "10.0.0.1:10809 sha256:ab");
        assert_eq!(parsed("nbd://10.0.0.1:10/a/b"), "10.0.0.1:10 a/b");
        assert_eq!(parsed("nbd://[fe80::1]"), "[fe80::1]:10809 ");
        assert!(nbd_url("nbd:///x").is_err());
    }

    #[test]
    fn auto_means_memory_only_if_there_is_plenty() {
        let mut plan = Plan::from_root("http://10.0.0.1/x", &lease(), MacAddr([2, 0, 0, 0, 0, 1])).unwrap();
        assert_eq!(plan.name, "node-020000000001");
        plan.mode = Mode::Auto;
        plan.nbd = vec!["10.0.0.1:10809".parse().unwrap()];
        assert!(plan.in_memory(200 << 20, 1024 << 20));
        assert!(!plan.in_memory(600 << 20, 1024 << 20));
        plan.nbd.clear();
        assert!(plan.in_memory(600 << 20, 1024 << 20));
    }
}

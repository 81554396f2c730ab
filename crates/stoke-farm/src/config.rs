//! The configuration as it is looked up: nodes by MAC or UUID, blobs by digest.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::Context as _;
use stoke_api::node::RootInfo;
use stoke_api::objects::UnknownClients;
use stoke_api::workload::{Architecture, FarmConfig, FarmImage, FarmNode};
use stoke_api::{Digest, MacAddr, ObjectRef};
use stoke_nbd::server::TlsConfig;
use tokio_rustls::rustls;
use tokio_rustls::rustls::pki_types::pem::PemObject as _;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};

/// A configuration, ready to be served from.
#[derive(Debug)]
pub struct Serving {
    /// As it was given.
    pub config: FarmConfig,
    by_mac: HashMap<MacAddr, usize>,
    by_uuid: HashMap<String, usize>,
    blobs: HashMap<Digest, u64>,
    /// Boot programs by their plain names, in memory.
    pub programs: HashMap<String, Arc<Vec<u8>>>,
    /// The configuration of LTSP, if there is one.
    pub ltsp: Option<stoke_boot::lts::Conf>,
    /// What is wrong with the configuration and does not keep the rest from working.
    pub problems: Vec<String>,
    /// For the node API.
    pub tls: Arc<rustls::ServerConfig>,
    /// For NBD.
    pub nbd_tls: Arc<TlsConfig>,
}

/// Whom a machine is taken for.
#[derive(Clone, Copy, Debug)]
pub enum Identity<'a> {
    /// A node that an object names.
    Known(&'a FarmNode),
    /// One that no object names, on a farm that boots those too.
    Stranger(MacAddr),
}

impl Identity<'_> {
    /// The object.
    pub fn owner(&self) -> Option<ObjectRef> {
        match self {
            Self::Known(node) => Some(node.owner.clone()),
            Self::Stranger(_) => None,
        }
    }

    /// Its name: the host name.
    pub fn name(&self) -> String {
        match self {
            Self::Known(node) => node.config.hostname.clone().unwrap_or_else(|| node.owner.name.to_string()),
            Self::Stranger(mac) => format!("node-{}", mac.to_string().replace(':', "")),
        }
    }

    /// The number of reboots that were asked for.
    pub fn reboots_requested(&self) -> u64 {
        match self {
            Self::Known(node) => node.reboots_requested,
            Self::Stranger(_) => 0,
        }
    }
}

impl Serving {
    /// Reads what the configuration points to.
    ///
    /// # Errors
    /// If the node API's certificate or key cannot be used. Boot programs that are missing are among the problems.
    pub fn load(mut config: FarmConfig) -> anyhow::Result<Self> {
        name_farm(&mut config);
        let tls = Arc::new(tls(&config)?);
        let nbd_tls = Arc::new(crate::roots::tls::config(&tls, config.nbd_tls.as_ref())?);
        let (programs, problems) = programs(&config);
        let nodes = || config.nodes.iter().enumerate();
        let by_mac = nodes().flat_map(|(index, node)| node.macs.iter().map(move |mac| (*mac, index))).collect();
        let by_uuid = nodes().filter_map(|(index, node)| Some((node.uuid.as_ref()?.to_ascii_lowercase(), index)));
        let by_uuid = by_uuid.collect();
        let blobs = config.images.iter().flat_map(blobs).collect();
        let ltsp = crate::ltsp::read(&config);
        Ok(Self { config, by_mac, by_uuid, blobs, programs, ltsp, problems, tls, nbd_tls })
    }

    /// Whom this machine is taken for; `None` for one that gets nothing.
    pub fn identify(&self, boot_mac: MacAddr, macs: &[MacAddr], uuid: Option<&str>) -> Option<Identity<'_>> {
        let uuid = uuid.map(str::to_ascii_lowercase);
        let by_mac = std::iter::once(&boot_mac).chain(macs).find_map(|mac| self.by_mac.get(mac));
        let found = by_mac.or_else(|| self.by_uuid.get(&uuid?));
        match found.and_then(|index| self.config.nodes.get(*index)) {
            Some(node) => Some(Identity::Known(node)),
            None if self.config.unknown_clients == UnknownClients::Boot => Some(Identity::Stranger(boot_mac)),
            None => None,
        }
    }

    /// The interface of the node with this UUID.
    pub fn mac_by_uuid(&self, uuid: &str) -> Option<MacAddr> {
        let node = self.config.nodes.get(*self.by_uuid.get(&uuid.to_ascii_lowercase())?)?;
        node.macs.first().copied()
    }

    /// The node of an object.
    pub fn node(&self, owner: &ObjectRef) -> Option<&FarmNode> {
        self.config.nodes.iter().find(|node| node.owner == *owner)
    }

    /// The image that a new boot gets.
    pub fn current_image(&self) -> Option<&FarmImage> {
        self.config.images.first()
    }

    /// The version that a machine boots on this architecture: its own, else the farm's first.
    pub fn image_for(&self, identity: &Identity<'_>, architecture: Architecture) -> Option<&FarmImage> {
        let images = || self.config.images.iter().filter(|image| image.architecture == architecture);
        let own = match identity {
            Identity::Known(node) => node.image.and_then(|own| images().find(|image| image.digest == own)),
            Identity::Stranger(_) => None,
        };
        own.or_else(|| images().next())
    }

    /// The version that a machine has which shows a part of it: the one that is expected if it has that part, for versions may
    /// share parts; then the machine's own, then any.
    pub fn image_with(
        &self,
        identity: &Identity<'_>,
        expected: Option<Digest>,
        has: impl Fn(&FarmImage) -> bool,
    ) -> Option<&FarmImage> {
        let own = match identity {
            Identity::Known(node) => node.image,
            Identity::Stranger(_) => None,
        };
        let having = || self.config.images.iter().filter(|image| has(image));
        let named = |digest: Option<Digest>| having().find(|image| Some(image.digest) == digest);
        named(expected).or_else(|| named(own)).or_else(|| having().next())
    }

    /// What a blob is, for people.
    pub fn part_of(&self, digest: &Digest) -> &'static str {
        let part = |image: &FarmImage| {
            let uki = image.uki.map(|uki| uki.digest);
            let parts = [
                (Some(image.kernel.digest), "kernel"),
                (Some(image.initramfs.digest), "initramfs"),
                (Some(image.farm_initramfs.digest), "initramfs of the farm"),
                (uki, "unified kernel image"),
                (Some(image.root.blob), "root"),
            ];
            parts.into_iter().find(|(part, _)| *part == Some(*digest)).map(|(_, name)| name)
        };
        self.config.images.iter().find_map(part).unwrap_or("blob")
    }

    /// The roots that may be attached.
    pub fn roots(&self) -> impl Iterator<Item = &RootInfo> {
        self.config.images.iter().map(|image| &image.root)
    }

    /// Path and size of a blob that an image is made of.
    pub fn blob(&self, digest: &Digest) -> Option<(PathBuf, u64)> {
        let size = *self.blobs.get(digest)?;
        Some((self.config.blobs.join("sha256").join(digest.hex()), size))
    }

    /// URL of the HTTP server, without a final slash.
    pub fn base_url(&self) -> String {
        self.base_url_of(self.config.address)
    }

    /// The same of another replica.
    pub fn base_url_of(&self, replica: std::net::Ipv4Addr) -> String {
        match self.config.http_port {
            80 => format!("http://{replica}"),
            port => format!("http://{replica}:{port}"),
        }
    }
}

/// Kernels are told where the farm is: a DHCP server that is not ours says nothing of it.
fn name_farm(config: &mut FarmConfig) {
    let replicas = if config.replicas.is_empty() { vec![config.address] } else { config.replicas.clone() };
    let urls: Vec<_> = replicas.iter().map(|replica| format!("https://{replica}:{}", config.node_port)).collect();
    let argument = format!("stoke.fallback={}", urls.join(","));
    config.images.iter_mut().for_each(|image| image.kernel_arguments.push(argument.clone()));
}

fn blobs(image: &FarmImage) -> Vec<(Digest, u64)> {
    let parts = [Some(image.kernel), Some(image.initramfs), Some(image.farm_initramfs), image.uki];
    let parts = parts.into_iter().flatten().map(|blob| (blob.digest, blob.size));
    parts.chain([(image.root.blob, image.root.size)]).collect()
}

fn programs(config: &FarmConfig) -> (HashMap<String, Arc<Vec<u8>>>, Vec<String>) {
    let (mut programs, mut problems) = (HashMap::new(), Vec::new());
    for (name, path) in &config.boot_programs {
        match fs_err::read(path) {
            Ok(content) => drop(programs.insert(stoke_tftp::server::plain_name(name), Arc::new(content))),
            Err(error) => {
                let packages = stoke_boot::loaders::packages(name);
                problems.push(format!("boot program {name}: {error}; apt-get install {packages}"));
            }
        }
    }
    (programs, problems)
}

fn tls(config: &FarmConfig) -> anyhow::Result<rustls::ServerConfig> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let unusable = |path: &PathBuf| format!("{} cannot be used for the node API", path.display());
    let chain: Result<Vec<_>, _> =
        CertificateDer::pem_file_iter(&config.certificate).and_then(Iterator::collect::<Result<Vec<_>, _>>);
    let chain = chain.with_context(|| unusable(&config.certificate))?;
    let key = PrivateKeyDer::from_pem_file(&config.key).with_context(|| unusable(&config.key))?;
    rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .with_context(|| unusable(&config.certificate))
}

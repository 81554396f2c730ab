//! The configuration that a machine gets, which may depend on what it says that it is.

use std::net::Ipv4Addr;

use stoke_api::MacAddr;
use stoke_api::node::Hello;
use stoke_api::objects::{Inventory, NodeConfig};
use stoke_api::workload::{ConfigScope, FarmImage, FarmNode};
use stoke_boot::config::{Scope, Source, merged};

use crate::config::{Identity, Serving};
use crate::sessions::Node;

/// What a machine says that it is.
pub(crate) fn inventory(hello: &Hello) -> Inventory {
    Inventory { product: hello.product.clone(), memory: stoke_api::Bytes(hello.memory), cpus: hello.cpus }
}

/// The configuration of a machine as far as it can read it, and what it lacks.
pub(crate) fn config_for(serving: &Serving, identity: &Identity<'_>, hello: &Hello) -> (NodeConfig, Vec<String>) {
    let config = serving.whole_config(identity, hello.boot_mac, hello.address, &inventory(hello));
    let (config, lacks) = config.for_generation(hello.config_generation);
    if lacks.is_empty() {
        return (config, lacks);
    }
    let remark = format!("its image is too old for {}: build it anew", lacks.join(", "));
    (config, vec![remark])
}

impl Serving {
    /// The whole configuration of a machine that comes from this address and is this.
    pub fn whole_config(
        &self,
        identity: &Identity<'_>,
        mac: MacAddr,
        address: Ipv4Addr,
        machine: &Inventory,
    ) -> NodeConfig {
        let mut config = match identity {
            Identity::Known(node) if node.scopes.is_empty() => node.config.clone(),
            Identity::Known(node) => merged(&holding(&node.scopes, machine).collect::<Vec<_>>()),
            Identity::Stranger(_) => {
                let wide = NodeConfig { hostname: None, ..self.config.config.clone() };
                let ltsp = self.stranger(identity, mac, address).map(|translation| translation.config);
                let ltsp = ltsp.unwrap_or_default();
                let mut scopes = vec![scope(&wide), scope(&ltsp)];
                scopes.extend(holding(&self.config.scopes, machine));
                merged(&scopes)
            }
        };
        config.hostname.get_or_insert_with(|| identity.name());
        config
    }

    /// The secrets that a node's configuration names, for the machine that it has said to be.
    pub(crate) fn secrets_of(&self, object: &FarmNode, node: &Node) -> Vec<String> {
        let machine = node.inventory.clone().unwrap_or_default();
        let address = node.address.unwrap_or(Ipv4Addr::UNSPECIFIED);
        let config = self.whole_config(&Identity::Known(object), node.mac, address, &machine);
        config.secrets().map(ToString::to_string).collect()
    }

    /// An image with the kernel arguments of a machine behind its own: as far as they are known before the machine has
    /// said what it is.
    pub(crate) fn with_arguments(&self, identity: &Identity<'_>, image: &FarmImage) -> Box<FarmImage> {
        let config = match identity {
            Identity::Known(node) => &node.config,
            Identity::Stranger(_) => &self.config.config,
        };
        let mut image = Box::new(image.clone());
        image.kernel_arguments.extend(config.kernel_arguments.iter().cloned());
        image
    }
}

/// The scopes that hold for a machine.
fn holding<'a>(scopes: &'a [ConfigScope], machine: &Inventory) -> impl Iterator<Item = Scope<'a>> {
    scopes.iter().filter(|scope| scope.inventory.fits(machine)).map(|own| scope(&own.config))
}

/// A farm asks for no origins: its scopes need no names.
fn scope(config: &NodeConfig) -> Scope<'_> {
    Scope { source: Source::named(""), config }
}

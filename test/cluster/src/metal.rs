//! Real machines: a wire to a node's uplink, and what they are in the cluster once they have joined it.

use anyhow::{Context as _, Result};
use serde_json::{Value, json};
use testbed::World;
use testbed::kubernetes::Node;

use crate::Lab;

/// A switch with a link to a node, which calls it `uplink0`.
///
/// # Errors
/// If the links cannot be made.
pub fn wire_of(node: &Node) -> Result<World> {
    let wire = World::new()?;
    node.connect(&wire, ["far0", "uplink0"])?;
    wire.run("ip", &["link", "add", "switch0", "type", "bridge", "forward_delay", "0", "mcast_snooping", "0"])?;
    wire.run("ip", &["link", "set", "far0", "master", "switch0"])?;
    wire.run("ip", &["link", "set", "switch0", "up"])?;
    Ok(wire)
}

/// A text in an object; an empty one if it is not there.
pub fn text<'a>(object: &'a Value, pointer: &str) -> &'a str {
    object.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
}

/// What the store has already: nobody builds it again, since the chart's builder is not on the nodes.
const IMAGE: &str = "apiVersion: stokehold.dev/v1alpha1\nkind: Image\nmetadata: {name: worker}\nspec:\n  \
    source: {oci: {reference: \"registry.invalid/worker:1\"}}\n  forms: {netboot: {}}\n";

impl Lab {
    /// Applies the example's LAN with an uplink, the image of nodes that join, and the example's farm of that image, with
    /// these lines before its configuration.
    ///
    /// # Errors
    /// If they are refused.
    pub fn apply_workers(&self, joins: &str, servers: &str) -> Result<()> {
        self.apply(IMAGE)?;
        let farm = |text: &str| {
            let text = text.replace("image: node", "image: worker");
            text.replace("\n  config:\n", &format!("\n{joins}  config:\n"))
        };
        self.apply_farm("  uplinks: [{interface: uplink0}]\n", farm, servers)
    }

    /// What is in a list of the API server.
    ///
    /// # Errors
    /// If there is no such list.
    pub fn items(&self, path: &str) -> Result<Vec<Value>> {
        let list = self.cluster.plane.api().get(path)?.with_context(|| format!("no {path}"))?;
        Ok(list.get("items").and_then(Value::as_array).cloned().unwrap_or_default())
    }

    /// A node of the cluster, once it is ready.
    ///
    /// # Errors
    /// If the API server does not answer.
    pub fn ready_node(&self, name: &str) -> Result<Option<Value>> {
        let node = self.cluster.plane.api().get(&format!("/api/v1/nodes/{name}"))?.unwrap_or_default();
        let conditions = node.pointer("/status/conditions").and_then(Value::as_array).cloned().unwrap_or_default();
        let ready = json!({"type": "Ready", "status": "True"});
        let is_ready = |one: &Value| ["type", "status"].iter().all(|field| one.get(field) == ready.get(field));
        Ok(conditions.iter().any(is_ready).then_some(node))
    }

    /// What a server's kubelet says, for a test that fails.
    pub fn kubelet(&self, server: &str) -> String {
        let script = "systemctl --failed --no-pager; tail -n 5 /etc/rc.local; \
                      journalctl --no-pager -n 60 -u kubelet -u containerd -u rc-local";
        let said = self.ssh(&format!("server/{server}"), script).unwrap_or_else(|error| format!("{error:#}"));
        format!("{}\n{said}", self.story())
    }
}

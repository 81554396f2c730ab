//! What the node agent counts.

use std::sync::atomic::AtomicU64;

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

/// The metrics.
#[derive(Debug, Default)]
pub(crate) struct Metrics {
    /// Changes of links, addresses and packet filter.
    pub(crate) steps: Counter<u64, AtomicU64>,
    /// LANs that are as wanted.
    pub(crate) lans_laid: Gauge,
    /// LANs that are not.
    pub(crate) lans_failed: Gauge,
    /// Ports handed out.
    pub(crate) ports_granted: Counter<u64, AtomicU64>,
    /// Requests for ports that were refused.
    pub(crate) ports_refused: Counter<u64, AtomicU64>,
}

impl Metrics {
    /// A registry with these metrics in it.
    pub(crate) fn registry(&self) -> Registry {
        let mut registry = Registry::with_prefix("stokehold_node");
        registry.register("steps", "Changes of links, addresses and packet filter", self.steps.clone());
        registry.register("lans_laid", "LANs that are as wanted", self.lans_laid.clone());
        registry.register("lans_failed", "LANs that are not as wanted", self.lans_failed.clone());
        registry.register("ports_granted", "LAN ports handed out", self.ports_granted.clone());
        registry.register("ports_refused", "Requests for LAN ports that were refused", self.ports_refused.clone());
        registry
    }
}

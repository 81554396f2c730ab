//! Metrics of one machine.

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

/// Metrics of one machine; clones count together.
#[derive(Clone, Debug, Default)]
pub(crate) struct Metrics {
    /// Whether the guest is on.
    pub(crate) on: Gauge,
    /// Starts of a QEMU by this process; adopting is none.
    pub(crate) starts: Counter,
    /// Starts that failed, and ends that nobody asked for.
    pub(crate) failures: Counter,
}

impl Metrics {
    /// A registry with all of them.
    pub(crate) fn registry(&self) -> Registry {
        let mut registry = Registry::with_prefix("stoke_vm");
        registry.register("on", "Whether the guest is on: 0 or 1", self.on.clone());
        registry.register("starts", "Starts of a hypervisor by this process", self.starts.clone());
        registry.register("failures", "Starts that failed, and unexpected ends", self.failures.clone());
        registry
    }
}

//! What is counted.

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;
use stoke_api::report::RouterReport;

/// Labels of one value.
pub(crate) type Label = [(&'static str, String); 1];

/// The counters. Cloning shares them.
#[derive(Clone, Debug, Default)]
pub(crate) struct Metrics {
    /// DHCP requests by type.
    pub(crate) requests: Family<Label, Counter>,
    /// DHCP replies by type.
    pub(crate) replies: Family<Label, Counter>,
    /// Packets on the DHCP port that were not answered, by reason.
    pub(crate) dropped: Family<Label, Counter>,
    /// Clients that were found to load the same program again and again.
    pub(crate) loops: Counter,
    /// DHCPv6 requests by type.
    pub(crate) requests6: Family<Label, Counter>,
    /// DHCPv6 replies by type.
    pub(crate) replies6: Family<Label, Counter>,
    /// Packets on the DHCPv6 port that were not answered, by reason.
    pub(crate) dropped6: Family<Label, Counter>,
    /// Lease records on disk.
    pub(crate) records: Counter,
    /// Batches of records, each synced once.
    pub(crate) batches: Counter,
    /// DNS questions by how they were answered.
    pub(crate) questions: Family<Label, Counter>,
    /// Router solicitations answered.
    pub(crate) solicitations: Counter,
    leases: Gauge,
    addresses: Gauge,
    strangers: Gauge,
    conflicts: Gauge,
    rogue_servers: Gauge,
}

impl Metrics {
    /// The registry that shows them.
    pub(crate) fn registry(&self) -> Registry {
        let mut registry = Registry::with_prefix("stoke_router");
        registry.register("dhcp_requests", "DHCP requests by type", self.requests.clone());
        registry.register("dhcp_replies", "DHCP replies by type", self.replies.clone());
        registry.register("dhcp_dropped", "DHCP packets without answer, by reason", self.dropped.clone());
        registry.register("boot_loops", "Clients that loaded the same program again and again", self.loops.clone());
        registry.register("dhcp6_requests", "DHCPv6 requests by type", self.requests6.clone());
        registry.register("dhcp6_replies", "DHCPv6 replies by type", self.replies6.clone());
        registry.register("dhcp6_dropped", "DHCPv6 packets without answer, by reason", self.dropped6.clone());
        registry.register("lease_records", "Lease records written to disk", self.records.clone());
        registry.register("lease_batches", "Batches of lease records, each synced once", self.batches.clone());
        registry.register("dns_questions", "DNS questions by how they were answered", self.questions.clone());
        registry.register("router_solicitations", "IPv6 router solicitations answered", self.solicitations.clone());
        registry.register("leases", "Leases that have not expired", self.leases.clone());
        registry.register("addresses", "Addresses that can be given out", self.addresses.clone());
        let help = "Machines that asked for a boot and that no object names, as far as they are remembered";
        registry.register("strangers", help, self.strangers.clone());
        let help = "Addresses that somebody uses who did not get them from this router, as far as they are remembered";
        registry.register("address_conflicts", help, self.conflicts.clone());
        registry.register("rogue_servers", "DHCP servers of others that were heard", self.rogue_servers.clone());
        registry
    }

    /// Takes note of what is there, before it is shown.
    pub(crate) fn observe(&self, report: &RouterReport) {
        let count = |number: usize| i64::try_from(number).unwrap_or(i64::MAX);
        self.leases.set(count(report.leases.len()));
        self.addresses.set(report.capacity.into());
        self.strangers.set(count(report.strangers.len()));
        self.conflicts.set(count(report.conflicts.len()));
        self.rogue_servers.set(count(report.rogue_servers.len()));
    }
}

/// Counts one of a kind.
pub(crate) fn count(family: &Family<Label, Counter>, name: &'static str, value: impl Into<String>) {
    family.get_or_create(&[(name, value.into())]).inc();
}

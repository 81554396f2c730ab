//! What the operator counts.

use std::sync::Mutex;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::{Registry, Unit};

/// The role of workloads.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct RoleLabel {
    /// One word.
    pub role: String,
}

/// All metrics of an operator.
pub struct Metrics {
    registry: Mutex<Registry>,
    /// Whether this one leads.
    pub leads: Gauge,
    /// Rounds so far.
    pub rounds: Counter,
    /// Rounds that failed.
    pub failed_rounds: Counter,
    /// How long rounds take.
    pub round_seconds: Histogram,
    /// Writes to the API server, the lease aside.
    pub writes: Counter,
    /// Workloads that should run.
    pub workloads: Family<RoleLabel, Gauge>,
    /// Node agents that answer.
    pub agents: Gauge,
    /// Node agents that do not.
    pub silent_agents: Gauge,
}

impl Default for Metrics {
    fn default() -> Self {
        let mut registry = Registry::with_prefix("stokehold_operator");
        let metrics = Self {
            registry: Mutex::default(),
            leads: Gauge::default(),
            rounds: Counter::default(),
            failed_rounds: Counter::default(),
            round_seconds: Histogram::new(exponential_buckets(0.002, 2.0, 14)),
            writes: Counter::default(),
            workloads: Family::default(),
            agents: Gauge::default(),
            silent_agents: Gauge::default(),
        };
        registry.register("leader", "Whether this operator leads", metrics.leads.clone());
        registry.register("rounds", "Rounds of the operator", metrics.rounds.clone());
        registry.register("failed_rounds", "Rounds that ended with an error", metrics.failed_rounds.clone());
        let took = metrics.round_seconds.clone();
        registry.register_with_unit("round", "How long rounds take", Unit::Seconds, took);
        registry.register("writes", "Writes to the API server beside the lease", metrics.writes.clone());
        registry.register("workloads", "Workloads that should run", metrics.workloads.clone());
        registry.register("node_agents", "Node agents that answer", metrics.agents.clone());
        registry.register("silent_node_agents", "Node agents that do not answer", metrics.silent_agents.clone());
        Self { registry: Mutex::new(registry), ..metrics }
    }
}

impl Metrics {
    /// `OpenMetrics` text.
    pub fn text(&self) -> String {
        let registry = self.registry.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let mut text = String::new();
        // Writing to a string fails for no reason of its own.
        let _ = prometheus_client::encoding::text::encode(&mut text, &registry);
        text
    }
}

//! Metrics of the farm.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric as _, NoLabelSet};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::{ConstCounter, Counter};
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::{ConstGauge, Gauge};
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Registry, Unit};
use stoke_api::node::Phase;
use stoke_nbd::latency::Observed;

use crate::trace::Reached;

/// What is counted.
#[derive(Debug)]
pub(crate) struct Metrics {
    pub(crate) registry: Registry,
    pub(crate) scripts: Counter,
    pub(crate) blobs: Counter,
    pub(crate) http_bytes: Counter,
    pub(crate) sessions: Counter,
    pub(crate) refused: Counter,
    pub(crate) secrets_given: Counter,
    pub(crate) unproven: Counter,
    /// Blobs that are being sent over HTTP now.
    sending: Gauge,
    phases: Family<Label, Histogram>,
    boots: Histogram,
    failures: Family<Label, Counter>,
    pub(crate) tftp: Arc<stoke_tftp::server::Counters>,
    pub(crate) nbd: Arc<stoke_nbd::server::Counters>,
}

impl Metrics {
    pub(crate) fn new() -> Self {
        let mut registry = Registry::with_prefix("stoke_farm");
        let mut counter = |name: &str, help: &str| {
            let counter = Counter::default();
            registry.register(name, help, counter.clone());
            counter
        };
        let scripts = counter("boot_scripts", "Boot scripts rendered for iPXE");
        let blobs = counter("http_blobs", "Requests for blobs over HTTP that were answered with content");
        let http_bytes = counter("http_sent_bytes", "Bytes of blobs sent over HTTP");
        let sessions = counter("sessions", "Sessions that nodes began");
        let refused = counter("refused", "Nodes that said hello and got no session");
        let secrets_given = counter("secrets_given", "Nodes that were given their secrets");
        let unproven = counter("unproven", "Proofs by TPM that were refused");
        let (sending, phases, boots, failures) = boot_metrics(&mut registry);
        let tftp = Arc::<stoke_tftp::server::Counters>::default();
        let nbd = Arc::<stoke_nbd::server::Counters>::default();
        registry.register_collector(Box::new(Wire { tftp: tftp.clone(), nbd: nbd.clone() }));
        Self {
            registry,
            scripts,
            blobs,
            http_bytes,
            sessions,
            refused,
            secrets_given,
            unproven,
            sending,
            phases,
            boots,
            failures,
            tftp,
            nbd,
        }
    }

    /// Counts one more blob that is being sent, until what is returned is dropped.
    pub(crate) fn in_flight(&self) -> InFlight {
        self.sending.inc();
        InFlight(self.sending.clone())
    }

    /// A node reports a phase. `reached` is none if that was known.
    pub(crate) fn reached(&self, phase: Phase, reached: Option<Reached>) {
        let Some(reached) = reached else { return };
        if phase == Phase::Failed {
            self.failures.get_or_create(&[("after", reached.before.to_string())]).inc();
        } else if phase != Phase::Stopping {
            self.phases.get_or_create(&[("phase", phase.to_string())]).observe(reached.took.as_secs_f64());
        }
        if phase == Phase::Ready {
            self.boots.observe(reached.uptime.as_secs_f64());
        }
    }
}

/// Labels of one value.
type Label = [(&'static str, String); 1];

/// Seconds from a fast machine's kernel phase to a storm's.
const SECONDS: [f64; 12] = [0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 20.0, 40.0, 80.0, 160.0, 320.0];

fn seconds() -> Histogram {
    Histogram::new(SECONDS)
}

fn boot_metrics(registry: &mut Registry) -> (Gauge, Family<Label, Histogram>, Histogram, Family<Label, Counter>) {
    let (sending, boots, failures) = (Gauge::default(), seconds(), Family::<Label, Counter>::default());
    let phases = Family::<Label, Histogram>::new_with_constructor(seconds);
    // What has not happened yet is 0 from the beginning, so that its first time is seen as a change.
    for phase in [Phase::Init, Phase::Network, Phase::Manifest, Phase::Root, Phase::Switched, Phase::Ready] {
        drop(phases.get_or_create(&[("phase", phase.to_string())]));
        drop(failures.get_or_create(&[("after", phase.to_string())]));
    }
    registry.register("http_in_flight", "Blobs that are being sent over HTTP now", sending.clone());
    let help = "Time from one phase of a node's boot to the next, by the phase that was reached";
    registry.register_with_unit("boot_phase", help, Unit::Seconds, phases.clone());
    let help = "Time from the start of a node's kernel until the node was ready";
    registry.register_with_unit("boot", help, Unit::Seconds, boots.clone());
    registry.register("boot_failures", "Boots that failed, by the phase that they had reached", failures.clone());
    (sending, phases, boots, failures)
}

/// A blob that is being sent.
pub(crate) struct InFlight(Gauge);

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.dec();
    }
}

/// Counters that the protocols keep themselves.
#[derive(Debug)]
struct Wire {
    tftp: Arc<stoke_tftp::server::Counters>,
    nbd: Arc<stoke_nbd::server::Counters>,
}

impl Collector for Wire {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let counters: [(&str, &str, &AtomicU64); 10] = [
            ("tftp_requests", "Read requests over TFTP", &self.tftp.requests),
            ("tftp_transfers", "TFTP transfers that completed", &self.tftp.completed),
            ("tftp_failures", "TFTP transfers that did not complete", &self.tftp.failed),
            ("tftp_refused", "TFTP requests that were answered with an error", &self.tftp.refused),
            ("tftp_repeated_blocks", "TFTP blocks that were sent more than once", &self.tftp.repeated),
            ("tftp_timeouts", "Windows of TFTP blocks that nobody answered in time", &self.tftp.timeouts),
            ("tftp_sent_bytes", "Bytes of content that TFTP clients acknowledged", &self.tftp.bytes),
            ("nbd_connections", "NBD connections accepted", &self.nbd.connections),
            ("nbd_reads", "NBD reads answered", &self.nbd.reads),
            ("nbd_sent_bytes", "Bytes of roots sent over NBD", &self.nbd.bytes),
        ];
        for (name, help, value) in counters {
            let counter = ConstCounter::new(value.load(Ordering::Relaxed));
            counter.encode(encoder.encode_descriptor(name, help, None, counter.metric_type())?)?;
        }
        let help = "Time from an NBD read's request to the last of its data";
        let mut latency = encoder.encode_descriptor("nbd_read", help, Some(&Unit::Seconds), MetricType::Histogram)?;
        let Observed { buckets, sum, count } = self.nbd.latency.observed();
        latency.encode_histogram::<NoLabelSet>(sum, count, &buckets, None)?;
        let gauges: [(&str, &str, &AtomicU64); 2] = [
            ("tftp_active", "TFTP transfers now", &self.tftp.active),
            ("nbd_open", "NBD connections open now", &self.nbd.open),
        ];
        for (name, help, value) in gauges {
            let gauge = ConstGauge::new(value.load(Ordering::Relaxed).cast_signed());
            gauge.encode(encoder.encode_descriptor(name, help, None, gauge.metric_type())?)?;
        }
        Ok(())
    }
}

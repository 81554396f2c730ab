//! Metrics of the farm.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric as _};
use prometheus_client::metrics::counter::{ConstCounter, Counter};
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Registry;

/// What is counted.
#[derive(Debug)]
pub(crate) struct Metrics {
    pub(crate) registry: Registry,
    pub(crate) scripts: Counter,
    pub(crate) blobs: Counter,
    pub(crate) http_bytes: Counter,
    pub(crate) sessions: Counter,
    pub(crate) refused: Counter,
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
        let tftp = Arc::<stoke_tftp::server::Counters>::default();
        let nbd = Arc::<stoke_nbd::server::Counters>::default();
        registry.register_collector(Box::new(Wire { tftp: tftp.clone(), nbd: nbd.clone() }));
        Self { registry, scripts, blobs, http_bytes, sessions, refused, tftp, nbd }
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
        let counters: [(&str, &str, &AtomicU64); 7] = [
            ("tftp_requests", "Read requests over TFTP", &self.tftp.requests),
            ("tftp_transfers", "TFTP transfers that completed", &self.tftp.completed),
            ("tftp_failures", "TFTP transfers that did not complete", &self.tftp.failed),
            ("tftp_sent_bytes", "Bytes of content that TFTP clients acknowledged", &self.tftp.bytes),
            ("nbd_connections", "NBD connections accepted", &self.nbd.connections),
            ("nbd_reads", "NBD reads answered", &self.nbd.reads),
            ("nbd_sent_bytes", "Bytes of roots sent over NBD", &self.nbd.bytes),
        ];
        for (name, help, value) in counters {
            let counter = ConstCounter::new(value.load(Ordering::Relaxed));
            counter.encode(encoder.encode_descriptor(name, help, None, counter.metric_type())?)?;
        }
        let open = ConstGauge::new(self.nbd.open.load(Ordering::Relaxed).cast_signed());
        let help = "NBD connections open now";
        open.encode(encoder.encode_descriptor("nbd_open", help, None, open.metric_type())?)
    }
}

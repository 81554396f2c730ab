//! The farm's [`Admission`] with a clock and a lock, and what it reports of a storm.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::Ordering;
use std::sync::{Mutex, PoisonError};

use stoke_api::report::StormReport;
use stoke_api::workload::FarmConfig;
use stoke_api::{Digest, MacAddr};

use crate::admission::{Admission, Turn};
use crate::clock::now_ms;
use crate::config::Serving;
use crate::farm::Farm;

/// Who may load now.
#[derive(Debug, Default)]
pub(crate) struct Gate(Mutex<Admission>);

impl Gate {
    fn with<T>(&self, ask: impl FnOnce(&mut Admission, u64) -> T) -> T {
        ask(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner), now_ms())
    }

    /// A machine said hello, with all its interfaces.
    pub(crate) fn greeted(&self, macs: impl IntoIterator<Item = MacAddr>) {
        self.with(|admission, now| admission.greeted(macs, now));
    }

    /// A machine has its root, or its boot failed.
    pub(crate) fn done(&self, mac: MacAddr) {
        self.with(|admission, now| admission.done(mac, now));
    }
}

/// How many this replica lets load at once: its share of what the farm does.
fn share(config: &FarmConfig) -> Option<u32> {
    let replicas = u32::try_from(config.replicas.len()).unwrap_or(u32::MAX).max(1);
    config.max_loading.map(|most| most.div_ceil(replicas))
}

impl Farm {
    /// A machine asks what to boot: whether it may now.
    pub(crate) fn admit(&self, serving: &Serving, mac: MacAddr) -> Turn {
        let turn = self.gate.with(|admission, now| admission.ask(mac, share(&serving.config), now));
        if let Turn::Wait { seconds, before } = turn {
            tracing::info!(%mac, seconds, before, "boot: wait, enough machines load");
        }
        turn
    }

    /// Somebody fetches a blob over HTTP from its beginning. Firmware that fetches a unified kernel image has asked nobody
    /// before, and could not be told to wait: it counts from now on.
    pub(crate) fn fetches(&self, serving: &Serving, peer: SocketAddr, digest: &Digest) {
        let is_kernel = |image: &stoke_api::workload::FarmImage| image.uki.is_some_and(|uki| uki.digest == *digest);
        if !serving.config.images.iter().any(is_kernel) {
            return;
        }
        let Some(mac) = self.trace.mac_of(peer.ip()) else { return };
        if let Some(identity) = serving.identify(mac, &[], None) {
            self.gate.with(|admission, now| admission.begin(mac, now));
            let image = serving.image_with(&identity, None, is_kernel);
            self.loading(identity.owner(), mac, image.map(|image| image.digest));
        }
    }

    /// What is reported of many boots at once; `peers` nodes give their roots to others.
    pub(crate) fn storm(&self, peers: u32) -> StormReport {
        let figures = self.gate.with(Admission::figures);
        let bytes = [
            ("tftp", self.metrics.tftp.bytes.load(Ordering::Relaxed)),
            ("http", self.metrics.http_bytes.get()),
            ("nbd", self.metrics.nbd.bytes.load(Ordering::Relaxed)),
        ];
        let bytes = bytes.into_iter().map(|(way, count)| (way.to_owned(), count)).collect::<BTreeMap<_, _>>();
        StormReport {
            loading: figures.loading,
            waiting: figures.waiting,
            most_loading: figures.most_loading,
            boots: figures.boots,
            peers,
            bytes,
        }
    }
}

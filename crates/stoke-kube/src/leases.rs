//! Copies of LANs' leases in `ConfigMap`s beside the operator: what an export is made of, what an import brings, and what a
//! router begins with that comes to an empty volume.
//!
//! ```text
//!  router's report ── other addresses: after a moment; renewals: now and then ──> copy ──> export
//!  export ── before there is a router ──> copy ── mounted; read if there is no journal ──> router
//! ```
//!
//! The router's journal is what counts: a lease is acknowledged when it is there. A router that keeps its volume loses none; one
//! that loses it ([`crate::settings`]: `storage.persistent: false`, or a volume of a node that is gone) lacks what was given out
//! in the last seconds.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::ConfigMap;
use kube::api::{Api, DeleteParams, ListParams, ObjectMeta, Patch, PatchParams, PostParams};
use kube::{Client, ResourceExt as _};
use serde_json::json;
use stoke_api::report::{LeaseReport, Report};
use stoke_api::workload::pod::JOURNAL;
use stoke_api::workload::{Role, Workload};
use stoke_api::{Kind, ObjectRef};
use stoke_dhcp::journal::{self, JournalError};
use stoke_dhcp::{Lease, Leases, Record};
use stoke_reconcile::ObservedWorkload;
use stoke_reconcile::names::file_name;

use crate::render;

/// Label: a copy.
pub(crate) const LABEL: &str = "stokehold.dev/leases";
/// Annotation: somebody brought it, and no router has begun with it yet.
pub(crate) const IMPORTED: &str = "stokehold.dev/imported";
const PREFIX: &str = "leases-";
/// Between two writes of one LAN's copy when somebody has got another address.
const PAUSE: Duration = Duration::from_secs(5);
/// The same when leases were renewed and nothing else. Clients renew at half time (RFC 2131, section 4.4.5).
const RENEWALS: Duration = Duration::from_mins(5);
/// Leases that ended longer ago, in seconds, are forgotten.
const MEMORY: u64 = 7 * 24 * 3600;
/// What a `ConfigMap` holds, with room for its metadata.
const MOST: usize = 1_000_000;

/// The name of a LAN's copy.
pub(crate) fn copy_name(lan: &ObjectRef) -> String {
    format!("{PREFIX}{}", file_name(lan))
}

/// The LAN of a copy, as the name of its journal.
pub(crate) fn journal_of(copy: &str) -> Option<&str> {
    copy.strip_prefix(PREFIX)
}

/// A copy of leases as an object; `lan` is the name of its journal, `NAMESPACE.NAME`.
pub(crate) fn encode(lan: &str, table: &Leases, imported: bool) -> ConfigMap {
    let labels = [("app.kubernetes.io/managed-by", "stokehold"), (LABEL, "copy")];
    let labels = labels.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
    let (namespace, name) = lan.split_once('.').unwrap_or_default();
    let of = [(render::NAMESPACE, namespace), (render::NAME, name)].map(|(label, value)| (label.into(), value.into()));
    let note = imported.then(|| BTreeMap::from([(IMPORTED.to_owned(), "requested".to_owned())]));
    let metadata = ObjectMeta {
        name: Some(format!("{PREFIX}{lan}")),
        labels: Some(labels.chain(of).collect()),
        annotations: note,
        ..ObjectMeta::default()
    };
    let data = BTreeMap::from([(JOURNAL.to_owned(), ByteString(bytes(table)))]);
    ConfigMap { metadata, binary_data: Some(data), ..ConfigMap::default() }
}

/// A table as a journal. Of one that is too long the leases that ended first are left out.
fn bytes(table: &Leases) -> Vec<u8> {
    let mut records: Vec<_> = table.records().collect();
    records.sort_by_key(|record| match record {
        Record::Leased(lease) => std::cmp::Reverse(lease.expires),
        Record::Declined { until, .. } => std::cmp::Reverse(*until),
        Record::Forgotten(_) => std::cmp::Reverse(0),
    });
    let mut bytes = journal::header();
    for record in records {
        let more = journal::encode(&record);
        if bytes.len() + more.len() > MOST {
            tracing::warn!("there are more leases than a copy holds: those that end last are in it");
            break;
        }
        bytes.extend(more);
    }
    bytes
}

/// The leases in a journal.
///
/// # Errors
/// If it is none.
pub(crate) fn table(journal: &[u8]) -> Result<Leases, JournalError> {
    let mut table = Leases::default();
    journal::replay(journal)?.records.into_iter().for_each(|record| table.apply(record));
    Ok(table)
}

/// The journal in a copy.
pub(crate) fn journal_in(copy: &ConfigMap) -> Option<&[u8]> {
    Some(&copy.binary_data.as_ref()?.get(JOURNAL)?.0)
}

/// Keeps copies as routers say.
pub(crate) struct Copies {
    client: Client,
    namespace: String,
    kept: BTreeMap<ObjectRef, Kept>,
    /// Whether copies were looked for whose LANs are gone.
    swept: bool,
}

/// One copy.
#[derive(Default)]
struct Kept {
    table: Leases,
    /// What the router said when the copy was last made or found good.
    heard: Vec<LeaseReport>,
    /// When it was tried last.
    tried: Option<Instant>,
    /// Whether it was read once.
    read: bool,
}

impl Copies {
    /// None that are known yet.
    pub(crate) fn new(client: Client, namespace: &str) -> Self {
        Self { client, namespace: namespace.to_owned(), kept: BTreeMap::new(), swept: false }
    }

    /// Writes the copies that are due, and removes those of `gone` LANs: of all that are no objects, unless that is not known.
    /// What fails is tried again later.
    pub(crate) async fn keep(
        &mut self,
        wanted: &[Workload],
        observed: &BTreeMap<String, ObservedWorkload>,
        lans: Option<&BTreeSet<ObjectRef>>,
    ) -> u64 {
        let mut writes = 0;
        for workload in wanted.iter().filter(|workload| matches!(workload.role, Role::Router(_))) {
            let seen = observed.get(&workload.name()).filter(|seen| seen.running);
            let Some(Report::Router(report)) = seen.and_then(|seen| seen.report.as_ref()) else { continue };
            if !report.ready {
                continue;
            }
            match self.follow(&workload.owner, &report.leases).await {
                Ok(written) => writes += u64::from(written),
                Err(error) => tracing::warn!(lan = %workload.owner, "its leases are not copied: {error:#}"),
            }
        }
        if let Some(lans) = lans
            && let Err(error) = self.sweep(lans).await
        {
            tracing::warn!("copies of leases stay behind: {}", crate::apply::explain(&error));
        }
        writes
    }

    async fn follow(&mut self, lan: &ObjectRef, leases: &[LeaseReport]) -> anyhow::Result<bool> {
        let (api, now) = (self.api(), u64::try_from(jiff::Timestamp::now().as_second()).unwrap_or_default());
        let kept = self.kept.entry(lan.clone()).or_default();
        let since = kept.tried.map(|at| at.elapsed());
        if (kept.read && kept.heard == leases) || since.is_some_and(|since| since < PAUSE) {
            return Ok(false);
        }
        if !kept.read {
            kept.tried = Some(Instant::now());
            let found = api.get_opt(&copy_name(lan)).await?;
            let found = found.as_ref().and_then(journal_in).map(table);
            kept.table = found.transpose().context("what is there is no copy")?.unwrap_or_default();
            kept.read = true;
        }
        let next = merged(&kept.table, leases, now);
        match change(&kept.table, &next, now) {
            Change::None => {}
            Change::Renewals if since.is_some_and(|since| since < RENEWALS) => return Ok(false),
            Change::Renewals | Change::Addresses => {
                kept.tried = Some(Instant::now());
                write(&api, lan, &next).await?;
                kept.table = next;
                kept.heard = leases.to_vec();
                return Ok(true);
            }
        }
        kept.heard = leases.to_vec();
        Ok(false)
    }

    /// Removes the copies of LANs that are gone: each time those that were kept, the first time all but what was brought for
    /// LANs that are yet to come.
    async fn sweep(&mut self, lans: &BTreeSet<ObjectRef>) -> Result<(), kube::Error> {
        if !self.swept {
            for copy in self.api().list(&ListParams::default().labels(LABEL)).await? {
                let label = |label: &str| copy.labels().get(label)?.parse().ok();
                let waits = copy.annotations().contains_key(IMPORTED);
                let Some(name) = label(render::NAME).filter(|_| !waits) else { continue };
                let lan = ObjectRef { kind: Kind::Lan, namespace: label(render::NAMESPACE), name };
                if !lans.contains(&lan) {
                    self.kept.entry(lan).or_default();
                }
            }
            self.swept = true;
        }
        let gone: Vec<_> = self.kept.keys().filter(|lan| !lans.contains(lan)).cloned().collect();
        for lan in gone {
            ignore_missing(self.api().delete(&copy_name(&lan), &DeleteParams::default()).await.map(drop))?;
            self.kept.remove(&lan);
        }
        Ok(())
    }

    /// Removes them all.
    ///
    /// # Errors
    /// As the API server says.
    pub(crate) async fn remove(&self) -> Result<(), kube::Error> {
        for copy in self.api().list(&ListParams::default().labels(LABEL)).await? {
            ignore_missing(self.api().delete(&copy.name_any(), &DeleteParams::default()).await.map(drop))?;
        }
        Ok(())
    }

    fn api(&self) -> Api<ConfigMap> {
        Api::namespaced(self.client.clone(), &self.namespace)
    }
}

fn ignore_missing(result: Result<(), kube::Error>) -> Result<(), kube::Error> {
    match result {
        Err(kube::Error::Api(status)) if status.code == 404 => Ok(()),
        other => other,
    }
}

async fn write(api: &Api<ConfigMap>, lan: &ObjectRef, table: &Leases) -> Result<(), kube::Error> {
    let copy = encode(&file_name(lan), table, false);
    let mut patch = json!({"metadata": {"annotations": {IMPORTED: null}, "labels": copy.metadata.labels}});
    if let Some(patch) = patch.as_object_mut() {
        patch.insert("binaryData".to_owned(), json!(copy.binary_data));
    }
    match api.patch(&copy_name(lan), &PatchParams::default(), &Patch::Merge(patch)).await {
        Err(kube::Error::Api(status)) if status.code == 404 => {
            api.create(&PostParams::default(), &copy).await.map(drop)
        }
        written => written.map(drop),
    }
}

/// What was known with what is said now: who had an address before gets it back, if nobody else has it.
fn merged(known: &Leases, leases: &[LeaseReport], now: u64) -> Leases {
    let mut table = Leases::default();
    let kept = known.records().filter(|record| match record {
        Record::Leased(lease) => lease.expires + MEMORY > now,
        Record::Declined { until, .. } => *until > now,
        Record::Forgotten(_) => false,
    });
    kept.for_each(|record| table.apply(record));
    for lease in leases {
        let LeaseReport { mac, address, hostname, expires } = lease.clone();
        table.apply(Record::Leased(Lease { address, mac, expires, reserved: false, hostname }));
    }
    table
}

#[derive(Debug, PartialEq, Eq)]
enum Change {
    None,
    /// A lease has less than half of its time in the copy.
    Renewals,
    /// Somebody has another address, or is new.
    Addresses,
}

fn change(known: &Leases, next: &Leases, now: u64) -> Change {
    let mut renewed = false;
    for lease in next.current(now) {
        let Some(copied) = known.at(lease.address).filter(|copied| copied.mac == lease.mac) else {
            return Change::Addresses;
        };
        renewed |= copied.expires.saturating_sub(now) * 2 < lease.expires.saturating_sub(now);
    }
    if renewed { Change::Renewals } else { Change::None }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lease(last: u8, mac: u8, expires: u64) -> LeaseReport {
        let mac = stoke_api::MacAddr([0x52, 0x54, 0, 0, 0, mac]);
        LeaseReport { mac, address: [10, 0, 0, last].into(), hostname: None, expires }
    }

    #[test]
    fn a_copy_is_a_journal_and_comes_back_as_it_was() {
        let table_of = merged(&Leases::default(), &[lease(5, 1, 100), lease(6, 2, 200)], 0);
        let copy = encode("default.lab", &table_of, true);
        assert_eq!(copy.metadata.name.as_deref(), Some("leases-default.lab"));
        assert_eq!(journal_of("leases-default.lab"), Some("default.lab"));
        assert_eq!(table(journal_in(&copy).unwrap()).unwrap(), table_of);
        assert!(table(b"#!/bin/sh").is_err());
    }

    #[test]
    fn who_comes_and_goes_is_told_from_who_renews() {
        let known = merged(&Leases::default(), &[lease(5, 1, 100), lease(6, 2, 200)], 0);
        let changed = |leases: &[LeaseReport], now| change(&known, &merged(&known, leases, now), now);
        assert_eq!(changed(&[lease(5, 1, 100)], 0), Change::None);
        assert_eq!(changed(&[lease(5, 1, 150)], 0), Change::None);
        assert_eq!(changed(&[lease(5, 1, 150)], 60), Change::Renewals);
        assert_eq!(changed(&[lease(7, 3, 150)], 0), Change::Addresses);
        assert_eq!(changed(&[lease(6, 1, 150)], 0), Change::Addresses);
        // Who is away gets the old address again for a week.
        assert_eq!(merged(&known, &[], 1000).len(), 2);
        assert_eq!(merged(&known, &[], 200 + MEMORY).len(), 0);
        assert_eq!(merged(&known, &[lease(5, 3, 2000)], 1000).of(lease(5, 1, 0).mac), None);
    }

    #[test]
    fn more_leases_than_fit_are_those_that_end_last() {
        let mut table_of = Leases::default();
        for index in 0..40_000_u32 {
            let [_, a, b, c] = index.to_be_bytes();
            let mac = stoke_api::MacAddr([0x52, 0x54, 0, a, b, c]);
            let lease = Lease {
                address: (0x0a00_0000 + index).into(),
                mac,
                expires: u64::from(index),
                reserved: false,
                hostname: None,
            };
            table_of.apply(Record::Leased(lease));
        }
        let written = bytes(&table_of);
        assert!(written.len() <= MOST);
        let back = table(&written).unwrap();
        assert!(back.len() > 20_000 && back.at((0x0a00_0000_u32 + 39_999).into()).is_some());
    }
}

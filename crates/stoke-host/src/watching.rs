//! What is seen of farms and boots, for those who ask the control socket: put together of what the roles say.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::Duration;

use futures::future::join_all;
use hyper::{Method, StatusCode};
use stoke_api::control::{FarmReplica, FarmView, LanStranger, Traced, WorkloadInfo};
use stoke_api::report::{FarmReport, Report};
use stoke_api::workload::{FarmConfig, Role, RouterConfig};
use stoke_api::{MacAddr, ObjectRef};
use stoke_reconcile::{Observed, ObservedWorkload};

use crate::control::Picture;
use crate::http;

/// How long a role may take to say what it remembers.
const LIMIT: Duration = Duration::from_secs(5);

/// A farm as it runs; `None` if nothing runs for it.
pub(crate) fn farm(picture: &Picture, farm: &ObjectRef) -> Option<FarmView> {
    let replicas: BTreeMap<u32, _> = farms(&picture.observed)
        .filter(|(_, config, _)| config.farm == *farm)
        .map(|(name, config, workload)| (config.replica, (config, replica(name, config, workload, &picture.workloads))))
        .collect();
    let (first, _) = replicas.values().next()?;
    let image = first.images.first().map(|image| image.digest);
    let strangers = strangers(&picture.observed, farm);
    let replicas = replicas.into_values().map(|(_, replica)| replica).collect();
    Some(FarmView { farm: farm.clone(), image, replicas, strangers })
}

fn farms(observed: &Observed) -> impl Iterator<Item = (&str, &FarmConfig, &ObservedWorkload)> {
    observed.workloads.iter().filter_map(|(name, workload)| match &workload.workload.as_ref()?.role {
        Role::Farm(config) => Some((name.as_str(), config, workload)),
        _ => None,
    })
}

fn routers(observed: &Observed) -> impl Iterator<Item = (&RouterConfig, &ObservedWorkload)> {
    observed.workloads.values().filter_map(|workload| match &workload.workload.as_ref()?.role {
        Role::Router(config) => Some((config, workload)),
        _ => None,
    })
}

fn replica(name: &str, config: &FarmConfig, workload: &ObservedWorkload, infos: &[WorkloadInfo]) -> FarmReplica {
    let report = match &workload.report {
        Some(Report::Farm(report)) => report.clone(),
        _ => FarmReport::default(),
    };
    let info = infos.iter().find(|info| info.name == name);
    let failure = workload.failure.clone().or_else(|| report.failure.clone());
    let ready = workload.running && info.is_none_or(|info| info.ready) && report.ready;
    FarmReplica { workload: name.to_owned(), address: config.address, ready, failure, report }
}

/// Machines without object on the LANs that know the farm.
fn strangers(observed: &Observed, farm: &ObjectRef) -> Vec<LanStranger> {
    let namespace = farm.namespace.as_ref().map_or("", |namespace| namespace.as_str());
    let key = format!("{namespace}/{}", farm.name);
    let of_router = |(config, workload): (&RouterConfig, &ObservedWorkload)| match &workload.report {
        Some(Report::Router(report)) if config.farms.contains_key(&key) => {
            let lan = config.lan.clone();
            report
                .strangers
                .iter()
                .map(|stranger| LanStranger { lan: lan.clone(), stranger: stranger.clone() })
                .collect()
        }
        _ => Vec::new(),
    };
    let mut all: Vec<_> = routers(observed).flat_map(of_router).collect();
    all.sort_by_key(|stranger| std::cmp::Reverse(stranger.stranger.last_seen));
    all
}

/// The interfaces of an object, as farms and routers know them.
pub(crate) fn macs(picture: &Picture, object: &ObjectRef) -> Vec<MacAddr> {
    let of_farms = farms(&picture.observed).flat_map(|(_, config, _)| &config.nodes);
    let of_farms = of_farms.filter(|node| node.owner == *object).flat_map(|node| node.macs.iter().copied());
    let of_routers = routers(&picture.observed).flat_map(|(config, _)| &config.hosts);
    let of_routers = of_routers.filter(|host| host.owner == *object).flat_map(|host| host.macs.iter().copied());
    let all: BTreeSet<_> = of_farms.chain(of_routers).collect();
    all.into_iter().collect()
}

/// What routers and farms remember of these machines.
pub(crate) async fn traces(picture: &Picture, macs: &[MacAddr]) -> Vec<Traced> {
    let serve = |info: &&WorkloadInfo| ["router", "farm"].contains(&info.role.as_str());
    let asked = picture.workloads.iter().filter(serve).map(|info| traced(info.name.clone(), info.socket.clone(), macs));
    join_all(asked).await
}

async fn traced(workload: String, socket: PathBuf, macs: &[MacAddr]) -> Traced {
    let mut events = Vec::new();
    for mac in macs {
        match remembered(&socket, *mac).await {
            Ok(more) => events.extend(more),
            Err(error) => return Traced { workload, failure: Some(format!("{error:#}")), events },
        }
    }
    events.sort_by_key(|event: &stoke_api::trace::TraceEvent| event.at_ms);
    Traced { workload, failure: None, events }
}

async fn remembered(socket: &Path, mac: MacAddr) -> anyhow::Result<Vec<stoke_api::trace::TraceEvent>> {
    let answer = http::request(socket, Method::GET, &format!("/trace?mac={mac}"), Vec::new(), LIMIT).await?;
    anyhow::ensure!(answer.status == StatusCode::OK, "{} {}", answer.status, answer.text());
    Ok(serde_json::from_slice(&answer.body)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;
    use stoke_api::workload::Workload;

    fn object(kind: stoke_api::Kind, namespace: Option<&str>, name: &str) -> ObjectRef {
        let namespace = namespace.map(|namespace| namespace.parse().unwrap());
        ObjectRef { kind, namespace, name: name.parse().unwrap() }
    }

    fn observed() -> Observed {
        let lan = json!({"kind": "Lan", "namespace": "default", "name": "lab"});
        let router = json!({"owner": lan, "role": {"role": "Router", "config": {
            "lan": lan, "interface": "lab", "mtu": 1500, "subnets": [], "dhcp": "Authoritative", "domain": "lab.internal",
            "upstreams": [], "leases": "/x", "farms": {"default/lab": {"addresses": ["10.10.0.1"], "httpPort": 80,
                "nodePort": 8443, "unknownClients": "Ignore"}},
            "hosts": [{"owner": {"kind": "Server", "name": "rack1-07"}, "hostname": "rack1-07",
                "macs": ["52:54:00:00:00:02", "52:54:00:00:00:01"]}],
        }}});
        let report = json!({"role": "Router", "report": {"ready": true, "leases": [], "capacity": 1, "bootRequests": {},
            "strangers": [{"mac": "52:54:00:00:00:09", "client": "BIOS", "lastSeen": 5},
                {"mac": "52:54:00:00:00:08", "client": "BIOS", "lastSeen": 9}]}});
        let workload = ObservedWorkload {
            workload: Some(serde_json::from_value::<Workload>(router).unwrap()),
            report: Some(serde_json::from_value(report).unwrap()),
            ..ObservedWorkload::default()
        };
        Observed { workloads: [("router-default-lab".to_owned(), workload)].into(), ..Observed::default() }
    }

    #[test]
    fn strangers_are_those_of_the_lans_that_know_the_farm_newest_first() {
        let found = |name| {
            let farm = object(stoke_api::Kind::Farm, Some("default"), name);
            strangers(&observed(), &farm).iter().map(|one| one.stranger.mac.to_string()).collect::<Vec<_>>()
        };
        assert_eq!(found("lab"), ["52:54:00:00:00:08", "52:54:00:00:00:09"]);
        assert_eq!(found("other"), [""; 0]);
    }

    #[test]
    fn the_interfaces_of_an_object_are_known_by_the_router() {
        let picture = Picture { observed: observed(), ..Picture::default() };
        let found = macs(&picture, &object(stoke_api::Kind::Server, None, "rack1-07"));
        assert_eq!(
            found.iter().map(ToString::to_string).collect::<Vec<_>>(),
            ["52:54:00:00:00:01", "52:54:00:00:00:02"]
        );
    }
}

//! A server's management controller: what people and updates ask of it, and what it says. Whoever speaks to controllers gets
//! counts that only grow and compares them with what was done; nothing here is an order by itself.

use stoke_api::node::Phase;
use stoke_api::objects::{BmcInventory, BmcStatus, NodeState, RebootAsked, RebootCounts, RebootWay, ServerSpec};
use stoke_api::{Condition, MacAddr, ObjectRef};

use crate::observed::{BmcTask, Desired, SshReboot};
use crate::rollout;
use crate::status::condition;
use crate::view::{Server, View};

/// How long a server may take to begin to boot after it was told to.
const DEAF_MS: u64 = 3 * 60_000;
/// The same for one that is on its way.
const DOWN_MS: u64 = 10 * 60_000;

/// What a server's status says of reboots and power.
pub(crate) struct Switched {
    pub(crate) reboot: Option<RebootAsked>,
    pub(crate) reboots: RebootCounts,
    pub(crate) status: Option<BmcStatus>,
    pub(crate) conditions: Vec<Condition>,
}

/// Asks for what is wanted, by what was noted before this round.
pub(crate) fn desire(
    view: &View<'_>,
    reference: &ObjectRef,
    server: &Server,
    node: Option<&NodeState>,
    desired: &mut Desired,
) -> Switched {
    let (reboot, reboots) = rebooted(server, node, view.environment().now_ms);
    by_ssh(reference, server, desired);
    let Some(spec) = &server.spec.bmc else {
        return Switched { reboot, reboots, status: None, conditions: Vec::new() };
    };
    let seen = view.environment().bmcs.get(&reference.to_string());
    let before = server.status.bmc.clone().unwrap_or_default();
    let inventory = seen.and_then(|seen| seen.inventory.clone()).or_else(|| before.inventory.clone());
    let other = inventory.as_ref().filter(|_| spec.redfish.is_some()).and_then(|found| other(&server.spec, found));
    let mut conditions = Vec::new();
    if let Some(why) = &other {
        conditions.push(condition("Bmc", false, "OtherServer", why.clone()));
    } else if let Some(seen) = seen.filter(|seen| seen.power.is_some() || !seen.last_error.is_empty()) {
        conditions.push(match &*seen.last_error {
            "" => condition("Bmc", true, "Answers", "its management controller answers"),
            error => condition("Bmc", false, "Fails", error),
        });
    }
    if spec.redfish.as_ref().is_some_and(stoke_api::objects::RedfishSpec::is_unsafe) {
        let message =
            "its management controller is not known by a certificate: whoever is on the way can read the password";
        conditions.push(condition("BmcTrust", false, "AnyCertificate", message));
    }
    let (requests, cycles) = match (&other, view.valid(reference)) {
        // Nothing is switched by a controller that may be another server's.
        (None, Ok(())) => (before.requests, cycles(view, reference, server)),
        _ => (0, 0),
    };
    let wanted = before.wanted;
    let (server_ref, uuid, spec) = (reference.clone(), server.spec.uuid.clone(), spec.clone());
    desired.bmcs.push(BmcTask { server: server_ref, uuid, spec, wanted, requests, cycles });
    let status = BmcStatus {
        power: seen.and_then(|seen| seen.power),
        requests_done: seen.map_or(before.requests_done, |seen| seen.requests_done),
        inventory,
        last_error: seen.map(|seen| seen.last_error.clone()).unwrap_or_default(),
        ..before
    };
    Switched { reboot, reboots, status: Some(status), conditions }
}

/// Power cycles that were asked for: by updates, and by people whose reboots nobody else heard.
fn cycles(view: &View<'_>, reference: &ObjectRef, server: &Server) -> u64 {
    let own = server.status.reboots.get(&RebootWay::Bmc).copied().unwrap_or_default();
    let farm = view.farm(&crate::server::farm_of(server));
    own + farm.map_or(0, |farm| rollout::cycles(farm, reference))
}

/// Adds what people asked for to what the farm's update asks for.
fn by_ssh(reference: &ObjectRef, server: &Server, desired: &mut Desired) {
    let own = server.status.reboots.get(&RebootWay::Ssh).copied().unwrap_or_default();
    if own == 0 {
        return;
    }
    match desired.ssh_reboots.iter_mut().find(|reboot| reboot.node == *reference) {
        Some(reboot) => reboot.count += own,
        None => desired.ssh_reboots.push(SshReboot { node: reference.clone(), count: own }),
    }
}

/// Tells a server that does not hear in the next way.
fn rebooted(server: &Server, node: Option<&NodeState>, now: u64) -> (Option<RebootAsked>, RebootCounts) {
    let mut counts = server.status.reboots.clone();
    let Some(asked) = server.status.reboot.clone() else { return (None, counts) };
    if node.is_some_and(|node| rollout::began_ms(node) > asked.told_ms) {
        return (None, counts);
    }
    let waited = now.saturating_sub(asked.told_ms);
    let patience = match node {
        Some(node) if node.phase == Phase::Stopping => DOWN_MS,
        // Its agent and its sshd are not there.
        Some(node) if !node.ready && asked.way != RebootWay::Bmc && server.spec.bmc.is_some() => 0,
        None if asked.way != RebootWay::Bmc && server.spec.bmc.is_some() => 0,
        _ => DEAF_MS,
    };
    if waited < patience {
        return (Some(asked), counts);
    }
    let ways = [Some(RebootWay::Ssh).filter(|_| patience > 0), server.spec.bmc.as_ref().map(|_| RebootWay::Bmc)];
    let next = ways.into_iter().flatten().find(|way| *way > asked.way);
    if let Some(way) = next {
        *counts.entry(way).or_default() += 1;
    }
    (next.map(|way| RebootAsked { way, told_ms: now }), counts)
}

/// Why the controller is that of another server, if it says so.
fn other(spec: &ServerSpec, found: &BmcInventory) -> Option<String> {
    if let (Some(own), Some(uuid)) = (&spec.uuid, &found.uuid)
        && !own.eq_ignore_ascii_case(uuid)
    {
        return Some(format!("its management controller is that of the server {uuid}; spec.uuid says {own}"));
    }
    let known = |mac: &MacAddr| spec.macs.contains(mac);
    if found.macs.is_empty() || found.macs.iter().any(known) {
        return None;
    }
    let macs: Vec<_> = found.macs.iter().map(ToString::to_string).collect();
    Some(format!(
        "its management controller is that of a server with {}; none of these is in spec.macs",
        macs.join(", ")
    ))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const NOW: u64 = 10_000_000;

    fn server(bmc: bool, way: RebootWay, told_ms: u64) -> Server {
        let password = json!({"file": "/p"});
        let bmc = bmc.then(|| json!({"ipmi": {"address": "10.0.0.9", "user": "a", "password": password}}));
        serde_json::from_value(json!({
            "metadata": {"name": "a"},
            "spec": {"farm": {"namespace": "default", "name": "lab"}, "macs": ["52:54:00:00:00:07"], "bmc": bmc},
            "status": {"reboot": {"way": way, "toldMs": told_ms}},
        }))
        .unwrap()
    }

    fn next(bmc: bool, way: RebootWay, ago: u64, node: Option<&NodeState>) -> Option<RebootWay> {
        rebooted(&server(bmc, way, NOW - ago), node, NOW).0.map(|asked| asked.way)
    }

    #[test]
    fn who_does_not_hear_is_told_by_the_agent_then_by_ssh_then_by_its_controller() {
        let up = NodeState { ready: true, phase: Phase::Ready, ..NodeState::default() };
        assert_eq!(next(true, RebootWay::Agent, 1000, Some(&up)), Some(RebootWay::Agent));
        assert_eq!(next(true, RebootWay::Agent, DEAF_MS, Some(&up)), Some(RebootWay::Ssh));
        assert_eq!(next(true, RebootWay::Ssh, DEAF_MS, Some(&up)), Some(RebootWay::Bmc));
        assert_eq!(next(true, RebootWay::Bmc, DEAF_MS, Some(&up)), None);
        assert_eq!(next(false, RebootWay::Ssh, DEAF_MS, Some(&up)), None);
        let counts = rebooted(&server(true, RebootWay::Ssh, 0), Some(&up), NOW).1;
        assert_eq!(counts, RebootCounts::from([(RebootWay::Bmc, 1)]));
    }

    #[test]
    fn a_system_that_is_not_there_is_not_waited_for_and_one_that_goes_down_is() {
        let lost = NodeState { phase: Phase::Ready, ..NodeState::default() };
        assert_eq!(next(true, RebootWay::Agent, 0, Some(&lost)), Some(RebootWay::Bmc));
        assert_eq!(next(true, RebootWay::Agent, 0, None), Some(RebootWay::Bmc));
        assert_eq!(next(false, RebootWay::Agent, 0, Some(&lost)), Some(RebootWay::Agent));
        let stopping = NodeState { phase: Phase::Stopping, ..NodeState::default() };
        assert_eq!(next(true, RebootWay::Agent, DEAF_MS, Some(&stopping)), Some(RebootWay::Agent));
        let begun = NodeState { boot_started: "2026-01-01T00:00:00Z".to_owned(), ..lost };
        assert_eq!(next(true, RebootWay::Agent, 0, Some(&begun)), None);
    }

    #[test]
    fn a_controller_of_another_server_is_found_out() {
        let mut spec = server(true, RebootWay::Agent, 0).spec;
        spec.uuid = Some("27946B59-9e44-4fa7-8e91-f3527a1ef094".to_owned());
        let mac = |text: &str| text.parse::<MacAddr>().unwrap();
        let found = |uuid: &str, macs: Vec<MacAddr>| {
            other(&spec, &BmcInventory { uuid: Some(uuid.to_owned()), macs, ..BmcInventory::default() })
        };
        let own = "27946b59-9e44-4fa7-8e91-f3527a1ef094";
        assert_eq!(found(own, vec![]), None);
        assert_eq!(found(own, vec![mac("52:54:00:00:00:09"), mac("52:54:00:00:00:07")]), None);
        assert!(found(own, vec![mac("52:54:00:00:00:09")]).unwrap().contains("spec.macs"));
        assert!(found("37946b59-9e44-4fa7-8e91-f3527a1ef094", vec![]).unwrap().contains("spec.uuid"));
    }
}

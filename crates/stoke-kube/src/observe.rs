//! From pods, builds and what node agents say to what the reconcilers read. Pure.
//!
//! A failure says what to do: the scheduler's, the kubelet's and the agent's own words, and the next step.

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::{ContainerStatus, Pod, Service};
use stoke_api::agent::{AgentReport, LAN_RESOURCE, PodReport};
use stoke_api::report::{LanReport, NodeAgentReport, Report};
use stoke_api::workload::{NodeAgentConfig, Workload};
use stoke_reconcile::ObservedWorkload;

use crate::render;

/// How long a role may take from its start to its first answer.
const STARTING: jiff::SignedDuration = jiff::SignedDuration::from_secs(20);

/// What one node's agent said last.
#[derive(Clone, Debug, Default)]
pub struct AgentSeen {
    /// Its report; it stays when the agent is out of reach.
    pub report: Option<Arc<AgentReport>>,
    /// Why it does not answer, or refuses its configuration.
    pub failure: Option<String>,
}

/// A pod whose container has been waiting for no reason that passes by itself.
const WAITS: [(&str, &str); 8] = [
    ("ErrImagePull", "name an image that can be pulled, or the secret that it takes (`images` in the chart's values)"),
    (
        "ImagePullBackOff",
        "name an image that can be pulled, or the secret that it takes (`images` in the chart's values)",
    ),
    ("ErrImageNeverPull", "the node lacks the image, and `images.pullPolicy` is Never"),
    ("InvalidImageName", "`images` in the chart's values is no reference of an image"),
    ("CreateContainerConfigError", ""),
    ("CreateContainerError", ""),
    ("RunContainerError", ""),
    ("CrashLoopBackOff", ""),
];

/// What is known of a workload that is a pod.
pub fn of_pod(
    workload: Option<Workload>,
    pod: Option<&Pod>,
    agents: &BTreeMap<String, AgentSeen>,
    refused: Option<&str>,
) -> ObservedWorkload {
    let Some(pod) = pod else {
        return ObservedWorkload { workload, failure: refused.map(str::to_owned), ..ObservedWorkload::default() };
    };
    let node = pod.spec.as_ref().and_then(|spec| spec.node_name.as_deref());
    let agent = node.and_then(|node| agents.get(node));
    let uid = pod.metadata.uid.as_deref().unwrap_or_default();
    let said =
        agent.and_then(|agent| agent.report.as_ref()).and_then(|report| report.pods.iter().find(|p| p.pod == uid));
    let ending = pod.metadata.deletion_timestamp.is_some();
    let running = container(pod).is_some_and(|status| state(status).is_some_and(|state| state.running.is_some()));
    let own = || failure(pod, node, agent, said).map(|failure| failure + &without_tun(pod, agents));
    let failure = refused.map(str::to_owned).or_else(|| (!ending).then(own).flatten());
    ObservedWorkload {
        workload,
        kept: !ending,
        running: running && !ending,
        report: said.and_then(|said| said.report.clone()),
        failure,
    }
}

/// What is known of a build.
pub fn of_build(
    workload: Option<Workload>,
    job: Option<&Job>,
    pod: Option<&Pod>,
    report: Option<Report>,
) -> ObservedWorkload {
    // A job that has ended is nothing that goes on: whether another one is wanted is for its image to say.
    let goes_on = |job: &Job| job.metadata.deletion_timestamp.is_none() && job_end(job, pod).is_none();
    let there = job.is_some_and(goes_on);
    let running =
        pod.and_then(container).is_some_and(|status| state(status).is_some_and(|state| state.running.is_some()));
    let failure = pod.and_then(|pod| failure(pod, None, None, None).filter(|_| !running));
    ObservedWorkload { workload, kept: there, running, report, failure }
}

/// How a build's job ended, if its role could not say it itself.
pub fn job_end(job: &Job, pod: Option<&Pod>) -> Option<Result<(), String>> {
    let conditions = job.status.as_ref()?.conditions.as_deref()?;
    let holds = |kind: &str| conditions.iter().find(|condition| condition.type_ == kind && condition.status == "True");
    if holds("Complete").is_some() {
        return Some(Ok(()));
    }
    let failed = holds("Failed")?;
    let words = pod.and_then(container).and_then(last_words);
    let said = failed.message.clone().unwrap_or_default();
    Some(Err(words.unwrap_or_else(|| format!("the build's job failed: {said}"))))
}

fn container(pod: &Pod) -> Option<&ContainerStatus> {
    pod.status.as_ref()?.container_statuses.as_ref()?.first()
}

fn state(status: &ContainerStatus) -> Option<&k8s_openapi::api::core::v1::ContainerState> {
    status.state.as_ref()
}

fn failure(pod: &Pod, node: Option<&str>, agent: Option<&AgentSeen>, said: Option<&PodReport>) -> Option<String> {
    let container = container(pod);
    unschedulable(pod)
        .or_else(|| container.and_then(waiting))
        .or_else(|| rejected(pod))
        .or_else(|| node.and_then(|node| without_agent(node, agent)))
        .or_else(|| said.and_then(|said| said.failure.clone()).filter(|_| !container.is_some_and(is_starting)))
}

/// Whether a role has only just begun: that it does not answer yet is no failure.
fn is_starting(status: &ContainerStatus) -> bool {
    let began = state(status).and_then(|state| state.running.as_ref()?.started_at.as_ref().map(|time| time.0));
    began.is_some_and(|began| jiff::Timestamp::now().duration_since(began) < STARTING)
}

/// The scheduler's words; for what node agents offer, why they do not.
fn unschedulable(pod: &Pod) -> Option<String> {
    let conditions = pod.status.as_ref()?.conditions.as_deref()?;
    let scheduled =
        conditions.iter().find(|condition| condition.type_ == "PodScheduled" && condition.status == "False")?;
    let words = scheduled.message.clone().unwrap_or_default();
    let hint = if words.contains(LAN_RESOURCE) {
        "; nodes offer it while their node agent (`stokehold-agent`) runs and TUN devices can be made: \
         `kubectl -n stokehold-system get pods -o wide`, then `modprobe tun` on the node"
    } else if words.contains("Insufficient") {
        "; add a node, or ask for less"
    } else {
        ""
    };
    (scheduled.reason.as_deref() == Some("Unschedulable")).then(|| format!("no node takes it: {words}{hint}"))
}

/// Where the LAN's ports are missing, what node agents say of that.
fn without_tun(pod: &Pod, agents: &BTreeMap<String, AgentSeen>) -> String {
    if !unschedulable(pod).is_some_and(|words| words.contains(LAN_RESOURCE)) {
        return String::new();
    }
    let reports = agents.iter().filter_map(|(node, agent)| Some((node, &agent.report.as_ref()?.tun)));
    let said = reports.filter(|(_, tun)| !tun.usable).map(|(node, tun)| format!("; on {node}: {}", tun.message));
    said.collect::<Vec<_>>().concat()
}

/// What the kubelet says of a container that it does not start.
fn waiting(status: &ContainerStatus) -> Option<String> {
    let waiting = state(status)?.waiting.as_ref()?;
    let reason = waiting.reason.as_deref()?;
    let (_, hint) = WAITS.iter().find(|(known, _)| *known == reason)?;
    let said = waiting.message.as_deref().unwrap_or(reason);
    if let Some(words) = last_words(status).filter(|_| reason == "CrashLoopBackOff") {
        return Some(format!("it ended {} times: {words}", status.restart_count));
    }
    let hint = if hint.is_empty() { String::new() } else { format!("; {hint}") };
    Some(format!("{reason}: {said}{hint}"))
}

/// The last line that a role wrote before it ended.
fn last_words(status: &ContainerStatus) -> Option<String> {
    let ended = |state: Option<&k8s_openapi::api::core::v1::ContainerState>| state?.terminated.clone();
    let ended = ended(status.state.as_ref()).or_else(|| ended(status.last_state.as_ref()))?;
    let line = ended.message.as_deref().and_then(|message| message.lines().rev().find(|line| !line.trim().is_empty()));
    let code = ended.exit_code;
    let why = ended.reason.clone().unwrap_or_default();
    match (line, why.as_str()) {
        (_, "OOMKilled") => Some("it needed more memory than its limit (OOMKilled); raise the limit".to_owned()),
        (Some(line), _) => Some(line.trim().chars().take(300).collect()),
        (None, why) => Some(format!("status {code} {why}").trim().to_owned()),
    }
}

/// What the kubelet itself refused: a device, a sysctl, room.
fn rejected(pod: &Pod) -> Option<String> {
    let status = pod.status.as_ref().filter(|status| status.phase.as_deref() == Some("Failed"))?;
    let reason = status.reason.clone()?;
    Some(format!("{reason}: {}", status.message.clone().unwrap_or_default()))
}

fn without_agent(node: &str, agent: Option<&AgentSeen>) -> Option<String> {
    let Some(agent) = agent else {
        return Some(format!(
            "node {node} has no node agent; is there a taint that `agent.tolerations` does not bear?"
        ));
    };
    let failure = agent.failure.as_ref()?;
    Some(format!("the node agent of {node}: {failure}"))
}

/// What is wrong with the address of a service, if something is.
pub fn without_address(service: &Service) -> Option<String> {
    let wanted = service.spec.as_ref()?.load_balancer_ip.as_deref()?;
    let given = service.status.as_ref().and_then(|status| status.load_balancer.as_ref());
    let given = given.and_then(|balancer| balancer.ingress.as_deref()).unwrap_or_default();
    let name = service.metadata.name.as_deref().unwrap_or_default();
    let words = given.iter().filter_map(|given| given.ip.as_deref().or(given.hostname.as_deref()));
    match words.collect::<Vec<_>>().as_slice() {
        [] => Some(format!(
            "its Service {name} has no address yet: a load balancer of the cluster has to give it {wanted} (MetalLB, \
             kube-vip, Cilium); `kubectl describe service {name}` says what it waits for"
        )),
        words if words.contains(&wanted) => None,
        words => Some(format!(
            "the load balancer gave its Service {name} {}, not {wanted}: put {wanted} in its pool, say it by \
             spec.placement.loadBalancer.annotations, or write the one that was given into spec.addresses",
            words.join(", ")
        )),
    }
}

/// What all nodes together are to the reconcilers: one host on which each LAN is laid that some node has, or none wants.
pub fn of_nodes(
    wanted: Option<&Workload>,
    config: Option<&NodeAgentConfig>,
    agents: &BTreeMap<String, AgentSeen>,
    upstreams: Vec<std::net::IpAddr>,
) -> ObservedWorkload {
    let reports: Vec<_> = agents.values().filter_map(|agent| agent.report.as_ref()).collect();
    let lan = |plan: &stoke_api::workload::LanPlan| {
        let said = || reports.iter().flat_map(|report| &report.lans).filter(|lan| lan.lan == plan.lan);
        let failure = said().find_map(|lan| lan.failure.clone()).filter(|_| said().all(|lan| lan.failure.is_some()));
        LanReport { lan: plan.lan.clone(), bridge: plan.bridge.clone(), failure }
    };
    let lans = config.map(|config| config.lans.iter().map(lan).collect()).unwrap_or_default();
    let report = NodeAgentReport { lans, upstreams, egress_failure: None };
    let failure = reports.is_empty().then(|| nobody(agents));
    ObservedWorkload {
        workload: wanted.cloned(),
        kept: wanted.is_some(),
        running: failure.is_none(),
        report: Some(Report::Node(report)),
        failure: failure.filter(|_| wanted.is_some()),
    }
}

fn nobody(agents: &BTreeMap<String, AgentSeen>) -> String {
    match agents.iter().find_map(|(node, agent)| Some((node, agent.failure.as_ref()?))) {
        Some((node, failure)) => format!("no node agent answers; that of {node}: {failure}"),
        None => "no node agent runs; look at the DaemonSet stokehold-agent in the operator's namespace".to_owned(),
    }
}

/// Whether a guest runs in a machine's pod, or may do so: only what is known to be off is off.
pub fn has_guest(workload: &ObservedWorkload) -> bool {
    match &workload.report {
        Some(Report::Vm(report)) => report.power == stoke_api::objects::Power::On || report.pid.is_some(),
        _ => workload.running,
    }
}

/// The name of a pod's workload.
pub fn role_of(pod: &Pod) -> Option<&str> {
    pod.metadata.labels.as_ref()?.get(render::ROLE).map(String::as_str)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn pod(status: &Value) -> Pod {
        let pod = json!({
            "metadata": {"name": "vm-default-node-1", "namespace": "default", "uid": "b0a8f0b1"},
            "spec": {"nodeName": "worker-1", "containers": [{"name": "stoke"}]},
            "status": status,
        });
        serde_json::from_value(pod).unwrap()
    }

    fn agents() -> BTreeMap<String, AgentSeen> {
        let report = AgentReport { node: "worker-1".to_owned(), configured: true, ..AgentReport::default() };
        BTreeMap::from([("worker-1".to_owned(), AgentSeen { report: Some(Arc::new(report)), failure: None })])
    }

    fn waiting_for(reason: &str, message: &str) -> Value {
        json!({"phase": "Pending", "containerStatuses": [{
            "name": "stoke", "image": "", "imageID": "", "ready": false, "restartCount": 3,
            "state": {"waiting": {"reason": reason, "message": message}},
            "lastState": {"terminated": {"exitCode": 1, "reason": "Error", "message": "INFO started\nError: no journal\n"}},
        }]})
    }

    fn failure_of(status: &Value) -> Option<String> {
        of_pod(None, Some(&pod(status)), &agents(), None).failure
    }

    #[test]
    fn an_image_that_cannot_be_pulled_says_which_and_what_to_do() {
        let message = "Back-off pulling image \"registry.test/vm:1\": not found";
        let failure = failure_of(&waiting_for("ImagePullBackOff", message)).unwrap();
        assert!(failure.contains("registry.test/vm:1") && failure.contains("`images`"), "{failure}");
    }

    #[test]
    fn a_role_that_keeps_ending_says_its_last_words() {
        let failure = failure_of(&waiting_for("CrashLoopBackOff", "back-off 20s restarting failed container")).unwrap();
        assert_eq!(failure, "it ended 3 times: Error: no journal");
    }

    #[test]
    fn a_container_that_is_being_made_is_no_failure() {
        assert_eq!(failure_of(&waiting_for("ContainerCreating", "")), None);
    }

    #[test]
    fn a_node_without_tun_is_named_by_the_resource_that_is_missing() {
        let status = json!({"phase": "Pending", "conditions": [{
            "type": "PodScheduled", "status": "False", "reason": "Unschedulable",
            "message": "0/2 nodes are available: 2 Insufficient stokehold.dev/lan.",
        }]});
        let failure = failure_of(&status).unwrap();
        assert!(failure.contains("2 Insufficient stokehold.dev/lan") && failure.contains("TUN"), "{failure}");
    }

    #[test]
    fn without_a_node_agent_nothing_reaches_the_pod() {
        let running = json!({"phase": "Running", "containerStatuses": [{
            "name": "stoke", "image": "", "imageID": "", "ready": true, "restartCount": 0,
            "state": {"running": {"startedAt": "2026-11-21T10:00:00Z"}}, "containerID": "containerd://a",
        }]});
        let seen = of_pod(None, Some(&pod(&running)), &BTreeMap::new(), None);
        assert!(seen.kept && seen.running);
        assert!(seen.failure.unwrap().contains("worker-1 has no node agent"));
        assert_eq!(of_pod(None, Some(&pod(&running)), &agents(), None).failure, None);
    }

    #[test]
    fn a_role_that_does_not_answer_fails_only_when_it_had_the_time_to() {
        let answers = |began: &str| {
            let running = json!({"phase": "Running", "containerStatuses": [{
                "name": "stoke", "image": "", "imageID": "", "ready": true, "restartCount": 0,
                "state": {"running": {"startedAt": began}}, "containerID": "containerd://a",
            }]});
            let pod = pod(&running);
            let uid = pod.metadata.uid.clone().unwrap();
            let silent = PodReport { pod: uid, report: None, failure: Some("no answer".to_owned()), links: Vec::new() };
            let report = AgentReport { pods: vec![silent], configured: true, ..AgentReport::default() };
            let agents =
                BTreeMap::from([("worker-1".to_owned(), AgentSeen { report: Some(Arc::new(report)), failure: None })]);
            of_pod(None, Some(&pod), &agents, None).failure
        };
        assert_eq!(answers("2026-11-21T10:00:00Z"), Some("no answer".to_owned()));
        assert_eq!(answers(&jiff::Timestamp::now().to_string()), None);
    }

    #[test]
    fn a_pod_on_its_way_out_is_not_kept() {
        let mut ending = pod(&json!({"phase": "Running"}));
        ending.metadata.deletion_timestamp = serde_json::from_value(json!("2026-11-21T10:00:00Z")).unwrap();
        let seen = of_pod(None, Some(&ending), &agents(), None);
        assert!(!seen.kept && !seen.running && seen.failure.is_none());
    }

    #[test]
    fn a_service_says_whether_it_has_the_address_that_nodes_are_told() {
        let service = |ingress: Value| {
            let service = json!({"metadata": {"name": "farm-a"}, "spec": {"loadBalancerIP": "192.0.2.7"},
                "status": {"loadBalancer": {"ingress": ingress}}});
            without_address(&serde_json::from_value(service).unwrap())
        };
        assert!(service(json!([])).unwrap().contains("has no address yet"));
        assert!(service(json!([{"ip": "192.0.2.9"}])).unwrap().contains("192.0.2.9, not 192.0.2.7"));
        assert_eq!(service(json!([{"ip": "192.0.2.7"}])), None);
    }

    #[test]
    fn one_node_that_cannot_lay_a_lan_does_not_harm_it_elsewhere() {
        let lan: stoke_api::ObjectRef =
            serde_json::from_value(json!({"kind": "Lan", "namespace": "default", "name": "lab"})).unwrap();
        let plan: stoke_api::workload::LanPlan = serde_json::from_value(json!({
            "lan": lan, "bridge": "st0", "mac": "02:00:00:00:00:01", "mtu": 1500, "addresses": [], "masquerade": false, "uplinks": [],
        })).unwrap();
        let config = NodeAgentConfig { lans: vec![plan], ..NodeAgentConfig::default() };
        let report = |failure: Option<&str>| {
            let lan =
                LanReport { lan: lan.clone(), bridge: "st0".parse().unwrap(), failure: failure.map(str::to_owned) };
            let report = AgentReport { lans: vec![lan], ..AgentReport::default() };
            AgentSeen { report: Some(Arc::new(report)), failure: None }
        };
        let merged = |reports: Vec<AgentSeen>| {
            let agents = reports.into_iter().enumerate().map(|(index, seen)| (index.to_string(), seen)).collect();
            match of_nodes(None, Some(&config), &agents, Vec::new()).report {
                Some(Report::Node(report)) => report.lans[0].failure.clone(),
                _ => unreachable!(),
            }
        };
        assert_eq!(merged(vec![report(Some("no vxlan")), report(None)]), None);
        assert_eq!(merged(vec![report(Some("no vxlan"))]).as_deref(), Some("no vxlan"));
        assert_eq!(merged(vec![AgentSeen { report: Some(Arc::default()), failure: None }]), None);
    }

    #[test]
    fn a_build_whose_pod_was_killed_says_so() {
        let job = json!({"metadata": {"name": "build-default-node"}, "status": {"conditions": [
            {"type": "Failed", "status": "True", "reason": "BackoffLimitExceeded", "message": "Job has reached the specified backoff limit"},
        ]}});
        let job: Job = serde_json::from_value(job).unwrap();
        let killed = json!({"phase": "Failed", "containerStatuses": [{
            "name": "stoke", "image": "", "imageID": "", "ready": false, "restartCount": 0,
            "state": {"terminated": {"exitCode": 137, "reason": "OOMKilled"}},
        }]});
        let end = job_end(&job, Some(&pod(&killed))).unwrap().unwrap_err();
        assert!(end.contains("OOMKilled"), "{end}");
    }
}

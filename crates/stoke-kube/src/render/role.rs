//! Routers, and what farms have in common with them: in the operator's namespace.

use k8s_openapi::api::core::v1::{Container, Pod, PodSecurityContext, PodSpec, Toleration, VolumeMount};
use stoke_api::workload::pod::{LEASES, STATE};

use super::Place;
use super::pod::{self, mount};
use crate::settings::Role;

/// Seconds that a role has to drain.
const GRACE_SECONDS: i64 = 15;
/// Seconds until a pod leaves a node that is out of touch. Until then the node may come back.
const UNREACHABLE_SECONDS: i64 = 30;

pub(super) fn router(place: &Place<'_>) -> Pod {
    let volumes = vec![pod::config_volume(place), pod::state_volume(place), pod::leases_volume(place)];
    let leases = VolumeMount { read_only: Some(true), ..mount("leases", LEASES) };
    let mut container = container(place, &place.settings.router, vec![mount("state", STATE), leases]);
    // It answers before clients have an address: by frames of its own (packet(7)), from ports below 1024.
    container.security_context = Some(pod::security(&["NET_BIND_SERVICE", "NET_RAW"]));
    let mut spec = spec(place, &place.settings.router, container, volumes);
    spec.security_context = Some(root());
    pod::pod(place, spec)
}

/// Who has a capability: one that is added reaches root alone, since Kubernetes sets no ambient ones.
pub(super) fn root() -> PodSecurityContext {
    PodSecurityContext {
        run_as_user: Some(0),
        run_as_group: Some(0),
        seccomp_profile: Some(pod::seccomp()),
        ..PodSecurityContext::default()
    }
}

pub(super) fn container(place: &Place<'_>, role: &Role, mounts: Vec<VolumeMount>) -> Container {
    let mut arguments = vec!["serve".to_owned(), place.workload.role.word().to_owned()];
    arguments.extend(pod::launch_arguments());
    arguments.extend(pod::ports_arguments());
    Container {
        command: Some(vec!["stoke".to_owned()]),
        args: Some(arguments),
        resources: Some(pod::with_lan(&role.resources)),
        liveness_probe: Some(pod::probe("/live", 6)),
        readiness_probe: Some(pod::probe("/ready", 1)),
        volume_mounts: Some(std::iter::once(pod::config_mount()).chain(mounts).collect()),
        ..pod::container(place, &place.settings.images.stoke)
    }
}

pub(super) fn spec(
    place: &Place<'_>,
    role: &Role,
    container: Container,
    volumes: Vec<k8s_openapi::api::core::v1::Volume>,
) -> PodSpec {
    let leaves = |taint: &str| Toleration {
        key: Some(taint.to_owned()),
        operator: Some("Exists".to_owned()),
        effect: Some("NoExecute".to_owned()),
        toleration_seconds: Some(UNREACHABLE_SECONDS),
        value: None,
    };
    let own = role.tolerations.iter().cloned();
    let tolerations = own.chain(["node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable"].map(leaves));
    PodSpec {
        service_account_name: Some(place.settings.service_account.clone()),
        restart_policy: Some("Always".to_owned()),
        termination_grace_period_seconds: Some(GRACE_SECONDS),
        node_selector: pod::selector(&role.node_selector),
        priority_class_name: role.priority_class.clone(),
        tolerations: Some(tolerations.collect()),
        ..pod::spec(place, container, volumes)
    }
}

//! Builds of images: a `Job` each, in the operator's namespace, with the store's volume.

use std::collections::BTreeMap;
use std::path::PathBuf;

use k8s_openapi::api::batch::v1::{Job, JobSpec};
use k8s_openapi::api::core::v1::{
    Container, EnvVar, PodSecurityContext, PodSpec, PodTemplateSpec, ResourceRequirements,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use stoke_api::workload::ImageBuildConfig;
use stoke_api::workload::pod::{IMAGES, STATE};

use super::pod::{self, mount};
use super::{Place, TEMPLATE, template_hash};
use crate::settings::{Proxy, Settings};

/// What package managers in a tree of their own need: they give files to others, and change into the tree.
const CAPABILITIES: [&str; 8] =
    ["CHOWN", "DAC_OVERRIDE", "FOWNER", "FSETID", "SETFCAP", "SETGID", "SETUID", "SYS_CHROOT"];
/// What is of use in a user namespace of its own and would be a right on the node without one.
const IN_NAMESPACE: [&str; 2] = ["MKNOD", "SYS_ADMIN"];

/// Where a build says how far it is, on the store's volume as the operator sees it: a build is alone in its pod, and what it
/// said last outlasts it.
pub fn report(settings: &Settings, workload: &str) -> PathBuf {
    settings.state.join("builds").join(format!("{workload}.json"))
}

pub(super) fn job(place: &Place<'_>, _: &ImageBuildConfig) -> Job {
    let settings = &place.settings.build;
    let store = &place.settings.store;
    let report = format!("{STATE}/builds/{}.json", place.workload.name());
    let arguments = ["serve", "build", "--config", "/etc/stokehold/config.json", "--socket", "/tmp/admin.sock"];
    let arguments = arguments.map(str::to_owned).into_iter();
    let arguments = arguments.chain(["--report".to_owned(), report]);
    let more = IN_NAMESPACE.iter().filter(|_| settings.user_namespace);
    let capabilities: Vec<_> = CAPABILITIES.iter().chain(more).copied().collect();
    let mut container = Container {
        command: Some(vec!["stoke".to_owned()]),
        args: Some(arguments.collect()),
        resources: Some(ResourceRequirements {
            requests: Some(pod::quantities(&settings.resources.requests)),
            limits: Some(pod::quantities(&settings.resources.limits)),
            claims: None,
        }),
        security_context: Some(pod::security(&capabilities)),
        volume_mounts: Some(vec![
            pod::config_mount(),
            pod::store_mount("images", IMAGES, false),
            pod::store_mount("builds", format!("{STATE}/builds"), false),
            mount("tmp", "/tmp"),
        ]),
        ..pod::container(place, &place.settings.images.builder)
    };
    container.env.get_or_insert_default().extend(way_out(&settings.proxy));
    // Package managers write where they like in their own container.
    if let Some(security) = &mut container.security_context {
        security.read_only_root_filesystem = None;
    }
    let volumes = vec![
        pod::config_volume(place),
        pod::claimed_volume("store", store.claim.clone()),
        pod::empty_volume("tmp", Some(settings.scratch)),
    ];
    let spec = PodSpec {
        service_account_name: Some(place.settings.service_account.clone()),
        restart_policy: Some("Never".to_owned()),
        host_users: settings.user_namespace.then_some(false),
        node_selector: pod::selector(&settings.node_selector),
        tolerations: (!settings.tolerations.is_empty()).then(|| settings.tolerations.clone()),
        security_context: Some(PodSecurityContext {
            run_as_user: Some(0),
            run_as_group: Some(super::USER),
            fs_group: Some(super::USER),
            fs_group_change_policy: Some("OnRootMismatch".to_owned()),
            seccomp_profile: Some(pod::seccomp()),
            ..PodSecurityContext::default()
        }),
        ..pod::spec(place, container, volumes)
    };
    let mut metadata = place.metadata();
    // The hash of the configuration, too: another recipe is another build.
    let made_of = template_hash(&(&spec, super::config_of(place.workload).unwrap_or_default()));
    metadata.annotations.get_or_insert_default().insert(TEMPLATE.to_owned(), made_of);
    let annotations = Some(BTreeMap::from([(super::WORKLOAD.to_owned(), place.workload.name())]));
    let template = ObjectMeta { labels: Some(place.labels()), annotations, ..ObjectMeta::default() };
    let spec = JobSpec {
        backoff_limit: Some(0),
        template: PodTemplateSpec { metadata: Some(template), spec: Some(spec) },
        ..JobSpec::default()
    };
    Job { metadata, spec: Some(spec), status: None }
}

/// Variables that apt, buildah, skopeo and our own client know; only some of them look at those in capitals.
fn way_out(proxy: &Proxy) -> impl Iterator<Item = EnvVar> {
    let set = [("http_proxy", &proxy.http), ("https_proxy", &proxy.https), ("no_proxy", &proxy.no_proxy)];
    let set = set.into_iter().filter(|(_, value)| !value.is_empty());
    set.map(|(name, value)| EnvVar { name: name.to_owned(), value: Some(value.clone()), ..EnvVar::default() })
}

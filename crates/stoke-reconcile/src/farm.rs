//! `Farm`: one `farm` workload on the LAN's gateway address, with its image versions and its nodes.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::path::PathBuf;

use ipnet::{Ipv4Net, Ipv6Net};
use stoke_api::objects::{FarmStatus, Kind, NodeConfig, NodeState, User};
use stoke_api::report::{BuiltImage, FarmNodeReport};
use stoke_api::workload::{
    ConfigScope, FarmBoot, FarmConfig, FarmImage, FarmNode, FarmPort, LtspFiles, Role, Workload,
};
use stoke_api::{Condition, Digest, ObjectRef};
use stoke_boot::loaders;

use crate::check::hostname;
use crate::names::{eui64, key, machine_uuid, nic_mac, port_mac};
use crate::node_config::{self, OwnScope};
use crate::observed::{Desired, FarmPartRequest, Layout};
use crate::signed::{signatures, signed};
use crate::status::{Status, Waiting, condition, push, ready_condition};
use crate::view::{Farm, View, sibling};
use crate::{image, join, lan, ltsp, machine, minimum, places, rehearsal, rollout, server, trust};

pub(crate) fn desire(view: &View<'_>, reference: &ObjectRef, farm: &Farm, desired: &mut Desired) {
    request_parts(view, reference, farm, desired);
    let gate = view.valid(reference).and_then(|()| can_be_placed(view, reference, farm));
    let gate = gate.and_then(|()| lan::laid(view, &lan_of(reference, farm)));
    for (replica, address) in (0..).zip(addresses(view, reference, farm)) {
        let name = replica_name(reference, replica);
        let config = match view.told_before(reference, &name) {
            Some(Role::Farm(before)) => Some(before.clone()),
            _ => config(view, reference, farm, replica, address),
        };
        if let Some(config) = config.filter(|_| view.passes(&name, &gate)) {
            desired.workloads.push(Workload { owner: reference.clone(), role: Role::Farm(config) });
        }
    }
    let minimum = minimum::of_farm(view, reference, farm);
    let images = minimum::without_older(images(view, reference, farm), minimum.as_ref());
    let nodes = nodes(view, reference, farm);
    let ready = |node: &&FarmNode| match view.machine(&node.owner) {
        // A machine that was switched off or reset tells the farm nothing: only its stoke-vm knows.
        Some(machine) => machine::is_ready(view, &node.owner, machine),
        None => node_state(view, reference, &node.owner).is_some_and(|state| state.ready),
    };
    let rollout = rollout::of_farm(view, reference, farm, &images);
    let status = FarmStatus {
        conditions: conditions(view, reference, farm)
            .into_iter()
            .chain(rollout::conditions(rollout.as_ref()))
            .collect(),
        observed_generation: farm.metadata.generation.unwrap_or_default(),
        address: addresses(view, reference, farm).first().map(Ipv4Addr::to_string),
        image: rollout.as_ref().map(|rollout| rollout.handed_out),
        nodes: u32::try_from(nodes.len()).unwrap_or(u32::MAX),
        ready_nodes: u32::try_from(nodes.iter().filter(ready).count()).unwrap_or(u32::MAX),
        minimum: minimum.and_then(Result::ok),
        rollout,
    };
    rollout::by_ssh(farm, desired);
    rollout::in_cluster(view, reference, farm, desired);
    join::desire(view, reference, farm, desired);
    rollout::events(farm.status.rollout.as_ref(), status.rollout.as_ref(), desired);
    push(desired, reference, &farm.status.conditions, Status::Farm(status));
}

fn conditions(view: &View<'_>, reference: &ObjectRef, farm: &Farm) -> Vec<Condition> {
    let mut conditions = vec![ready_condition(&state(view, reference, farm)), trust::of_farm(farm)];
    conditions.extend(missing_programs(view, farm));
    conditions.extend(join::of_farm(view, farm));
    conditions.extend(view.ltsp_of(farm).map(ltsp::FarmLtsp::condition));
    conditions.extend(all_versions(view, reference, farm).ok().and_then(|versions| signatures(view, farm, versions)));
    conditions
}

/// Boot programs that this farm's loaders need and that the host lacks. Only machines with that firmware are in trouble, so
/// the farm is ready all the same.
fn missing_programs(view: &View<'_>, farm: &Farm) -> Option<Condition> {
    let programs = &view.environment().boot_programs;
    let message = loaders::missing(farm.spec.boot.loader, |name| programs.contains_key(name))?;
    Some(condition("BootPrograms", false, "Missing", message))
}

/// The boot programs that the farm hands out: those of its loaders, and iPXE, which every iPXE may need that cannot do what
/// ours can.
fn boot_programs(view: &View<'_>, farm: &Farm) -> BTreeMap<String, PathBuf> {
    let needed = loaders::needed(farm.spec.boot.loader);
    let wanted = |name: &str| needed.contains(&name) || [loaders::BIOS_PROGRAM, loaders::UEFI_PROGRAM].contains(&name);
    let programs = view.environment().boot_programs.iter().filter(|(name, _)| wanted(name));
    programs.map(|(name, path)| (name.clone(), path.clone())).collect()
}

pub(crate) fn lan_of(reference: &ObjectRef, farm: &Farm) -> ObjectRef {
    sibling(reference, Kind::Lan, &farm.spec.lan)
}

/// A farm of somebody else's network is on nodes of a cluster: on one host nothing of ours is on any network but our own.
fn can_be_placed(view: &View<'_>, reference: &ObjectRef, farm: &Farm) -> Result<(), Waiting> {
    let lan = lan_of(reference, farm);
    if view.environment().layout == Layout::Pods || !lan::is_external(view, &lan) {
        return Ok(());
    }
    let message = format!(
        "{lan} is external, and spec.placement is ignored on one host: run this in a cluster, or give {lan} uplinks \
         instead of external"
    );
    Err(Waiting::new("NeedsCluster", message))
}

/// The name of the workload of a farm's replica.
fn replica_name(farm: &ObjectRef, replica: u32) -> String {
    let first = format!("farm-{}", key(farm).replace('/', "-"));
    if replica == 0 { first } else { format!("{first}.{replica}") }
}

/// The names of the workloads of all replicas of a farm.
fn replica_names(view: &View<'_>, reference: &ObjectRef, farm: &Farm) -> Vec<String> {
    let replicas = (0..).zip(addresses(view, reference, farm));
    replicas.map(|(replica, _)| replica_name(reference, replica)).collect()
}

/// The addresses that a farm serves on: those that it names, else the router's own in the LAN's first subnet, or where that is
/// another pod's, one that is free.
pub(crate) fn addresses(view: &View<'_>, reference: &ObjectRef, farm: &Farm) -> Vec<Ipv4Addr> {
    if !farm.spec.addresses.is_empty() {
        return farm.spec.addresses.clone();
    }
    if view.environment().layout == Layout::Pods {
        return view.own_address(reference).into_iter().collect();
    }
    let lan = view.lan(&lan_of(reference, farm));
    lan.and_then(|lan| lan.spec.subnets.first()).map(stoke_api::objects::Subnet::gateway).into_iter().collect()
}

/// The versions that the farm may hand out, in the order of the image's.
fn versions<'a>(view: &View<'a>, reference: &ObjectRef, farm: &Farm) -> Result<Vec<&'a BuiltImage>, Waiting> {
    signed(view, farm, all_versions(view, reference, farm)?)
}

pub(crate) fn all_versions<'a>(
    view: &View<'a>,
    reference: &ObjectRef,
    farm: &Farm,
) -> Result<&'a [BuiltImage], Waiting> {
    image::versions(view, &sibling(reference, Kind::Image, &farm.spec.image))
}

/// The image versions whose farm's parts are made, newest first. A farm that has never handed one out waits for the first:
/// it would begin with an old one whose parts happen to be made sooner.
fn images(view: &View<'_>, reference: &ObjectRef, farm: &Farm) -> Vec<FarmImage> {
    let parts = |version: &BuiltImage| view.environment().farm_parts.get(&(key(reference), version.digest));
    let versions = versions(view, reference, farm).unwrap_or_default();
    if farm.status.rollout.is_none() && versions.first().is_some_and(|first| parts(first).is_none()) {
        return Vec::new();
    }
    let image = |version: &BuiltImage| parts(version).map(|parts| version.for_farm(parts.initramfs, parts.uki));
    versions.into_iter().filter_map(image).collect()
}

/// The same, the one first that machines get of which nothing else is said.
fn served_images(view: &View<'_>, reference: &ObjectRef, farm: &Farm) -> Vec<FarmImage> {
    let mut images = images(view, reference, farm);
    if let Some(rollout) = &farm.status.rollout {
        images.sort_by_key(|image| image.digest != rollout.handed_out);
    }
    images
}

/// The version that a node gets when it boots.
pub(crate) fn image_of(view: &View<'_>, farm: &ObjectRef, node: &ObjectRef) -> Option<Digest> {
    Some(view.farm(farm)?.status.rollout.as_ref()?.image_of(node))
}

/// The kernels of that version, if it is not what others get.
pub(crate) fn kernels_of(
    view: &View<'_>,
    farm: &ObjectRef,
    node: &ObjectRef,
) -> BTreeMap<stoke_api::workload::Architecture, String> {
    let Some((spec, own)) = view.farm(farm).zip(image_of(view, farm, node)) else { return BTreeMap::new() };
    let handed_out = spec.status.rollout.as_ref().map(|rollout| rollout.handed_out);
    let images = images(view, farm, spec);
    let own = images.iter().filter(|image| image.digest == own && handed_out != Some(own));
    own.filter_map(kernel).collect()
}

fn kernel(image: &FarmImage) -> Option<(stoke_api::workload::Architecture, String)> {
    Some((image.architecture, format!("{}.efi", image.uki?.http_path())))
}

fn request_parts(view: &View<'_>, reference: &ObjectRef, farm: &Farm, desired: &mut Desired) {
    if view.valid(reference).is_err() {
        return;
    }
    let keys = view.environment().farm_keys.get(&key(reference)).cloned();
    // Parts that were signed by another key, or by none, are handed out until those are made that should be.
    let made = |version: &BuiltImage| {
        let parts = view.environment().farm_parts.get(&(key(reference), version.digest));
        parts.is_some_and(|parts| parts.signed_by.as_ref() == keys.as_ref().map(|keys| &keys.fingerprint))
    };
    for version in versions(view, reference, farm).unwrap_or_default().into_iter().filter(|version| !made(version)) {
        desired.farm_parts.push(FarmPartRequest { farm: key(reference), image: version.clone(), keys: keys.clone() });
    }
}

/// The addresses that new boots are sent to: without those of replicas that do not serve, as long as one does.
fn live_addresses(view: &View<'_>, reference: &ObjectRef, farm: &Farm) -> Vec<Ipv4Addr> {
    let all = addresses(view, reference, farm);
    let serves = |replica: u32| {
        let name = replica_name(reference, replica);
        view.started(&name).is_ok() && view.farm_report(&name).is_some_and(|report| report.ready)
    };
    let live: Vec<_> = (0..).zip(&all).filter(|(replica, _)| serves(*replica)).map(|(_, address)| *address).collect();
    if live.is_empty() { all } else { live }
}

/// What booting clients are told of the farm.
pub(crate) fn boot(view: &View<'_>, reference: &ObjectRef, farm: &Farm) -> Option<FarmBoot> {
    let addresses = live_addresses(view, reference, farm);
    let ports = view.environment().ports;
    let images = served_images(view, reference, farm);
    let replicas = u32::try_from(replica_names(view, reference, farm).len()).unwrap_or_default();
    (!addresses.is_empty()).then(|| FarmBoot {
        addresses,
        addresses6: (0..replicas).filter_map(|replica| address6(view, reference, farm, replica)).collect(),
        http_port: ports.http,
        node_port: ports.node,
        // The newest version of each architecture is the last one that is put in.
        kernels: images.iter().rev().filter_map(kernel).collect(),
        loader: farm.spec.boot.loader,
        unknown_clients: farm.spec.unknown_clients,
    })
}

fn config(view: &View<'_>, reference: &ObjectRef, farm: &Farm, replica: u32, address: Ipv4Addr) -> Option<FarmConfig> {
    let environment = view.environment();
    let lan_name = lan_of(reference, farm);
    let places = places::farm(view, reference, replica);
    let port = port(view, reference, farm, replica, address);
    let lan = view.lan(&lan_name)?;
    Some(FarmConfig {
        farm: reference.clone(),
        replica,
        address,
        listen: behind_service(farm).then_some(Ipv4Addr::UNSPECIFIED),
        replicas: addresses(view, reference, farm),
        address6: address6(view, reference, farm, replica),
        mtu: lan::mtu(view, lan),
        tftp_port: environment.ports.tftp,
        tftp: farm.spec.boot.tftp,
        loader: farm.spec.boot.loader,
        nfs: farm.spec.boot.nfs.clone(),
        disk: farm.spec.boot.disk.clone(),
        peers: farm.spec.boot.peers,
        max_loading: farm.spec.boot.max_loading,
        http_port: environment.ports.http,
        node_port: environment.ports.node,
        nbd_port: environment.ports.nbd,
        nbd_tls: farm.spec.boot.nbd_tls.clone(),
        blobs: places::images(view).join("blobs"),
        images: served_images(view, reference, farm),
        nodes: nodes(view, reference, farm).into_iter().chain(rehearsal::node(view, reference, farm)).collect(),
        unknown_clients: farm.spec.unknown_clients,
        minimum_built_at: minimum::built_at(minimum::of_farm(view, reference, farm).as_ref()),
        trust: farm.spec.trust,
        root: farm.spec.boot.root,
        config: with_access(view, farm.spec.config.clone()),
        scopes: node_config::classes_of_strangers(reference, &farm.spec),
        ltsp: LtspFiles { lts_conf: farm.spec.lts_conf.clone(), ltsp_conf: farm.spec.ltsp_conf.clone() },
        domain: lan::domain(&lan_name, lan),
        certificate: places.certificate,
        key: places.key,
        boot_programs: boot_programs(view, farm),
        state: places.sessions,
        host_keys: places.host_keys,
        port,
    })
}

/// Whether packets to its addresses come to pods that have others.
fn behind_service(farm: &Farm) -> bool {
    farm.spec.placement.as_ref().is_some_and(|placement| placement.load_balancer.is_some())
}

/// A replica's IPv6 address: on one host the first one has the router's, in pods each has its own.
fn address6(view: &View<'_>, reference: &ObjectRef, farm: &Farm, replica: u32) -> Option<Ipv6Addr> {
    let ipv6 = view.lan(&lan_of(reference, farm)).filter(|lan| !lan.spec.external)?.spec.ipv6.as_ref()?;
    match view.environment().layout {
        Layout::Host => (replica == 0).then(|| ipv6.gateway()),
        Layout::Pods => {
            let mac = port_mac(&view.environment().installation, &replica_name(reference, replica));
            Some(eui64(ipv6.prefix, mac))
        }
    }
}

/// A replica's own port on the LAN, in pods.
fn port(view: &View<'_>, reference: &ObjectRef, farm: &Farm, replica: u32, address: Ipv4Addr) -> Option<FarmPort> {
    let name = lan_of(reference, farm);
    let lan = view.lan(&name).filter(|lan| view.environment().layout == Layout::Pods && !lan.spec.external)?;
    let subnet = lan.spec.subnets.iter().find(|subnet| subnet.cidr.contains(&address))?;
    let prefix6 = lan.spec.ipv6.as_ref().map(|ipv6| ipv6.prefix.prefix_len());
    let address6 = address6(view, reference, farm, replica).zip(prefix6);
    Some(FarmPort {
        lan: name,
        address: Ipv4Net::new(address, subnet.cidr.prefix_len()).ok()?,
        address6: address6.and_then(|(address, prefix)| Ipv6Net::new(address, prefix).ok()),
        // Nodes of the LAN's other subnets are behind its router.
        gateway: (lan.spec.subnets.len() > 1).then(|| subnet.gateway()),
    })
}

/// The nodes that objects name: servers, then machines.
pub(crate) fn nodes(view: &View<'_>, reference: &ObjectRef, farm: &Farm) -> Vec<FarmNode> {
    let servers =
        view.servers().filter(|(name, server)| server::farm_of(server) == *reference && view.valid(name).is_ok());
    let servers = servers.map(|(name, server)| FarmNode {
        owner: name.clone(),
        macs: server.spec.macs.clone(),
        uuid: server.spec.uuid.clone(),
        config: node_config(view, farm, name, &server.spec.config),
        scopes: undecided_scopes(view, farm, name, &server.spec.config),
        root: ltsp::of_node(view, farm, name).and_then(|translation| translation.root),
        enrolment: trust::of_server(server),
        reboots_requested: server.status.reboots_requested + rollout::orders(farm, name),
        image: image_of(view, reference, name),
        kexec: rollout::by_kexec(farm, name),
    });
    let fed_here = |name: &ObjectRef, machine: &crate::view::Machine| {
        machine.spec.farm.as_ref().is_some_and(|farm| sibling(name, Kind::Farm, farm) == *reference)
    };
    let machines = view.machines().filter(|(name, machine)| fed_here(name, machine) && view.valid(name).is_ok());
    let machines = machines.map(|(name, machine)| FarmNode {
        owner: name.clone(),
        macs: machine.spec.nics.iter().map(|nic| nic_mac(name, nic)).collect(),
        uuid: Some(machine_uuid(name, machine.metadata.uid.as_deref())),
        config: node_config(view, farm, name, &machine.spec.config),
        scopes: undecided_scopes(view, farm, name, &machine.spec.config),
        root: ltsp::of_node(view, farm, name).and_then(|translation| translation.root),
        enrolment: trust::of_machine(machine),
        // A virtual machine is rebooted by its hypervisor, but for updates that its agent is told of; with two who do it, it
        // would boot twice.
        reboots_requested: rollout::orders(farm, name),
        image: image_of(view, reference, name),
        kexec: rollout::by_kexec(farm, name),
    });
    servers.chain(machines).collect()
}

/// All scopes merged, the narrower one over the wider one; the host name is set.
pub(crate) fn node_config(view: &View<'_>, farm: &Farm, owner: &ObjectRef, own: &NodeConfig) -> NodeConfig {
    let (node, scopes) = scopes(view, farm, owner, own);
    let mut config = with_access(view, node_config::merged_for(&scopes, node.inventory));
    config.hostname.get_or_insert_with(|| hostname(owner, own));
    join::with_join(view, farm, owner, config)
}

fn scopes<'a>(
    view: &View<'a>,
    farm: &Farm,
    owner: &'a ObjectRef,
    own: &'a NodeConfig,
) -> (node_config::Node<'a>, Vec<OwnScope>) {
    let node = node_config::Node::in_view(view, owner, own);
    let ltsp = ltsp::of_node(view, farm, owner);
    let reference = node_config::reference_of(farm);
    (node, node_config::scopes(&reference, &farm.spec, node, ltsp))
}

/// The same apart, if what the machine says when it boots decides which scopes hold.
fn undecided_scopes(view: &View<'_>, farm: &Farm, owner: &ObjectRef, own: &NodeConfig) -> Vec<ConfigScope> {
    let (_, scopes) = scopes(view, farm, owner, own);
    let mut scopes = node_config::undecided(scopes);
    if let Some(first) = scopes.first_mut() {
        first.config.hostname = Some(hostname(owner, own));
        let config = with_access(view, std::mem::take(&mut first.config));
        first.config = join::with_join(view, farm, owner, config);
    }
    // A narrower scope that says something of root replaces what the wider one says of its keys.
    for scope in scopes.iter_mut().skip(1).filter(|scope| scope.config.users.iter().any(|user| user.name == "root")) {
        scope.config = with_access(view, std::mem::take(&mut scope.config));
    }
    scopes
}

/// The configuration with the installation's key for root, so that its owner can enter every node.
fn with_access(view: &View<'_>, mut config: NodeConfig) -> NodeConfig {
    let key = &view.environment().ssh_public_key;
    if key.is_empty() {
        return config;
    }
    match config.users.iter_mut().find(|user| user.name == "root") {
        Some(root) if root.ssh_authorized_keys.contains(key) => {}
        Some(root) => root.ssh_authorized_keys.push(key.clone()),
        None => config.users.push(User {
            name: "root".to_owned(),
            ssh_authorized_keys: vec![key.clone()],
            ..User::default()
        }),
    }
    config
}

/// What the farm knows of a node.
pub(crate) fn node_state<'a>(view: &View<'a>, farm: &ObjectRef, node: &ObjectRef) -> Option<&'a NodeState> {
    let of_node = |report: &&FarmNodeReport| report.owner.as_ref() == Some(node);
    let spec = view.farm(farm)?;
    let names = replica_names(view, farm, spec);
    let reports = names.iter().filter_map(|name| view.farm_report(name)).flat_map(|report| &report.nodes);
    // A node whose replica is lost begins a session at another one: the newest counts.
    reports.filter(of_node).map(|report| &report.state).max_by_key(|state| (&state.boot_started, state.ready))
}

fn state(view: &View<'_>, reference: &ObjectRef, farm: &Farm) -> Result<(&'static str, String), Waiting> {
    view.valid(reference)?;
    can_be_placed(view, reference, farm)?;
    let lan = lan_of(reference, farm);
    lan::serves(view, &lan)
        .map_err(|why| Waiting::new("WaitingForLan", format!("waiting for {lan}: {}", why.message)))?;
    versions(view, reference, farm)?;
    minimum::of_farm(view, reference, farm).transpose()?;
    let images = served_images(view, reference, farm);
    let replicas = replica_names(view, reference, farm);
    let states: Vec<_> =
        replicas.iter().map(|replica| replica_state(view, reference, farm, replica, &images)).collect();
    let serving = states.iter().filter(|state| state.is_ok()).count();
    let newest = states.iter().find_map(|state| state.as_ref().ok());
    match newest {
        Some(digest) if serving == states.len() => Ok(("Serving", format!("hands out {digest}"))),
        Some(digest) => Ok(("Degraded", format!("hands out {digest}; {serving} of {} replicas serve", states.len()))),
        None => Err(states.into_iter().find_map(Result::err).unwrap_or_else(|| no_address(&lan))),
    }
}

fn no_address(lan: &ObjectRef) -> Waiting {
    let message = format!("no address of the first subnet of {lan} is free; name some in spec.addresses");
    Waiting::new("NoAddress", message)
}

/// The image that a replica hands out.
fn replica_state(
    view: &View<'_>,
    reference: &ObjectRef,
    farm: &Farm,
    workload: &str,
    images: &[FarmImage],
) -> Result<Digest, Waiting> {
    view.started(workload)?;
    let newest = images.first().ok_or_else(|| parts_missing(view, reference, farm))?;
    match view.farm_report(workload) {
        Some(report) if report.ready => {}
        Some(report) => {
            let why = report.failure.clone().unwrap_or_else(|| "the farm is starting".to_owned());
            return Err(Waiting::new(if report.failure.is_some() { "Failed" } else { "Starting" }, why));
        }
        None => return Err(Waiting::new("Starting", "the farm is starting")),
    }
    told_of(view, workload, newest)?;
    Ok(newest.digest)
}

fn parts_missing(view: &View<'_>, reference: &ObjectRef, farm: &Farm) -> Waiting {
    let failures = &view.environment().farm_part_failures;
    let newest = versions(view, reference, farm).ok().and_then(|versions| versions.first().copied());
    match newest.and_then(|version| failures.get(&(key(reference), version.digest))) {
        Some(failure) => Waiting::new("Failed", format!("cannot make the farm's own boot files: {failure}")),
        None => Waiting::new("MakingParts", "the farm's own boot files are being made"),
    }
}

/// Whether the farm's process has the newest version: only then may a machine boot that needs it.
fn told_of(view: &View<'_>, workload: &str, newest: &FarmImage) -> Result<(), Waiting> {
    let config = view.workload(workload).and_then(|seen| seen.workload.as_ref()).map(|workload| &workload.role);
    match config {
        Some(Role::Farm(config)) if config.images.iter().any(|image| image.digest == newest.digest) => Ok(()),
        _ => Err(Waiting::new("Starting", "the farm is about to get the image")),
    }
}

/// Whether machines can boot from the farm.
pub(crate) fn serves(view: &View<'_>, reference: &ObjectRef) -> Result<(), Waiting> {
    let missing = || Waiting::new("FarmMissing", format!("there is no {reference}"));
    let farm = view.farm(reference).ok_or_else(missing)?;
    let wait = |why: Waiting| match why.reason {
        "WaitingForImage" | "WaitingForLan" => why,
        _ => Waiting::new("WaitingForFarm", format!("waiting for {reference}: {}", why.message)),
    };
    state(view, reference, farm).map(|_| ()).map_err(wait)
}

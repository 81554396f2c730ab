//! Values of kubefarm's chart: nodes become servers, tags classes.

use std::collections::BTreeMap;

use serde_json::Value;
use stoke_api::MacAddr;
use stoke_api::objects::{FileEntry, Hook, HookFailure, HookTime, ModuleEntry, NodeConfig, User};

use super::draft::Draft;
use super::range::Range;
use super::{dnsmasq, entries, fields, object_name, take, text, texts};
use crate::lts::keys::{Fate, fate};
use crate::lts::translate::{Generation, Value as Variable, Values, translate};
use crate::lts::{Assignment, Machine, Place};

pub(super) fn add(draft: &mut Draft, file: &str, mut values: Value) {
    for (index, mut pool) in entries(take(&mut values, "nodePools")).into_iter().enumerate() {
        let at = format!("nodePools[{index}]");
        self::pool(draft, file, &at, &mut pool);
        draft.rest(file, &at, &pool);
    }
    let mut tags = take(&mut values, "tags").unwrap_or_default();
    for (tag, options) in fields(take(&mut tags, "dhcpOptions")) {
        for (key, value) in fields(Some(options)) {
            let values: Vec<_> =
                texts(Some(value)).iter().flat_map(|text| text.split(',')).map(str::to_owned).collect();
            dnsmasq::option(draft, file, &format!("tags.dhcpOptions.{tag}.{key}"), (&key, &values), &tag);
        }
    }
    for (tag, options) in fields(take(&mut tags, "ltspOptions")) {
        ltsp_options(draft, file, &format!("tags.ltspOptions.{tag}"), &tag, options);
    }
    for (tag, labels) in fields(take(&mut tags, "kubernetesLabels")) {
        let mut config = NodeConfig::default();
        config.kubelet.labels =
            fields(Some(labels)).into_iter().filter_map(|(key, value)| Some((key, text(&value)?))).collect();
        kubernetes(draft, file, &format!("tags.kubernetesLabels.{tag}"), &tag, &config, "kubelet.labels");
    }
    for (tag, taints) in fields(take(&mut tags, "kubernetesTaints")) {
        let mut config = NodeConfig::default();
        config.kubelet.taints = self::taints(taints);
        kubernetes(draft, file, &format!("tags.kubernetesTaints.{tag}"), &tag, &config, "kubelet.taints");
    }
    draft.rest(file, "tags", &tags);
    let mut ltsp = take(&mut values, "ltsp").unwrap_or_default();
    let mut config = take(&mut ltsp, "config").unwrap_or_default();
    ltsp_config(draft, file, &mut config);
    draft.rest(file, "ltsp.config", &config);
    draft.rest(file, "ltsp", &ltsp);
    draft.rest(file, "", &values);
}

fn pool(draft: &mut Draft, file: &str, at: &str, pool: &mut Value) {
    if let Some(range) = take(pool, "range").as_ref().and_then(text) {
        match Range::parse(&range) {
            Some(range) => {
                draft.range(range);
                draft.field(file, &format!("{at}.range"), "Lan: spec.subnets");
            }
            None => draft.nothing(file, &format!("{at}.range"), "this is no range of IPv4 addresses"),
        }
    }
    let tags = texts(take(pool, "tags"));
    for tag in &tags {
        draft.configure(tag, &NodeConfig::default());
        draft.field(
            file,
            &format!("{at}.tags {tag}"),
            format!("Farm: class {}; label of its servers", object_name(tag)),
        );
    }
    for (index, mut node) in entries(take(pool, "nodes")).into_iter().enumerate() {
        let at = format!("{at}.nodes[{index}]");
        self::node(draft, file, &at, &mut node, &tags);
        draft.rest(file, &at, &node);
    }
    for option in texts(take(pool, "extraOpts")) {
        let why =
            "an option of dnsmasq; who is chosen by port or client identifier is in spec.dhcp.reservations of the Lan";
        draft.nothing(file, &format!("{at}.extraOpts {option}"), why);
    }
}

fn node(draft: &mut Draft, file: &str, at: &str, node: &mut Value, tags: &[String]) {
    let macs = take(node, "mac").as_ref().and_then(text).unwrap_or_default();
    let macs: Vec<MacAddr> = macs.split(',').filter_map(|mac| mac.trim().parse().ok()).collect();
    let Some(first) = macs.first() else {
        return draft.nothing(file, at, "a Server is known by its MAC addresses, and there is none");
    };
    let name = take(node, "name").as_ref().and_then(text).unwrap_or_else(|| format!("node-{first}"));
    let address = take(node, "ip").as_ref().and_then(text).and_then(|ip| ip.parse().ok());
    let client_id = take(node, "clientID").as_ref().and_then(text);
    let (name, server) = draft.server(&name, &macs);
    server.address = address.or(server.address);
    server.client_id = client_id;
    server.tags.extend(tags.iter().cloned());
    draft.field(file, at, format!("Server {name}"));
    if take(node, "leaseTime").is_some() {
        draft.nothing(file, &format!("{at}.leaseTime"), "an address that an object names stays with its machine");
    }
}

fn kubernetes(draft: &mut Draft, file: &str, at: &str, tag: &str, config: &NodeConfig, field: &str) {
    let whose = draft.configure(tag, config);
    draft.field(file, at, format!("{whose}.{field}"));
}

/// `[{key, value, effect}]`, or `{KEY: "VALUE:EFFECT"}`.
fn taints(value: Value) -> Vec<String> {
    let listed = |taint: &Value| {
        let word = |key: &str| taint.get(key).and_then(text);
        let value = word("value").map(|value| format!("={value}")).unwrap_or_default();
        Some(format!("{}{value}:{}", word("key")?, word("effect")?))
    };
    match value {
        Value::Array(taints) => taints.iter().filter_map(listed).collect(),
        map => {
            fields(Some(map)).into_iter().filter_map(|(key, value)| Some(format!("{key}={}", text(&value)?))).collect()
        }
    }
}

/// Keys of `ltsp.conf`, each with its value.
fn ltsp_options(draft: &mut Draft, file: &str, at: &str, tag: &str, options: Value) {
    let mut values = Values::new();
    for (key, value) in fields(Some(options)) {
        let Some(value) = text(&value) else { continue };
        let place = Place { file: file.into(), line: 0 };
        let assignment = Assignment { key: key.clone(), value: value.clone(), place, section: tag.into() };
        values.insert(key, Variable { assignment, text: Some(value) });
    }
    let machine = Machine { macs: &[], address: None, hostname: "", server: None };
    let translation = translate(&values, &machine, Generation::Later, None);
    draft.root = draft.root.or(translation.root.filter(|_| tag == "all"));
    let mut config = translation.config;
    if tag != "all" {
        // LTSP's list of services is removed once, for all.
        config.units.retain(|unit| !crate::lts::keys::REMOVED.contains(&unit.name.as_str()));
    }
    let whose = draft.configure(tag, &config);
    for key in values.keys() {
        let at = format!("{at}.{key}");
        match fate(key) {
            Fate::Field(field) => draft.field(file, &at, format!("{whose}.{field}")),
            Fate::Root if tag == "all" => draft.field(file, &at, "Farm: spec.boot.root"),
            Fate::Root => draft.nothing(file, &at, "where the root is, is said for the whole farm: spec.boot.root"),
            Fate::Script | Fate::Variable => draft.field(file, &at, format!("{whose}.hooks[ltsp]")),
            Fate::Selects => draft.nothing(file, &at, "tags are classes"),
            Fate::Nothing(why) | Fate::Wrong(why) => draft.nothing(file, &at, why),
        }
    }
}

/// What the chart writes into `ltsp.conf` and beside it.
fn ltsp_config(draft: &mut Draft, file: &str, config: &mut Value) {
    let mut all = NodeConfig::default();
    let mut used = Vec::new();
    if let Some(zone) = take(config, "timezone").as_ref().and_then(text) {
        all.timezone = Some(zone);
        used.push(("timezone", "timezone"));
    }
    let keys = texts(take(config, "sshAuthorizedKeys"));
    if !keys.is_empty() {
        all.users = vec![User { name: "root".to_owned(), ssh_authorized_keys: keys, ..User::default() }];
        used.push(("sshAuthorizedKeys", "users[root].sshAuthorizedKeys"));
    }
    let sysctls: BTreeMap<_, _> =
        fields(take(config, "sysctls")).into_iter().filter_map(|(key, value)| Some((key, text(&value)?))).collect();
    if !sysctls.is_empty() {
        all.sysctls = sysctls;
        used.push(("sysctls", "sysctls"));
    }
    let modules: Vec<_> = texts(take(config, "modules")).iter().flat_map(|text| text.lines()).map(module).collect();
    if !modules.is_empty() {
        all.modules = modules;
        used.push(("modules", "modules"));
    }
    if let Some(docker) = take(config, "dockerConfig") {
        let content = docker.as_str().map_or_else(|| docker.to_string(), str::to_owned);
        all.files.push(FileEntry {
            path: "/etc/docker/daemon.json".to_owned(),
            content: Some(content),
            ..FileEntry::default()
        });
        used.push(("dockerConfig", "files[/etc/docker/daemon.json]"));
    }
    let whose = draft.configure("all", &all);
    for (key, field) in used {
        draft.field(file, &format!("ltsp.config.{key}"), format!("{whose}.{field}"));
    }
    if take(config, "rootPasswd").or_else(|| take(config, "rootPasswordHash")).is_some() {
        draft.nothing(file, "ltsp.config.rootPasswd", "accounts have keys and no passwords");
    }
    if let Some(options) = take(config, "options") {
        ltsp_options(draft, file, "ltsp.config.options", "all", options);
    }
    sections(draft, file, take(config, "sections"));
}

/// Sections that are code: those of `init` run before the system starts.
fn sections(draft: &mut Draft, file: &str, sections: Option<Value>) {
    for (name, code) in fields(sections) {
        let at = format!("ltsp.config.sections.{name}");
        let Some(script) = text(&code).filter(|_| name == "init/") else {
            draft.nothing(
                file,
                &at,
                "the section is of one machine or another program: write a class or a Server with a hook",
            );
            continue;
        };
        let (when, on_failure) = (HookTime::PreInit, HookFailure::Continue);
        // As LTSP ran it: what fails does not stop the rest.
        let script = format!("#!/bin/sh\n{script}");
        let config = NodeConfig {
            hooks: vec![Hook { name: "init".to_owned(), when, script, on_failure }],
            ..NodeConfig::default()
        };
        let whose = draft.configure("all", &config);
        draft.field(file, &at, format!("{whose}.hooks[init]"));
    }
}

fn module(line: &str) -> ModuleEntry {
    let mut words = line.split_whitespace().map(str::to_owned);
    ModuleEntry { name: words.next().unwrap_or_default(), options: words.collect() }
}

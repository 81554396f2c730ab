//! Each format as its users write it, and nothing of it dropped without a word.

use serde_json::{Value, json};
use stoke_api::objects::AnyObject;

use super::*;

fn draft() -> Draft {
    let name = str::to_owned;
    Draft::new(Names { farm: name("lab"), lan: name("lab"), image: name("node") })
}

/// The objects, each of which is a valid one.
fn objects(draft: &Draft) -> Vec<Value> {
    let objects = draft.objects();
    for object in &objects {
        let mut plain = object.clone();
        plain.as_object_mut().unwrap().remove("apiVersion");
        let typed: AnyObject = serde_json::from_value(plain).unwrap_or_else(|error| panic!("{error}: {object}"));
        assert_eq!(typed.check(), [], "{object}");
    }
    objects
}

fn unused(draft: &Draft) -> Vec<String> {
    let unused = |row: &Row| match &row.became {
        Became::Nothing(_) => Some(row.key.clone()),
        Became::Field(_) => None,
    };
    draft.rows().iter().filter_map(unused).collect()
}

#[test]
fn an_lts_conf_becomes_a_farm_and_servers() {
    let text = "[default]\nTIMEZONE=Europe/Prague\nFSTAB_1=\"/dev/data/docker /var/lib/docker ext4 nofail 0 0\"\nSCREEN_07=ldm\n\
                LTSP_NBD_TO_RAM=True\n[52:54:00:00:00:01]\nHOSTNAME=m1\nLIKE=big\n[10.0.0.*]\nTIMEZONE=Etc/UTC\n\
                [big]\nMODULE_1=bonding\n[m2]\nTIMEZONE=Etc/UTC\n";
    let mut draft = draft();
    draft.add_ltsp(Format::guess("lts.conf", text), "lts.conf", text);
    let objects = objects(&draft);
    assert_eq!(objects[0]["kind"], "Farm");
    assert_eq!(objects[0]["spec"]["boot"]["root"], "Ram");
    assert_eq!(objects[0]["spec"]["config"]["mounts"][0]["path"], "/var/lib/docker");
    assert_eq!(objects[1]["metadata"]["name"], "m1");
    assert_eq!(objects[1]["spec"]["config"], json!({"hostname": "m1", "modules": [{"name": "bonding"}]}));
    assert_eq!(unused(&draft), ["[default] SCREEN_07", "[10.0.0.*] TIMEZONE", "[m2] TIMEZONE"]);
    assert_eq!(draft.rows().len(), 9);
}

#[test]
fn an_ltsp_conf_keeps_its_code() {
    let text = "[clients]\nIMAGE_TO_RAM=1\nPOST_INIT_X=\"section_x\"\n[x]\ntouch /x\n[login/]\nA=1\n";
    let mut draft = draft();
    draft.add_ltsp(Format::guess("my.conf", text), "my.conf", text);
    let objects = objects(&draft);
    let script = objects[0]["spec"]["config"]["hooks"][0]["script"].as_str().unwrap();
    assert!(script.contains("section_x() {"), "{script}");
    assert!(script.contains("eval \"$POST_INIT_X\""), "{script}");
    assert_eq!(unused(&draft), ["[login/] A"]);
}

#[test]
fn a_config_map_has_the_old_farms_file() {
    let map = json!({"kind": "ConfigMap", "data": {"lts.conf": "[default]\nTIMEZONE=Etc/UTC\n", "other": "x"}});
    let mut draft = draft();
    draft.add_document("map.yaml", map).unwrap();
    assert_eq!(objects(&draft)[0]["spec"]["config"]["timezone"], "Etc/UTC");
    assert_eq!(draft.rows()[0].file, "map.yaml:lts.conf:2");
    assert_eq!(unused(&draft), ["data.other"]);
    assert!(draft.add_document("x.yaml", json!({"kind": "ConfigMap", "data": {}})).is_err());
    assert!(draft.add_document("x.yaml", json!({"kind": "Pod"})).is_err());
}

#[test]
fn values_of_kubefarm() {
    let values = json!({
        "nodePools": [{
            "range": "172.16.0.0,static,infinite",
            "nodes": [
                {"name": "M1", "mac": "52:54:00:00:00:01, 52:54:00:00:00:02", "ip": "172.16.0.11", "leaseTime": "12h"},
                {"name": "M2", "mac": "nonsense"},
                {"mac": "52:54:00:00:00:03", "extra": 1}
            ],
            "tags": ["big"],
            "extraOpts": ["dhcp-circuitid=set:x,1"]
        }],
        "tags": {
            "dhcpOptions": {"all": {"option:router": "172.16.0.1", "6": "10.0.0.2,10.0.0.3", "119": "x"}},
            "ltspOptions": {
                "all": {"FSTAB_KUBELET": "tmpfs /var/lib/kubelet tmpfs x-systemd.wanted-by=kubelet.service 0 0"},
                "big": {"DEBUG_SHELL": "1", "MODULE_1": "nvme"}
            },
            "kubernetesLabels": {"all": {}, "big": {"size": "big"}},
            "kubernetesTaints": {"big": [{"key": "size", "value": "big", "effect": "NoSchedule"}]}
        },
        "ltsp": {
            "config": {
                "timezone": "Etc/UTC", "sshAuthorizedKeys": ["ssh-ed25519 AAAA a"], "rootPasswd": "$1$x",
                "sysctls": {"vm.swappiness": 10}, "modules": ["br_netfilter"], "dockerConfig": {"iptables": false},
                "options": {"HOSTS_1": "10.0.0.9 store"}, "sections": {"init/": "touch /x", "pc01": "touch /y"}
            },
            "image": {"tag": "v1"}
        },
        "etcd": {"enabled": true}
    });
    let mut draft = draft();
    draft.add_document("values.yaml", values).unwrap();
    let objects = objects(&draft);
    assert_eq!(
        objects[0]["spec"]["subnets"],
        json!([{"name": "v0", "cidr": "172.16.0.0/24", "gateway": "172.16.0.1"}])
    );
    let farm = &objects[1]["spec"];
    assert_eq!(farm["config"]["dns"]["servers"], json!(["10.0.0.2", "10.0.0.3"]));
    assert_eq!(farm["config"]["sysctls"], json!({"vm.swappiness": "10"}));
    assert_eq!(farm["config"]["hosts"][0]["names"], json!(["store"]));
    let class = &farm["classes"][0];
    assert_eq!(class["selector"], json!({"matchLabels": {"big": "true"}}));
    assert_eq!(class["config"]["kubelet"], json!({"labels": {"size": "big"}, "taints": ["size=big:NoSchedule"]}));
    assert_eq!(objects[2]["metadata"], json!({"name": "m1", "labels": {"big": "true"}}));
    assert_eq!(objects[2]["spec"]["macs"], json!(["52:54:00:00:00:01", "52:54:00:00:00:02"]));
    assert_eq!(objects.len(), 4);
    let expected = [
        "nodePools[0].nodes[0].leaseTime",
        "nodePools[0].nodes[1]",
        "nodePools[0].nodes[1].name",
        "nodePools[0].nodes[2].extra",
        "nodePools[0].extraOpts dhcp-circuitid=set:x,1",
        "tags.dhcpOptions.all.119",
        "tags.ltspOptions.big.DEBUG_SHELL",
        "ltsp.config.rootPasswd",
        "ltsp.config.sections.pc01",
        "ltsp.image.tag",
        "etcd.enabled",
    ];
    assert_eq!(unused(&draft), expected);
}

#[test]
fn objects_of_dnsmasq_controller() {
    let mut draft = draft();
    let hosts = json!({
        "kind": "DhcpHosts", "metadata": {"name": "h"},
        "spec": {"controller": "c", "hosts": [
            {"ip": "10.0.0.11", "macs": ["52:54:00:00:00:01"], "hostname": "m1", "setTags": ["big"], "leaseTime": "1h"},
            {"macs": ["52:54:00:00:00:09"], "ignore": true}
        ]}
    });
    let options = json!({
        "kind": "DhcpOptions", "metadata": {"name": "o"},
        "spec": {"options": [
            {"key": "option:router", "values": ["10.0.0.1"]},
            {"key": "option:dns-server", "values": ["10.0.0.2"], "tags": ["big"]},
            {"key": "67", "values": ["core.0"], "vendor": "PXE"}
        ]}
    });
    let more = json!({
        "kind": "DnsmasqOptions", "metadata": {"name": "d"},
        "spec": {"options": [
            {"key": "dhcp-range", "values": ["10.0.0.100", "10.0.0.199", "255.255.255.0"]},
            {"key": "domain", "values": ["lab.internal"]},
            {"key": "conf-file", "values": ["/x"]}
        ]}
    });
    let names = json!({"kind": "DnsHosts", "metadata": {"name": "n"}, "spec": {"hosts": [{"ip": "10.0.0.5", "hostnames": ["store"]}]}});
    for document in [hosts, options, more, names] {
        draft.add_document("objects.yaml", document).unwrap();
    }
    let objects = objects(&draft);
    let subnet =
        json!([{"name": "v0", "cidr": "10.0.0.0/24", "gateway": "10.0.0.1", "pools": ["10.0.0.100-10.0.0.199"]}]);
    assert_eq!(objects[0]["spec"]["subnets"], subnet);
    assert_eq!(objects[0]["spec"]["dns"], json!({"domain": "lab.internal"}));
    assert_eq!(objects[1]["spec"]["classes"][0]["config"]["dns"]["servers"], json!(["10.0.0.2"]));
    assert_eq!(objects[2]["spec"]["address"], "10.0.0.11");
    let expected = [
        "DhcpHosts h: controller",
        "DhcpHosts h: hosts[0].leaseTime",
        "DhcpHosts h: hosts[1].ignore",
        "DhcpOptions o: options[2] 67",
        "DhcpOptions o: options[2].vendor",
        "DnsmasqOptions d: options[2] conf-file",
    ];
    assert_eq!(unused(&draft), expected);
}

#[test]
fn groups_and_profiles_of_matchbox() {
    let mut draft = draft();
    let group = json!({
        "id": "node1", "name": "k8s node", "profile": "worker", "selector": {"mac": "52:54:00:00:00:01", "os": "installed"},
        "metadata": {"domain_name": "x"}
    });
    let profile = json!({
        "id": "worker", "name": "worker", "ignition_id": "worker.ign",
        "boot": {"kernel": "/a/vmlinuz", "initrd": ["/a/initrd"], "args": ["initrd=main", "console=ttyS0", "coreos.first_boot=yes"]}
    });
    draft.add_document("group.json", group).unwrap();
    draft.add_document("profile.json", profile).unwrap();
    let objects = objects(&draft);
    assert_eq!(objects[0]["spec"]["classes"][0]["config"]["kernelArguments"], json!(["console=ttyS0"]));
    assert_eq!(objects[1]["metadata"], json!({"name": "k8s-node", "labels": {"worker": "true"}}));
    let expected = [
        "group node1: selector.os",
        "group node1: metadata.domain_name",
        "profile worker: boot.args initrd=main",
        "profile worker: boot.args coreos.first_boot=yes",
        "profile worker: boot.kernel",
        "profile worker: boot.initrd",
        "profile worker: ignition_id",
    ];
    assert_eq!(unused(&draft), expected);
}

#[test]
fn what_a_file_is() {
    for (name, text, format) in [
        ("a/lts.conf", "", Format::LtsConf),
        ("x", "# c\n[Default]\n", Format::LtsConf),
        ("ltsp.conf", "[default]\n", Format::LtspConf),
        ("x.conf", "[common]\n", Format::LtspConf),
        ("x.yaml", "[default]\n", Format::Documents),
        ("x", "{}", Format::Documents),
    ] {
        assert_eq!(Format::guess(name, text), format, "{name}");
    }
}

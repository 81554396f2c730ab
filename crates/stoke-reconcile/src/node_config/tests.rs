use super::*;
use std::fmt::Write as _;
use std::path::Path;
use stoke_api::load::load_text;

const BASE: &str = "apiVersion: stokehold.dev/v1alpha1
kind: Image
metadata: {name: node}
spec: {source: {debian: {suite: bookworm}}, forms: {netboot: {}}}
---
apiVersion: stokehold.dev/v1alpha1
kind: Lan
metadata: {name: lab}
spec: {subnets: [{name: v4, cidr: 10.10.0.0/24}], dns: {domain: lab.internal}}
---
";

fn objects(farm: &str, servers: &[(&str, &str, &str)]) -> Vec<AnyObject> {
    let mut text = format!(
        "{BASE}apiVersion: stokehold.dev/v1alpha1\nkind: Farm\nmetadata: {{name: lab}}\nspec:\n  lan: lab\n  image: node\n{farm}"
    );
    for (index, (name, labels, config)) in servers.iter().enumerate() {
        let _ = write!(
            text,
            "---\napiVersion: stokehold.dev/v1alpha1\nkind: Server\nmetadata: {{name: {name}, labels: {labels}}}\n\
             spec:\n  farm: {{namespace: default, name: lab}}\n  macs: ['52:54:00:00:00:{index:02}']\n  config: {config}\n"
        );
    }
    let loaded = load_text(Path::new("test.yaml"), &text).unwrap();
    loaded.objects.into_iter().map(|(object, _)| object).collect()
}

fn server(name: &str) -> ObjectRef {
    ObjectRef { kind: Kind::Server, namespace: None, name: name.parse().unwrap() }
}

fn from(explained: &Explained, path: &str) -> String {
    let origin = explained.merged.origins.get(path).unwrap_or_else(|| panic!("{path}"));
    format!("{} {}", origin.source.name, origin.whole_field())
}

fn problems(objects: &[AnyObject]) -> Vec<String> {
    crate::check(objects).into_iter().map(|(object, p)| format!("{object} {}: {}", p.field, p.message)).collect()
}

const CLASSES: &str = "  config: {timezone: Europe/Berlin, ntp: [10.10.0.3]}
  classes:
  - name: storage
    selector: {matchLabels: {role: storage}}
    config: {ntp: [10.10.0.4], sysctls: {vm.swappiness: '10'}, mounts: [{path: /srv, device: LABEL=data}]}
  - name: large
    selector: {inventory: {minMemory: 64Gi}}
    config: {sysctls: {vm.swappiness: '1'}, kernelArguments: [hugepages=64]}
";

#[test]
fn each_value_is_from_the_narrowest_scope_that_says_it() {
    let objects = objects(CLASSES, &[("a", "{role: storage}", "{ntp: [10.10.0.9]}"), ("b", "{}", "{}")]);
    let a = explain(&objects, &server("a")).unwrap();
    assert_eq!(from(&a, "hostname"), "default hostname");
    assert_eq!(from(&a, "dns.search"), "lan/lab spec.dns.domain.dns.search");
    assert_eq!(from(&a, "timezone"), "farm/lab spec.config.timezone");
    assert_eq!(from(&a, "ntp"), "server/a spec.config.ntp");
    assert_eq!(from(&a, "mounts[/srv]"), "class storage of farm/lab spec.classes[0].config.mounts[0]");
    let over: Vec<_> = a.merged.origins["ntp"].over.iter().map(|source| source.name.as_str()).collect();
    assert_eq!(over, ["farm/lab", "class storage of farm/lab"]);
    assert_eq!((a.classes.as_slice(), a.undecided.len()), (&["class storage of farm/lab".to_owned()][..], 1));
    let b = explain(&objects, &server("b")).unwrap();
    assert!(b.classes.is_empty() && !b.merged.origins.contains_key("mounts[/srv]"));
    assert!(explain(&objects, &server("c")).is_none());
}

#[test]
fn what_the_machine_is_decides_when_it_is_known() {
    let mut objects = objects(CLASSES, &[("a", "{role: storage}", "{}")]);
    for object in &mut objects {
        if let AnyObject::Server(server) = object {
            let inventory = Inventory { memory: stoke_api::Bytes(128 << 30), ..Inventory::default() };
            server.status.node = Some(NodeState { inventory: Some(inventory), ..NodeState::default() });
        }
    }
    let a = explain(&objects, &server("a")).unwrap();
    assert_eq!(a.merged.config.sysctls["vm.swappiness"], "1");
    assert_eq!(
        from(&a, "sysctls[vm.swappiness]"),
        "class large of farm/lab spec.classes[1].config.sysctls.vm.swappiness"
    );
    assert_eq!((a.classes.len(), a.undecided.len()), (2, 0));
}

#[test]
fn classes_that_exclude_each_other_are_refused_and_both_are_named() {
    let farm = "  classes:
  - {name: one, selector: {matchLabels: {a: x}}, config: {mounts: [{path: /a, device: LABEL=data}]}}
  - {name: two, selector: {matchLabels: {b: x}}, config: {mounts: [{path: /b, device: LABEL=data}]}}
";
    assert_eq!(problems(&objects(farm, &[("s", "{a: x}", "{}"), ("t", "{b: x}", "{}")])), [""; 0]);
    let one = problems(&objects(farm, &[("s", "{a: x, b: x}", "{}")]));
    let wanted = "farm/lab spec.classes[1].config.mounts[0]: LABEL=data is mounted at /b and at /a (the other is mounts[0] \
                  of class one of farm/lab), for server/s";
    assert_eq!(one, [wanted]);
    let many = problems(&objects(farm, &[("s", "{a: x, b: x}", "{}"), ("t", "{a: x, b: x}", "{}")]));
    assert_eq!(many.len(), 1, "{many:?}");
    assert!(many[0].ends_with("for server/s and 1 more"), "{many:?}");
}

#[test]
fn a_server_that_disagrees_with_its_farm_is_at_fault_itself() {
    let farm = "  config: {interfaces: [{interface: bond0, bond: {members: [eth1]}}]}\n";
    let server = "{interfaces: [{interface: br0, bridge: {members: [eth1]}}]}";
    let found = problems(&objects(farm, &[("s", "{}", server), ("t", "{}", "{}")]));
    let wanted = "server/s spec.config.interfaces[0]: eth1 is a part of bond0 and of br0 (the other is interfaces[0] of farm/lab)";
    assert_eq!(found, [wanted]);
}

#[test]
fn a_farm_is_told_the_scopes_only_if_machines_decide() {
    let spec = |objects: &[AnyObject]| {
        objects
            .iter()
            .find_map(|object| match object {
                AnyObject::Farm(farm) => Some(farm.spec.clone()),
                _ => None,
            })
            .unwrap()
    };
    let (name, own) = (server("a"), NodeConfig::default());
    let farm = ObjectRef { kind: Kind::Farm, namespace: None, name: "lab".parse().unwrap() };
    let labels = BTreeMap::from([("role".to_owned(), "storage".to_owned())]);
    let node = Node { name: &name, labels: &labels, own: &own, inventory: None };
    let by_machine = spec(&objects(CLASSES, &[]));
    assert_eq!(undecided(scopes(&farm, &by_machine, node, None)).len(), 4);
    assert_eq!(classes_of_strangers(&farm, &by_machine).len(), 1);
    let by_label = spec(&objects("  config: {timezone: Etc/UTC}\n", &[]));
    assert!(undecided(scopes(&farm, &by_label, node, None)).is_empty());
}

use std::fmt::Write;
use std::fs;

use proptest::prelude::*;

use super::*;

const GOOD: &str = r"
apiVersion: stokehold.dev/v1alpha1
kind: Lan
metadata: {name: lab}
spec:
  subnets:
  - {name: v4, cidr: 10.10.0.0/24, pools: [10.10.0.100-10.10.0.199]}
---
apiVersion: stokehold.dev/v1alpha1
kind: Machine
metadata:
  name: node-1
  labels: {role: storage}
spec:
  farm: lab
  vm: {cpus: 2, memory: 1Gi, firmware: {uefi: {}}}
  nics:
  - name: lab
    lan: lab
    mac: 52:54:00:00:00:01
";

fn findings(text: &str) -> String {
    let lines = load_text(Path::new("lab.yaml"), text).expect_err("something is wrong");
    lines.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")
}

/// The header of an object, so that a case is what is wrong with it.
fn object(kind: &str, rest: &str) -> String {
    format!("apiVersion: {API_VERSION}\nkind: {kind}\nmetadata: {{name: lab}}\n{rest}")
}

#[test]
fn a_prefix_of_ipv6_is_one() {
    let lan =
        |prefix: &str| GOOD.replace("spec:\n  subnets", &format!("spec:\n  ipv6: {{prefix: \"{prefix}\"}}\n  subnets"));
    load_text(Path::new("lab.yaml"), &lan("fd00:10::/64")).expect("nothing is wrong");
    let found = findings(&lan("10.10.0.0/24"));
    assert!(found.contains("\"10.10.0.0/24\" is not an IPv6 network such as fd00:10::/64"), "{found}");
}

#[test]
fn objects_and_the_places_of_their_fields() {
    let loaded = load_text(Path::new("lab.yaml"), GOOD).unwrap();
    let names: Vec<_> = loaded.objects.iter().map(|(object, _)| object.reference().to_string()).collect();
    assert_eq!(names, ["lan/lab", "machine/node-1"]);
    let (_, positions) = &loaded.objects[1];
    let places = ["spec.vm.memory", "spec.nics[0].mac", "spec.nics[0].address", "spec.vm", "metadata.labels.role"];
    let lines = places.map(|field| positions.find(field).map(|at| (at.line, at.column)).unwrap());
    assert_eq!(lines, [(16, 25), (20, 10), (18, 5), (16, 3), (13, 18)]);
}

#[test]
fn a_file_in_json_is_read_too() {
    let text = format!(
        "{{\n\t\"apiVersion\": \"{API_VERSION}\", \"kind\": \"Server\",\n\t\"metadata\": {{\"name\": \"a\"}},\n\t\"spec\": \
         {{\"farm\": {{\"namespace\": \"default\", \"name\": \"lab\"}}, \"macs\": [\"52:54:00:00:00:07\"]}}\n}}\n"
    );
    assert_eq!(load_text(Path::new("a.json"), &text).unwrap().objects.len(), 1);
}

#[test]
fn an_alias_is_what_it_stands_for() {
    let lan = "spec:\n  subnets:\n  - {name: &n v4, cidr: 10.0.0.0/24}\n  dns: {domain: *n}\n";
    let loaded = load_text(Path::new("lab.yaml"), &object("Lan", lan)).unwrap();
    let AnyObject::Lan(lan) = &loaded.objects[0].0 else { panic!("a Lan") };
    assert_eq!(lan.spec.dns.domain.as_deref(), Some("v4"));
}

#[test]
fn everything_is_reported_at_once() {
    let text = "apiVersion: stokehold.dev/v1alpha1\nkind: Machine\nmetadata: {name: Node_1}\nspec:\n  memory: 1Gi\n  vm:\n    \
                cpus: many\n    firmware: {efi: {}}\n  nic: []\n---\nkind: Machin\nmetadata: {name: b}\nspec: {}\n";
    insta::assert_snapshot!(findings(text), @r#"
    lab.yaml:3:18: metadata.name: "Node_1" is not a name: 1 to 63 of a-z, 0-9 and -, with a letter or digit at both ends
    lab.yaml:5:3: spec: unknown field "memory"; it belongs to spec.vm
    lab.yaml:7:11: spec.vm.cpus: "many" is not a whole number
    lab.yaml:8:16: spec.vm.firmware: unknown field "efi"; did you mean "uefi"?
    lab.yaml:9:3: spec: unknown field "nic"; did you mean "nics"?
    lab.yaml:11:1: apiVersion: is required; write apiVersion: stokehold.dev/v1alpha1
    lab.yaml:11:7: kind: "Machin" is no kind of object; did you mean "Machine"?
    "#);
}

#[test]
fn an_unknown_field_hides_nothing_else() {
    let lan = object(
        "Lan",
        "spec:\n  subnets: [{name: a, cidr: 10.0.0.0/24}, {name: b, cidr: 10.0.0.128/25}]\n  egres: None\nstatus: {}\n",
    );
    insta::assert_snapshot!(findings(&lan), @r#"
    lab.yaml:5:59: spec.subnets[1].cidr: 10.0.0.128/25 overlaps 10.0.0.0/24 of subnet "a"
    lab.yaml:6:3: spec: unknown field "egres"; did you mean "egress"?
    lab.yaml:7:1: status: is written by Stokehold; leave it out of files
    "#);
    // What only follows from the misspelt name is not told.
    let image = object("Image", "spec:\n  source: {debain: {suite: bookworm}}\n  forms: {netboots: {}}\n");
    insta::assert_snapshot!(findings(&image), @r#"
    lab.yaml:5:12: spec.source: unknown field "debain"; did you mean "debian"?
    lab.yaml:6:11: spec.forms: unknown field "netboots"; did you mean "netboot"?
    "#);
}

#[test]
fn what_people_get_wrong() {
    let subnet = "{name: v4, cidr: 10.0.0.0/24}";
    let lan = |rest: &str| object("Lan", rest);
    let machine = |spec: &str| object("Machine", &format!("spec: {spec}\n"));
    let cases = [
        ("malformed: a bracket that is never closed", lan("spec: {subnets: [\n")),
        ("malformed: indented with a tab", lan("spec:\n\tsubnets: []\n")),
        ("malformed: a key without a value on its line", lan("spec:\n  subnets: []\n  dhcp\n  mtu: 1500\n")),
        ("no object", "just some text\n".to_owned()),
        ("no object: a list", "- a\n- b\n".to_owned()),
        ("another API", object("Lan", "spec: {}\n").replace("v1alpha1", "v1")),
        ("an object of Kubernetes", "apiVersion: v1\nkind: Pod\nmetadata: {name: a}\n".to_owned()),
        ("no spec", lan("")),
        ("an empty spec", lan("spec:\n")),
        ("written twice", lan(&format!("spec:\n  subnets: [{subnet}]\n  mtu: 1500\n  mtu: 9000\n"))),
        ("a merge key", lan(&format!("spec:\n  <<: {{mtu: 1500}}\n  subnets: [{subnet}]\n"))),
        ("a tag", lan(&format!("spec:\n  mtu: !bytes 1500\n  subnets: [{subnet}]\n"))),
        ("a status", lan(&format!("spec: {{subnets: [{subnet}]}}\nstatus: {{leases: 1}}\n"))),
        ("what the store writes", machine("{}").replace("{name: lab}", "{name: lab, uid: abc}")),
        ("a list that is no list", lan("spec: {subnets: v4}\n")),
        ("a map that is a list", lan(&format!("spec: {{subnets: [{subnet}], dhcp: [Off]}}\n"))),
        ("a word that is no choice", lan(&format!("spec: {{subnets: [{subnet}], egress: Masquerad}}\n"))),
        ("a boolean for a choice", lan(&format!("spec: {{subnets: [{subnet}], dhcp: {{mode: off}}}}\n"))),
        ("out of range", lan(&format!("spec: {{subnets: [{subnet}], mtu: 70000}}\n"))),
        ("a number in quotes", lan(&format!("spec: {{subnets: [{subnet}], mtu: \"1500\"}}\n"))),
        ("no network", lan("spec: {subnets: [{name: v4, cidr: 10.10.0.0/240, gateway: 10.10.0}]}\n")),
        ("no range", lan("spec: {subnets: [{name: v4, cidr: 10.0.0.0/24, pools: [10.0.0.9, 10.0.0.9-10.0.0.8]}]}\n")),
        ("host bits and no room", lan("spec: {subnets: [{name: v4, cidr: 10.0.0.9/31}]}\n")),
        ("overlapping subnets", lan(&format!("spec: {{subnets: [{subnet}, {{name: b, cidr: 10.0.0.128/25}}]}}\n"))),
        ("a pool outside", lan("spec: {subnets: [{name: v4, cidr: 10.0.0.0/24, pools: [10.1.0.5-10.1.0.9]}]}\n")),
        ("a label that is a number", machine("{vm: {}}").replace("{name: lab}", "{name: lab, labels: {rack: 7}}")),
        ("no machine", machine("{}")),
        ("no text where text is wanted", machine("{vm: {memory: 1024}, farm: lab}")),
        ("no amount", machine("{vm: {memory: 1 GB}, farm: lab}")),
        ("no MAC", machine("{vm: {}, farm: lab, nics: [{name: a, lan: lab, mac: 52:54:00}]}")),
        ("a group's MAC", machine("{vm: {}, farm: lab, nics: [{name: a, lan: lab, mac: 01:00:5e:00:00:01}]}")),
        ("a NIC without LAN", machine("{vm: {}, farm: lab, nics: [{name: a}]}")),
        ("bios without a value", machine("{vm: {firmware: {bios: }}, farm: lab, nics: [{name: a, lan: lab}]}")),
        ("two firmwares", machine("{vm: {firmware: {bios: {}, uefi: {}}}, farm: lab, nics: [{name: a, lan: lab}]}")),
        (
            "a server in a namespace",
            object("Server", "spec: {farm: {namespace: default, name: lab}, macs: [\"52:54:00:00:00:07\"]}\n")
                .replace("{name: lab}\n", "{name: a, namespace: b}\n"),
        ),
        (
            "a secret in the place of a public key",
            object(
                "Farm",
                "spec: {lan: a, image: b, config: {users: [{name: r, sshAuthorizedKeys: [\"-----BEGIN PRIVATE KEY-----\"]}]}}\n",
            ),
        ),
        ("an image of nothing", object("Image", "spec: {source: {}, forms: {}}\n")),
        (
            "a package with a space",
            object("Image", "spec: {source: {debian: {suite: bookworm, packages: [a b]}}, forms: {netboot: {}}}\n"),
        ),
        (
            "a mode without quotes",
            object(
                "Image",
                "spec: {source: {debian: {suite: bookworm, files: [{path: /etc/motd, content: hi, mode: 0644}]}}, forms: {netboot: {}}}\n",
            ),
        ),
    ];
    let told = cases.map(|(what, text)| format!("# {what}\n{}\n", findings(&text))).join("\n");
    insta::assert_snapshot!("what_people_get_wrong", told);
}

#[test]
fn an_object_in_two_files() {
    let folder = tempfile::tempdir().unwrap();
    let name = |name: &str| folder.path().join(name);
    fs::write(name("b.yaml"), GOOD).unwrap();
    fs::write(name("a.yml"), GOOD.split("---").next().unwrap()).unwrap();
    fs::write(name("notes.txt"), "not read").unwrap();
    let told: Vec<_> = load(&[folder.path().to_owned()]).unwrap_err().iter().map(ToString::to_string).collect();
    let expected = format!(
        "{}:4:18: metadata.name: lan/lab is described twice, first in {}:4; rename or remove one",
        name("b.yaml").display(),
        name("a.yml").display()
    );
    assert_eq!(told, [expected]);
    assert_eq!(load(&[name("b.yaml"), name("b.yaml")]).unwrap().len(), 1);
}

#[test]
fn files_that_cannot_be_read() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("binary.yaml"), [0xff, 0xfe]).unwrap();
    fs::write(folder.path().join("huge.yaml"), vec![b'#'; (4 << 20) + 1]).unwrap();
    fs::create_dir(folder.path().join("empty")).unwrap();
    let paths = ["binary.yaml", "huge.yaml", "empty", "missing.yaml"].map(|name| folder.path().join(name));
    let told: Vec<_> = load(&paths).unwrap_err().iter().map(|finding| finding.message.clone()).collect();
    let expected = [
        "this folder has no file of objects",
        "there is no such file or folder",
        "is not UTF-8 text",
        "is larger than 4 MiB",
    ];
    assert_eq!(told, expected);
}

#[test]
fn a_problem_found_later_has_its_place() {
    let loaded = load_text(Path::new("lab.yaml"), GOOD).unwrap();
    let object = loaded.objects[1].0.reference();
    let problem =
        ObjectProblem { object, field: "spec.farm".to_owned(), message: "no farm is called \"lab\"".to_owned() };
    let finding = locate(std::slice::from_ref(&loaded), &problem).unwrap();
    assert_eq!(finding.to_string(), "lab.yaml:15:9: spec.farm: no farm is called \"lab\"");
}

#[test]
fn aliases_of_aliases_do_not_eat_the_memory() {
    let mut text = "a: &a [x,x,x,x,x,x,x,x,x,x]\n".to_owned();
    for (this, before) in "bcdefghij".chars().zip("abcdefghi".chars()) {
        let aliases = vec![format!("*{before}"); 10].join(",");
        writeln!(text, "{this}: &{this} [{aliases}]").unwrap();
    }
    assert!(findings(&text).contains("this file holds too much"));
}

#[test]
fn depth_is_bounded() {
    for text in ["[".repeat(100_000), format!("{}a", "- ".repeat(100_000)), "{a: ".repeat(100_000)] {
        assert!(findings(&text).contains("nested more than 64 levels deep"));
    }
    assert!(findings("a: &a [*a]\n").contains("contains it"));
}

#[test]
fn a_file_without_objects_is_no_error() {
    assert_eq!(load_text(Path::new("a.yaml"), "# nothing yet\n---\n").unwrap().objects, []);
}

proptest! {
    #[test]
    fn no_text_panics(text in "\\PC{0,200}") {
        let _ = load_text(Path::new("a.yaml"), &text);
    }

    #[test]
    fn no_text_of_yaml_panics(text in "([a-z]{1,3}|[-:{}\\[\\],&*!|>'\"%@`#?~<\\n\\t ]|  ){0,80}") {
        let _ = load_text(Path::new("a.yaml"), &text);
    }

    #[test]
    fn no_damage_to_a_good_file_panics(at in 0..GOOD.len(), length in 0..40_usize, put in "[-:{}\\[\\]a0~\\n ]{0,6}") {
        let text = format!("{}{put}{}", &GOOD[..at], &GOOD[(at + length).min(GOOD.len())..]);
        let _ = load_text(Path::new("a.yaml"), &text);
    }

    #[test]
    fn what_is_loaded_can_be_written_and_loaded_again(cpus in 1..255_u32, memory in 64..4096_u32) {
        let text = GOOD.replace("cpus: 2, memory: 1Gi", &format!("cpus: {cpus}, memory: {memory}Mi"));
        let loaded = load_text(Path::new("a.yaml"), &text).unwrap();
        for (object, _) in loaded.objects {
            let mut json = serde_json::to_value(&object).unwrap();
            let map = json.as_object_mut().unwrap();
            map.remove("status");
            map.insert("apiVersion".to_owned(), Value::String(API_VERSION.to_owned()));
            let again = load_text(Path::new("a.json"), &json.to_string());
            prop_assert_eq!(&again.unwrap().objects[0].0, &object);
        }
    }
}

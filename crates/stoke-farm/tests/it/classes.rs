//! What machines get that depends on what they are, and on how old their image is.

use stoke_api::node::{Hello, Manifest};
use stoke_api::objects::{InventorySelector, NodeConfig, UnknownClients};
use stoke_api::workload::ConfigScope;
use stoke_api::{Bytes, MacAddr};

use crate::bed::{Bed, MAC, must};
use crate::nodes::{hello, post};

fn config(text: &str) -> NodeConfig {
    serde_json::from_str(text).unwrap()
}

fn scope(text: &str, least: Option<u64>) -> ConfigScope {
    let inventory = InventorySelector { min_memory: least.map(Bytes), ..InventorySelector::default() };
    ConfigScope { config: config(text), inventory }
}

/// The configuration that a machine with so much memory gets.
fn given(bed: &Bed, mac: MacAddr, memory: u64, config_generation: u32) -> NodeConfig {
    let hello = Hello { memory, config_generation, ..hello(bed, mac) };
    let (text, status) = post(bed, "/v1/node/hello", &hello);
    assert_eq!(status, "200", "{text}");
    serde_json::from_str::<Manifest>(&text).unwrap().config
}

#[test]
fn a_machine_is_in_the_classes_that_it_is_large_enough_for() {
    let mut bed = Bed::new();
    bed.config.nodes[0].scopes = vec![
        scope(r#"{"hostname":"rack1-07","sysctls":{"a":"1"}}"#, None),
        scope(r#"{"sysctls":{"a":"2","b":"2"}}"#, Some(8 << 30)),
        scope(r#"{"sysctls":{"b":"3"}}"#, None),
    ];
    bed.config.unknown_clients = UnknownClients::Boot;
    bed.config.config = config(r#"{"sysctls":{"a":"0"}}"#);
    bed.config.scopes = vec![scope(r#"{"sysctls":{"c":"9"}}"#, Some(8 << 30))];
    bed.reload();
    let sysctls = |mac, memory| {
        let given = given(&bed, mac, memory, NodeConfig::GENERATION);
        given.sysctls.iter().map(|(name, value)| format!("{name}={value}")).collect::<Vec<_>>().join(" ")
    };
    assert_eq!(sysctls(MAC, 1 << 30), "a=1 b=3");
    assert_eq!(sysctls(MAC, 16 << 30), "a=2 b=3");
    let stranger = MacAddr([0x52, 0x54, 0, 0, 0, 0x99]);
    assert_eq!(sysctls(stranger, 1 << 30), "a=0");
    assert_eq!(sysctls(stranger, 16 << 30), "a=0 c=9");
    let report = bed.report();
    let inventory = report.nodes.iter().find(|node| node.mac == MAC).and_then(|node| node.state.inventory.clone());
    assert_eq!(inventory.map(|machine| (machine.memory, machine.product)), Some((Bytes(16 << 30), "test".to_owned())));
}

#[test]
fn an_old_image_gets_what_it_can_read_and_says_what_it_lacks() {
    let mut bed = Bed::new();
    bed.config.nodes[0].config = config(r#"{"hostname":"rack1-07","timezone":"Europe/Berlin","sysctls":{"a":"1"}}"#);
    bed.reload();
    let old = given(&bed, MAC, 1 << 30, 0);
    assert_eq!(old, config(r#"{"hostname":"rack1-07","timezone":"Europe/Berlin"}"#));
    let remarks = bed.report().nodes[0].state.remarks.clone();
    assert_eq!(remarks, ["its image is too old for sysctls: build it anew"]);
    assert_eq!(given(&bed, MAC, 1 << 30, NodeConfig::GENERATION).sysctls.len(), 1);
    assert!(bed.report().nodes[0].state.remarks.is_empty());
}

#[test]
fn loaders_get_the_kernel_arguments_of_the_machine() {
    let mut bed = Bed::new();
    bed.config.nodes[0].config.kernel_arguments = vec!["isolcpus=1".into()];
    bed.reload();
    let script = must("curl", &["-sS", "-f", &bed.http("/v1/boot.ipxe?mac=52:54:00:00:00:07")]);
    let kernel = script.lines().find(|line| line.starts_with("kernel ")).unwrap();
    assert!(kernel.contains(" isolcpus=1 "), "{script}");
}

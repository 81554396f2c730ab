//! What clients are given by our router, by Kea and by dnsmasq that are told the same: whatever differs is a row of
//! `docs/src/reference/dhcp-differences.md`, with its reason.

mod clients;
mod names;
mod servers;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use testbed::peers::Peers;

use crate::world::World;
use servers::Side;

/// What a client was given, by the names that [`names`] gives.
type Given = BTreeMap<String, String>;

/// What all clients were given.
type Answers = BTreeMap<&'static str, Given>;

/// Something that no server said.
const NOTHING: &str = "–";

/// All clients, one after the other, against one server.
fn ask_all(peers: &Peers, side: Side) -> Answers {
    let world = World::new();
    let _server = side.start(peers, &world);
    clients::run_all(peers, &world).into_iter().map(|(client, given)| (client, names::common(given))).collect()
}

/// A row of the page: what it is about, what each server said, and to whom.
type Row = [String; 5];

/// Whatever one client is told otherwise by one of the servers, the same of several clients in one row.
fn differences(all: &[Answers; 3]) -> BTreeSet<Row> {
    let mut found: BTreeMap<[String; 4], Vec<&str>> = BTreeMap::new();
    for client in all[0].keys() {
        let given = all.each_ref().map(|answers| &answers[client]);
        let said = |what: &str| given.map(|given| given.get(what).map_or(NOTHING, String::as_str).to_owned());
        let differs = |[ours, kea, dnsmasq]: &[String; 3]| ours != kea || ours != dnsmasq;
        let names: BTreeSet<_> = given.iter().flat_map(|given| given.keys()).collect();
        // Of an answer that one of them does not give, nothing else can be compared.
        let silent = differs(&said(names::ANSWER));
        for what in names.into_iter().filter(|what| !silent || *what == names::ANSWER) {
            let values = said(what);
            if differs(&values) {
                let [ours, kea, dnsmasq] = values;
                found.entry([what.clone(), ours, kea, dnsmasq]).or_default().push(client);
            }
        }
    }
    let row = |([what, ours, kea, dnsmasq], clients): ([String; 4], Vec<&str>)| {
        [what, ours, kea, dnsmasq, clients.join("; ")]
    };
    found.into_iter().map(row).collect()
}

fn page() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/src/reference/dhcp-differences.md")
}

/// Rows of the page's tables that have a reason.
fn documented() -> BTreeMap<Row, String> {
    let text = std::fs::read_to_string(page()).unwrap();
    let mut found = BTreeMap::new();
    for line in text.lines().filter(|line| line.starts_with("| ") && !line.starts_with("| what ")) {
        let cells: Vec<_> = line.trim_matches('|').split('|').map(|cell| cell.trim().replace('`', "")).collect();
        let [row @ .., why] = cells.as_slice() else { panic!("an empty row") };
        let row = Row::try_from(row.to_vec()).unwrap_or_else(|row| panic!("not six cells: {row:?}"));
        assert!(why.len() > 10, "no reason: {line}");
        found.insert(row, why.clone());
    }
    found
}

fn shown(row: &Row, why: &str) -> String {
    let quote = |cell: &String| if cell == NOTHING { cell.clone() } else { format!("`{cell}`") };
    let [what, ours, kea, dnsmasq, clients] = row;
    let values = [ours, kea, dnsmasq].map(quote).join(" | ");
    format!("| {what} | {values} | {clients} | {why} |\n")
}

#[test]
fn what_differs_from_kea_and_dnsmasq_has_its_reason_in_the_documentation() {
    let peers = &Peers::in_cache(&testbed::cache()).unwrap();
    let all = std::thread::scope(|scope| {
        let sides = [Side::Ours, Side::Kea, Side::Dnsmasq].map(|side| scope.spawn(move || ask_all(peers, side)));
        sides.map(|side| side.join().unwrap())
    });
    clients::expect_enough(&all[0]);
    let (found, documented) = (differences(&all), documented());
    let rows: String = found.iter().map(|row| shown(row, documented.get(row).map_or("?", String::as_str))).collect();
    let unexplained: Vec<_> = found.iter().filter(|row| !documented.contains_key(*row)).collect();
    let gone: Vec<_> = documented.keys().filter(|row| !found.contains(*row)).collect();
    assert!(
        unexplained.is_empty() && gone.is_empty(),
        "without a reason: {unexplained:#?}\nno longer so: {gone:#?}\nthe page's rows should be:\n{rows}\nanswers: {all:#?}"
    );
}

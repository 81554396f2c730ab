//! What the role counts is what its page in the documentation says.

use std::collections::BTreeSet;
use std::path::Path;

use crate::bed::Bed;

/// Rows of the page for metrics of this prefix: name, type, help.
fn documented() -> BTreeSet<String> {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/src/reference/metrics.md");
    let text = std::fs::read_to_string(page).unwrap();
    text.lines().filter(|line| line.starts_with("| `stoke_farm_")).map(str::to_owned).collect()
}

/// The same rows, as a scrape says them.
fn scraped(text: &str) -> BTreeSet<String> {
    let of = |word: &str, name: &str| {
        let start = format!("# {word} {name} ");
        text.lines().find_map(|line| line.strip_prefix(&start)).unwrap_or_default().to_owned()
    };
    let names =
        text.lines().filter_map(|line| line.strip_prefix("# TYPE ")).map(|line| line.split(' ').next().unwrap());
    let row = |name: &str| {
        let kind = of("TYPE", name);
        // OpenMetrics: a counter's sample has this at its end, its name has not.
        let total = if kind == "counter" { "_total" } else { "" };
        format!("| `{name}{total}` | {kind} | {} |", of("HELP", name).trim_end_matches('.'))
    };
    names.map(row).collect()
}

#[test]
fn metrics_are_documented_and_the_documented_are_there() {
    let bed = Bed::new();
    let (status, text) = bed.try_admin("GET", "/metrics").unwrap();
    assert_eq!(status, 200);
    let scraped = scraped(&text);
    assert_eq!(scraped, documented(), "the rows of docs/src/reference/metrics.md should be:\n{}\n", rows(&scraped));
    for row in &scraped {
        let cells: Vec<_> = row.split('|').map(str::trim).collect();
        assert!(cells[3].len() > 10, "no help: {row}");
        let lasts = cells[2] == "histogram";
        assert!(!lasts || cells[1].ends_with("_seconds`"), "no unit: {row}");
    }
    assert!(text.ends_with("# EOF\n"));
}

fn rows(rows: &BTreeSet<String>) -> String {
    rows.iter().cloned().collect::<Vec<_>>().join("\n")
}

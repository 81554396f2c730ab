//! What a role counts beside what its page in the documentation says.

use std::collections::BTreeSet;
use std::path::Path;

/// Rows of the documentation's page for metrics that begin with this: name, type, help.
pub fn documented(prefix: &str) -> BTreeSet<String> {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/src/reference/metrics.md");
    let text = fs_err::read_to_string(page).unwrap_or_default();
    let start = format!("| `{prefix}");
    text.lines().filter(|line| line.starts_with(&start)).map(str::to_owned).collect()
}

/// The same rows, as a scrape says them.
pub fn scraped(text: &str) -> BTreeSet<String> {
    let of = |word: &str, name: &str| {
        let start = format!("# {word} {name} ");
        text.lines().find_map(|line| line.strip_prefix(&start)).unwrap_or_default().to_owned()
    };
    let types = text.lines().filter_map(|line| line.strip_prefix("# TYPE "));
    let row = |name: &str| {
        let kind = of("TYPE", name);
        // OpenMetrics: a counter's sample has this at its end, its name has not.
        let total = if kind == "counter" { "_total" } else { "" };
        format!("| `{name}{total}` | {kind} | {} |", of("HELP", name).trim_end_matches('.'))
    };
    types.filter_map(|line| line.split(' ').next()).map(row).collect()
}

/// What is wrong with rows: no help, or a time without its unit.
pub fn faults(rows: &BTreeSet<String>) -> Vec<&String> {
    let faulty = |row: &&String| {
        let cells: Vec<_> = row.split('|').map(str::trim).collect();
        match cells.get(1..4) {
            Some([name, kind, help]) => help.len() <= 10 || (*kind == "histogram" && !name.ends_with("_seconds`")),
            _ => true,
        }
    };
    rows.iter().filter(faulty).collect()
}

/// The rows as the page has them.
pub fn page(rows: &BTreeSet<String>) -> String {
    rows.iter().cloned().collect::<Vec<_>>().join("\n")
}

//! One measured quantity, ours and theirs.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use serde::Serialize;

/// Which way is better.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Better {
    /// Less is.
    Lower,
}

/// A quantity, ours beside the peers'.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Row {
    /// The benchmark.
    pub(crate) bench: String,
    /// The quantity.
    pub(crate) metric: String,
    /// Its unit.
    pub(crate) unit: String,
    /// Which way is better.
    pub(crate) better: Better,
    /// Ours: the median.
    pub(crate) ours: f64,
    /// Theirs: medians by name.
    pub(crate) peers: BTreeMap<String, f64>,
    /// Ours over the best peer's.
    pub(crate) ratio: Option<f64>,
    /// The ratio that is wanted at most.
    pub(crate) goal: Option<f64>,
    /// Whether it is reached.
    pub(crate) met: Option<bool>,
}

impl Row {
    /// A row in which less is better, from all measurements of each side.
    pub(crate) fn lower(
        bench: &str,
        metric: &str,
        unit: &str,
        ours: &[f64],
        peers: &[(&str, Vec<f64>)],
        goal: Option<f64>,
    ) -> Option<Self> {
        let ours = median(ours)?;
        let peers: BTreeMap<_, _> =
            peers.iter().filter_map(|(name, values)| Some(((*name).to_owned(), median(values)?))).collect();
        let best = peers.values().copied().reduce(f64::min);
        let ratio = best.map(|best| ours / best);
        let met = ratio.zip(goal).map(|(ratio, goal)| ratio <= goal);
        let (bench, metric, unit) = (bench.to_owned(), metric.to_owned(), unit.to_owned());
        Some(Self { bench, metric, unit, better: Better::Lower, ours, peers, ratio, goal, met })
    }
}

/// The middle value.
pub(crate) fn median(values: &[f64]) -> Option<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted.get(sorted.len() / 2).copied()
}

/// The rows as a table for people.
pub(crate) fn table(rows: &[Row]) -> String {
    let mut text = format!("{:<8}{:<34}{:>9}  {:<44}{:>7}{:>7}\n", "BENCH", "METRIC", "OURS", "PEERS", "RATIO", "GOAL");
    for row in rows {
        let peers: Vec<_> = row.peers.iter().map(|(name, value)| format!("{name} {value:.1}")).collect();
        let number = |value: Option<f64>| value.map_or_else(|| "-".to_owned(), |value| format!("{value:.2}"));
        let verdict = row.met.map_or("", |met| if met { "met" } else { "MISSED" });
        let ours = format!("{:.1} {}", row.ours, row.unit);
        let (ratio, goal) = (number(row.ratio), number(row.goal));
        // Writing to a string cannot fail.
        let _ = writeln!(
            text,
            "{:<8}{:<34}{ours:>9}  {:<44}{ratio:>7}{goal:>7} {verdict}",
            row.bench,
            row.metric,
            peers.join(", ")
        );
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ratio_is_to_the_best_peer() {
        let peers = [("slow", vec![30.0]), ("fast", vec![8.0, 10.0, 12.0])];
        let row = Row::lower("boot", "root", "s", &[9.0, 5.0, 7.0], &peers, Some(0.6)).unwrap();
        assert_eq!((row.ours, row.ratio, row.met), (7.0, Some(0.7), Some(false)));
    }
}

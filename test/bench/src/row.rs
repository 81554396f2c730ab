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
    /// More is.
    Higher,
}

impl Better {
    /// The better one of two values.
    fn of(self, one: f64, other: f64) -> f64 {
        match self {
            Self::Lower => one.min(other),
            Self::Higher => one.max(other),
        }
    }

    /// Whether a ratio reaches a goal.
    fn reaches(self, ratio: f64, goal: f64) -> bool {
        match self {
            Self::Lower => ratio <= goal,
            Self::Higher => ratio >= goal,
        }
    }
}

/// What one side reached in all rounds.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub(crate) struct Figures {
    /// The best round.
    pub(crate) best: f64,
    /// The middle one.
    pub(crate) median: f64,
}

impl Figures {
    fn of(better: Better, values: &[f64]) -> Option<Self> {
        let best = values.iter().copied().reduce(|one, other| better.of(one, other))?;
        Some(Self { best, median: median(values)? })
    }
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
    /// Ours.
    pub(crate) ours: Figures,
    /// Theirs, by name.
    pub(crate) peers: BTreeMap<String, Figures>,
    /// Our median over the best peer's.
    pub(crate) ratio: Option<f64>,
    /// The ratio that is wanted: at most, or at least if more is better.
    pub(crate) goal: Option<f64>,
    /// Whether it is reached.
    pub(crate) met: Option<bool>,
}

impl Row {
    /// A row in which less is better, from all measurements of each side. The goal is a ratio to the best peer, at most.
    pub(crate) fn lower(
        bench: &str,
        metric: &str,
        unit: &str,
        ours: &[f64],
        peers: &[(&str, Vec<f64>)],
        goal: Option<f64>,
    ) -> Option<Self> {
        Self::new(Better::Lower, [bench, metric, unit], ours, peers, goal)
    }

    /// A row in which more is better, from all measurements of each side. The goal is a ratio to the best peer, at least.
    pub(crate) fn higher(
        bench: &str,
        metric: &str,
        unit: &str,
        ours: &[f64],
        peers: &[(&str, Vec<f64>)],
        goal: Option<f64>,
    ) -> Option<Self> {
        Self::new(Better::Higher, [bench, metric, unit], ours, peers, goal)
    }

    /// Holds a row to a bound in its own unit instead of a ratio to the peers: at most, or at least if more is better.
    pub(crate) fn bound(mut self, bound: f64) -> Self {
        self.met = Some(self.better.reaches(self.ours.median, bound));
        self.metric = match self.better {
            Better::Lower => format!("{} (at most {bound})", self.metric),
            Better::Higher => format!("{} (at least {bound})", self.metric),
        };
        self
    }

    fn new(
        better: Better,
        [bench, metric, unit]: [&str; 3],
        ours: &[f64],
        peers: &[(&str, Vec<f64>)],
        goal: Option<f64>,
    ) -> Option<Self> {
        let ours = Figures::of(better, ours)?;
        let peers: BTreeMap<_, _> = peers
            .iter()
            .filter_map(|(name, values)| Some(((*name).to_owned(), Figures::of(better, values)?)))
            .collect();
        let best = peers.values().map(|figures| figures.median).reduce(|one, other| better.of(one, other));
        let ratio = best.map(|best| ours.median / best);
        let met = ratio.zip(goal).map(|(ratio, goal)| better.reaches(ratio, goal));
        let (bench, metric, unit) = (bench.to_owned(), metric.to_owned(), unit.to_owned());
        Some(Self { bench, metric, unit, better, ours, peers, ratio, goal, met })
    }
}

/// The middle value.
pub(crate) fn median(values: &[f64]) -> Option<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted.get(sorted.len() / 2).copied()
}

/// The rows as a table for people: best / median of each side, and the ratio of the medians.
pub(crate) fn table(rows: &[Row]) -> String {
    let mut text = format!(
        "{:<14}{:<40}{:<8}{:>17}  {:<64}{:>7}{:>7}\n",
        "BENCH", "METRIC", "UNIT", "OURS best/median", "PEERS best/median", "RATIO", "GOAL"
    );
    for row in rows {
        let figures = |of: &Figures| format!("{:.1}/{:.1}", of.best, of.median);
        let peers: Vec<_> = row.peers.iter().map(|(name, of)| format!("{name} {}", figures(of))).collect();
        let number = |value: Option<f64>| value.map_or_else(|| "-".to_owned(), |value| format!("{value:.2}"));
        let verdict = row.met.map_or("", |met| if met { "met" } else { "MISSED" });
        // Writing to a string cannot fail.
        let _ = writeln!(
            text,
            "{:<14}{:<40}{:<8}{:>17}  {:<64}{:>7}{:>7} {verdict}",
            row.bench,
            row.metric,
            row.unit,
            figures(&row.ours),
            peers.join(", "),
            number(row.ratio),
            number(row.goal),
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
        assert_eq!((row.ours, row.ratio, row.met), (Figures { best: 5.0, median: 7.0 }, Some(0.7), Some(false)));
        let row = Row::higher("tftp", "window 1", "MiB/s", &[45.0, 60.0, 50.0], &peers, Some(1.5)).unwrap();
        assert_eq!((row.ours, row.met), (Figures { best: 60.0, median: 50.0 }, Some(true)));
        assert_eq!(row.ratio, Some(50.0 / 30.0));
    }

    #[test]
    fn a_bound_stands_beside_the_ratio() {
        let row = Row::higher("dhcp", "leases", "1/s", &[6000.0], &[("kea", vec![7000.0])], None).unwrap();
        assert_eq!((row.clone().bound(5000.0).met, row.bound(6500.0).met), (Some(true), Some(false)));
    }
}

//! A thousand machines that boot at once, against the real router and farm.
//!
//! Nobody else serves all of this, so there is no peer: the rows are held to bounds.

use std::time::Duration;

use anyhow::{Result, ensure};
use storm::crowd::{Outcome, power_on};
use storm::{Lab, Wanted};

use crate::row::Row;

const MACHINES: u16 = 1000;
/// Power comes back to all racks, not to all machines in the same millisecond.
const SPREAD: Duration = Duration::from_secs(2);
const ROOT: u64 = 64 << 20;
/// As large as Debian's.
const KERNEL: u64 = 8 << 20;
/// Bytes of the root that the farm may send for each node that it gives the root to itself, over the root's size.
const SENT: f64 = 1.3;

/// Runs the storm so many times.
pub(crate) fn run(rounds: usize, only: &str) -> Result<Vec<Row>> {
    let mut figures: Vec<(String, &'static str, Vec<f64>)> = Vec::new();
    for round in 1..=rounds {
        let count = only.parse().unwrap_or(MACHINES);
        // Its threads stay on the machines' host: each round has a thread of its own.
        let measured = std::thread::scope(|scope| scope.spawn(|| once(count)).join());
        let measured = measured.map_err(|_| anyhow::anyhow!("the storm panicked"))??;
        eprintln!("round {round}: {measured:.1?}");
        for (number, (name, unit, value)) in measured.into_iter().enumerate() {
            match figures.get_mut(number) {
                Some((_, _, values)) => values.push(value),
                None => figures.push((name, unit, vec![value])),
            }
        }
    }
    let row = |(name, unit, values): &(String, &str, Vec<f64>)| {
        let row = Row::lower("storm", name, unit, values, &[], None)?;
        Some(match name.as_str() {
            "failures" => row.bound(0.0),
            "root sent by the farm, over parents x root" => row.bound(SENT),
            _ => row,
        })
    };
    Ok(figures.iter().filter_map(row).collect())
}

/// Figures of one storm: name, unit, value.
fn once(count: u16) -> Result<Vec<(String, &'static str, f64)>> {
    let lab = Lab::start(Wanted { machines: count, root: ROOT, kernel: KERNEL, max_loading: None })?;
    let outcome = power_on(&lab, count, SPREAD)?;
    for failure in outcome.failures.iter().take(10) {
        eprintln!("{failure}");
    }
    ensure!(!outcome.booted.is_empty(), "no machine booted; the farm says:\n{}", lab.said("farm"));
    let (parents, sent) = outcome.from_farm(|url| lab.is_farm(url));
    let counted = lab.counter("stoke_farm_http_sent_bytes_total")?;
    let expected = sent + lab.parts() * outcome.booted.len() as u64;
    eprintln!(
        "{parents} parents; {sent} bytes of the root came from the farm; it counts {counted} bytes in all, the machines {expected}"
    );
    Ok(figures(&outcome, parents, sent))
}

#[expect(clippy::cast_precision_loss, reason = "figures for people")]
fn figures(outcome: &Outcome, parents: usize, sent: u64) -> Vec<(String, &'static str, f64)> {
    let mut figures = vec![
        ("failures".to_owned(), "", outcome.failures.len() as f64),
        ("all ready".to_owned(), "s", outcome.took.as_secs_f64()),
        ("ready, middle".to_owned(), "s", outcome.ready(0.5)),
        ("ready, 99 of 100".to_owned(), "s", outcome.ready(0.99)),
        (
            "root sent by the farm, over parents x root".to_owned(),
            "",
            sent as f64 / (parents.max(1) as f64 * ROOT as f64),
        ),
        ("machines fed by the farm itself".to_owned(), "", parents as f64),
    ];
    figures.extend(outcome.steps(0.99).into_iter().map(|(name, value)| (format!("{name}, 99 of 100"), "s", value)));
    figures
}

//! `stoke farm storm`: how many nodes boot at once, how fast, and which ones hang behind.

use std::process::ExitCode;
use std::time::Duration;

use serde_json::json;
use stoke_api::control::FarmView;
use stoke_api::node::Phase;
use stoke_api::report::{FarmNodeReport, StormReport};

use super::status::{name, nodes_of, total};
use crate::cli::{FarmStorm, Report};
use crate::client::Client;
use crate::folders::Folders;
use crate::output::{self, Table};

/// Time between two looks; the installation itself looks once a second.
const PAUSE: Duration = Duration::from_secs(1);
/// Nodes that are named as the slowest.
const SLOWEST: usize = 5;

pub(crate) async fn run(folders: &Folders, which: &FarmStorm) -> anyhow::Result<ExitCode> {
    let client = Client::connect(folders).await?;
    let mut before: Option<Vec<StormReport>> = None;
    loop {
        let views = super::views(&client, which.name.as_ref(), &which.namespace).await?;
        let now = jiff::Timestamp::now();
        let totals: Vec<_> = views.iter().map(total).collect();
        for (index, (view, after)) in views.iter().zip(&totals).enumerate() {
            let earlier = before.as_ref().and_then(|before| before.get(index));
            let look = Look { view, storm: after, rates: earlier.map(|earlier| Rates::between(earlier, after)) };
            output::print(&look.show(which.output, now)?)?;
        }
        // Rates need a second look.
        if !which.watch && before.is_some() {
            return Ok(ExitCode::SUCCESS);
        }
        before = Some(totals);
        tokio::time::sleep(PAUSE).await;
    }
}

/// What happened within a second.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Rates {
    boots: u64,
    bytes: u64,
}

impl Rates {
    /// A farm that was started anew counts from nothing.
    fn between(before: &StormReport, after: &StormReport) -> Self {
        let bytes = |storm: &StormReport| storm.bytes.values().sum::<u64>();
        Self { boots: after.boots.saturating_sub(before.boots), bytes: bytes(after).saturating_sub(bytes(before)) }
    }
}

struct Look<'a> {
    view: &'a FarmView,
    storm: &'a StormReport,
    rates: Option<Rates>,
}

impl Look<'_> {
    fn show(&self, output: Report, now: jiff::Timestamp) -> anyhow::Result<String> {
        let Some(rates) = self.rates else { return Ok(String::new()) };
        Ok(match output {
            Report::Text => self.text(rates, now),
            Report::Json => format!("{}\n", serde_json::to_string(&self.json(rates, now))?),
        })
    }

    fn text(&self, rates: Rates, now: jiff::Timestamp) -> String {
        let storm = self.storm;
        let mut text = format!(
            "{}  loading {}  waiting {}  boots {} ({}/s)  sent {}/s  peers {}\n",
            self.view.farm,
            storm.loading,
            storm.waiting,
            storm.boots,
            rates.boots,
            output::size(rates.bytes),
            storm.peers,
        );
        let slowest = self.slowest(now);
        if !slowest.is_empty() {
            let mut table = Table::new(&["SLOWEST", "PHASE", "FOR", "MESSAGE"]);
            for (node, seconds) in slowest {
                let failure = node.state.failure.clone().unwrap_or_default().replace('\n', " ");
                table.row(vec![name(node), node.state.phase.to_string(), output::duration(seconds), failure]);
            }
            text.push_str(&table.render("  "));
        }
        text
    }

    fn json(&self, rates: Rates, now: jiff::Timestamp) -> serde_json::Value {
        let slowest: Vec<_> = self
            .slowest(now)
            .into_iter()
            .map(|(node, seconds)| json!({"node": name(node), "phase": node.state.phase, "seconds": seconds}))
            .collect();
        json!({
            "at": now.to_string(), "farm": self.view.farm, "storm": self.storm,
            "bootsPerSecond": rates.boots, "bytesPerSecond": rates.bytes, "slowest": slowest,
        })
    }

    /// Nodes whose boot has begun and is not over, the one that began first before the others.
    fn slowest(&self, now: jiff::Timestamp) -> Vec<(&FarmNodeReport, i64)> {
        let mut booting: Vec<_> = nodes_of(self.view)
            .into_iter()
            .filter(|node| !node.state.ready && !matches!(node.state.phase, Phase::Unknown | Phase::Stopping))
            .filter_map(|node| {
                let began: jiff::Timestamp = node.state.boot_started.parse().ok()?;
                Some((node, now.as_second().saturating_sub(began.as_second()).max(0)))
            })
            .collect();
        booting.sort_by_key(|(_, seconds)| std::cmp::Reverse(*seconds));
        booting.truncate(SLOWEST);
        booting
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_are_what_came_in_between() {
        let storm =
            |boots, bytes| StormReport { boots, bytes: [("http".to_owned(), bytes)].into(), ..Default::default() };
        assert_eq!(Rates::between(&storm(10, 1000), &storm(12, 5000)), Rates { boots: 2, bytes: 4000 });
        assert_eq!(Rates::between(&storm(10, 1000), &storm(1, 0)), Rates { boots: 0, bytes: 0 });
    }

    #[test]
    fn the_slowest_node_is_the_one_that_boots_longest() {
        let mut view = super::super::status::tests::view();
        let second = &mut view.replicas[1].report.nodes[0];
        second.mac = "52:54:00:00:00:02".parse().unwrap();
        let storm = total(&view);
        let look = Look { view: &view, storm: &storm, rates: Some(Rates { boots: 1, bytes: 2 << 20 }) };
        // The first one's phase is Ready, but its agent is silent.
        insta::assert_snapshot!(look.text(look.rates.unwrap(), "2026-01-01T00:02:00Z".parse().unwrap()));
    }
}

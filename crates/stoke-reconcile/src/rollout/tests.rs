//! A farm of simulated nodes goes over to another version: all of it, in waves, back again, and with nodes that fail.

use std::collections::BTreeMap;

mod drain;

use stoke_api::node::Phase;
use stoke_api::objects::{NodeState, RebootWay, RolloutPhase, RolloutStatus, UpdatePhase, UpdateSpec};
use stoke_api::{Digest, Kind, ObjectRef};

use super::step::{Input, Seen, next};

const OLD: Digest = Digest([1; 32]);
const NEW: Digest = Digest([2; 32]);
const MINUTE: u64 = 60_000;

fn reference(kind: Kind, name: &str) -> ObjectRef {
    ObjectRef { kind, namespace: Some("default".parse().unwrap()), name: name.parse().unwrap() }
}

/// Nodes that boot in a minute, as they are told.
struct Farm {
    update: Option<UpdateSpec>,
    versions: Vec<Digest>,
    nodes: Vec<Seen>,
    told: BTreeMap<ObjectRef, u64>,
    machine: Option<NodeState>,
    noted: Option<RolloutStatus>,
    now: u64,
    /// Nodes that do not come up with the new version.
    broken: Vec<&'static str>,
    /// The most that were down at once.
    most_down: usize,
}

impl Farm {
    fn new(update: &str, count: usize) -> Self {
        let mut farm = Self {
            update: (!update.is_empty()).then(|| serde_json::from_str(update).unwrap()),
            versions: vec![OLD],
            nodes: Vec::new(),
            told: BTreeMap::new(),
            machine: None,
            noted: None,
            now: 1_000_000,
            broken: Vec::new(),
            most_down: 0,
        };
        farm.nodes = (0..count).map(|number| farm.node(&format!("n{number}"))).collect();
        farm
    }

    fn node(&self, name: &str) -> Seen {
        let state = NodeState { good_image: Some(OLD), ..self.up(OLD) };
        let ways = vec![RebootWay::Agent, RebootWay::Ssh];
        Seen { node: reference(Kind::Machine, name), pin: None, state: Some(state), ways, cluster: None }
    }

    fn stamp(ms: u64) -> String {
        jiff::Timestamp::from_millisecond(i64::try_from(ms).unwrap()).unwrap().to_string()
    }

    fn up(&self, image: Digest) -> NodeState {
        NodeState {
            phase: Phase::Ready,
            ready: true,
            image: Some(image),
            boots: Some(image),
            good_image: Some(image),
            boot_started: Self::stamp(self.now),
            ..NodeState::default()
        }
    }

    /// One round, and what the nodes make of it.
    fn round(&mut self) -> RolloutStatus {
        let input = Input {
            update: self.update.as_ref(),
            versions: &self.versions,
            nodes: &self.nodes,
            farm: &reference(Kind::Farm, "lab"),
            machine: self.machine.clone(),
            examples: vec![self.nodes[0].node.clone()],
            now_ms: self.now,
        };
        let mut steps = vec![next(self.noted.as_ref(), &input).unwrap()];
        for _ in 0..4 {
            steps.push(next(steps.last(), &input).unwrap());
        }
        assert_eq!(steps[3], steps[4], "while nothing happens, nothing is done again");
        let noted = steps.remove(4);
        self.noted = Some(noted.clone());
        noted
    }

    /// The same, and a minute passes in which told nodes boot.
    fn minute(&mut self) -> RolloutStatus {
        let noted = self.round();
        self.now += MINUTE;
        let mut states = Vec::new();
        for (seen, update) in self.nodes.iter().zip(&noted.nodes) {
            let orders: u64 = update.reboots.values().sum();
            let told = self.told.insert(seen.node.clone(), orders).unwrap_or_default() < orders;
            let fails = update.image == NEW && self.broken.contains(&seen.node.name.as_str());
            let state = seen.state.clone().unwrap();
            let loops = state.failed_boots > 0 || !state.ready;
            states.push(match (told || loops, fails) {
                (true, true) => NodeState {
                    phase: Phase::Init,
                    ready: false,
                    image: Some(NEW),
                    boots: Some(NEW),
                    failed_boots: if state.boots == Some(NEW) { state.failed_boots + 1 } else { 0 },
                    ..state
                },
                (true, false) => self.up(update.image),
                (false, _) => state,
            });
        }
        let down = states.iter().filter(|state| !state.ready).count();
        self.most_down = self.most_down.max(down);
        self.nodes.iter_mut().zip(states).for_each(|(seen, state)| seen.state = Some(state));
        noted
    }

    fn run(&mut self, minutes: u64) -> RolloutStatus {
        (0..minutes).for_each(|_| drop(self.minute()));
        self.round()
    }

    fn with(&self, version: Digest) -> usize {
        self.nodes.iter().filter(|seen| seen.runs() == Some(version)).count()
    }

    fn publish(&mut self) {
        self.versions = vec![NEW, OLD];
    }
}

#[test]
fn the_first_version_is_everybodys_at_once() {
    let mut farm = Farm::new("{}", 3);
    let noted = farm.round();
    assert_eq!((noted.phase, noted.stable, noted.handed_out), (RolloutPhase::Complete, Some(OLD), OLD));
    assert!(noted.nodes.iter().all(|node| node.image == OLD && node.reboots.is_empty()));
}

#[test]
fn a_canary_first_then_waves_and_never_more_down_than_may_be() {
    let update = r#"{"maxUnavailable":2,"waves":[50],"healthGate":{"minutes":3}}"#;
    let mut farm = Farm::new(update, 8);
    farm.round();
    farm.publish();
    let noted = farm.round();
    assert_eq!((noted.phase, noted.wave, noted.handed_out), (RolloutPhase::Progressing, 0, OLD));
    assert_eq!(noted.nodes.iter().filter(|node| node.image == NEW).count(), 1);
    // It is up after a minute and must stay up for three.
    farm.run(3);
    assert_eq!(farm.with(NEW), 1);
    farm.run(4);
    assert!((2..=4).contains(&farm.with(NEW)), "{}", farm.with(NEW));
    let noted = farm.run(30);
    assert_eq!((noted.phase, noted.stable, farm.with(NEW)), (RolloutPhase::Complete, Some(NEW), 8));
    assert!(noted.nodes.iter().all(|node| node.reboots.values().sum::<u64>() == 1), "{noted:#?}");
}

#[test]
fn a_canary_that_does_not_come_up_gets_the_old_version_again_and_nobody_else_the_new_one() {
    let mut farm = Farm::new(r#"{"failedBoots":2,"healthGate":{"minutes":0}}"#, 3);
    farm.round();
    farm.publish();
    farm.broken = vec!["n0"];
    let noted = farm.run(12);
    assert_eq!((noted.phase, noted.handed_out), (RolloutPhase::Stopped, OLD), "{noted:#?}");
    assert!(noted.message.starts_with("machine/n0: 2 boots with 020202020202 failed"), "{}", noted.message);
    assert_eq!((noted.nodes[0].phase, noted.nodes[0].image), (UpdatePhase::Returned, OLD));
    assert_eq!((farm.with(OLD), farm.most_down), (3, 1));
    // Asked to go on, it tries again, and this time it works.
    farm.broken.clear();
    super::super::rollout::resume(farm.noted.as_mut().unwrap());
    let noted = farm.run(12);
    assert_eq!((noted.phase, farm.with(NEW)), (RolloutPhase::Complete, 3), "{noted:#?}");
}

#[test]
fn a_node_that_hangs_is_late_and_told_to_boot_the_old_version() {
    let mut farm = Farm::new(r#"{"healthGate":{"minutes":0,"limitMinutes":5}}"#, 2);
    farm.round();
    farm.publish();
    farm.minute();
    let hung = NodeState { phase: Phase::Switched, ready: false, image: Some(NEW), boots: Some(NEW), ..farm.up(NEW) };
    farm.nodes[0].state = Some(NodeState { good_image: Some(OLD), ..hung });
    farm.now += 6 * MINUTE;
    let noted = farm.round();
    let node = &noted.nodes[0];
    assert_eq!((noted.phase, node.image, node.phase), (RolloutPhase::Stopped, OLD, UpdatePhase::Returned));
    assert_eq!(node.reboots.values().sum::<u64>(), 2, "once to the new one, once back");
}

#[test]
fn who_does_not_hear_is_told_in_another_way() {
    let mut farm = Farm::new(r#"{"healthGate":{"minutes":0,"limitMinutes":60}}"#, 1);
    farm.round();
    farm.publish();
    assert_eq!(farm.round().nodes[0].way, Some(RebootWay::Agent));
    farm.now += 4 * MINUTE;
    assert_eq!(farm.round().nodes[0].way, Some(RebootWay::Ssh));
    farm.now += 4 * MINUTE;
    let node = &farm.round().nodes[0];
    assert!(node.message.contains("no other way"), "{}", node.message);
    assert_eq!(node.reboots, BTreeMap::from([(RebootWay::Agent, 1), (RebootWay::Ssh, 1)]));
}

#[test]
fn without_an_order_of_going_over_nodes_get_the_version_when_they_boot() {
    let mut farm = Farm::new("", 2);
    farm.round();
    farm.publish();
    let noted = farm.run(3);
    assert_eq!((noted.phase, noted.handed_out), (RolloutPhase::Progressing, NEW));
    assert!(noted.nodes.iter().all(|node| node.image == NEW && node.reboots.is_empty()));
    assert_eq!(farm.with(OLD), 2);
    let failing = NodeState {
        ready: false,
        image: Some(NEW),
        boots: Some(NEW),
        failed_boots: 3,
        phase: Phase::Init,
        ..farm.up(OLD)
    };
    farm.nodes[0].state = Some(failing);
    let noted = farm.round();
    assert_eq!((noted.phase, noted.nodes[0].image, noted.nodes[1].image), (RolloutPhase::Stopped, OLD, OLD));
}

#[test]
fn a_pinned_node_keeps_its_version_and_one_that_is_off_holds_nobody_up() {
    let mut farm = Farm::new(r#"{"healthGate":{"minutes":0}}"#, 3);
    farm.round();
    farm.nodes[0].pin = Some(Ok(OLD));
    farm.nodes[1].state = None;
    farm.publish();
    // One that is off is nobody's canary while another one is up.
    let mut noted = farm.round();
    assert_eq!(noted.nodes.iter().map(|node| node.image).collect::<Vec<_>>(), [OLD, OLD, NEW]);
    for _ in 0..6 {
        farm.nodes[2].state = Some(farm.up(NEW));
        farm.now += MINUTE;
        noted = farm.round();
    }
    assert_eq!(noted.nodes.iter().map(|node| node.image).collect::<Vec<_>>(), [OLD, NEW, NEW]);
    assert_eq!(noted.phase, RolloutPhase::Complete);
}

#[test]
fn taken_back_everybody_has_the_old_version_again() {
    let mut farm = Farm::new(r#"{"maxUnavailable":2,"healthGate":{"minutes":0}}"#, 4);
    farm.round();
    farm.publish();
    assert_eq!(farm.run(12).phase, RolloutPhase::Complete);
    super::super::rollout::undo(farm.noted.as_mut().unwrap());
    let noted = farm.run(10);
    assert_eq!((noted.phase, noted.target, noted.handed_out), (RolloutPhase::Complete, OLD, OLD));
    assert_eq!((farm.with(OLD), noted.refused), (4, vec![NEW]));
    assert!(farm.most_down <= 2);
}

#[test]
fn a_version_that_failed_is_taken_back_and_all_is_as_it_was() {
    let mut farm = Farm::new(r#"{"failedBoots":1,"healthGate":{"minutes":0}}"#, 2);
    farm.round();
    farm.publish();
    farm.broken = vec!["n0"];
    assert_eq!(farm.run(12).phase, RolloutPhase::Stopped);
    super::super::rollout::undo(farm.noted.as_mut().unwrap());
    let noted = farm.run(3);
    assert_eq!((noted.phase, noted.target, noted.stable), (RolloutPhase::Complete, OLD, Some(OLD)), "{noted:#?}");
    assert!(noted.nodes.iter().all(|node| node.phase == UpdatePhase::Settled && node.message.is_empty()));
}

#[test]
fn paused_nobody_goes_over() {
    let mut farm = Farm::new(r#"{"healthGate":{"minutes":0}}"#, 3);
    farm.round();
    farm.publish();
    farm.round();
    farm.noted.as_mut().unwrap().paused = true;
    farm.run(10);
    assert_eq!(farm.with(NEW), 1, "who was told before goes on");
    super::super::rollout::resume(farm.noted.as_mut().unwrap());
    assert_eq!((farm.run(10).phase, farm.with(NEW)), (RolloutPhase::Complete, 3));
}

#[test]
fn a_rehearsal_that_passes_lets_nodes_go_over_and_one_that_fails_lets_none() {
    for passes in [true, false] {
        let mut farm = Farm::new(r#"{"rehearsal":{},"healthGate":{"minutes":1,"limitMinutes":5}}"#, 2);
        farm.round();
        farm.publish();
        assert_eq!(farm.run(2).phase, RolloutPhase::Rehearsing);
        assert_eq!(farm.with(OLD), 2);
        let booting = NodeState { ready: false, phase: Phase::Init, ..farm.up(NEW) };
        farm.machine = Some(if passes { farm.up(NEW) } else { NodeState { failed_boots: 1, ..booting } });
        let noted = farm.run(10);
        if passes {
            assert_eq!((noted.phase, farm.with(NEW)), (RolloutPhase::Complete, 2));
        } else {
            assert_eq!((noted.phase, noted.handed_out, farm.with(OLD)), (RolloutPhase::Stopped, OLD, 2));
            assert!(noted.message.contains("the machine started over"), "{}", noted.message);
        }
    }
}

#[test]
fn a_rehearsal_ends_when_its_time_is_over() {
    let mut farm = Farm::new(r#"{"rehearsal":{},"healthGate":{"limitMinutes":5}}"#, 1);
    farm.round();
    farm.publish();
    let noted = farm.run(7);
    assert_eq!((noted.phase, farm.with(OLD)), (RolloutPhase::Stopped, 1));
    assert!(noted.message.contains("not ready after 5 min"), "{}", noted.message);
}

proptest::proptest! {
    /// Whatever nodes do, no more of them are told than may be down, and counts of reboots never fall.
    #[test]
    fn whatever_nodes_do(moves: Vec<(u8, u8)>, max in 1_usize..3) {
        let mut farm = Farm::new(&format!("{{\"maxUnavailable\":{max},\"failedBoots\":2,\"healthGate\":{{\"minutes\":0}}}}"), 4);
        farm.round();
        farm.publish();
        let mut before: Vec<u64> = vec![0; 4];
        for (who, what) in moves {
            let index = usize::from(who % 4);
            let image = if what & 1 == 0 { OLD } else { NEW };
            farm.nodes[index].state = match what % 7 {
                0 => None,
                1..=4 => Some(farm.up(image)),
                _ => Some(NodeState { ready: false, phase: Phase::Init, failed_boots: u32::from(what >> 6), ..farm.up(image) }),
            };
            farm.now += u64::from(what) * 1_000;
            let noted = farm.round();
            let booting = noted.nodes.iter().filter(|node| node.phase == UpdatePhase::Booting && node.told_ms == farm.now);
            assert!(booting.count() <= max);
            let counts: Vec<u64> = noted.nodes.iter().map(|node| node.reboots.values().sum()).collect();
            assert!(counts.iter().zip(&before).all(|(now, before)| now >= before));
            before = counts;
        }
    }
}

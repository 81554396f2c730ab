//! The same with nodes of a cluster: what is cordoned, when, and by whom; pods that do not go.

use stoke_api::objects::NodeUpdate;

use super::super::drain::InCluster;
use super::*;
use crate::observed::ClusterNode;

/// A farm whose nodes are those of a cluster too, and whoever carries out what is wanted of them.
struct Cluster {
    farm: Farm,
    /// Pods of nodes, and whether they go when they are asked to.
    pods: Vec<(u32, bool)>,
    /// Nodes that people have cordoned.
    people: Vec<bool>,
    most_held: usize,
}

impl Cluster {
    fn new(update: &str, count: usize) -> Self {
        let mut farm = Farm::new(update, count);
        for (number, seen) in farm.nodes.iter_mut().enumerate() {
            let known = ClusterNode { ready: true, boot: "0".to_owned(), ..ClusterNode::default() };
            seen.cluster = Some(InCluster { name: format!("node{number}"), known: Ok(known) });
        }
        farm.round();
        Self { farm, pods: vec![(3, true); count], people: vec![false; count], most_held: 0 }
    }

    fn known(&mut self, index: usize) -> &mut ClusterNode {
        self.farm.nodes[index].cluster.as_mut().unwrap().known.as_mut().unwrap()
    }

    fn cordons(&mut self, index: usize) {
        self.people[index] = true;
        self.known(index).unschedulable = true;
    }

    /// What whoever has the cluster does about a note: that which was read, as it is in every round.
    fn carry_out(&mut self, index: usize, noted: &NodeUpdate) {
        let evicts = matches!(noted.phase, UpdatePhase::Draining | UpdatePhase::Returned);
        let (pods, go) = self.pods[index];
        let people = self.people[index];
        let known = self.known(index);
        if noted.drain.is_none() {
            known.unschedulable &= people;
            (known.cordoned, known.pods_left, known.blocked) = (false, None, None);
            self.pods[index].0 = if people { pods } else { 3 };
            return;
        }
        known.cordoned |= !known.unschedulable;
        known.unschedulable = true;
        if evicts {
            let left = if go { 0 } else { pods };
            known.pods_left = Some(left);
            known.blocked = (!go).then(|| "default/web: its budget forbids it".to_owned());
            self.pods[index].0 = left;
        }
    }

    /// A minute in which nodes reboot that were told so. None has pods then.
    fn minute(&mut self) -> RolloutStatus {
        let before: Vec<_> = self.farm.nodes.iter().map(|seen| seen.state.clone()).collect();
        let noted = self.farm.minute();
        for (index, noted) in noted.nodes.iter().enumerate() {
            let now = self.farm.nodes[index].state.clone();
            if before[index].as_ref().map(|state| &state.boot_started) != now.as_ref().map(|state| &state.boot_started)
            {
                assert_eq!(self.pods[index].0, 0, "{} was rebooted under its pods", noted.node);
                self.known(index).boot.push('+');
            }
            self.known(index).ready = now.is_some_and(|state| state.ready);
            self.carry_out(index, noted);
        }
        self.most_held = self.most_held.max(noted.nodes.iter().filter(|noted| noted.drain.is_some()).count());
        noted
    }

    fn run(&mut self, minutes: u64) -> RolloutStatus {
        (0..minutes).for_each(|_| drop(self.minute()));
        self.farm.round()
    }

    fn unschedulable(&mut self) -> Vec<bool> {
        (0..self.people.len()).map(|index| self.known(index).unschedulable).collect()
    }
}

#[test]
fn each_node_is_free_of_pods_before_it_reboots_and_used_again_when_it_is_well() {
    for max in [1, 2] {
        let update = format!(r#"{{"maxUnavailable":{max},"healthGate":{{"minutes":1}}}}"#);
        let mut cluster = Cluster::new(&update, 4);
        cluster.farm.publish();
        let noted = cluster.farm.round();
        assert_eq!((noted.nodes[0].phase, noted.nodes[0].reboots.len()), (UpdatePhase::Draining, 0));
        let noted = cluster.run(40);
        assert_eq!((noted.phase, cluster.farm.with(NEW)), (RolloutPhase::Complete, 4), "{noted:#?}");
        assert!(noted.nodes.iter().all(|node| node.drain.is_none() && node.reboots.values().sum::<u64>() == 1));
        assert_eq!((cluster.unschedulable(), cluster.most_held), (vec![false; 4], max));
    }
}

#[test]
fn a_budget_that_forbids_it_is_told_and_waited_for() {
    let mut cluster = Cluster::new(r#"{"healthGate":{"minutes":0}}"#, 2);
    cluster.pods[0].1 = false;
    cluster.farm.publish();
    let noted = cluster.run(20);
    let node = &noted.nodes[0];
    assert_eq!((noted.phase, node.phase), (RolloutPhase::Progressing, UpdatePhase::Draining));
    assert_eq!((node.message.as_str(), cluster.farm.with(NEW)), ("default/web: its budget forbids it", 0));
    let said = super::super::conditions(Some(&noted)).remove(0).message;
    assert!(said.contains("machine/n0: default/web: its budget forbids it"), "{said}");
    cluster.pods[0].1 = true;
    let noted = cluster.run(10);
    assert_eq!((noted.phase, cluster.farm.with(NEW)), (RolloutPhase::Complete, 2), "{noted:#?}");
}

#[test]
fn what_does_not_go_in_time_stops_the_update_and_nothing_is_forced() {
    let mut cluster = Cluster::new(r#"{"drain":{"limitMinutes":5},"healthGate":{"minutes":0}}"#, 2);
    cluster.pods[0].1 = false;
    cluster.farm.publish();
    let noted = cluster.run(8);
    assert_eq!((noted.phase, cluster.farm.with(OLD)), (RolloutPhase::Stopped, 2));
    let wanted = "machine/n0: node node0 could not be drained within 5 min: default/web: its budget forbids it";
    assert_eq!(noted.message, wanted);
    assert_eq!((cluster.unschedulable(), cluster.pods[0].0), (vec![false; 2], 3));
    cluster.pods[0].1 = true;
    super::super::resume(cluster.farm.noted.as_mut().unwrap());
    assert_eq!((cluster.run(10).phase, cluster.farm.with(NEW)), (RolloutPhase::Complete, 2));
}

#[test]
fn what_people_have_cordoned_stays_so() {
    let mut cluster = Cluster::new(r#"{"healthGate":{"minutes":0}}"#, 3);
    cluster.cordons(1);
    cluster.farm.publish();
    let noted = cluster.run(30);
    assert_eq!((noted.phase, cluster.farm.with(NEW)), (RolloutPhase::Complete, 3), "{noted:#?}");
    assert_eq!(cluster.unschedulable(), [false, true, false]);
}

#[test]
fn taken_back_or_paused_a_node_that_is_drained_is_used_again() {
    for taken_back in [true, false] {
        let mut cluster = Cluster::new(r#"{"healthGate":{"minutes":0}}"#, 2);
        cluster.pods[0].1 = false;
        cluster.farm.publish();
        cluster.run(3);
        assert_eq!(cluster.unschedulable(), [true, false]);
        let noted = cluster.farm.noted.as_mut().unwrap();
        if taken_back {
            super::super::undo(noted);
        } else {
            noted.paused = true;
        }
        let noted = cluster.run(3);
        assert_eq!((cluster.unschedulable(), cluster.farm.with(OLD)), (vec![false; 2], 2), "{noted:#?}");
        assert!(noted.nodes.iter().all(|node| node.drain.is_none() && node.reboots.is_empty()));
    }
}

#[test]
fn a_version_whose_kubelet_does_not_come_up_is_taken_back() {
    let mut cluster = Cluster::new(r#"{"healthGate":{"minutes":0,"limitMinutes":5}}"#, 2);
    cluster.farm.publish();
    cluster.minute();
    cluster.minute();
    // The system is up with the new version; its cluster goes on to tell of the boot before.
    cluster.known(0).boot = "0".to_owned();
    assert_eq!(cluster.farm.with(NEW), 1);
    let noted = cluster.farm.round();
    assert_eq!((noted.nodes[0].phase, cluster.known(0).unschedulable), (UpdatePhase::Booting, true));
    cluster.farm.now += 6 * MINUTE;
    let noted = cluster.farm.round();
    assert_eq!((noted.phase, noted.nodes[0].phase), (RolloutPhase::Stopped, UpdatePhase::Returned));
    assert!(noted.message.contains("its node in the cluster was not ready 5 min after"), "{}", noted.message);
    let noted = cluster.run(4);
    assert_eq!((cluster.farm.with(OLD), noted.nodes[0].image), (2, OLD), "{noted:#?}");
    assert_eq!(cluster.unschedulable(), [false, false]);
}

#[test]
fn a_version_that_does_not_boot_is_taken_back_and_its_node_is_used_again() {
    let mut cluster = Cluster::new(r#"{"failedBoots":2,"healthGate":{"minutes":0}}"#, 3);
    cluster.farm.publish();
    cluster.farm.broken = vec!["n0"];
    let noted = cluster.run(15);
    assert_eq!((noted.phase, cluster.farm.with(OLD)), (RolloutPhase::Stopped, 3), "{noted:#?}");
    assert_eq!((cluster.unschedulable(), cluster.most_held), (vec![false; 3], 1));
}

#[test]
fn a_node_that_another_machine_has_the_name_of_is_left_alone() {
    let mut cluster = Cluster::new(r#"{"healthGate":{"minutes":0}}"#, 2);
    let other = InCluster { name: "node0".to_owned(), known: Err("it is another's".to_owned()) };
    cluster.farm.nodes[0].cluster = Some(other);
    cluster.farm.publish();
    (0..5).for_each(|_| drop(cluster.farm.minute()));
    let noted = cluster.farm.round();
    assert_eq!((noted.nodes[0].message.as_str(), noted.nodes[0].reboots.len()), ("it is another's", 0));
    assert!(noted.nodes[0].drain.is_none());
}

proptest::proptest! {
    /// Whatever nodes, pods and people do: no more nodes are out of use because of us than may be, none is told to reboot
    /// that has pods, and what people have cordoned we have not.
    #[test]
    fn whatever_they_do(moves: Vec<(u8, u8)>, max in 1_usize..3) {
        let update = format!(r#"{{"maxUnavailable":{max},"failedBoots":2,"healthGate":{{"minutes":1,"limitMinutes":600}},"drain":{{"limitMinutes":7}}}}"#);
        let mut cluster = Cluster::new(&update, 4);
        cluster.farm.publish();
        for (who, what) in moves {
            let index = usize::from(who % 4);
            match what % 8 {
                0 => cluster.pods[index].1 = !cluster.pods[index].1,
                1 if !cluster.known(index).unschedulable => cluster.cordons(index),
                2 => cluster.farm.noted.as_mut().unwrap().paused = what & 8 != 0,
                3 => super::super::undo(cluster.farm.noted.as_mut().unwrap()),
                4 => super::super::resume(cluster.farm.noted.as_mut().unwrap()),
                5 => cluster.farm.broken = vec!["n1"],
                _ => {}
            }
            let noted = cluster.minute();
            let out_of_use = noted.nodes.iter().filter(|noted| noted.drain.is_some());
            proptest::prop_assert!(out_of_use.count() <= max, "{noted:#?}");
            for index in 0..4 {
                let people = cluster.people[index];
                let known = cluster.known(index);
                proptest::prop_assert!(!people || known.unschedulable && !known.cordoned);
            }
        }
    }
}

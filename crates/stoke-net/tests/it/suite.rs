//! The tests that both edges must pass.

use stoke_net::fake::FakeLinks;
use stoke_net::kernel::KernelLinks;
use stoke_net::observed::Observed;
use stoke_net::plan::{self, PlanError};
use stoke_net::wanted::Wanted;
use stoke_net::{Links, Step, apply};

use super::{in_namespace, lan, wanted};

macro_rules! for_both_edges {
    ($($name:ident),*) => {
        mod fake {
            $(#[test] fn $name() { super::$name(super::FakeLinks::with_host([].into())); })*
        }
        mod kernel {
            $(#[test] fn $name() {
                super::in_namespace(|| super::$name(super::KernelLinks::open(None).unwrap()));
            })*
        }
    };
}

for_both_edges!(
    a_second_plan_is_empty,
    drift_is_put_right,
    a_lan_that_is_gone_is_removed,
    a_strangers_link_is_not_touched,
    a_half_made_bridge_is_finished,
    teardown_leaves_nothing
);

fn observe<L: Links>(links: &mut L, wanted: &Wanted) -> Observed {
    links.observe(&wanted.installation).unwrap()
}

fn steps<L: Links>(links: &mut L, wanted: &Wanted) -> Vec<Step> {
    let observed = observe(links, wanted);
    let lans = wanted.lans.iter().flat_map(|lan| plan::lan(&wanted.installation, lan, &observed).unwrap());
    let mut steps: Vec<Step> = lans.collect();
    steps.extend(plan::namespace(wanted, &observed));
    steps
}

fn lay<L: Links>(links: &mut L, wanted: &Wanted) {
    let steps = steps(links, wanted);
    apply(links, &steps).unwrap();
}

fn lines(steps: &[Step]) -> Vec<String> {
    steps.iter().map(ToString::to_string).collect()
}

fn a_second_plan_is_empty(mut links: impl Links) {
    let wanted = wanted(vec![lan("lab", 1, &[]), lan("safe", 2, &[])]);
    lay(&mut links, &wanted);
    assert_eq!(lines(&steps(&mut links, &wanted)), [""; 0]);
}

fn drift_is_put_right(mut links: impl Links) {
    let wanted = wanted(vec![lan("lab", 1, &[])]);
    lay(&mut links, &wanted);
    let bridge: stoke_api::names::LinkName = "lab0".parse().unwrap();
    let drift = [
        Step::RemoveAddress { link: bridge.clone(), address: "10.10.1.1/24".parse().unwrap() },
        Step::AddAddress { link: bridge.clone(), address: "10.99.0.1/16".parse().unwrap() },
        Step::SetMtu { link: bridge.clone(), mtu: 1300 },
        Step::SetMac { link: bridge, mac: "52:54:00:bb:00:01".parse().unwrap() },
        Step::DeleteTable { name: "stokehold_0a1b2c3d".to_owned() },
    ];
    apply(&mut links, &drift).unwrap();
    let repair = steps(&mut links, &wanted);
    insta::assert_snapshot!("repair", lines(&repair).join("\n"));
    apply(&mut links, &repair).unwrap();
    assert_eq!(lines(&steps(&mut links, &wanted)), [""; 0]);
}

fn a_lan_that_is_gone_is_removed(mut links: impl Links) {
    lay(&mut links, &wanted(vec![lan("lab", 1, &[]), lan("safe", 2, &[])]));
    let less = wanted(vec![lan("lab", 1, &[])]);
    let removal = steps(&mut links, &less);
    assert_eq!(lines(&removal)[0], "delete safe0");
    apply(&mut links, &removal).unwrap();
    assert_eq!(lines(&steps(&mut links, &less)), [""; 0]);
}

fn a_strangers_link_is_not_touched(mut links: impl Links) {
    let wanted = wanted(vec![lan("lab", 1, &[])]);
    let theirs: stoke_api::names::LinkName = "lab0".parse().unwrap();
    let create = Step::CreateBridge { bridge: theirs.clone(), mac: "52:54:00:cc:00:01".parse().unwrap(), mtu: 1500 };
    apply(&mut links, &[create]).unwrap();
    let observed = observe(&mut links, &wanted);
    let refused = plan::lan(&wanted.installation, &wanted.lans[0], &observed);
    assert_eq!(refused, Err(PlanError::Foreign(theirs)));
    assert_eq!(plan::teardown(&wanted.installation, &observed), []);
}

fn a_half_made_bridge_is_finished(mut links: impl Links) {
    let wanted = wanted(vec![lan("lab", 1, &[])]);
    let all = steps(&mut links, &wanted);
    assert!(matches!(all[0], Step::CreateBridge { .. }));
    // Crashes after each step: what is left is planned, and nothing else.
    for done in 1..all.len() {
        apply(&mut links, &all[done - 1..done]).unwrap();
        let rest = steps(&mut links, &wanted);
        assert_eq!(lines(&rest), lines(&all[done..]), "after {}", all[done - 1]);
    }
}

fn teardown_leaves_nothing(mut links: impl Links) {
    let before = observe(&mut links, &wanted(vec![]));
    let wanted = wanted(vec![lan("lab", 1, &[]), lan("safe", 2, &[])]);
    lay(&mut links, &wanted);
    let teardown = plan::teardown(&wanted.installation, &observe(&mut links, &wanted));
    apply(&mut links, &teardown).unwrap();
    let after = observe(&mut links, &wanted);
    assert_eq!((after.links, after.table), (before.links, before.table));
}

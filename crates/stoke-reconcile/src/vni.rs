//! Network identifiers of LANs: each has one of its own in the cluster.
//!
//! One that an object names is that object's, unless another one has a claim to it or an older one has it. One that nobody names
//! is made from the LAN's name, or is the next one that is free, and is kept from then on: it is in the status.

use std::collections::{BTreeMap, BTreeSet};

use stoke_api::ObjectRef;
use stoke_api::objects::AnyObject;

use crate::check::by_age;
use crate::claims::Unique;
use crate::names::vni;
use crate::observed::Environment;

/// Identifiers below are left to people.
const FIRST: u32 = 4096;
/// Identifiers have 24 bits (RFC 7348, section 5).
const LAST: u32 = (1 << 24) - 1;

/// Each LAN's identifier, or the LAN that has the one that it names.
pub(crate) fn assign(objects: &[AnyObject], environment: &Environment) -> BTreeMap<ObjectRef, Result<u32, ObjectRef>> {
    let lans: Vec<_> = by_age(objects)
        .into_iter()
        .filter_map(|object| match object {
            AnyObject::Lan(lan) => Some((object.reference(), lan.spec.overlay.vni, lan.status.vni)),
            _ => None,
        })
        .collect();
    let mut holders = claimed(&lans, environment);
    let mut assigned = BTreeMap::new();
    // What is named or was given before: who has a claim to it has it, else the older one.
    for (lan, named, given) in &lans {
        let Some(vni) = named.or(*given) else { continue };
        let holder = holders.entry(vni).or_insert_with(|| lan.clone());
        if holder == lan {
            assigned.insert(lan.clone(), Ok(vni));
        } else if named.is_some() {
            assigned.insert(lan.clone(), Err(holder.clone()));
        }
    }
    let mut taken: BTreeSet<u32> = holders.into_keys().collect();
    for (lan, _, _) in lans {
        if assigned.contains_key(&lan) {
            continue;
        }
        let free = free(&taken, vni(&lan));
        taken.insert(free);
        assigned.insert(lan, Ok(free));
    }
    assigned
}

/// Identifiers that LANs have a claim to and want still.
fn claimed(lans: &[(ObjectRef, Option<u32>, Option<u32>)], environment: &Environment) -> BTreeMap<u32, ObjectRef> {
    let claims = &environment.claims;
    if claims.is_empty() {
        return BTreeMap::new();
    }
    let wanted = lans.iter().filter_map(|(lan, named, given)| Some((named.or(*given)?, lan)));
    let claimed = wanted.filter(|(vni, lan)| claims.get(&Unique::Vni(*vni).name()) == Some(*lan));
    claimed.map(|(vni, lan)| (vni, lan.clone())).collect()
}

/// The first identifier that is free, from one that a name comes to.
fn free(taken: &BTreeSet<u32>, hash: u32) -> u32 {
    let room = LAST - FIRST + 1;
    let candidates = (0..room).map(|step| FIRST + (hash % room + step) % room);
    candidates.into_iter().find(|vni| !taken.contains(vni)).unwrap_or(FIRST)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use serde_json::json;

    use super::*;

    fn lan(name: &str, created: &str, named: Option<u32>, given: Option<u32>) -> AnyObject {
        serde_json::from_value(json!({
            "kind": "Lan",
            "metadata": {"name": name, "namespace": "default", "creationTimestamp": created},
            "spec": {"subnets": [], "overlay": {"vni": named}},
            "status": {"vni": given},
        }))
        .unwrap()
    }

    fn assigned(lans: &[AnyObject]) -> Vec<String> {
        assigned_in(lans, &Environment::default())
    }

    fn assigned_in(lans: &[AnyObject], environment: &Environment) -> Vec<String> {
        let shown = |(lan, vni): (ObjectRef, Result<u32, ObjectRef>)| match vni {
            Ok(vni) => format!("{} {vni}", lan.name),
            Err(holder) => format!("{} not, {} has it", lan.name, holder.name),
        };
        assign(lans, environment).into_iter().map(shown).collect()
    }

    #[test]
    fn the_older_one_keeps_what_both_name() {
        let lans = [lan("a", "2026-01-02T00:00:00Z", Some(5), None), lan("b", "2026-01-01T00:00:00Z", Some(5), None)];
        assert_eq!(assigned(&lans), ["a not, b has it", "b 5"]);
    }

    #[test]
    fn an_older_lan_that_is_edited_does_not_take_a_claimed_one() {
        let younger = lan("b", "2026-01-02T00:00:00Z", Some(5), None);
        let claims = [("vni-5".to_owned(), younger.reference())];
        let environment = Environment { claims: Arc::new(claims.into()), ..Environment::default() };
        let older = |vni| lan("a", "2026-01-01T00:00:00Z", Some(vni), None);
        assert_eq!(assigned_in(&[older(5), younger.clone()], &environment), ["a not, b has it", "b 5"]);
        // One that was given to it it keeps, too.
        let given = lan("b", "2026-01-02T00:00:00Z", None, Some(5));
        assert_eq!(assigned_in(&[older(5), given], &environment), ["a not, b has it", "b 5"]);
        // It wants another one, or is gone.
        let other = lan("b", "2026-01-02T00:00:00Z", Some(6), None);
        assert_eq!(assigned_in(&[older(5), other], &environment), ["a 5", "b 6"]);
        assert_eq!(assigned_in(&[older(5)], &environment), ["a 5"]);
    }

    #[test]
    fn what_was_given_is_kept_and_what_is_taken_is_gone_around() {
        let own = vni(&lan("a", "", None, None).reference());
        let own = FIRST + own % (LAST - FIRST + 1);
        assert_eq!(assigned(&[lan("a", "1", None, None)]), [format!("a {own}")]);
        // Somebody newer names it: the one that has it keeps it.
        let kept = [lan("a", "1", None, Some(own)), lan("b", "2", Some(own), None)];
        assert_eq!(assigned(&kept), [format!("a {own}"), "b not, a has it".to_owned()]);
        // It was never given: it is not taken from the one that names it.
        let around = [lan("a", "1", None, None), lan("b", "2", Some(own), None)];
        assert_eq!(assigned(&around), [format!("a {}", own + 1), format!("b {own}")]);
        // The order in which they are listed says nothing.
        let [a, b] = around;
        assert_eq!(assigned(&[b, a]), [format!("a {}", own + 1), format!("b {own}")]);
    }
}

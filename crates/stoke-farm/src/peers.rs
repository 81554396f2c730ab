//! Who gives the root to whom: nodes that hold it in memory give it to those that boot, and the farm to few.
//!
//! ```text
//!   farm ---> node ---> node, node, node, node ---> ...
//!        ---> node ---> node, node, node, node
//! ```
//!
//! A node that copies its root is the child of one giver at a time: of a node with at most [`CHILDREN`], or of the farm
//! with at most [`DIRECT`]. Where all have as many as they can, the node is told to wait. A giver that dies costs its
//! children nothing: each is told of a second one, and of the farm at last; and what anybody gives is checked block by
//! block by who gets it. So nothing here needs to be true for a boot to be right: it only spreads the load.
//!
//! Pure: the caller brings the clock and the nodes that give.

use std::collections::BTreeMap;

use stoke_api::MacAddr;

use crate::sessions::NodeKey;

/// Children of a node at once.
pub const CHILDREN: usize = 4;
/// Children of the farm itself at once.
pub const DIRECT: usize = 8;
/// A child of which nothing is heard for so long has failed, or needs nobody any more.
const LOADING_MS: u64 = 120_000;
/// The longest that a node is told to wait, in seconds.
const LONGEST_WAIT: u64 = 20;

/// Of whom a node copies its root.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Giver {
    Farm,
    Node(NodeKey),
}

#[derive(Clone, Debug)]
struct Child {
    giver: Giver,
    since_ms: u64,
}

/// A node that gives its root to others.
#[derive(Clone, Debug)]
pub struct Candidate<'a> {
    /// The node.
    pub key: NodeKey,
    /// URL of the root there.
    pub url: &'a str,
}

/// What a node that copies its root is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Assignment {
    /// URLs of the root, best first; the farm's own come after them.
    Now(Vec<String>),
    /// Ask again after so many seconds.
    Wait(u64),
}

/// Which node copies its root from whom, now.
#[derive(Debug, Default)]
pub struct Peers {
    children: BTreeMap<NodeKey, Child>,
}

impl Peers {
    /// Finds a giver for a node that is about to copy its root.
    pub fn assign(&mut self, child: &NodeKey, mac: MacAddr, givers: &[Candidate<'_>], now_ms: u64) -> Assignment {
        self.children.retain(|_, child| now_ms.saturating_sub(child.since_ms) < LOADING_MS);
        // Who asks again has failed with whom it was told of.
        let failed = self.children.remove(child).map(|child| child.giver);
        let usable = |giver: &&Candidate<'_>| giver.key != *child && failed != Some(Giver::Node(giver.key.clone()));
        let counts = self.counts();
        let load = |giver: &Candidate<'_>| counts.get(&giver.key).copied().unwrap_or_default();
        let mut by_load: Vec<_> = givers.iter().filter(usable).map(|giver| (load(giver), giver)).collect();
        by_load.sort_by(|(a, one), (b, other)| (a, &one.key).cmp(&(b, &other.key)));
        let free = by_load.first().filter(|(children, _)| *children < CHILDREN);
        let (giver, urls) = match free {
            Some((_, giver)) => {
                let urls = by_load.iter().take(2).map(|(_, giver)| giver.url.to_owned()).collect();
                (Giver::Node(giver.key.clone()), urls)
            }
            None if self.direct() < DIRECT => (Giver::Farm, Vec::new()),
            None => return Assignment::Wait(self.wait(mac)),
        };
        self.children.insert(child.clone(), Child { giver, since_ms: now_ms });
        Assignment::Now(urls)
    }

    /// A node has its root, or has given up.
    pub fn done(&mut self, child: &NodeKey) {
        self.children.remove(child);
    }

    /// Children of each node that has any.
    fn counts(&self) -> BTreeMap<&NodeKey, usize> {
        let mut counts = BTreeMap::new();
        for child in self.children.values() {
            if let Giver::Node(key) = &child.giver {
                *counts.entry(key).or_default() += 1;
            }
        }
        counts
    }

    fn direct(&self) -> usize {
        self.children.values().filter(|child| child.giver == Giver::Farm).count()
    }

    /// The more copy now, the longer; and not all at once.
    fn wait(&self, mac: MacAddr) -> u64 {
        let longest = (self.children.len() as u64 / 16 + 2).min(LONGEST_WAIT);
        let spread = mac.0.iter().fold(0_u64, |sum, byte| sum.wrapping_mul(31).wrapping_add(u64::from(*byte)));
        1 + spread % longest
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn key(number: u16) -> NodeKey {
        NodeKey::Stranger(mac(number))
    }

    fn mac(number: u16) -> MacAddr {
        let [high, low] = number.to_be_bytes();
        MacAddr([2, 0, 0, 0, high, low])
    }

    fn candidates(urls: &[String]) -> Vec<Candidate<'_>> {
        (0..).zip(urls).map(|(number, url)| Candidate { key: key(number), url }).collect()
    }

    fn urls(count: u16) -> Vec<String> {
        (0..count).map(|number| format!("http://{number}/")).collect()
    }

    fn ask(peers: &mut Peers, number: u16, givers: &[Candidate<'_>], now_ms: u64) -> Assignment {
        peers.assign(&key(number), mac(number), givers, now_ms)
    }

    #[test]
    fn the_first_ones_get_it_of_the_farm_and_the_rest_waits() {
        let mut peers = Peers::default();
        for number in 0..8 {
            assert_eq!(ask(&mut peers, number, &[], 0), Assignment::Now(vec![]));
        }
        assert!(matches!(ask(&mut peers, 8, &[], 0), Assignment::Wait(1..=20)));
        peers.done(&key(3));
        assert_eq!(ask(&mut peers, 8, &[], 0), Assignment::Now(vec![]));
    }

    #[test]
    fn givers_get_equal_shares_and_a_second_one_is_named() {
        let (mut peers, urls) = (Peers::default(), urls(2));
        let givers = candidates(&urls);
        let told: Vec<_> = (10..12).map(|number| ask(&mut peers, number, &givers, 0)).collect();
        let both = |first: usize, second: usize| Assignment::Now(vec![urls[first].clone(), urls[second].clone()]);
        assert_eq!(told, [both(0, 1), both(1, 0)]);
    }

    #[test]
    fn who_asks_again_is_given_another_one() {
        let (mut peers, urls) = (Peers::default(), urls(2));
        let givers = candidates(&urls);
        assert_eq!(ask(&mut peers, 10, &givers, 0), Assignment::Now(urls.clone()));
        assert_eq!(ask(&mut peers, 10, &givers, 1), Assignment::Now(vec![urls[1].clone()]));
        assert_eq!(ask(&mut peers, 0, &givers[..1], 2), Assignment::Now(vec![]), "nobody copies from himself");
    }

    #[test]
    fn a_child_that_says_nothing_is_forgotten() {
        let mut peers = Peers::default();
        for number in 0..8 {
            ask(&mut peers, number, &[], 0);
        }
        assert!(matches!(ask(&mut peers, 8, &[], LOADING_MS - 1), Assignment::Wait(_)));
        assert_eq!(ask(&mut peers, 8, &[], LOADING_MS), Assignment::Now(vec![]));
    }

    proptest! {
        #[test]
        fn nobody_has_more_children_than_it_can(steps in prop::collection::vec((0_u16..60, 0_u16..12, any::<bool>()), 1..200)) {
            let (mut peers, all) = (Peers::default(), urls(12));
            let givers = candidates(&all);
            for (number, count, done) in steps {
                if done {
                    peers.done(&key(number));
                    continue;
                }
                ask(&mut peers, number, &givers[..usize::from(count)], 0);
                prop_assert!(peers.direct() <= DIRECT);
                prop_assert!(peers.counts().values().all(|count| *count <= CHILDREN));
            }
        }
    }
}

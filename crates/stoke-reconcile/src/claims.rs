//! What only one object may have, and who has it.
//!
//! ```text
//!  objects ──check──> each value, and the oldest object that wants it ──> Desired::claims ──> kept by the store
//!     ^                    |                                                                      |
//!     |                    | who wants it and has its claim is not asked for its age              |
//!     +--------------------+ <────────────────────── Environment::claims <────────────────────────+
//! ```
//!
//! The store refuses a second object of one name: a claim's name is its value, and no two values have one name.

use std::collections::{BTreeMap, BTreeSet};

use sha2::{Digest as _, Sha256};
use stoke_api::{MacAddr, ObjectRef};

use crate::observed::Environment;

/// Object names have no more characters (RFC 1123, section 2.1, as Kubernetes reads it).
const LONGEST: usize = 253;
/// As much of a value is shown to people.
const SHOWN: usize = 256;

/// A value that only one object may have.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Unique {
    /// A link-layer address.
    Mac(MacAddr),
    /// SMBIOS UUID of a server.
    Uuid(String),
    /// An address on a LAN.
    Address(ObjectRef, std::net::Ipv4Addr),
    /// A host name on a LAN.
    Hostname(ObjectRef, String),
    /// Being the farm of a LAN.
    Farm(ObjectRef),
    /// A network identifier.
    Vni(u32),
}

/// A value that somebody shall have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claim {
    /// What it is, for people.
    pub value: String,
    /// Who has it.
    pub holder: ObjectRef,
}

/// Claims that are wanted, by their names.
pub type Claims = BTreeMap<String, Claim>;

impl Unique {
    /// The name of its claim: a good name of an object, and no other value's. `KIND-VALUE`, and `KIND-NAMESPACE.LAN.VALUE` of
    /// a LAN's values: neither namespaces nor LANs have dots in their names. A value that fits into no name is a digest.
    pub(crate) fn name(&self) -> String {
        let (kind, lan, value) = match self {
            Self::Mac(mac) => ("mac", None, mac.to_string().replace(':', "-")),
            Self::Uuid(uuid) => ("uuid", None, uuid.clone()),
            Self::Address(lan, address) => ("address", Some(lan), address.to_string().replace('.', "-")),
            Self::Hostname(lan, name) => ("hostname", Some(lan), name.clone()),
            Self::Farm(lan) => ("farm", Some(lan), String::new()),
            Self::Vni(vni) => ("vni", None, vni.to_string()),
        };
        let namespace = lan.and_then(|lan| lan.namespace.as_ref()).map(ToString::to_string);
        let lan = lan.map(|lan| lan.name.to_string());
        let parts: Vec<_> =
            [namespace, lan, Some(value)].into_iter().flatten().filter(|part| !part.is_empty()).collect();
        let name = format!("{kind}-{}", parts.join("."));
        let is_good = !parts.is_empty() && parts.iter().all(|part| is_plain(part)) && name.len() <= LONGEST;
        if is_good { name } else { digest(kind, &parts) }
    }

    /// The same for people.
    fn value(&self) -> String {
        match self {
            Self::Mac(mac) => mac.to_string(),
            Self::Uuid(uuid) => uuid.clone(),
            Self::Address(lan, address) => format!("{address} on {lan}"),
            Self::Hostname(lan, name) => format!("{name} on {lan}"),
            Self::Farm(lan) => format!("the farm of {lan}"),
            Self::Vni(vni) => format!("network identifier {vni}"),
        }
    }

    /// What its holder has.
    pub(crate) fn claim(&self, holder: &ObjectRef) -> (String, Claim) {
        let value = self.value().chars().take(SHOWN).collect();
        (self.name(), Claim { value, holder: holder.clone() })
    }
}

/// Letters, digits and dashes, with no dash at either end.
fn is_plain(part: &str) -> bool {
    let inner = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    !part.is_empty() && part.chars().all(inner) && !part.starts_with('-') && !part.ends_with('-')
}

/// No kind is called so, so that nobody's value is the digest of another one's.
fn digest(kind: &str, parts: &[String]) -> String {
    let mut hasher = Sha256::new();
    for part in [kind].into_iter().chain(parts.iter().map(String::as_str)) {
        hasher.update(u64::try_from(part.len()).unwrap_or(u64::MAX).to_be_bytes());
        hasher.update(part.as_bytes());
    }
    let digest: Vec<_> = hasher.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
    format!("digest-{}", digest.concat())
}

/// Who has what, as objects ask for it in the order of their age.
pub(crate) struct Holders<'a> {
    environment: &'a Environment,
    /// Who has a value, and whether they have asked for it yet.
    by_value: BTreeMap<Unique, (ObjectRef, bool)>,
    /// Who asked for what somebody else has.
    refused: BTreeMap<Unique, BTreeSet<ObjectRef>>,
    /// Who has a value whoever else asks first.
    kept: BTreeMap<Unique, ObjectRef>,
}

/// What comes of asking for a value.
pub(crate) enum Answer {
    /// It is theirs.
    Given,
    /// It was theirs before.
    Twice,
    /// It is somebody else's.
    Taken(ObjectRef),
}

impl<'a> Holders<'a> {
    pub(crate) fn new(environment: &'a Environment) -> Self {
        let (by_value, refused, kept) = (BTreeMap::new(), BTreeMap::new(), BTreeMap::new());
        Self { environment, by_value, refused, kept }
    }

    /// Somebody asks for a value.
    pub(crate) fn ask(&mut self, unique: Unique, claimant: &ObjectRef) -> Answer {
        if !self.by_value.contains_key(&unique) {
            let holder = self.kept.get(&unique).cloned().or_else(|| self.unreadable(&unique));
            self.by_value.insert(unique.clone(), (holder.unwrap_or_else(|| claimant.clone()), false));
        }
        let Some((holder, asked)) = self.by_value.get_mut(&unique) else { return Answer::Given };
        if holder == claimant {
            let twice = std::mem::replace(asked, true);
            return if twice { Answer::Twice } else { Answer::Given };
        }
        let holder = holder.clone();
        self.refused.entry(unique).or_default().insert(claimant.clone());
        Answer::Taken(holder)
    }

    /// Whose claim a value is, if nobody can read that object: it may want it still.
    fn unreadable(&self, unique: &Unique) -> Option<ObjectRef> {
        let Environment { claims, unreadable, .. } = self.environment;
        if unreadable.is_empty() {
            return None;
        }
        claims.get(&unique.name()).filter(|holder| unreadable.contains(holder)).cloned()
    }

    /// To begin with once more, if somebody was refused what they have a claim to. Who asks for what is the same then.
    pub(crate) fn again(&self) -> Option<Self> {
        let claims = &self.environment.claims;
        let has_claim = |(unique, refused): (&Unique, &BTreeSet<ObjectRef>)| {
            let holder = claims.get(&unique.name()).filter(|holder| refused.contains(holder))?;
            Some((unique.clone(), holder.clone()))
        };
        let kept: BTreeMap<_, _> = self.refused.iter().filter_map(has_claim).collect();
        (!kept.is_empty()).then(|| Self { kept, ..Self::new(self.environment) })
    }

    /// What those that are there have.
    pub(crate) fn claims(&self, there: &BTreeSet<ObjectRef>) -> Claims {
        let holders = self.by_value.iter().filter(|(_, (holder, _))| there.contains(holder));
        holders.map(|(unique, (holder, _))| unique.claim(holder)).collect()
    }
}

#[cfg(test)]
mod tests {
    use stoke_api::Kind;

    use super::*;

    fn lan(namespace: &str, name: &str) -> ObjectRef {
        ObjectRef { kind: Kind::Lan, namespace: Some(namespace.parse().unwrap()), name: name.parse().unwrap() }
    }

    fn hostname(namespace: &str, name: &str, host: &str) -> String {
        Unique::Hostname(lan(namespace, name), host.to_owned()).name()
    }

    #[test]
    fn the_name_of_a_claim_says_what_is_claimed() {
        let uuid = "4c4c4544-0044-4810-8031-b4c04f4a3132";
        let names = [
            (Unique::Mac("52:54:00:00:00:01".parse().unwrap()), "mac-52-54-00-00-00-01".to_owned()),
            (Unique::Uuid(uuid.to_owned()), format!("uuid-{uuid}")),
            (Unique::Address(lan("a", "lab"), [10, 0, 0, 5].into()), "address-a.lab.10-0-0-5".to_owned()),
            (Unique::Hostname(lan("a", "lab"), "node-1".to_owned()), "hostname-a.lab.node-1".to_owned()),
            (Unique::Farm(lan("a", "lab")), "farm-a.lab".to_owned()),
            (Unique::Vni(77), "vni-77".to_owned()),
        ];
        for (unique, name) in names {
            assert_eq!(unique.name(), name);
        }
        assert_eq!(Unique::Farm(lan("default", "lab")).value(), "the farm of lan/lab");
    }

    #[test]
    fn no_two_values_have_one_name() {
        // Where dashes and dots are may not matter.
        assert_ne!(hostname("a", "b-c", "d"), hostname("a-b", "c", "d"));
        assert_ne!(hostname("a", "b", "c-d"), hostname("a", "b-c", "d"));
        let dotted = hostname("a", "b", "c.d");
        assert_ne!(dotted, hostname("a", "b", "c-d"));
        assert_ne!(dotted, hostname("a", "b", "C.d"));
        assert_ne!(hostname("a", "b", "c.d"), hostname("a", "c", "b.d"));
        // Who calls a host like the digest of another one's name has another claim.
        assert_ne!(hostname("a", "b", &dotted), dotted);
    }

    #[test]
    fn each_name_is_one_that_an_object_may_have() {
        let long = "x".repeat(63);
        for host in ["Node_1", "-a", "a-", "a.b", "", "ä", &"x".repeat(300), &long] {
            let name = hostname(&long, &long, host);
            assert!(name.len() <= LONGEST && name.split('.').all(is_plain), "{name}");
        }
        // No such LAN is a cluster's; no panic either.
        let lost = ObjectRef { namespace: None, ..lan("a", "lab") };
        assert!(Unique::Farm(lost).name().split('.').all(is_plain));
    }
}

//! What is ours: each link that we make or take carries a label in its alias (`IFLA_IFALIAS`).
//!
//! ```text
//! stokehold/0a1b2c3d/lan default/lab                        the bridge of a LAN
//! stokehold/0a1b2c3d/port default/lab machine/node-1/lab    a port that a workload asked for
//! stokehold/0a1b2c3d/overlay default/lab                    the tunnel to the LAN's bridges on other nodes
//! stokehold/0a1b2c3d/uplink default/lab eth1                an interface of the host, with its name there
//! stokehold/0a1b2c3d/uplink default/lab eth1 to the rack    … and the alias that it had there
//! stokehold/0a1b2c3d/uplink default/lab eth1 +up,192.0.2.7/24 to the rack    … which was up, with an address
//! ```

use std::fmt;
use std::str::FromStr;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use stoke_api::meta::{DEFAULT_NAMESPACE, ObjectRef};
use stoke_api::names::LinkName;

/// First word of every label.
const PREFIX: &str = "stokehold/";
/// Longest alias that the kernel keeps (`IFALIASZ` without the final zero).
const ALIAS_LIMIT: usize = 255;

/// Ties links and tables to one installation on a host: a hash of its state folder.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Installation(String);

/// Text that is no [`Installation`].
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} does not name an installation: one to sixteen of 0-9 and a-z")]
pub struct InstallationError(String);

impl FromStr for Installation {
    type Err = InstallationError;
    fn from_str(text: &str) -> Result<Self, InstallationError> {
        let allowed = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit();
        if (1..=16).contains(&text.len()) && text.bytes().all(allowed) {
            Ok(Self(text.to_owned()))
        } else {
            Err(InstallationError(text.to_owned()))
        }
    }
}

impl fmt::Display for Installation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Names a LAN: `NAMESPACE/NAME`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct LanKey(String);

impl LanKey {
    /// The LAN that a reference names.
    pub fn of(lan: &ObjectRef) -> Self {
        let namespace = lan.namespace.as_ref().map_or(DEFAULT_NAMESPACE, |namespace| namespace.as_str());
        Self(format!("{namespace}/{}", lan.name))
    }
}

impl fmt::Display for LanKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The label of one link.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Label {
    /// Whose it is.
    pub installation: Installation,
    /// The LAN that it is part of.
    pub lan: LanKey,
    /// What it is for.
    pub role: LinkRole,
}

/// What a link is for.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum LinkRole {
    /// The bridge.
    Bridge,
    /// The port of a workload; the text says whose.
    Port(String),
    /// The tunnel to other nodes.
    Overlay,
    /// An interface of the host.
    Uplink {
        /// Its name on the host.
        interface: LinkName,
        /// What else it was there.
        home: Home,
    },
}

/// What an interface was on the host, to be that again when it returns.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Home {
    /// Whether it was up.
    pub up: bool,
    /// Its addresses. Routes other than those that follow from addresses are the host's to make again.
    pub addresses: Vec<IpNet>,
    /// Its alias; empty if none.
    pub alias: String,
}

impl Home {
    /// Reads what [`fmt::Display`] writes. An address that a long label has cut is passed over.
    fn parse(text: &str) -> Self {
        let Some(state) = text.strip_prefix('+') else {
            return Self { alias: text.to_owned(), ..Self::default() };
        };
        let (state, alias) = state.split_once(' ').unwrap_or((state, ""));
        let addresses = state.split(',').skip(1).filter_map(|address| address.parse().ok()).collect();
        Self { up: state.split(',').next() == Some("up"), addresses, alias: alias.to_owned() }
    }
}

impl fmt::Display for Home {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { up, addresses, alias } = self;
        if *up || !addresses.is_empty() || alias.starts_with('+') {
            f.write_str(if *up { " +up" } else { " +down" })?;
            addresses.iter().try_for_each(|address| write!(f, ",{address}"))?;
        }
        if alias.is_empty() { Ok(()) } else { write!(f, " {alias}") }
    }
}

impl Label {
    /// Parses an alias; `None` if it is no label of ours.
    pub fn parse(alias: &str) -> Option<Self> {
        let (installation, rest) = alias.strip_prefix(PREFIX)?.split_once('/')?;
        let (word, rest) = rest.split_once(' ')?;
        let (lan, rest) = rest.split_once(' ').unwrap_or((rest, ""));
        let role = match word {
            "lan" if rest.is_empty() => LinkRole::Bridge,
            "overlay" if rest.is_empty() => LinkRole::Overlay,
            "port" => LinkRole::Port(rest.to_owned()),
            "uplink" => {
                let (interface, home) = rest.split_once(' ').unwrap_or((rest, ""));
                LinkRole::Uplink { interface: interface.parse().ok()?, home: Home::parse(home) }
            }
            _ => return None,
        };
        Some(Self { installation: installation.parse().ok()?, lan: LanKey(lan.to_owned()), role })
    }

    /// The alias, cut to what the kernel keeps.
    pub fn alias(&self) -> String {
        let mut alias = self.to_string();
        let end = (0..=ALIAS_LIMIT.min(alias.len())).rev().find(|end| alias.is_char_boundary(*end)).unwrap_or(0);
        alias.truncate(end);
        alias
    }
}

impl fmt::Display for Label {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { installation, lan, role } = self;
        write!(f, "{PREFIX}{installation}/")?;
        match role {
            LinkRole::Bridge => write!(f, "lan {lan}"),
            LinkRole::Overlay => write!(f, "overlay {lan}"),
            LinkRole::Port(owner) => write!(f, "port {lan} {owner}"),
            LinkRole::Uplink { interface, home } => write!(f, "uplink {lan} {interface}{home}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_parsed_back() {
        for alias in [
            "stokehold/0a1b2c3d/lan default/lab",
            "stokehold/0a1b2c3d/port default/lab machine/node-1/lab",
            "stokehold/0a1b2c3d/overlay default/lab",
            "stokehold/0a1b2c3d/uplink default/lab eth1",
            "stokehold/0a1b2c3d/uplink default/lab eth1 to the rack",
            "stokehold/0a1b2c3d/uplink default/lab eth1 +up",
            "stokehold/0a1b2c3d/uplink default/lab eth1 +down,192.0.2.7/24,2001:db8::7/64 to the rack",
            "stokehold/0a1b2c3d/uplink default/lab eth1 +down +1",
        ] {
            assert_eq!(Label::parse(alias).expect(alias).to_string(), alias);
        }
    }

    #[test]
    fn what_others_write_into_an_alias_is_no_label() {
        for alias in
            ["", "stokehold", "stokehold//lan default/lab", "stokehold/0a/wan x", "uplink to stokehold/0a/lan x"]
        {
            assert_eq!(Label::parse(alias), None, "{alias:?}");
        }
    }

    #[test]
    fn a_long_alias_is_cut_at_a_character() {
        let role = LinkRole::Port("ü".repeat(200));
        let label = Label { installation: "0a".parse().unwrap(), lan: LanKey("default/lab".into()), role };
        assert!((254..=255).contains(&label.alias().len()));
    }
}

//! The configuration of an LTSP farm, taken as it is: `lts.conf` of LTSP 5 and `ltsp.conf` of LTSP 19.08 and later.
//!
//! ```text
//! text -> sections, each line with its place            (lts_conf, ltsp_conf)
//!      -> the values that hold for one machine          (resolve, in each)
//!      -> a NodeConfig, a root mode, one script         (translate, script)
//!      -> and what became of each line                  (report)
//! ```
//!
//! What can be told by reading the file becomes typed configuration, so that it is checked before a machine boots and
//! shown like any other. What only a shell can tell (`$(…)`, code in a section of `ltsp.conf`) is left to the image's own
//! shell: it runs in the node's new root, before the system starts, where LTSP ran it. There is no second shell here that
//! understands it nearly.
//!
//! Read [`lts_conf`] first, then [`translate`](mod@translate).

mod conf;
pub mod expand;
pub mod keys;
pub mod lts_conf;
pub mod ltsp_conf;
pub mod order;
pub mod pattern;
pub mod report;
mod script;
mod shell;
pub mod translate;

use std::collections::BTreeMap;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use stoke_api::MacAddr;

pub use conf::Conf;

/// A file of configuration, and the files that it includes.
#[derive(Clone, Copy, Debug)]
pub struct Source<'a> {
    /// How it is called in messages.
    pub name: &'a str,
    /// What is in it.
    pub text: &'a str,
    /// The files that it includes, by the names that it calls them.
    pub included: &'a BTreeMap<String, String>,
}

/// A line of a file.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    /// The file.
    pub file: Arc<str>,
    /// The line, from 1.
    pub line: usize,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.file, self.line)
    }
}

/// Something that cannot be understood, or is not what it seems.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Finding {
    /// Where.
    pub place: Place,
    /// What: lower case, no full stop.
    pub message: String,
}

/// A variable that is set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Assignment {
    /// Its name, in upper case.
    pub key: String,
    /// What it is set to, as the shell gets it: quotes are gone, `$NAME` is not replaced.
    pub value: String,
    /// Where.
    pub place: Place,
    /// The section, as it is written.
    pub section: Arc<str>,
}

/// The machine whose values are asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Machine<'a> {
    /// Its interfaces, the one that it boots from first.
    pub macs: &'a [MacAddr],
    /// Its address, if it is known.
    pub address: Option<Ipv4Addr>,
    /// The name that it has before a section names it.
    pub hostname: &'a str,
    /// The farm's address: what LTSP calls `SERVER`.
    pub server: Option<IpAddr>,
}

impl Machine<'_> {
    /// What the shell of LTSP knows of the machine before any section, by variable.
    pub(crate) fn variables(&self) -> BTreeMap<String, String> {
        let mac = self.macs.first().map(ToString::to_string);
        let address = self.address.map(|address| address.to_string());
        let values = [
            ("SERVER", self.server.map(|server| server.to_string())),
            ("HOSTNAME", Some(self.hostname.to_owned())),
            ("IPV4ADDR", address.clone()),
            ("IP_ADDRESS", address),
            ("MAC_ADDRESS", mac.clone()),
            ("MAC", mac),
        ];
        values.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?))).collect()
    }
}

/// Whether a value means yes: `y`, `yes`, `true` in any case, and `1`.
pub(crate) fn is_true(value: &str) -> bool {
    ["y", "yes", "true", "1"].contains(&value.trim().to_ascii_lowercase().as_str())
}

#[cfg(test)]
mod tests;

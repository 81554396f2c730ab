//! Management controllers of servers: power, what is booted next, and what a server is; by Redfish or by IPMI 2.0.
//!
//! ```text
//!  Controller ─┬─ Redfish   HTTP with JSON (DMTF DSP0266)
//!              └─ Ipmi      the program ipmitool, one process for each question
//! ```
//!
//! Synchronous: one question at a time to one controller, which is as much as most of them stand. Read [`Controller`] first.
//!
//! What this crate never does: repeat an order that may have been carried out, decide when a server is to be switched, put a
//! password into an argument, the environment or an error, or follow a redirection to another host.

mod ipmi;
mod redfish;
mod tls;

use std::fmt;

use stoke_api::objects::{BmcInventory, NetworkBoot, Power};

pub use ipmi::Ipmi;
pub use redfish::{Redfish, RedfishAccess};

/// A password, which no message shows.
#[derive(Clone, PartialEq, Eq)]
pub struct Password(String);

impl Password {
    /// The password in a file: its first line.
    ///
    /// # Errors
    /// If that is no text.
    pub fn from_file_content(content: &[u8]) -> Result<Self, BmcError> {
        let text = std::str::from_utf8(content).map_err(|_| BmcError::Strange("the password is no text".to_owned()))?;
        Ok(Self(text.lines().next().unwrap_or_default().to_owned()))
    }

    pub(crate) fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Password {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Password(…)")
    }
}

/// What is done to a server's power.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Switch {
    /// On.
    On,
    /// The system is asked to shut down, as by its power button.
    ShutDown,
    /// Off at once, whatever runs.
    Off,
    /// Off and on again at once; on if it is off.
    Cycle,
}

/// Why a controller did not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum BmcError {
    /// It cannot be reached, or the connection broke.
    #[error("its management controller at {at} cannot be reached: {why}")]
    Unreachable {
        /// Where it should be.
        at: String,
        /// Why not.
        why: String,
    },
    /// It does not let us.
    #[error("its management controller at {0} refuses the user or the password")]
    Unauthorized(String),
    /// It refused.
    #[error("its management controller refuses: {0}")]
    Refused(String),
    /// It said something that it should not.
    #[error("its management controller is not understood: {0}")]
    Strange(String),
    /// A program or a file of this host.
    #[error("{0}")]
    Host(String),
}

/// One controller, by the protocol that it is spoken to.
#[derive(Debug)]
pub enum Controller {
    /// By Redfish.
    Redfish(Box<Redfish>),
    /// By IPMI.
    Ipmi(Ipmi),
}

impl Controller {
    /// Whether the server is on.
    ///
    /// # Errors
    /// If it cannot be reached or does not say.
    pub fn power(&self) -> Result<Power, BmcError> {
        match self {
            Self::Redfish(redfish) => redfish.power(),
            Self::Ipmi(ipmi) => ipmi.power(),
        }
    }

    /// Switches the server. It is not awaited that this is done.
    ///
    /// # Errors
    /// If it cannot be reached or refuses.
    pub fn switch(&self, switch: Switch) -> Result<(), BmcError> {
        match self {
            Self::Redfish(redfish) => redfish.switch(switch),
            Self::Ipmi(ipmi) => ipmi.switch(switch),
        }
    }

    /// Lets the next boot, and that alone, go by the network.
    ///
    /// # Errors
    /// If it cannot be reached or refuses.
    pub fn boot_from_network_once(&self, mode: NetworkBoot) -> Result<(), BmcError> {
        match self {
            Self::Redfish(redfish) => redfish.boot_from_network_once(mode),
            Self::Ipmi(ipmi) => ipmi.boot_from_network_once(mode),
        }
    }

    /// What the server is; what the controller does not know is absent.
    ///
    /// # Errors
    /// If it cannot be reached.
    pub fn inventory(&self) -> Result<BmcInventory, BmcError> {
        match self {
            Self::Redfish(redfish) => redfish.inventory(),
            Self::Ipmi(ipmi) => ipmi.inventory(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Password;

    #[test]
    fn a_password_is_the_first_line_and_is_not_shown() {
        let password = Password::from_file_content(b"s3cret\n\n").unwrap();
        assert_eq!(password.reveal(), "s3cret");
        assert!(!format!("{password:?}").contains("s3cret"));
        assert!(Password::from_file_content(&[0xff]).is_err());
    }
}

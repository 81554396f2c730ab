//! IPMI 2.0 by the program ipmitool, which has seen more controllers than any client of ours ever will. The password is in a
//! file that ipmitool reads itself; it is never an argument.

use std::io::Read as _;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use stoke_api::objects::{BmcInventory, NetworkBoot, Power};

use crate::{BmcError, Switch};

/// How long one question may take, its repetitions included.
const LIMIT: Duration = Duration::from_secs(40);
/// How often it is looked whether it has ended.
const LOOK: Duration = Duration::from_millis(20);
/// Of what ipmitool says, no more than this is told.
const WORDS: usize = 300;

/// An IPMI service.
#[derive(Clone, Debug)]
pub struct Ipmi {
    /// Host name or address.
    pub address: String,
    /// UDP port.
    pub port: u16,
    /// Who logs in.
    pub user: String,
    /// The file with the password.
    pub password_file: PathBuf,
    /// The cipher suite; the best that it offers if absent.
    pub cipher_suite: Option<u8>,
}

impl Ipmi {
    /// ipmitool with these words, still to be run: the serial console, too, begins so.
    pub fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new("ipmitool");
        command.args(["-I", "lanplus", "-H", &self.address, "-p", &self.port.to_string(), "-U", &self.user, "-f"]);
        command.arg(&self.password_file);
        if let Some(suite) = self.cipher_suite {
            command.args(["-C", &suite.to_string()]);
        }
        command.args(words).env("LC_ALL", "C");
        command
    }

    pub(crate) fn power(&self) -> Result<Power, BmcError> {
        let said = self.ask(&["chassis", "power", "status"])?;
        match said.trim() {
            "Chassis Power is on" => Ok(Power::On),
            "Chassis Power is off" => Ok(Power::Off),
            other => Err(BmcError::Strange(short(other))),
        }
    }

    pub(crate) fn switch(&self, switch: Switch) -> Result<(), BmcError> {
        let word = match switch {
            Switch::On => "on",
            Switch::ShutDown => "soft",
            Switch::Off => "off",
            // A cycle of what is off is nothing (IPMI 2.0, 28.3).
            Switch::Cycle if self.power()? == Power::Off => "on",
            Switch::Cycle => "cycle",
        };
        self.ask(&["chassis", "power", word]).map(drop)
    }

    pub(crate) fn boot_from_network_once(&self, mode: NetworkBoot) -> Result<(), BmcError> {
        let mut words = vec!["chassis", "bootdev", "pxe"];
        words.extend((mode == NetworkBoot::Uefi).then_some("options=efiboot"));
        self.ask(&words).map(drop)
    }

    pub(crate) fn inventory(&self) -> Result<BmcInventory, BmcError> {
        let uuid = present(self.ask(&["mc", "guid"]))?.and_then(|said| value(&said, "System GUID"));
        let fru = present(self.ask(&["fru", "print", "0"]))?.unwrap_or_default();
        Ok(BmcInventory {
            uuid: uuid.map(|uuid| uuid.to_lowercase()),
            manufacturer: value(&fru, "Product Manufacturer"),
            product: value(&fru, "Product Name"),
            serial: value(&fru, "Product Serial"),
            // IPMI has no command for the server's own interfaces.
            macs: Vec::new(),
        })
    }

    /// What ipmitool prints.
    fn ask(&self, words: &[&str]) -> Result<String, BmcError> {
        let mut command = self.command(words);
        let child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
        let mut child = child.map_err(|error| match error.kind() {
            std::io::ErrorKind::NotFound => {
                BmcError::Host("there is no ipmitool here: apt-get install ipmitool".into())
            }
            _ => BmcError::Host(format!("cannot start ipmitool: {error}")),
        })?;
        let begin = Instant::now();
        let status = loop {
            match child.try_wait() {
                Ok(Some(status)) => break status,
                Ok(None) if begin.elapsed() < LIMIT => std::thread::sleep(LOOK),
                Ok(None) => {
                    // It may have ended just now.
                    drop(child.kill());
                    drop(child.wait());
                    return Err(self.unreachable("it does not answer"));
                }
                Err(error) => return Err(BmcError::Host(format!("cannot wait for ipmitool: {error}"))),
            }
        };
        // What it prints fits into a pipe: it has ended already.
        let (mut said, mut complaint) = (String::new(), String::new());
        drop(child.stdout.take().map(|mut out| out.read_to_string(&mut said)));
        drop(child.stderr.take().map(|mut out| out.read_to_string(&mut complaint)));
        if status.success() { Ok(said) } else { Err(self.failure(&complaint)) }
    }

    fn failure(&self, complaint: &str) -> BmcError {
        let complaint = complaint.replace("Unable to Get Channel Cipher Suites", "");
        if complaint.contains("Address lookup") {
            return self.unreachable(&short(&complaint));
        }
        // ipmitool does not tell silence from a wrong password.
        if complaint.contains("Unable to establish") {
            return self.unreachable("nothing answers there, or user, password or cipher suite are wrong");
        }
        BmcError::Refused(short(&complaint))
    }

    fn unreachable(&self, why: &str) -> BmcError {
        BmcError::Unreachable { at: format!("{}:{}", self.address, self.port), why: why.to_owned() }
    }
}

/// What was said; nothing where the controller has no such thing, which is no failure.
fn present(said: Result<String, BmcError>) -> Result<Option<String>, BmcError> {
    match said {
        Err(BmcError::Refused(_)) => Ok(None),
        other => other.map(Some),
    }
}

/// What stands behind a name and a colon.
fn value(said: &str, name: &str) -> Option<String> {
    let found = said.lines().filter_map(|line| line.split_once(':')).find(|(key, _)| key.trim() == name);
    found.map(|(_, value)| value.trim().to_owned()).filter(|value| !value.is_empty())
}

fn short(said: &str) -> String {
    let words = said.split_whitespace().collect::<Vec<_>>().join(" ");
    words.chars().take(WORDS).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ipmi() -> Ipmi {
        let password_file = "/etc/bmc/password".into();
        Ipmi { address: "10.0.0.9".into(), port: 623, user: "op".into(), password_file, cipher_suite: Some(17) }
    }

    #[test]
    fn the_password_is_a_file() {
        let command = ipmi().command(&["sol", "activate"]);
        let words: Vec<_> = command.get_args().map(|word| word.to_string_lossy().into_owned()).collect();
        let all = "-I lanplus -H 10.0.0.9 -p 623 -U op -f /etc/bmc/password -C 17 sol activate";
        assert_eq!(words.join(" "), all);
    }

    #[test]
    fn values_behind_names() {
        let said = "FRU Device Description : Builtin\n Product Name          : Fuzzy 9000\n Product Serial        :\n";
        assert_eq!(value(said, "Product Name").as_deref(), Some("Fuzzy 9000"));
        assert_eq!(value(said, "Product Serial"), None);
    }

    #[test]
    fn failures_are_told_apart() {
        let of = |text: &str| ipmi().failure(text);
        assert!(matches!(of("Error: Unable to establish IPMI v2 / RMCP+ session"), BmcError::Unreachable { .. }));
        assert!(matches!(of("Set Chassis Power Control to Up/On failed: x"), BmcError::Refused(_)));
    }
}

//! `stoke console` of a server: its serial port, through its management controller (IPMI's Serial over LAN). ipmitool has the
//! terminal; what it knows of keys (Enter ~ .) is told at the beginning.

use std::io::{self, IsTerminal as _};
use std::process::ExitCode;

use anyhow::Context as _;
use stoke_api::objects::{IpmiSpec, SecretSource};
use stoke_api::{AnyObject, ObjectRef};
use stoke_bmc::Ipmi;

use super::blocking;
use crate::client::Client;
use crate::failure::Failure;
use crate::folders::Folders;

pub(super) fn run(folders: &Folders, reference: &ObjectRef) -> anyhow::Result<ExitCode> {
    let object = blocking(ask(folders, reference))?;
    let ipmi = controller(reference, &object)?;
    if !io::stdin().is_terminal() || !io::stdout().is_terminal() {
        let hint = "the console of a machine works in a pipe, too";
        return Err(Failure::usage("the console of a server needs a terminal", hint));
    }
    eprintln!("attached to {reference}; Enter, then ~. detaches");
    let ended = ipmi.command(&["sol", "activate"]).status();
    let ended = match ended {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Err(Failure::hinted("there is no ipmitool here", "install it: apt-get install ipmitool"));
        }
        other => other.context("cannot start ipmitool")?,
    };
    if !ended.success() {
        let hint = "only one can be attached at once, and the controller must allow Serial over LAN";
        return Err(Failure::hinted(format!("the console of {reference} ended"), hint));
    }
    Ok(ExitCode::SUCCESS)
}

async fn ask(folders: &Folders, reference: &ObjectRef) -> anyhow::Result<AnyObject> {
    Client::connect(folders).await?.object(reference).await
}

/// The controller by IPMI: Redfish has no serial console of its own that all vendors share.
fn controller(reference: &ObjectRef, object: &AnyObject) -> anyhow::Result<Ipmi> {
    let bmc = match object {
        AnyObject::Server(server) => server.spec.bmc.as_ref(),
        _ => None,
    };
    let hint = "its serial console goes by IPMI: add spec.bmc.ipmi to its file";
    let none = || Failure::hinted(format!("{reference} names no IPMI controller"), hint);
    let IpmiSpec { address, port, user, password, cipher_suite } =
        bmc.and_then(|bmc| bmc.ipmi.clone()).ok_or_else(none)?;
    let Some(SecretSource::File(file)) = password.source() else {
        return Err(Failure::plain("its password is no file of this host"));
    };
    Ok(Ipmi { address, port, user, password_file: file.to_owned(), cipher_suite })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn consoles_go_by_ipmi() {
        let server = |bmc: serde_json::Value| -> AnyObject {
            let farm = json!({"namespace": "default", "name": "lab"});
            let spec = json!({"farm": farm, "macs": ["52:54:00:00:00:07"], "bmc": bmc});
            serde_json::from_value(json!({"kind": "Server", "metadata": {"name": "a"}, "spec": spec})).unwrap()
        };
        let password = json!({"file": "/etc/bmc"});
        let ipmi = server(json!({"ipmi": {"address": "bmc", "user": "a", "password": password}}));
        let found = controller(&ipmi.reference(), &ipmi).unwrap();
        assert_eq!((found.port, found.password_file.to_str()), (623, Some("/etc/bmc")));
        let redfish = server(json!({"redfish": {"url": "https://bmc", "user": "a", "password": password}}));
        assert!(controller(&redfish.reference(), &redfish).unwrap_err().to_string().contains("no IPMI controller"));
    }
}

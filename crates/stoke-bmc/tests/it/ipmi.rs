//! OpenIPMI's simulator, with a QEMU that runs while the server is on.

use std::time::Duration;

use stoke_api::objects::{NetworkBoot, Power};
use stoke_bmc::{BmcError, Controller, Ipmi, Switch};
use testbed::bmc::{IpmiServer, USER, UUID};
use testbed::wait_for;

const LIMIT: Duration = Duration::from_mins(2);

fn ipmi(server: &IpmiServer) -> Ipmi {
    // The simulator does not tell which suites it has.
    let (address, password_file, cipher_suite) = (server.address.clone(), server.password_file(), Some(3));
    Ipmi { address, port: server.port(), user: USER.to_owned(), password_file, cipher_suite }
}

fn until_guest(server: &IpmiServer, runs: bool) {
    let what = if runs { "QEMU's start" } else { "QEMU's end" };
    wait_for(what, LIMIT, || Ok((server.guest().is_some() == runs).then_some(()))).unwrap();
}

#[test]
fn a_server_is_really_switched() {
    let server = IpmiServer::start().unwrap();
    let controller = Controller::Ipmi(ipmi(&server));
    assert_eq!(controller.power().unwrap(), Power::Off);
    assert!(server.guest().is_none());

    controller.boot_from_network_once(NetworkBoot::Uefi).unwrap();
    assert_eq!(server.next_boot().as_deref(), Some("pxe"));
    controller.switch(Switch::On).unwrap();
    until_guest(&server, true);
    assert_eq!(controller.power().unwrap(), Power::On);

    let first = server.guest().unwrap();
    controller.switch(Switch::Cycle).unwrap();
    wait_for("another QEMU", LIMIT, || Ok(server.guest().filter(|guest| *guest != first))).unwrap();

    server.hang().unwrap();
    controller.switch(Switch::ShutDown).unwrap();
    assert_eq!(controller.power().unwrap(), Power::On, "it does not heed its button");
    controller.switch(Switch::Off).unwrap();
    until_guest(&server, false);
    assert_eq!(controller.power().unwrap(), Power::Off);
    // A cycle of what is off switches it on.
    controller.switch(Switch::Cycle).unwrap();
    until_guest(&server, true);
}

#[test]
fn it_says_who_it_is_and_refuses_strangers() {
    let server = IpmiServer::start().unwrap();
    let known = ipmi(&server);
    let inventory = Controller::Ipmi(known.clone()).inventory().unwrap();
    let uuid = inventory.uuid.unwrap();
    // The order of the bytes is not the same with every controller.
    assert!(uuid == UUID || uuid.ends_with(&reversed(&UUID[..8])), "{uuid}");

    let wrong = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(wrong.path(), "wrong").unwrap();
    let stranger = Ipmi { password_file: wrong.path().to_owned(), ..known.clone() };
    let refused = Controller::Ipmi(stranger).power().unwrap_err();
    assert!(refused.to_string().contains("password"), "{refused}");
    let nobody = Ipmi { port: 9, ..known };
    let silent = Controller::Ipmi(nobody).power().unwrap_err();
    assert!(matches!(silent, BmcError::Unreachable { .. }), "{silent}");
}

fn reversed(hex: &str) -> String {
    hex.as_bytes().chunks(2).rev().flat_map(|byte| byte.iter().map(|byte| char::from(*byte))).collect()
}

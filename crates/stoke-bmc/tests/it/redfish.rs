//! sushy-tools' emulator.

use std::time::Duration;

use stoke_api::objects::{NetworkBoot, Power};
use stoke_bmc::{BmcError, Controller, Password, Redfish, RedfishAccess, Switch};
use testbed::bmc::{MAC, OTHER, RedfishServer, USER, UUID};
use testbed::wait_for;

const LIMIT: Duration = Duration::from_mins(2);

fn access(server: &RedfishServer) -> RedfishAccess {
    let password = std::fs::read(server.password_file()).unwrap();
    RedfishAccess {
        url: server.url.clone(),
        user: USER.to_owned(),
        password: Password::from_file_content(&password).unwrap(),
        system: None,
        uuid: Some(UUID.to_uppercase()),
        ca_file: None,
        insecure: false,
    }
}

fn open(access: RedfishAccess) -> Controller {
    Controller::Redfish(Box::new(Redfish::open(access).unwrap()))
}

fn until_power(controller: &Controller, power: Power) {
    wait_for("the power", LIMIT, || Ok((controller.power()? == power).then_some(()))).unwrap();
}

#[test]
fn the_right_one_of_two_is_switched() {
    let server = RedfishServer::start().unwrap();
    let controller = open(access(&server));
    let other = open(RedfishAccess { system: Some(OTHER.to_owned()), uuid: None, ..access(&server) });
    assert_eq!(controller.power().unwrap(), Power::Off);
    controller.boot_from_network_once(NetworkBoot::Uefi).unwrap();
    controller.switch(Switch::On).unwrap();
    until_power(&controller, Power::On);
    assert_eq!(other.power().unwrap(), Power::Off);
    controller.switch(Switch::Cycle).unwrap();
    until_power(&controller, Power::On);
    controller.switch(Switch::ShutDown).unwrap();
    until_power(&controller, Power::Off);
}

#[test]
fn it_says_what_the_server_is_and_refuses_strangers() {
    let server = RedfishServer::start().unwrap();
    let inventory = open(access(&server)).inventory().unwrap();
    assert_eq!(inventory.uuid.as_deref(), Some(UUID));
    assert_eq!(inventory.manufacturer.as_deref(), Some("Sushy Emulator"));
    assert_eq!(inventory.macs, [MAC.parse().unwrap()]);

    let wrong = Password::from_file_content(b"wrong").unwrap();
    let refused = open(RedfishAccess { password: wrong, ..access(&server) }).power().unwrap_err();
    assert!(matches!(refused, BmcError::Unauthorized(_)), "{refused}");
    assert!(!refused.to_string().contains("wrong"));
    let unknown = open(RedfishAccess { uuid: None, ..access(&server) }).power().unwrap_err();
    assert!(unknown.to_string().contains("2 systems"), "{unknown}");
    let nobody = open(RedfishAccess { url: "http://127.0.0.1:9".to_owned(), ..access(&server) }).power().unwrap_err();
    assert!(matches!(nobody, BmcError::Unreachable { .. }), "{nobody}");
}

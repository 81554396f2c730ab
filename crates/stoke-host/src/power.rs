//! What `stoke start`, `stop` and `reboot` ask of a server, in its status.

use stoke_api::Object;
use stoke_api::control::PowerAction;
use stoke_api::objects::{Power, RebootAsked, RebootWay, ServerSpec, ServerStatus};

/// The status with the request in it, or why it cannot be.
pub(crate) fn of_server(
    server: &Object<ServerSpec, ServerStatus>,
    action: PowerAction,
) -> Result<ServerStatus, String> {
    let mut status = server.status.clone();
    let wanted = match action {
        PowerAction::Reboot => {
            if status.bmc.as_ref().is_some_and(|bmc| bmc.power == Some(Power::Off)) {
                return Err("it is switched off; start it".to_owned());
            }
            status.reboots_requested += 1;
            let now = jiff::Timestamp::now().as_millisecond();
            status.reboot =
                Some(RebootAsked { way: RebootWay::Agent, told_ms: u64::try_from(now).unwrap_or_default() });
            return Ok(status);
        }
        PowerAction::Start => Power::On,
        PowerAction::Stop => Power::Off,
    };
    if server.spec.bmc.is_none() {
        let why =
            "it is switched at its own button: no management controller is named in its spec.bmc; only reboot works";
        return Err(why.to_owned());
    }
    // A reboot that is still under way would switch it on again.
    status.reboot = None;
    let bmc = status.bmc.get_or_insert_default();
    bmc.wanted = Some(wanted);
    bmc.requests += 1;
    Ok(status)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn server(bmc: bool, power: Option<Power>) -> Object<ServerSpec, ServerStatus> {
        let ipmi = json!({"ipmi": {"address": "bmc", "user": "a", "password": {"file": "/p"}}});
        serde_json::from_value(json!({
            "metadata": {"name": "a"},
            "spec": {"farm": {"namespace": "default", "name": "lab"}, "macs": [], "bmc": bmc.then_some(ipmi)},
            "status": {"bmc": {"power": power, "requests": 3}},
        }))
        .unwrap()
    }

    #[test]
    fn power_is_asked_for_where_there_is_a_controller() {
        let status = of_server(&server(true, None), PowerAction::Stop).unwrap().bmc.unwrap();
        assert_eq!((status.wanted, status.requests), (Some(Power::Off), 4));
        assert!(of_server(&server(false, None), PowerAction::Start).unwrap_err().contains("spec.bmc"));
    }

    #[test]
    fn a_reboot_begins_with_the_agent_and_not_while_it_is_off() {
        let status = of_server(&server(false, None), PowerAction::Reboot).unwrap();
        assert_eq!((status.reboots_requested, status.reboot.unwrap().way), (1, RebootWay::Agent));
        assert!(of_server(&server(true, Some(Power::Off)), PowerAction::Reboot).is_err());
    }
}

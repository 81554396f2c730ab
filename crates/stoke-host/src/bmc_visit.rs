//! One conversation with one management controller.

use stoke_api::objects::{BmcInventory, Power, SecretSource};
use stoke_bmc::{BmcError, Controller, Ipmi, Password, Redfish, RedfishAccess, Switch};
use stoke_reconcile::BmcTask;

use crate::secrets;

/// What a visit is to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Order {
    /// Switch, unless the power is that already.
    Bring(Power, Switch),
    /// A power cycle.
    Cycle,
}

/// What came of it.
pub(crate) struct Found {
    pub(crate) task: BmcTask,
    pub(crate) order: Option<Order>,
    /// Power cycles that were done before this visit.
    pub(crate) cycles_before: u64,
    pub(crate) power: Option<Power>,
    pub(crate) inventory: Option<BmcInventory>,
    /// The order that was sent, and may have been carried out even if an error follows.
    pub(crate) sent: Option<Switch>,
    /// Whether the controller said no to the order.
    pub(crate) refused: bool,
    pub(crate) error: Option<String>,
}

/// Visits a controller. Takes as long as that takes.
pub(crate) fn visit(task: BmcTask, order: Option<Order>, inventory: bool, cycles_before: u64) -> Found {
    let (power, sent, refused, error) = (None, None, false, None);
    let mut found = Found { task, order, cycles_before, power, inventory: None, sent, refused, error };
    if let Err(error) = talk(&mut found, inventory) {
        found.error = Some(error.to_string());
    }
    found
}

fn talk(found: &mut Found, inventory: bool) -> Result<(), BmcError> {
    let controller = controller(&found.task)?;
    found.power = Some(controller.power()?);
    let switch = match found.order {
        Some(Order::Bring(wanted, switch)) if found.power != Some(wanted) => Some(switch),
        Some(Order::Cycle) => Some(Switch::Cycle),
        _ => None,
    };
    // Who it is before anything is switched.
    if inventory {
        found.inventory = Some(controller.inventory()?);
    }
    let Some(switch) = switch else { return Ok(()) };
    if let Some(mode) = found.task.spec.network_boot.filter(|_| matches!(switch, Switch::On | Switch::Cycle)) {
        controller.boot_from_network_once(mode)?;
    }
    match controller.switch(switch) {
        Err(error @ (BmcError::Refused(_) | BmcError::Unauthorized(_) | BmcError::Host(_))) => {
            found.refused = true;
            Err(error)
        }
        other => {
            found.sent = Some(switch);
            other
        }
    }
}

/// The controller, with its password read now.
fn controller(task: &BmcTask) -> Result<Controller, BmcError> {
    if let Some(redfish) = &task.spec.redfish {
        let content = secrets::read(&redfish.password).map_err(BmcError::Host)?;
        let access = RedfishAccess {
            url: redfish.url.clone(),
            user: redfish.user.clone(),
            password: Password::from_file_content(&content)?,
            system: redfish.system.clone(),
            uuid: task.uuid.clone(),
            ca_file: redfish.ca_file.clone(),
            insecure: redfish.insecure,
        };
        return Ok(Controller::Redfish(Box::new(Redfish::open(access)?)));
    }
    let none = || BmcError::Host("spec.bmc says neither redfish nor ipmi".to_owned());
    let ipmi = task.spec.ipmi.as_ref().ok_or_else(none)?;
    // Read to be sure that nobody else can; ipmitool reads it again.
    secrets::read(&ipmi.password).map_err(BmcError::Host)?;
    let Some(SecretSource::File(file)) = ipmi.password.source() else { return Err(none()) };
    Ok(Controller::Ipmi(Ipmi {
        address: ipmi.address.clone(),
        port: ipmi.port,
        user: ipmi.user.clone(),
        password_file: file.to_owned(),
        cipher_suite: ipmi.cipher_suite,
    }))
}

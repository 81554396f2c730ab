//! What a machine is told by the loader that runs on it, made up as it is asked for: scripts and configurations.
//!
//! Every loader is told the same: [`decide`] says what, `stoke_boot` says it in the loader's language.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr};

use stoke_api::MacAddr;
use stoke_api::workload::{Architecture, FarmImage};
use stoke_boot::configs::{self, ConfigName, Loader, Subject, Task};
use stoke_boot::render;

use crate::admission::Turn;
use crate::config::Serving;
use crate::farm::Farm;
use crate::trace::Noted;

/// Seconds until a loader asks again for an image that is not there yet.
const WAIT_SECONDS: u32 = 5;

/// What a machine is told.
pub(crate) enum Decision {
    /// To boot.
    Boot {
        /// Its name.
        name: String,
        /// The image, with the kernel arguments of this machine.
        image: Box<FarmImage>,
    },
    /// To ask again.
    Wait {
        /// After so many seconds.
        seconds: u32,
        /// Why.
        reason: String,
    },
    /// To go away.
    Refuse(&'static str),
}

impl fmt::Display for Decision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Boot { image, .. } => write!(f, "boot image {}", image.digest.short()),
            Self::Wait { seconds, reason } => write!(f, "wait {seconds} s: {reason}"),
            Self::Refuse(reason) => f.write_str(reason),
        }
    }
}

/// What the machine is told that asks now.
pub(crate) fn decide(farm: &Farm, serving: &Serving, mac: MacAddr, uuid: Option<&str>) -> Decision {
    let Some(identity) = serving.identify(mac, &[], uuid) else {
        tracing::info!(%mac, "boot refused: no Server or Machine has this address");
        return Decision::Refuse("no Server or Machine of this farm has this address");
    };
    let name = identity.name();
    // Scripts and configurations are for loaders that start x86 kernels; others load a unified kernel image.
    let image = serving.image_for(&identity, Architecture::Amd64);
    // Waiting is no boot.
    let waits = || farm.loading(identity.owner(), mac, None);
    let Some(image) = image else {
        waits();
        tracing::info!(%mac, name, "boot: wait, there is no image yet");
        return Decision::Wait { seconds: WAIT_SECONDS, reason: "the farm's image is not built yet".to_owned() };
    };
    if let Turn::Wait { seconds, before } = farm.admit(serving, mac) {
        waits();
        return Decision::Wait {
            seconds,
            reason: format!("many machines load now, and {before} wait before this one"),
        };
    }
    farm.loading(identity.owner(), mac, Some(image.digest));
    tracing::info!(%mac, name, image = image.digest.short(), "boot");
    Decision::Boot { name, image: serving.with_arguments(&identity, image) }
}

/// The script of iPXE. `base` is the farm's HTTP server as the machine reaches it.
pub(crate) fn script(farm: &Farm, base: &str, mac: MacAddr, uuid: Option<&str>) -> String {
    let serving = farm.serving();
    let decision = decide(farm, &serving, mac, uuid);
    farm.trace.machine(mac, Noted::now("http", "boot script", decision.to_string()));
    match decision {
        Decision::Boot { name, image } => render::boot(base, &name, &image, mac),
        Decision::Wait { seconds, reason } => render::wait(base, mac, seconds, &reason),
        Decision::Refuse(reason) => render::refuse(mac, reason),
    }
}

/// The configuration that another loader asks for by this name; `None` if the name is none, or does not tell for whom it is.
pub(crate) fn config(farm: &Farm, name: &str, client: Option<IpAddr>) -> Option<String> {
    let wanted = ConfigName::parse(name)?;
    let uuid = match &wanted.subject {
        Subject::Uuid(uuid) => Some(uuid.as_str()),
        Subject::Mac(_) | Subject::Asker => None,
    };
    let serving = farm.serving();
    let mac = match wanted.subject {
        Subject::Mac(mac) => Some(mac),
        Subject::Uuid(_) | Subject::Asker => {
            let of_uuid = uuid.and_then(|uuid| serving.mac_by_uuid(uuid));
            of_uuid.or_else(|| client.and_then(neighbour))
        }
    };
    let Some(mac) = mac else {
        // PXELINUX asks on by its MAC; GRUB would only know what it was built with.
        let last_resort = wanted.loader == Loader::Grub && name.ends_with("grub.cfg");
        return last_resort.then(configs::grub_by_mac);
    };
    farm.metrics.scripts.inc();
    let base = serving.base_url();
    let server = base.strip_prefix("http://").unwrap_or(&base);
    let render = |task: &Task<'_>| configs::config(wanted.loader, server, mac, task);
    Some(match decide(farm, &serving, mac, uuid) {
        Decision::Boot { name, image } => render(&Task::Boot { name: &name, image: &image }),
        Decision::Wait { seconds, reason } => render(&Task::Wait { seconds, reason: &reason }),
        Decision::Refuse(reason) => render(&Task::Refuse { reason }),
    })
}

/// The link-layer address of a machine on the LAN, which has just sent a packet from this address.
pub(crate) fn neighbour(address: IpAddr) -> Option<MacAddr> {
    let IpAddr::V4(address) = address else { return None };
    // Of this thread: another one may be in another network namespace.
    in_table(&fs_err::read_to_string("/proc/thread-self/net/arp").ok()?, address)
}

/// Reads the table of neighbours: address, hardware type, flags, link-layer address, mask, device (proc_pid_net(5)).
fn in_table(table: &str, wanted: Ipv4Addr) -> Option<MacAddr> {
    table.lines().find_map(|line| {
        let mut fields = line.split_whitespace();
        let address: Ipv4Addr = fields.next()?.parse().ok()?;
        let mac: MacAddr = fields.nth(2)?.parse().ok()?;
        (address == wanted && mac.is_unicast()).then_some(mac)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neighbours_as_the_kernel_lists_them() {
        let table = "IP address       HW type     Flags       HW address            Mask     Device\n\
                     10.10.0.21       0x1         0x2         52:54:00:00:00:01     *        br0\n\
                     10.10.0.22       0x1         0x0         00:00:00:00:00:00     *        br0\n";
        let of = |last| in_table(table, Ipv4Addr::new(10, 10, 0, last)).map(|mac| mac.to_string());
        assert_eq!(of(21).as_deref(), Some("52:54:00:00:00:01"));
        assert_eq!((of(22), of(23)), (None, None));
    }
}

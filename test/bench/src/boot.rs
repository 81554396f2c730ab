//! Power-on to a switched root and to a login prompt: the same virtual hardware on the same wire, fed by us and by others.

use std::path::PathBuf;
use std::time::Instant;

use anyhow::{Context as _, Result};
use e2e::{BOOT_LIMIT, cache, installation, object};
use stoke_image::Store;
use testbed::User;
use testbed::machine::{Firmware, Foreign, wire};
use testbed::peers::Peers;

use crate::peers::{Content, Rival, Servers, debian_initramfs};
use crate::row::Row;
use crate::serial::{Phases, follow};

const MAC: &str = "52:54:00:00:00:07";
/// Read by the scripts of nbd-client and of initramfs-tools.
const DEBIAN: &str = "root=/dev/nbd0 rootfstype=squashfs nbdroot=10.10.0.1,root,nbd0 ip=dhcp ro";

/// One side of the comparison.
struct Side {
    name: &'static str,
    firmware: Firmware,
    /// Nobody: ours.
    rival: Option<(Servers, Initramfs)>,
    phases: Vec<Phases>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Initramfs {
    Ours,
    Debian,
}

fn sides() -> Vec<Side> {
    let side = |name, firmware, rival| Side { name, firmware, rival, phases: Vec::new() };
    vec![
        side("ours", Firmware::UefiHttp, None),
        side("same parts, best servers", Firmware::UefiHttp, Some((Servers::Best, Initramfs::Ours))),
        side("ours", Firmware::Bios, None),
        side("same parts, best servers", Firmware::Bios, Some((Servers::Best, Initramfs::Ours))),
        side("Debian initramfs, best servers", Firmware::Bios, Some((Servers::Best, Initramfs::Debian))),
        side("Debian initramfs, usual servers", Firmware::Bios, Some((Servers::Usual, Initramfs::Debian))),
    ]
}

/// Runs every side whose name contains `only` once a round, in turn.
pub(crate) fn run(rounds: usize, only: &str) -> Result<Vec<Row>> {
    let peers = Peers::in_cache(&cache())?;
    let parts = Parts::of_image()?;
    let mut sides = sides();
    sides.retain(|side| format!("{:?} {}", side.firmware, side.name).contains(only));
    for round in 1..=rounds {
        for side in &mut sides {
            let phases = match side.rival {
                None => ours(side.firmware)?,
                Some((servers, initramfs)) => theirs(&peers, &parts, side.firmware, servers, initramfs)?,
            };
            eprintln!("round {round}, {:?}, {}: {phases:.1?}", side.firmware, side.name);
            side.phases.push(phases);
        }
    }
    Ok(rows(&sides))
}

fn rows(sides: &[Side]) -> Vec<Row> {
    let mut rows = Vec::new();
    for firmware in [Firmware::UefiHttp, Firmware::Bios] {
        let of = |side: &&Side| side.firmware == firmware;
        let Some(ours) = sides.iter().filter(of).find(|side| side.rival.is_none()) else { continue };
        for side in sides.iter().filter(of).filter(|side| side.rival.is_some()) {
            rows.extend(compared(firmware, ours, side));
        }
    }
    rows
}

/// A phase's name, and how it is read.
type Metric = (&'static str, fn(&Phases) -> f64);

const GATE: &str = "root switched";
const METRICS: [Metric; 7] = [
    ("kernel", |phases| phases.kernel),
    ("initramfs", |phases| phases.initramfs.wall),
    (GATE, |phases| phases.switched.wall),
    ("multi-user", |phases| phases.multi_user.wall),
    ("initramfs, processor", |phases| phases.initramfs.processor),
    ("root switched, processor", |phases| phases.switched.processor),
    ("multi-user, processor", |phases| phases.multi_user.processor),
];

fn compared(firmware: Firmware, ours: &Side, side: &Side) -> Vec<Row> {
    let goal = match side.rival {
        Some((Servers::Best, Initramfs::Ours)) => 1.0,
        Some((Servers::Best, Initramfs::Debian)) => 0.85,
        _ => 0.6,
    };
    let row = |(metric, read): &Metric| {
        let values = |side: &Side| side.phases.iter().map(read).collect::<Vec<_>>();
        let goal = (*metric == GATE).then_some(goal);
        let name = format!("{firmware:?} {metric}");
        Row::lower("boot", &name, "s", &values(ours), &[(side.name, values(side))], goal)
    };
    METRICS.iter().filter_map(row).collect()
}

fn ours(firmware: Firmware) -> Result<Phases> {
    let mut farm = installation(User::Root, "  uplinks: [{interface: uplink0}]\n", "  boot: {root: Nbd}\n")?;
    wire(farm.world())?;
    let spec = format!("  farm: {{namespace: default, name: lab}}\n  macs: [\"{MAC}\"]\n  address: 10.10.0.27\n");
    farm.write("server.yaml", &object("Server", "server", &spec))?;
    farm.up()?;
    farm.wait_condition("farm", "lab", "Ready", BOOT_LIMIT)?;
    let begin = Instant::now();
    let mut machine = Foreign::power_on(farm.world(), MAC, firmware)?;
    let phases = follow(&mut machine, begin)?;
    drop(machine);
    farm.down()?;
    Ok(phases)
}

fn theirs(peers: &Peers, parts: &Parts, firmware: Firmware, servers: Servers, initramfs: Initramfs) -> Result<Phases> {
    let debian = initramfs == Initramfs::Debian;
    let content = Content {
        kernel: parts.kernel.clone(),
        initramfs: if debian { debian_initramfs(&cache(), &parts.version)? } else { parts.initramfs.clone() },
        uki: (firmware == Firmware::UefiHttp).then(|| parts.uki.clone()),
        root: parts.root.clone(),
        arguments: if debian { format!("{} {DEBIAN}", parts.arguments) } else { parts.arguments.clone() },
    };
    let rival = Rival::start(peers, servers, &content)?;
    let begin = Instant::now();
    let mut machine = Foreign::power_on(&rival.world, MAC, firmware)?;
    follow(&mut machine, begin)
}

/// The parts of the example's image.
struct Parts {
    version: String,
    kernel: PathBuf,
    initramfs: PathBuf,
    uki: PathBuf,
    root: PathBuf,
    arguments: String,
}

impl Parts {
    fn of_image() -> Result<Self> {
        let store = Store::open(e2e::images()?)?;
        let image = store.find("default/node")?.context("the store does not have the example's image")?;
        let uki = image.uki.context("the example's image has no unified kernel image")?;
        Ok(Self {
            kernel: store.blob_path(&image.kernel.digest),
            initramfs: store.blob_path(&image.initramfs.digest),
            uki: store.blob_path(&uki.digest),
            root: store.blob_path(&image.root.blob),
            arguments: format!("{} BOOTIF=01-${{net0/mac:hexhyp}}", image.kernel_arguments.join(" ")),
            version: image.kernel_version,
        })
    }
}

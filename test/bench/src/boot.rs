//! Power-on to a switched root and to a login prompt: the same virtual hardware on the same wire, fed by us and by others.

use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context as _, Result};
use e2e::{BOOT_LIMIT, cache, installation, object};
use testbed::User;
use testbed::machine::{Firmware, Foreign, wire};
use testbed::peers::Peers;

use crate::peers::{Content, Rival, Servers, debian_initramfs};
use crate::row::Row;
use crate::serial::{Phases, follow};

const MAC: &str = "52:54:00:00:00:07";
const OURS: &[&str] = &["stoke-init"];
const DEBIAN: &[&str] = &["Loading, please wait", "Begin: "];
const CONSOLE: &str = "console=tty0 console=ttyS0,115200";

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

/// Runs every side once a round, in turn.
pub(crate) fn run(rounds: usize) -> Result<Vec<Row>> {
    let peers = Peers::in_cache(&cache())?;
    let parts = Parts::of_image()?;
    let mut sides = sides();
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

const METRICS: [Metric; 4] = [
    ("kernel", |phases| phases.kernel),
    ("initramfs", |phases| phases.initramfs),
    ("root switched", |phases| phases.switched),
    ("multi-user", |phases| phases.multi_user),
];

fn compared(firmware: Firmware, ours: &Side, side: &Side) -> Vec<Row> {
    let goal = match side.rival {
        Some((Servers::Best, Initramfs::Ours)) => 1.0,
        Some((Servers::Best, Initramfs::Debian)) => 0.85,
        _ => 0.6,
    };
    let row = |(metric, read): &Metric| {
        let values = |side: &Side| side.phases.iter().map(read).collect::<Vec<_>>();
        let goal = (*metric == "root switched").then_some(goal);
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
    let machine = Foreign::power_on(farm.world(), MAC, firmware)?;
    let phases = follow(&machine, begin, OURS)?;
    drop(machine);
    farm.down()?;
    Ok(phases)
}

fn theirs(peers: &Peers, parts: &Parts, firmware: Firmware, servers: Servers, initramfs: Initramfs) -> Result<Phases> {
    let debian = initramfs == Initramfs::Debian;
    let nbd = "root=/dev/nbd0 nbdroot=10.10.0.1,root,nbd0 ip=dhcp ro";
    let content = Content {
        kernel: parts.kernel.clone(),
        initramfs: if debian { debian_initramfs(&cache(), &parts.version)? } else { parts.initramfs.clone() },
        uki: (firmware == Firmware::UefiHttp).then(|| parts.uki.clone()),
        root: parts.root.clone(),
        arguments: if debian { format!("{CONSOLE} {nbd}") } else { CONSOLE.to_owned() },
    };
    let rival = Rival::start(peers, servers, &content)?;
    let begin = Instant::now();
    let machine = Foreign::power_on(&rival.world, MAC, firmware)?;
    follow(&machine, begin, if debian { DEBIAN } else { OURS })
}

/// The parts of the example's image.
struct Parts {
    version: String,
    kernel: PathBuf,
    initramfs: PathBuf,
    uki: PathBuf,
    root: PathBuf,
}

impl Parts {
    fn of_image() -> Result<Self> {
        let store = e2e::images()?;
        let blobs = store.join("blobs/sha256");
        let image = image(&store)?;
        let blob = |pointer: &str| -> Result<PathBuf> {
            let digest = image.pointer(pointer).and_then(|value| value.as_str()).context(pointer.to_owned())?;
            Ok(blobs.join(digest.trim_start_matches("sha256:")))
        };
        let version = image.pointer("/kernelVersion").and_then(|value| value.as_str()).context("no kernel version")?;
        Ok(Self {
            version: version.to_owned(),
            kernel: blob("/kernel/digest")?,
            initramfs: blob("/initramfs/digest")?,
            uki: blob("/uki/digest")?,
            root: blob("/root/blob")?,
        })
    }
}

/// What `stoke image list` says of the image.
fn image(store: &Path) -> Result<serde_json::Value> {
    let state = store.parent().context("the store has no parent")?;
    let mut list = std::process::Command::new(testbed::programs()?.join("stoke"));
    let output = list.arg("--state").arg(state).args(["image", "list", "--output", "json"]).output()?;
    let images: serde_json::Value = serde_json::from_slice(&output.stdout).context("stoke image list")?;
    let first = images.pointer("/0").or_else(|| images.pointer("/items/0"));
    first.cloned().context("the store is empty")
}

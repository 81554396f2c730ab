//! Root file systems beside each other, and each beside its tool alone: size, time to make, time to boot, bytes read.
//!
//! All sides begin with the same installed tree, which is in the cache: what apt and dpkg take is the same for all. A boot
//! is of the same virtual hardware, by NBD; the processor time of its hypervisor is an emulated one, in which unpacking
//! costs ten times what it costs on metal, so bytes and processor stand in rows of their own.

use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::{Context as _, Result, ensure};
use e2e::{BOOT_LIMIT, cache, images, installation, object};
use stoke_image::Store;
use testbed::machine::{Firmware, Foreign, wire};
use testbed::{User, programs};

use crate::row::Row;
use crate::serial::{Phases, follow};

const MAC: &str = "52:54:00:00:00:07";
const MEBIBYTE: f64 = 1_048_576.0;

/// A form of root, and its tool alone.
struct Side {
    name: &'static str,
    /// As in `Image.spec.forms.netboot.root`.
    form: &'static str,
    /// The tool; `@OUT` and `@TREE` stand for image and folder.
    tool: &'static [&'static str],
    built: Vec<Built>,
    alone: Vec<Alone>,
    boots: Vec<Boot>,
}

/// What a build from a cached tree took.
#[derive(Clone, Copy, Debug)]
struct Built {
    whole: f64,
    root: f64,
    size: f64,
}

/// What the tool alone took.
#[derive(Clone, Copy, Debug)]
struct Alone {
    took: f64,
    size: f64,
}

/// What a boot took.
#[derive(Clone, Copy, Debug)]
struct Boot {
    phases: Phases,
    /// MiB that went over NBD until the login prompt.
    read: f64,
}

fn sides() -> Vec<Side> {
    let side = |name, form, tool| Side { name, form, tool, built: Vec::new(), alone: Vec::new(), boots: Vec::new() };
    vec![
        side(
            "squashfs zstd",
            "{format: Squashfs, compression: Zstd}",
            &[
                "mksquashfs",
                "@TREE",
                "@OUT",
                "-noappend",
                "-quiet",
                "-no-progress",
                "-comp",
                "zstd",
                "-Xcompression-level",
                "9",
            ],
        ),
        side(
            "squashfs lz4",
            "{format: Squashfs, compression: Lz4}",
            &["mksquashfs", "@TREE", "@OUT", "-noappend", "-quiet", "-no-progress", "-comp", "lz4"],
        ),
        side(
            "squashfs lz4hc",
            "{format: Squashfs, compression: Lz4hc}",
            &["mksquashfs", "@TREE", "@OUT", "-noappend", "-quiet", "-no-progress", "-comp", "lz4", "-Xhc"],
        ),
        side("EROFS lz4hc", "{format: Erofs, compression: Lz4hc}", &["mkfs.erofs", "-zlz4hc", "@OUT", "@TREE"]),
    ]
}

/// Runs every side whose name contains `only` once a round, in turn. The first of them stands for ours.
pub(crate) fn run(rounds: usize, only: &str) -> Result<Vec<Row>> {
    let trees = images()?.join("cache/trees");
    let work = cache().join("bench-image");
    let mut sides = sides();
    sides.retain(|side| side.name.contains(only));
    let folder = unpacked(&work, &trees)?;
    for round in 1..=rounds {
        for side in &mut sides {
            let built = build(&work, &trees, side.form)?;
            let alone = alone(&work, &folder, side.tool)?;
            let boot = boot(side.form)?;
            eprintln!("round {round}, {}: {built:.1?} {alone:.1?} {boot:.1?}", side.name);
            side.built.push(built);
            side.alone.push(alone);
            side.boots.push(boot);
        }
    }
    fs_err::remove_dir_all(&work)?;
    Ok(rows(&sides))
}

/// A quantity's name and unit, and how it is read.
type Metric<T> = (&'static str, &'static str, fn(&T) -> f64);

const BUILDS: [Metric<Built>; 2] = [
    ("root with its hash tree", "MiB", |built| built.size),
    ("cached tree to published version", "s", |built| built.whole),
];
const BOOTS: [Metric<Boot>; 5] = [
    ("root switched", "s", |boot| boot.phases.switched.wall),
    ("multi-user", "s", |boot| boot.phases.multi_user.wall),
    ("root switched, processor", "s", |boot| boot.phases.switched.processor),
    ("multi-user, processor", "s", |boot| boot.phases.multi_user.processor),
    ("read over NBD until multi-user", "MiB", |boot| boot.read),
];

fn rows(sides: &[Side]) -> Vec<Row> {
    let mut rows = Vec::new();
    for side in sides {
        let tool = side.tool.first().copied().unwrap_or_default();
        let ours: Vec<_> = side.built.iter().map(|built| built.root).collect();
        let theirs = side.alone.iter().map(|alone| alone.took).collect();
        rows.extend(Row::lower("image", &format!("{}: make it", side.name), "s", &ours, &[(tool, theirs)], None));
        let ours: Vec<_> = side.built.iter().map(|built| built.size).collect();
        let theirs = side.alone.iter().map(|alone| alone.size).collect();
        rows.extend(Row::lower("image", &format!("{}: size", side.name), "MiB", &ours, &[(tool, theirs)], None));
    }
    let Some((first, others)) = sides.split_first() else { return rows };
    for (name, unit, read) in BUILDS {
        rows.extend(beside(name, unit, first, others, |side| side.built.iter().map(read).collect()));
    }
    for (name, unit, read) in BOOTS {
        rows.extend(beside(name, unit, first, others, |side| side.boots.iter().map(read).collect()));
    }
    rows
}

fn beside(name: &str, unit: &str, first: &Side, others: &[Side], values: impl Fn(&Side) -> Vec<f64>) -> Option<Row> {
    let peers: Vec<_> = others.iter().map(|side| (side.name, values(side))).collect();
    Row::lower("image", &format!("{}, {name}", first.name), unit, &values(first), &peers, None)
}

/// The example's recipe with another root.
fn recipe(form: &str) -> String {
    let recipe = include_str!("../../../examples/netboot/image.yaml");
    recipe.replace("root: {format: Squashfs}", &format!("root: {form}"))
}

/// A store that has nothing but the installed tree.
fn store_with_tree(work: &Path, trees: &Path) -> Result<PathBuf> {
    let state = work.join("state");
    if state.exists() {
        fs_err::remove_dir_all(&state)?;
    }
    fs_err::create_dir_all(state.join("images/cache"))?;
    must(Command::new("cp").arg("-al").arg(trees).arg(state.join("images/cache")))?;
    Ok(state)
}

fn build(work: &Path, trees: &Path, form: &str) -> Result<Built> {
    let state = store_with_tree(work, trees)?;
    let file = work.join("image.yaml");
    fs_err::write(&file, recipe(form))?;
    let begin = Instant::now();
    let mut command = Command::new(programs()?.join("stoke"));
    let output = command.arg("--state").arg(&state).args(["image", "build"]).arg(&file).output()?;
    let (whole, said) = (begin.elapsed().as_secs_f64(), String::from_utf8_lossy(&output.stderr));
    ensure!(output.status.success(), "stoke image build: {said}");
    ensure!(!said.contains("install packages"), "the tree was not taken from the cache:\n{said}");
    let at = |stage: &str| {
        let line = said.lines().find(|line| line.ends_with(&format!(" {stage}")))?;
        line.trim_start().split_once("s ")?.0.parse::<f64>().ok()
    };
    let root = at("initramfs").zip(at("root")).map(|(end, begin)| end - begin);
    let store = Store::open(state.join("images"))?;
    let image = store.find("default/node")?.context("nothing was published")?;
    Ok(Built { whole, root: root.with_context(|| format!("no stages in:\n{said}"))?, size: mebibytes(image.root.size) })
}

/// The clean tree in a folder, for the tools alone.
fn unpacked(work: &Path, trees: &Path) -> Result<PathBuf> {
    fs_err::create_dir_all(work)?;
    let folder = work.join("tree");
    if folder.exists() {
        fs_err::remove_dir_all(&folder)?;
    }
    build(work, trees, "{}")?;
    let store = Store::open(work.join("state/images"))?;
    let image = store.find("default/node")?.context("nothing was published")?;
    let root = store.blob_path(&image.root.blob);
    must(Command::new("unsquashfs").args(["-quiet", "-no-progress", "-dest"]).arg(&folder).arg(root))?;
    Ok(folder)
}

fn alone(work: &Path, tree: &Path, tool: &[&str]) -> Result<Alone> {
    let image = work.join("alone");
    if image.exists() {
        fs_err::remove_file(&image)?;
    }
    let (program, arguments) = tool.split_first().context("no tool")?;
    let place = |argument: &&str| match *argument {
        "@TREE" => tree.as_os_str().to_owned(),
        "@OUT" => image.as_os_str().to_owned(),
        other => other.into(),
    };
    let begin = Instant::now();
    must(Command::new(program).args(arguments.iter().map(place)).stdout(Stdio::null()))?;
    let seconds = begin.elapsed().as_secs_f64();
    Ok(Alone { took: seconds, size: mebibytes(fs_err::metadata(&image)?.len()) })
}

fn boot(root: &str) -> Result<Boot> {
    let mut farm = installation(User::Root, "  uplinks: [{interface: uplink0}]\n", "  boot: {root: Nbd}\n")?;
    wire(farm.world())?;
    farm.write("image.yaml", &recipe(root))?;
    let spec = format!("  farm: {{namespace: default, name: lab}}\n  macs: [\"{MAC}\"]\n  address: 10.10.0.27\n");
    farm.write("server.yaml", &object("Server", "server", &spec))?;
    // Before the farm is there: it would hand out the example's version until this one is built.
    farm.check(&["image", "build", &format!("{}/image.yaml", farm.objects())])?;
    farm.up()?;
    farm.wait_condition("farm", "lab", "Ready", BOOT_LIMIT)?;
    let begin = Instant::now();
    let mut machine = Foreign::power_on(farm.world(), MAC, Firmware::Bios)?;
    let phases = follow(&mut machine, begin)?;
    let read = counter(farm.state(), "stoke_farm_nbd_sent_bytes_total")?;
    drop(machine);
    farm.down()?;
    Ok(Boot { phases, read: mebibytes(read) })
}

/// What a farm counted so far.
fn counter(state: &Path, name: &str) -> Result<u64> {
    let mut socket = UnixStream::connect(state.join("run/workloads/farm-default-lab/admin.sock"))?;
    socket.write_all(b"GET /metrics HTTP/1.1\r\nhost: farm\r\nconnection: close\r\n\r\n")?;
    let mut text = String::new();
    socket.read_to_string(&mut text)?;
    let value = |line: &str| line.strip_prefix(name)?.strip_prefix(' ')?.trim().parse().ok();
    text.lines().find_map(value).with_context(|| format!("{name} is not counted"))
}

fn must(command: &mut Command) -> Result<()> {
    let status = command.status().with_context(|| format!("cannot run {command:?}"))?;
    ensure!(status.success(), "{command:?} failed");
    Ok(())
}

#[expect(clippy::cast_precision_loss, reason = "figures for people")]
fn mebibytes(bytes: u64) -> f64 {
    bytes as f64 / MEBIBYTE
}

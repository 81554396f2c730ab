//! A Containerfile to a root that boots: from nothing, with nothing changed, with one file changed. Beside it the same by
//! hand: buildah with its own cache of layers, then the file system's own tool over the mounted result.
//!
//! Both begin with the tree of the same recipe, and both have a base of their own to import when they begin with nothing.
//! Ours makes more of it: a clean tree, a hash tree, initramfs, unified kernel image, a published version.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::{Context as _, Result, ensure};
use e2e::{cache, images};
use testbed::programs;

use crate::row::Row;

const EXAMPLES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../examples");

/// By hand, in one mount namespace that ends with it. The arguments: a folder for all its own, the base's tree, the folder of
/// the Containerfile.
const BY_HAND: &str = r#"
set -e
mount --make-rprivate / 2>/dev/null || true
mkdir -p "$1/host" /var/lib/containers && mount --bind "$1/host" /var/lib/containers
b() { buildah --root "$1/storage" --runroot "$1/run" --storage-driver overlay "${@:2}"; }
if ! b "$1" inspect --type image localhost/node >/dev/null 2>&1; then
    container=$(b "$1" from scratch)
    folder=$(b "$1" mount "$container")
    zstd -dcq "$2" | tar -x -C "$folder" --numeric-owner --xattrs --xattrs-include='*'
    b "$1" commit -q --rm "$container" localhost/node >/dev/null
fi
b "$1" bud -q --isolation chroot --layers --build-context node=container-image://localhost/node -t localhost/made "$3" >/dev/null
container=$(b "$1" from localhost/made)
folder=$(b "$1" mount "$container")
rm -f "$1/root"
"${@:4}" >/dev/null
b "$1" rm "$container" >/dev/null
"#;

/// What makes a root of the folder that is mounted.
const TOOLS: [(&str, &str); 2] = [
    (
        "buildah, mksquashfs",
        "mksquashfs \"$folder\" \"$1/root\" -noappend -quiet -no-progress -comp zstd -Xcompression-level 9",
    ),
    ("buildah, mkfs.erofs", "mkfs.erofs -zlz4hc \"$1/root\" \"$folder\""),
];

/// What is measured of a side, in this order.
const STEPS: [&str; 3] = ["Containerfile, from nothing", "nothing changed", "one file changed"];

/// Runs every side once a round, in turn.
pub(crate) fn run(rounds: usize, only: &str) -> Result<Vec<Row>> {
    let tree = base_tree()?;
    let work = cache().join("bench-containerfile");
    let mut sides: Vec<(&str, [Vec<f64>; 3])> = vec![("ours", Default::default())];
    sides.extend(TOOLS.iter().filter(|(name, _)| name.contains(only)).map(|(name, _)| (*name, Default::default())));
    for round in 1..=rounds {
        for (name, took) in &mut sides {
            let side = work.join(if *name == "ours" { "ours" } else { "theirs" });
            remove(&side)?;
            let context = context(&work)?;
            if *name == "ours" {
                begin_ours(&side, &tree)?;
            }
            for (step, times) in took.iter_mut().enumerate() {
                if step == 2 {
                    fs_err::write(context.join("greet.service"), format!("{}# {round}\n", service()?))?;
                }
                let begin = Instant::now();
                match TOOLS.iter().find(|(tool, _)| tool == name) {
                    None => ours(&side, &context)?,
                    Some((_, tool)) => theirs(&side, &tree, &context, tool)?,
                }
                times.push(begin.elapsed().as_secs_f64());
            }
            eprintln!("round {round}, {name}: {took:.1?}");
            remove(&side)?;
        }
    }
    remove(&work)?;
    Ok(rows(&sides))
}

fn rows(sides: &[(&str, [Vec<f64>; 3])]) -> Vec<Row> {
    let Some(((_, ours), theirs)) = sides.split_first() else { return Vec::new() };
    let row = |(step, name): (usize, &&str)| {
        let peers: Vec<_> = theirs.iter().filter_map(|(tool, took)| Some((*tool, took.get(step)?.clone()))).collect();
        Row::lower("containerfile", name, "s", ours.get(step)?, &peers, None)
    };
    STEPS.iter().enumerate().filter_map(row).collect()
}

/// The installed tree of the example's recipe.
fn base_tree() -> Result<PathBuf> {
    let folder = images()?.join("cache/trees");
    let newest = fs_err::read_dir(folder)?.filter_map(Result::ok).max_by_key(|entry| {
        let modified = entry.metadata().and_then(|metadata| metadata.modified());
        modified.ok()
    });
    Ok(newest.context("the recipe's tree is not in the cache")?.path())
}

fn service() -> Result<String> {
    Ok(fs_err::read_to_string(Path::new(EXAMPLES).join("containerfile/node/greet.service"))?)
}

/// The example's folder, to be changed.
fn context(work: &Path) -> Result<PathBuf> {
    let folder = work.join("context");
    fs_err::create_dir_all(&folder)?;
    for file in ["Containerfile", "greet.service"] {
        fs_err::copy(Path::new(EXAMPLES).join("containerfile/node").join(file), folder.join(file))?;
    }
    Ok(folder)
}

fn base() -> PathBuf {
    Path::new(EXAMPLES).join("netboot/image.yaml")
}

/// The base is an image of its own, built from the tree that is there; the Containerfile is still to come.
fn begin_ours(state: &Path, tree: &Path) -> Result<()> {
    let trees = state.join("images/cache/trees");
    fs_err::create_dir_all(&trees)?;
    fs_err::hard_link(tree, trees.join(tree.file_name().context("no name")?))?;
    must(Command::new(programs()?.join("stoke")).arg("--state").arg(state).args(["image", "build"]).arg(base()))
}

fn ours(state: &Path, context: &Path) -> Result<()> {
    let image = fs_err::read_to_string(Path::new(EXAMPLES).join("containerfile/image.yaml"))?;
    let there = context.join("Containerfile");
    let file = state.join("image.yaml");
    fs_err::write(&file, image.replace("node/Containerfile", &there.to_string_lossy()))?;
    let mut build = Command::new(programs()?.join("stoke"));
    must(build.arg("--state").arg(state).args(["image", "build"]).arg(base()).arg(&file))
}

fn theirs(folder: &Path, tree: &Path, context: &Path, tool: &str) -> Result<()> {
    fs_err::create_dir_all(folder)?;
    let script = BY_HAND.replace("\"${@:4}\" >/dev/null", &format!("{tool} >/dev/null"));
    let mut command = Command::new("unshare");
    command.args([
        "--mount",
        "--pid",
        "--fork",
        "--kill-child",
        "--mount-proc",
        "--",
        "bash",
        "-c",
        &script,
        "by-hand",
    ]);
    must(command.arg(folder).arg(tree).arg(context))
}

fn remove(folder: &Path) -> Result<()> {
    must(Command::new("rm").args(["-rf", "--one-file-system", "--"]).arg(folder))
}

fn must(command: &mut Command) -> Result<()> {
    let output = command.stdin(Stdio::null()).output().with_context(|| format!("cannot run {command:?}"))?;
    ensure!(output.status.success(), "{command:?} failed: {}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}

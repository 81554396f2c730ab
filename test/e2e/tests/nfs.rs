//! The root is a directory on an NFS server that is none of ours: a real guest, and NFS-Ganesha in user space.

use std::fs::File;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use e2e::{BOOT_LIMIT, cache, installation, machine, object};
use serde_json::Value;
use testbed::machine::wire;
use testbed::peers::Peers;
use testbed::{Installation, Process, User, wait_for};

const SERVER: &str = "10.10.0.5";
const LIMIT: Duration = Duration::from_mins(1);

/// Runs the port mapper and the NFS server in a world of their own: `/run`, and an `/etc` with what Debian's packages would
/// have put there, the smallest system lacking all of it. The export `$3` is made of the root that is its input, on a
/// file system of its own, which the server tells apart from all others wherever this host has them. `$1` is the peers'
/// tree, `$2` the server's folder.
const SERVE: &str = r#"set -e
mount -t tmpfs run /run
mkdir -p /run/rpcbind /run/ganesha /run/etc
cp "$1/etc/netconfig" /run/etc/
ln -s /proc/self/mounts /run/etc/mtab
printf 'tcp 6 TCP\nudp 17 UDP\n' > /run/etc/protocols
printf 'sunrpc 111/tcp portmapper\nsunrpc 111/udp portmapper\n' > /run/etc/services
{ cat /etc/passwd; echo "_rpc:x:65534:65534::/run/rpcbind:/usr/sbin/nologin"; } > /run/etc/passwd
mkdir "$3"
mount -t tmpfs root "$3"
unsquashfs -quiet -no-progress -force -dest "$3" /proc/self/fd/0 > /dev/null
mount -t overlay etc -o "lowerdir=/run/etc:/etc" /etc
libraries="$1/lib/x86_64-linux-gnu:$1/usr/lib/x86_64-linux-gnu:$1/usr/lib/ganesha"
run="$1/lib/x86_64-linux-gnu/ld-linux-x86-64.so.2 --library-path $libraries"
$run "$1/sbin/rpcbind" -f -w &
until ss -ltnH sport = :111 | grep -q .; do sleep 0.1; done
exec $run "$1/usr/bin/ganesha.nfsd" -F -f "$2/ganesha.conf" -L "$2/ganesha.log" -p /run/ganesha/pid
"#;

fn ganesha(tree: &Path, export: &Path) -> String {
    let plugins = tree.join("usr/lib/x86_64-linux-gnu/ganesha");
    format!(
        "NFS_CORE_PARAM {{ Protocols = 3; NFS_Port = 2049; MNT_Port = 20048; Enable_NLM = false; Enable_RQUOTA = false; \
         Enable_UDP = false; Plugins_Dir = \"{}\"; }}\nNFS_KRB5 {{ Active_krb5 = false; }}\n\
         NFSv4 {{ UseGetpwnam = true; Only_Numeric_Owners = true; }}\n\
         EXPORT {{ Export_Id = 1; Path = {}; Pseudo = /root; Protocols = 3; Transports = TCP; Access_Type = RO; \
         Squash = No_Root_Squash; SecType = sys; FSAL {{ Name = VFS; }} }}\n",
        plugins.display(),
        export.display()
    )
}

/// Starts the server on the far side of the wire. It ends with its process.
fn serve(farm: &Installation, export: &Path) -> Result<Process> {
    let (world, peers) = (farm.world(), Peers::in_cache(&cache())?);
    world.run("ip", &["address", "add", &format!("{SERVER}/24"), "dev", "switch0"])?;
    let program = peers.file("/usr/bin/ganesha.nfsd");
    let tree = program.ancestors().nth(3).context("the peers' tree")?;
    fs_err::write(world.folder().join("ganesha.conf"), ganesha(tree, export))?;
    let log = fs_err::File::create(world.folder().join("nfs.log"))?.into_file();
    let mut command = world.command("unshare");
    command.args([
        "--mount",
        "--propagation",
        "private",
        "--pid",
        "--fork",
        "--kill-child",
        "sh",
        "-c",
        SERVE,
        "serve",
    ]);
    command.arg(tree).arg(world.folder()).arg(export).stdin(root(farm)?).stdout(log.try_clone()?).stderr(log);
    let server = Process::start(&mut command)?;
    let listens = || Ok((!world.run("ss", &["-ltnH", "sport", "=", ":2049"])?.is_empty()).then_some(()));
    wait_for("the NFS server", LIMIT, listens).with_context(|| said(farm))?;
    Ok(server)
}

fn said(farm: &Installation) -> String {
    let text = |name: &str| fs_err::read_to_string(farm.world().folder().join(name)).unwrap_or_default();
    format!("{}\n{}", text("nfs.log"), text("ganesha.log"))
}

/// The farm's root.
fn root(farm: &Installation) -> Result<File> {
    let config = fs_err::read_to_string(farm.state().join("run/workloads/farm-default-lab/config.json"))?;
    let config: Value = serde_json::from_str(&config)?;
    let root = config.pointer("/images/0/root/blob").and_then(Value::as_str).context("no image")?;
    let file = farm.state().join("images/blobs/sha256").join(root.trim_start_matches("sha256:"));
    Ok(fs_err::File::open(file)?.into_file())
}

#[test]
fn a_root_by_nfs_from_a_server_of_the_users() -> Result<()> {
    let mut farm = installation(User::Root, "  uplinks: [{interface: uplink0}]\n", "")?;
    let export = farm.world().folder().join("root");
    let boot = format!("  boot: {{root: Nfs, nfs: {{server: {SERVER}, path: {}}}}}\n", export.display());
    farm.write("farm.yaml", &object("Farm", "lab", &format!("  lan: lab\n  image: node\n{boot}")))?;
    wire(farm.world())?;
    farm.up()?;
    farm.wait_condition("farm", "lab", "Ready", BOOT_LIMIT)?;
    let server = serve(&farm, &export)?;
    farm.write("machine.yaml", &machine("node-1", "bios", "10.10.0.21"))?;
    let node = farm.wait_condition("machine", "node-1", "Ready", BOOT_LIMIT);
    let node = node.map_err(|error| error.context(farm.console("node-1")).context(said(&farm)))?;
    ensure!(node.pointer("/status/node/root") == Some(&"nfs".into()), "{node}");
    let mounted = farm.check(&["ssh", "node-1", "--", "findmnt -n -o FSTYPE /; echo kept > /root/it; cat /root/it"])?;
    ensure!(mounted.lines().eq(["overlay", "kept"]), "{mounted}");
    let at_server = |file: &str| {
        let namespace = format!("--mount=/proc/{}/ns/mnt", server.id());
        farm.world().run("nsenter", &[&namespace, "test", "-e", &export.join(file).display().to_string()])
    };
    ensure!(at_server("root").is_ok() && at_server("root/it").is_err(), "what a node writes stays on the node");
    farm.down()?;
    drop(server);
    Ok(())
}

//! Bad input: a clear error with the next step, and nothing half-done left behind.

use std::net::{TcpListener, UdpSocket};
use std::process::Output;
use std::time::Duration;

use anyhow::ensure;
use e2e::{installation, machine, object};
use testbed::{Installation, User, World, programs, wait_for};

/// How long something without a guest may take.
const SOON: Duration = Duration::from_mins(1);
/// How long packages may take to be installed.
const BUILD: Duration = Duration::from_mins(4);

/// An installation without images.
fn bare(user: User) -> anyhow::Result<Installation> {
    Installation::new(World::new()?, user, None)
}

/// A LAN; what else is in its `spec` is indented by two.
fn lan(name: &str, cidr: &str, rest: &str) -> String {
    object("Lan", name, &format!("  subnets: [{{name: v4, cidr: {cidr}}}]\n{rest}"))
}

fn image(name: &str, packages: &str) -> String {
    let source = format!("  source: {{debian: {{suite: bookworm, packages: [{packages}]}}}}\n");
    object("Image", name, &format!("{source}  forms: {{netboot: {{}}}}\n"))
}

/// What a command that must fail with `code` says, in which all `parts` must be.
fn fails(output: &Output, code: i32, parts: &[&str]) -> anyhow::Result<String> {
    let errors = String::from_utf8_lossy(&output.stderr).into_owned();
    ensure!(output.status.code() == Some(code), "it ended with {} and not with {code}:\n{errors}", output.status);
    for part in parts {
        ensure!(errors.contains(part), "{part:?} is not in:\n{errors}");
    }
    ensure!(!errors.contains("os error") && !errors.contains("panicked"), "this is not for people:\n{errors}");
    Ok(errors)
}

/// Files that `stoke up` refuses, before it makes anything.
fn refused(files: &[(&str, &str)], expected: &[&str]) -> anyhow::Result<()> {
    let installation = bare(User::Root)?;
    for (name, text) in files {
        installation.write(name, text)?;
    }
    fails(&installation.output(&["up", &installation.objects()])?, 1, expected)?;
    let left = installation.left()?;
    ensure!(left.is_empty(), "something was made: {left:?}");
    ensure!(installation.world().links()? == ["lo"], "links were made");
    Ok(())
}

#[test]
fn all_problems_of_all_files_at_once() -> anyhow::Result<()> {
    let two = "  subnets:\n  - {name: v4, cidr: 10.10.0.0/24}\n  - {name: more, cidr: 10.10.0.128/25}\n  egres: None\n";
    let broken = "apiVersion: stokehold.dev/v1alpha1\nkind: Farm\nmetadata: {name: lab\n";
    let other = lan("other", "10.10.0.0/16", "");
    let files = [("lan.yaml", &*object("Lan", "lab", two)), ("farm.yaml", broken), ("other.yaml", &other)];
    let of_one = ["lan.yaml:7:", "overlaps", "lan.yaml:8:", "egres", "did you mean \"egress\"", "farm.yaml:"];
    let between = ["other.yaml:5:", "10.10.0.0/16 overlaps 10.10.0.0/24 of lan/lab"];
    refused(&files, &[&of_one[..], &between].concat())
}

#[test]
fn malformed_yaml() -> anyhow::Result<()> {
    let text = lan("lab", "10.10.0.0/24", "\tmtu: 1500\n");
    refused(&[("lan.yaml", &text)], &["lan.yaml:6:", "indented with a tab; YAML takes spaces only"])
}

#[test]
fn subnets_of_two_files_that_overlap() -> anyhow::Result<()> {
    let (one, other) = (lan("lab", "10.10.0.0/16", ""), lan("more", "10.10.3.0/24", ""));
    let parts = ["more.yaml:5:", "spec.subnets[0].cidr: 10.10.3.0/24 overlaps 10.10.0.0/16 of lan/lab"];
    refused(&[("lab.yaml", &one), ("more.yaml", &other)], &parts)
}

#[test]
fn an_image_that_no_object_describes() -> anyhow::Result<()> {
    let farm = object("Farm", "lab", "  lan: lab\n  image: nod\n");
    let files = [("lan.yaml", &*lan("lab", "10.10.0.0/24", "")), ("farm.yaml", &farm)];
    refused(&files, &["farm.yaml:6:", "spec.image: no image is called \"nod\""])?;
    let files = [files[0], files[1], ("image.yaml", &*image("node", "kmod"))];
    refused(&files, &["spec.image: no image is called \"nod\"; did you mean \"node\"?"])
}

#[test]
fn two_farms_on_one_lan() -> anyhow::Result<()> {
    let farm = |name: &str| object("Farm", name, "  lan: lab\n  image: node\n");
    let (one, other, lan, image) = (farm("lab"), farm("second"), lan("lab", "10.10.0.0/24", ""), image("node", "kmod"));
    let files = [("1.yaml", &*one), ("2.yaml", &other), ("3.yaml", &lan), ("4.yaml", &image)];
    refused(&files, &["2.yaml:5:", "spec.lan: farm/lab already serves lan/lab; a LAN has one farm"])
}

#[test]
fn a_package_that_the_archive_does_not_have() -> anyhow::Result<()> {
    let mut world = World::new()?;
    world.open_way_out()?;
    let mut installation = Installation::new(world, User::Root, None)?;
    installation.write("image.yaml", &image("node", "kmod, opensh-server"))?;
    let said = "spec.source.debian.packages[1]: package \"opensh-server\" is not in bookworm main; correct its name";
    let output = installation.output(&["image", "build", &installation.objects()])?;
    fails(&output, 1, &["image.yaml:5:", said])?;
    installation.up()?;
    let message = installation.wait_message("image", "node", BUILD, |message| message.contains("opensh-server"))?;
    ensure!(message.starts_with(said), "{message}");
    ensure!(!message.contains('\n'), "more than one sentence: {message}");
    nothing_built(&installation)?;
    installation.down()
}

/// The image store has no image, and no work that nobody does.
fn nothing_built(installation: &Installation) -> anyhow::Result<()> {
    let images = installation.state().join("images").to_string_lossy().into_owned();
    let work = ["-path", "*/images/blobs/*", "-o", "-path", "*/images/tmp/*", "-o", "-path", "*/trees/*"];
    let found = installation.world().run("find", &[&[&*images, "-type", "f", "("], &work[..], &[")"]].concat())?;
    ensure!(found.is_empty(), "half an image:\n{found}");
    Ok(())
}

#[test]
fn a_disk_that_has_no_room_for_a_build() -> anyhow::Result<()> {
    let mut world = World::new()?;
    world.add_disk("s", 200)?;
    let mut installation = Installation::new(world, User::Root, None)?;
    installation.write("image.yaml", &image("node", "kmod"))?;
    let folder = installation.state().join("images");
    let said = format!("no space left in {}: 199Mi free, about 1Gi needed", folder.display());
    let output = installation.output(&["image", "build", &installation.objects()])?;
    fails(&output, 1, &[&said, "free some, or use another folder by --state"])?;
    installation.up()?;
    installation.wait_message("image", "node", SOON, |message| message.contains("no space left in"))?;
    nothing_built(&installation)?;
    installation.down()
}

#[test]
fn a_disk_that_fills_up_in_mid_build() -> anyhow::Result<()> {
    let mut world = World::new()?;
    world.open_way_out()?;
    world.add_disk("s", 1200)?;
    let mut installation = Installation::new(world, User::Root, None)?;
    installation.write("image.yaml", &image("node", "kmod, less"))?;
    installation.up()?;
    let percent = |message: &str| message.strip_prefix("install packages ")?.strip_suffix(" %")?.parse::<u8>().ok();
    installation
        .wait_message("image", "node", BUILD, |message| percent(message).is_some_and(|percent| percent >= 15))?;
    let state = installation.state().to_string_lossy().into_owned();
    let used = installation.world().run("df", &["--output=used", "--block-size=1M", &state])?;
    let used: u32 = used.lines().last().unwrap_or_default().trim().parse()?;
    installation.world().run("mount", &["-o", &format!("remount,size={}M", used + 3), &state])?;
    let said = format!("no space left in {}", installation.state().join("images").display());
    let message = installation.wait_message("image", "node", BUILD, |message| message.contains("no space left"))?;
    ensure!(
        message.starts_with(&said) && message.contains(" free, about ") && message.contains("--state"),
        "{message}"
    );
    // The workspace goes with the build's process.
    wait_for("the end of the half-done work", SOON, || Ok(nothing_built(&installation).ok()))?;
    installation.down()
}

#[test]
fn an_uplink_that_does_not_exist() -> anyhow::Result<()> {
    let world = World::new()?;
    world.run("ip", &["link", "add", "lan0", "type", "veth", "peer", "name", "lan1"])?;
    let mut installation = Installation::new(world, User::Root, None)?;
    installation.write("bad.yaml", &lan("bad", "10.30.0.0/24", "  egress: None\n  uplinks: [{interface: eno7}]\n"))?;
    installation.write("good.yaml", &lan("good", "10.31.0.0/24", "  egress: None\n"))?;
    installation.up()?;
    let message = installation.wait_message("lan", "bad", SOON, |message| message.contains("eno7"))?;
    ensure!(message.contains("the host has no interface eno7; it has lan0, lan1"), "{message}");
    installation.wait_condition("lan", "good", "Ready", SOON)?;
    // The next step of the message, and all is well.
    installation.write("bad.yaml", &lan("bad", "10.30.0.0/24", "  egress: None\n  uplinks: [{interface: lan0}]\n"))?;
    installation.wait_condition("lan", "bad", "Ready", SOON)?;
    installation.down()?;
    ensure!(installation.world().links()? == ["lo", "lan1", "lan0"], "{:?}", installation.world().links()?);
    Ok(())
}

#[test]
fn ports_that_others_have() -> anyhow::Result<()> {
    let mut installation = installation(User::Root, "  dhcp: {mode: Off}\n  egress: None\n", "")?;
    let farm = installation.world().folder().join("objects/farm.yaml");
    let text = fs_err::read_to_string(&farm)?;
    fs_err::remove_file(&farm)?;
    installation.up()?;
    installation.wait_condition("lan", "lab", "Ready", SOON)?;
    let http = installation.in_namespace(|| TcpListener::bind("10.10.0.1:80"))?;
    let dhcp = installation.in_namespace(|| UdpSocket::bind("0.0.0.0:67"))?;

    installation.write("farm.yaml", &text)?;
    let message = installation.wait_message("farm", "lab", BUILD, |message| message.contains("10.10.0.1:80"))?;
    let pid = installation.pid("farm-default-lab")?;
    let next = format!("`ss -ltnp sport = :80` in the network namespace of process {pid} shows which");
    let said = format!("cannot listen on 10.10.0.1:80 for HTTP: another program has the port; {next}");
    ensure!(message == said, "{message}");
    let lan = installation.world().folder().join("objects/lan.yaml");
    fs_err::write(&lan, fs_err::read_to_string(&lan)?.replace("Off", "Authoritative"))?;
    let message = installation.wait_message("lan", "lab", SOON, |message| message.contains("UDP port 67"))?;
    ensure!(message.contains("another program has the port; `ss -ulnp sport = :67`"), "{message}");

    // Whoever had the ports is gone: nobody has to be told.
    drop((http, dhcp));
    installation.wait_condition("lan", "lab", "Ready", SOON)?;
    installation.wait_condition("farm", "lab", "Ready", SOON)?;
    installation.down()
}

#[test]
fn a_host_without_qemu() -> anyhow::Result<()> {
    let mut installation = installation(User::Root, "  egress: None\n", "")?;
    installation.write("machine.yaml", &machine("node-1", "bios", "10.10.0.21"))?;
    installation.hide_programs("qemu-system")?;
    installation.up()?;
    let said = "qemu-system-x86_64 is missing: install the package qemu-system-x86";
    installation.wait_message("machine", "node-1", BUILD, |message| message.contains(said))?;
    // What people try next says the same.
    fails(&installation.output(&["ssh", "node-1"])?, 1, &["machine/node-1 has not booted yet", said])?;
    let console = installation.output(&["console", "node-1"])?;
    ensure!(
        String::from_utf8_lossy(&console.stderr).contains(&format!("machine/node-1 is off: {said}")),
        "{console:?}"
    );
    installation.check(&["stop", "node-1"])?;
    installation.wait_message("machine", "node-1", SOON, |message| message.contains("stopped by request"))?;
    fails(&installation.output(&["ssh", "node-1"])?, 1, &["stopped by request", "stoke start"])?;
    installation.down()
}

#[test]
fn commands_without_an_installation() -> anyhow::Result<()> {
    let installation = bare(User::Root)?;
    let objects = installation.objects();
    for command in [&["get", "machines"][..], &["ssh", "a"], &["console", "a"], &["stop", "a"], &["delete", "lan", "a"]]
    {
        let hint = "start one with: stoke up PATH";
        fails(&installation.output(command)?, 1, &["no Stokehold runs here", "run/control.sock", hint])?;
    }
    fails(&installation.output(&["up", &objects])?, 1, &["no file of objects", ".yaml, .yml or .json"])?;
    let nowhere = format!("{objects}/nowhere.yaml");
    fails(&installation.output(&["up", &nowhere])?, 1, &[&nowhere, "there is no such file or folder"])?;
    installation.check(&["down", "--purge"])?;
    ensure!(!installation.state().exists(), "the state folder is still there");
    Ok(())
}

#[test]
fn state_folders_that_cannot_be_used() -> anyhow::Result<()> {
    let mut world = World::new()?;
    world.add_disk("s", 20)?;
    let installation = Installation::new(world, User::Root, None)?;
    installation.write("lan.yaml", &lan("lab", "10.10.0.0/24", ""))?;
    installation.write("image.yaml", &image("node", "kmod"))?;
    let objects = installation.objects();
    let deep = installation.state().join("deep".repeat(25)).to_string_lossy().into_owned();
    let hint = "a socket's path has at most 107 bytes";
    let output =
        installation.world().command(programs()?.join("stoke")).args(["--state", &deep, "up", &objects]).output()?;
    fails(&output, 1, &["is too long", "shorter", "--state", hint])?;
    let state = installation.state().to_string_lossy().into_owned();
    installation.world().run("mount", &["-o", "remount,ro", &state])?;
    let parts = ["cannot make", "choose another folder with --state: Read-only file system"];
    fails(&installation.output(&["up", &objects])?, 1, &parts)?;
    fails(&installation.output(&["image", "build", &objects])?, 1, &["Read-only file system", "--state"])?;
    installation.world().run("mount", &["-o", "remount,rw", &state])?;
    ensure!(installation.left()?.is_empty(), "{:?}", installation.left()?);
    Ok(())
}

#[test]
fn a_user_without_subordinate_ids_builds_an_image() -> anyhow::Result<()> {
    let installation = bare(User::Ordinary)?;
    installation.write("image.yaml", &image("node", "kmod"))?;
    let output = installation.output(&["image", "build", &installation.objects()])?;
    fails(&output, 1, &["nobody has no subordinate ids", "as root: usermod --add-subuids"])?;
    nothing_built(&installation)
}

#[test]
fn a_second_up_hands_over_and_objects_belong_to_their_files() -> anyhow::Result<()> {
    let mut installation = bare(User::Root)?;
    installation.write("lan.yaml", &lan("lab", "10.10.0.0/24", "  egress: None\n"))?;
    installation.up()?;
    installation.wait_condition("lan", "lab", "Ready", SOON)?;
    let more = installation.world().folder().join("more.yaml");
    fs_err::write(&more, lan("more", "10.10.0.0/16", "  egress: None\n"))?;
    let more_path = more.to_string_lossy().into_owned();
    let parts = ["more.yaml:5:", "10.10.0.0/16 overlaps 10.10.0.0/24 of lan/lab", "nothing was changed"];
    fails(&installation.output(&["up", &more_path])?, 1, &parts)?;
    fs_err::write(&more, lan("more", "10.20.0.0/16", "  egress: None\n"))?;
    ensure!(installation.check(&["up", &more_path])?.contains("handed to the Stokehold that runs here"));
    installation.wait_condition("lan", "more", "Ready", SOON)?;
    let output = installation.output(&["delete", "lan", "lab"])?;
    fails(&output, 1, &["lan/lab comes from ", "objects/lan.yaml; remove it there and it goes"])?;
    fails(&installation.output(&["get", "lan", "labb"])?, 1, &["there is no lan called labb", "did you mean lab?"])?;
    installation.down()
}

#[test]
fn a_plan_knows_what_goes_on_without_stoke_up() -> anyhow::Result<()> {
    let mut installation = bare(User::Root)?;
    installation.write("lan.yaml", &lan("lab", "10.10.0.0/24", "  egress: None\n"))?;
    installation.up()?;
    installation.wait_condition("lan", "lab", "Ready", SOON)?;
    let objects = installation.objects();
    let plan = |installation: &Installation| installation.check(&["plan", &objects]);
    let before = plan(&installation)?;
    ensure!(before == "nothing to do\n", "{before}");
    installation.kill_up();
    let without = plan(&installation)?;
    ensure!(without == before, "{without}");
    fails(&installation.output(&["get", "lans"])?, 1, &["2 of the processes that it started go on", "stoke up PATH"])?;
    // Only the difference, as the node agent that runs sees it.
    installation.write("more.yaml", &lan("more", "10.20.0.0/24", "  egress: None\n"))?;
    let more = plan(&installation)?;
    ensure!(more.contains("create lan/more") && more.contains("start router-default-more"), "{more}");
    ensure!(more.contains("10.20.0.1/24") && !more.contains("10.10.0.1/24"), "{more}");
    ensure!(!more.contains("start node") && !more.contains("router-default-lab"), "{more}");
    installation.up()?;
    installation.wait_condition("lan", "more", "Ready", SOON)?;
    let after = plan(&installation)?;
    ensure!(after == before, "{after}");
    installation.down()
}

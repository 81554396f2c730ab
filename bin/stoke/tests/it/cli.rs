//! The program as people use it: what it prints, where, and with which exit code. Needs neither root nor a network.

use std::process::Stdio;

use insta::assert_snapshot;

use crate::stoke::Stoke;

#[test]
fn help_is_for_people() {
    assert_snapshot!("help", Stoke::new().told(&["--help"]));
    assert_snapshot!("help_up", Stoke::new().told(&["up", "--help"]));
    assert_snapshot!("help_get", Stoke::new().told(&["get", "-h"]));
}

#[test]
fn a_command_line_that_makes_no_sense_exits_with_64() {
    let stoke = Stoke::new();
    let lines = [
        &["frobnicate"][..],
        &["up"],
        &["get"],
        &["get", "pods"],
        &["describe", "machine"],
        &["explain", "machin"],
        &["explain", "machine.spec.vm.cpu"],
        &["stop", "lan/lab"],
        &["console", "lan/lab"],
        &["get", "machines", "-o", "xml"],
    ];
    for line in lines {
        let output = stoke.run(line);
        assert_eq!(output.status.code(), Some(64), "{line:?}");
        assert!(output.stdout.is_empty(), "{line:?}");
        assert!(!output.stderr.is_empty(), "{line:?}");
    }
    assert_snapshot!("usage_of_a_kind", stoke.told(&["get", "pods"]));
    assert_snapshot!("usage_of_a_field", stoke.told(&["explain", "machine.spec.vm.cpu"]));
}

#[test]
fn where_nothing_runs_it_says_so_and_what_to_do() {
    let stoke = Stoke::new();
    for line in [&["get", "machines"][..], &["status"], &["console", "a"], &["ssh", "a"], &["delete", "lan/lab"]] {
        let told = stoke.told(line);
        assert!(told.starts_with("exit 1\n"), "{line:?}: {told}");
        assert!(told.contains("no Stokehold runs here (looked at STATE/run/control.sock)"), "{line:?}: {told}");
        assert!(told.contains("hint: start one with: stoke up PATH"), "{line:?}: {told}");
    }
}

#[test]
fn a_plan_of_the_example_needs_nothing_that_runs() {
    let stoke = Stoke::new();
    let output = stoke.run(&["plan", "examples/netboot"]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let plan = String::from_utf8(output.stdout).unwrap();
    for line in [
        "create farm/lab",
        "create image/node",
        "create lan/lab",
        "create machine/node-1",
        "start node",
        "build image default/node",
        "start router-default-lab",
        "start farm-default-lab",
        "start vm-default-node-1",
    ] {
        assert!(plan.lines().any(|have| have.trim() == line), "{line}: {plan}");
    }
    assert_eq!(std::fs::read_dir(stoke.state.path()).unwrap().count(), 0, "a plan leaves nothing behind");
}

#[test]
fn what_is_wrong_in_files_is_told_at_once_and_in_their_lines() {
    let stoke = Stoke::new();
    let broken =
        "apiVersion: stokehold.dev/v1alpha1\nkind: Lan\nmetadata: {name: lab}\nspec:\n  subnet: []\n  mtu: big\n";
    let unknown =
        "apiVersion: stokehold.dev/v1alpha1\nkind: Farm\nmetadata: {name: lab}\nspec: {lan: lba, image: node}\n";
    let (broken, unknown) = (stoke.file("broken.yaml", broken), stoke.file("unknown.yaml", unknown));
    assert_snapshot!("broken_file", stoke.told(&["plan", &broken]));
    assert_snapshot!("missing_objects", stoke.told(&["plan", &unknown]));
    assert_snapshot!("missing_file", stoke.told(&["up", "/no/such/folder"]));
}

#[test]
fn explain_needs_nothing() {
    let stoke = Stoke::new();
    assert_snapshot!("explain", stoke.told(&["explain", "lan.spec.subnets"]));
}

#[test]
fn colors_only_where_they_are_wanted() {
    let stoke = Stoke::new();
    let is_colored = |arguments: &[&str]| stoke.run(arguments).stdout.contains(&0x1b);
    assert!(!is_colored(&["explain", "lan"]));
    assert!(is_colored(&["explain", "lan", "--color", "always"]));
    assert!(!is_colored(&["explain", "lan", "--color", "never"]));
}

#[test]
fn completions_for_each_shell() {
    let stoke = Stoke::new();
    for shell in ["bash", "zsh", "fish"] {
        let output = stoke.run(&["completions", shell]);
        assert!(output.status.success() && output.stdout.len() > 1000, "{shell}");
    }
}

#[test]
fn a_reader_that_goes_away_is_no_failure() {
    let stoke = Stoke::new();
    let mut child = stoke.command().args(["completions", "zsh"]).stdout(Stdio::piped()).spawn().unwrap();
    drop(child.stdout.take());
    assert!(child.wait().unwrap().success());
}

#[test]
fn doctor_names_what_is_missing_and_its_package() {
    let stoke = Stoke::new();
    let empty = stoke.state.path().join("empty");
    std::fs::create_dir(&empty).unwrap();
    let output = stoke.command().arg("doctor").env("PATH", &empty).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    // Programs that Debian keeps outside of the search path are found all the same; this one is in it.
    assert!(text.contains("MISSING  mmdebstrap"), "{text}");
    assert!(text.lines().any(|line| line.starts_with("install: ") && line.contains("mmdebstrap")), "{text}");
    assert_eq!(output.status.code(), Some(1));
}

#[test]
fn images_of_nowhere() {
    let stoke = Stoke::new();
    assert_snapshot!("no_images", stoke.told(&["image", "list"]));
}

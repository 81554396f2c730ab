//! The program against a cluster: by its own name, and as a plugin of the real kubectl.

use std::os::unix::fs::symlink;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};

use testbed::kubernetes::{ControlPlane, Kubeconfig};

struct Bench {
    plane: &'static ControlPlane,
    namespace: String,
    home: tempfile::TempDir,
}

impl Bench {
    /// The shared control plane with our kinds, and a namespace of one's own, which is that of the context.
    fn new() -> Self {
        let plane = ControlPlane::shared().unwrap();
        let home = tempfile::tempdir().unwrap();
        let definitions = home.path().join("crds");
        std::fs::create_dir(&definitions).unwrap();
        for (name, text) in stoke_kube::crd::files() {
            std::fs::write(definitions.join(name), text).unwrap();
        }
        let mut apply = plane.kubectl().unwrap();
        apply.args(["apply", "--server-side", "--force-conflicts", "--filename"]).arg(&definitions);
        assert!(apply.stdout(Stdio::null()).status().unwrap().success());
        let mut wait = plane.kubectl().unwrap();
        wait.args(["wait", "--for=condition=Established", "--timeout=30s", "--filename"]).arg(&definitions);
        assert!(wait.stdout(Stdio::null()).status().unwrap().success());
        let namespace = plane.namespace().unwrap();
        let bench = Self { plane, namespace, home };
        bench.kubeconfig("config", plane.kubeconfig());
        bench
    }

    fn kubeconfig(&self, name: &str, kubeconfig: Kubeconfig) -> PathBuf {
        let path = self.home.path().join(name);
        kubeconfig.in_namespace(&self.namespace).write(&path).unwrap();
        path
    }

    /// A program without anything of its user's but the kubeconfig.
    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        command.env("KUBECONFIG", self.home.path().join("config")).env("HOME", self.home.path());
        command.env_remove("STOKE_STATE").env("XDG_RUNTIME_DIR", self.home.path()).stdin(Stdio::null());
        command
    }

    fn stoke(&self, arguments: &[&str]) -> Output {
        self.command(env!("CARGO_BIN_EXE_stoke")).args(arguments).output().unwrap()
    }

    /// Standard output and standard error of a command that must work.
    fn told(&self, arguments: &[&str]) -> (String, String) {
        let output = self.stoke(arguments);
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        assert!(output.status.success(), "{arguments:?}: {}", text(&output.stderr));
        (text(&output.stdout), text(&output.stderr))
    }

    fn file(&self, name: &str, text: &str) -> String {
        let path = self.home.path().join(name);
        std::fs::write(&path, text).unwrap();
        path.display().to_string()
    }
}

const LAB: &str = "\
apiVersion: stokehold.dev/v1alpha1
kind: Lan
metadata: {name: lab}
spec:
  subnets: [{name: v4, cidr: 10.10.0.0/24, gateway: 10.10.0.1, pools: [10.10.0.100-10.10.0.199]}]
---
apiVersion: stokehold.dev/v1alpha1
kind: Image
metadata: {name: node}
spec:
  source: {debian: {suite: bookworm, packages: [linux-image-amd64]}}
  forms: {netboot: {}}
---
apiVersion: stokehold.dev/v1alpha1
kind: Farm
metadata: {name: lab}
spec: {lan: lab, image: node}
---
apiVersion: stokehold.dev/v1alpha1
kind: Machine
metadata: {name: a}
spec:
  farm: lab
  vm: {cpus: 1, memory: 256Mi}
  nics: [{name: lab, lan: lab, address: 10.10.0.21}]
";

#[test]
fn files_are_applied_and_shown_and_what_was_chosen_is_said() {
    let bench = Bench::new();
    let lab = bench.file("lab.yaml", LAB);
    let (planned, _) = bench.told(&["--target", "cluster", "plan", &lab]);
    assert!(planned.contains("create ") && planned.contains("machine/"), "{planned}");
    let (applied, said) = bench.told(&["--target", "cluster", "up", &lab]);
    assert_eq!(applied.lines().count(), 4, "{applied}");
    assert!(said.starts_with("using cluster ") && said.contains(&bench.namespace), "{said}");
    let (again, _) = bench.told(&["--target", "cluster", "apply", &lab]);
    assert_eq!(again, "4 objects as before\n");

    let (listed, _) = bench.told(&["--target=cluster", "get", "machines,lans", "--output", "name"]);
    assert_eq!(listed.lines().count(), 2, "{listed}");
    let (described, _) = bench.told(&["--target=cluster", "describe", "machine", "a"]);
    assert!(described.contains("10.10.0.21"), "{described}");
    bench.told(&["--target=cluster", "stop", "a"]);
    let (stopped, _) = bench.told(&["--target=cluster", "get", "machine/a", "-o", "json"]);
    assert!(stopped.contains("\"stopRequested\": true"), "{stopped}");
    let (deleted, _) = bench.told(&["--target=cluster", "delete", "machine/a"]);
    assert!(deleted.ends_with("machine/a deleted\n") || deleted.ends_with("/a deleted\n"), "{deleted}");
}

#[test]
fn problems_are_told_at_their_place_in_the_file_and_nothing_is_written() {
    let bench = Bench::new();
    let wrong = LAB.replace("10.10.0.21", "10.99.0.21");
    let lab = bench.file("lab.yaml", &wrong);
    let output = bench.stoke(&["--target=cluster", "up", &lab]);
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("lab.yaml:") && said.contains("10.99.0.21"), "{said}");
    let (listed, _) = bench.told(&["--target=cluster", "get", "lans", "-o", "name"]);
    assert_eq!(listed, "");
}

#[test]
fn an_export_goes_into_a_cluster_with_its_keys_and_comes_out_again() {
    let bench = Bench::new();
    let system = format!("--system-namespace={}", bench.namespace);
    let (export, back) = (bench.home.path().join("export"), bench.home.path().join("back"));
    std::fs::create_dir_all(export.join("keys/farms/default.lab/host-keys")).unwrap();
    let keys = ["keys/ca.key", "keys/ca.pem", "keys/farms/default.lab/host-keys/machine.default.a"];
    for name in keys {
        std::fs::write(export.join(name), name).unwrap();
    }
    std::fs::write(export.join("EXPORT"), "stokehold-export 1\n").unwrap();
    std::fs::write(export.join("objects.yaml"), LAB).unwrap();
    let path = export.display().to_string();
    let (applied, said) = bench.told(&["--target=cluster", &system, "up", &path]);
    assert!(applied.starts_with("keys are in the Secret stokehold-keys\ncreate "), "{applied}");
    assert!(said.contains("rollout restart"), "{said}");
    let (again, _) = bench.told(&["--target=cluster", &system, "up", &path]);
    assert_eq!(again, "4 objects as before\n");

    let (told, said) = bench.told(&["--target=cluster", &system, "export", &back.display().to_string()]);
    assert!(told.contains("3 keys and certificates, 0 journals of leases"), "{told}{said}");
    for name in keys {
        assert_eq!(std::fs::read_to_string(back.join(name)).unwrap(), name);
    }
    let lans = std::fs::read_to_string(back.join("lans.yaml")).unwrap();
    assert!(lans.contains(&bench.namespace) && !lans.contains("managedFields") && !lans.contains("uid"), "{lans}");
}

#[test]
fn kubectl_has_it_as_a_plugin() {
    let bench = Bench::new();
    let lab = bench.file("lab.yaml", LAB);
    let programs = bench.home.path().join("bin");
    std::fs::create_dir(&programs).unwrap();
    symlink(env!("CARGO_BIN_EXE_stoke"), programs.join("kubectl-stoke")).unwrap();
    let kubectl = bench.plane.kubectl().unwrap().get_program().to_owned();
    let run = |arguments: &[&str]| {
        let mut command = bench.command(&kubectl.to_string_lossy());
        let path = std::env::var("PATH").unwrap_or_default();
        let output = command.arg("stoke").args(arguments).env("PATH", format!("{}:{path}", programs.display()));
        let output = output.output().unwrap();
        assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    };
    assert_eq!(run(&["up", &lab]).lines().count(), 4);
    assert!(run(&["get", "machines"]).contains("10.10.0") || run(&["get", "machines"]).contains("NAME"));
    assert!(run(&["explain", "machine.spec.vm"]).contains("cpus"));
}

#[test]
fn who_may_not_is_told_so_and_a_wrong_context_is_named() {
    let bench = Bench::new();
    let stranger = bench.plane.kubeconfig_for_user("stranger", None).unwrap();
    let stranger = bench.kubeconfig("stranger", stranger).display().to_string();
    let output = bench.stoke(&["--kubeconfig", &stranger, "get", "machines"]);
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("error: you may not do that") && said.contains("hint: ask an administrator"), "{said}");
    let output = bench.stoke(&["--context", "nowhere", "get", "machines"]);
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("nowhere") && said.contains("--context"), "{said}");
}

#[test]
fn what_is_about_one_host_is_not_asked_of_a_cluster() {
    let bench = Bench::new();
    for line in [&["status"][..], &["config", "a"], &["farm", "status"], &["image", "list"]] {
        let output = bench.stoke(&[&["--target=cluster"], line].concat());
        assert_eq!(output.status.code(), Some(64), "{line:?}: {}", String::from_utf8_lossy(&output.stderr));
    }
    // Without a console: nothing runs pods here.
    let lab = bench.file("lab.yaml", LAB);
    bench.told(&["--target=cluster", "up", &lab]);
    let output = bench.stoke(&["--target=cluster", "console", "a"]);
    assert!(String::from_utf8_lossy(&output.stderr).contains("nothing runs for machine/"));
    let output = bench.stoke(&["--target=cluster", "ssh", "a"]);
    assert!(String::from_utf8_lossy(&output.stderr).contains("has not booted yet"));
}

//! `stoke up` with a LAN and no machine: the files, the socket and the processes are real, guests are not needed.
//!
//! Needs network namespaces and nftables, as root or as an ordinary user.

use std::io::Read as _;
use std::path::PathBuf;
use std::process::{Child, Stdio};

use rustix::process::{Pid, Signal, kill_process};

use crate::stoke::{Stoke, until};

const LAN: &str = "apiVersion: stokehold.dev/v1alpha1
kind: Lan
metadata: {name: lab}
spec:
  subnets: [{name: v4, cidr: 10.77.0.0/24, pools: [10.77.0.100-10.77.0.199]}]
  egress: None
";

/// A running `stoke up`, and what it tells.
pub(crate) struct Up {
    child: Child,
    stderr: PathBuf,
}

impl Up {
    pub(crate) fn start(stoke: &Stoke, path: &str) -> Self {
        let mut command = stoke.command();
        let stderr = stoke.state.path().join("up.stderr");
        let file = std::fs::File::create(&stderr).unwrap();
        let child = command.args(["up", path]).stdout(Stdio::piped()).stderr(file).spawn().unwrap();
        let socket = stoke.state.path().join("run/control.sock");
        until("control socket", || std::os::unix::net::UnixStream::connect(&socket).ok());
        Self { child, stderr }
    }

    /// Ctrl-C; then all that was told.
    pub(crate) fn interrupt(self) -> (bool, String) {
        kill_process(Pid::from_child(&self.child), Signal::INT).unwrap();
        self.end()
    }

    /// Ctrl-C, which must end it well.
    pub(crate) fn interrupt_well(self) {
        let stderr = self.stderr.clone();
        let (well, told) = self.interrupt();
        assert!(well, "{told}{}", std::fs::read_to_string(stderr).unwrap_or_default());
    }

    /// Waits for its end; whether that was a good one, and all that was told.
    fn end(mut self) -> (bool, String) {
        let mut told = String::new();
        self.child.stdout.take().unwrap().read_to_string(&mut told).unwrap();
        (self.child.wait().unwrap().success(), told)
    }
}

/// Ends what a failed test leaves.
pub(crate) struct Ended<'a>(pub(crate) &'a Stoke);

impl Drop for Ended<'_> {
    fn drop(&mut self) {
        self.0.run(&["down", "--purge"]);
    }
}

fn pids(stoke: &Stoke) -> Vec<(String, String)> {
    let cells = |line: &str| line.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
    let rows = stoke.stdout(&["status"]).lines().skip(1).map(cells).collect::<Vec<_>>();
    rows.into_iter().filter(|row| row[1] == "True").map(|row| (row[0].clone(), row[2].clone())).collect()
}

#[test]
fn a_lan_from_up_to_down() {
    let stoke = Stoke::new();
    let _ended = Ended(&stoke);
    let path = stoke.file("files/lan.yaml", LAN);
    let folder = stoke.state.path().join("files").display().to_string();

    let up = Up::start(&stoke, &folder);
    let ready = || stoke.stdout(&["get", "lans"]).lines().find(|line| line.starts_with("lab ")).map(str::to_owned);
    until("LAN ready", || ready().filter(|line| line.contains("True")));
    assert_eq!(stoke.stdout(&["plan", &folder]), "nothing to do\n");
    let runs = until("node and router", || Some(pids(&stoke)).filter(|pids| pids.len() == 2));

    let refused = stoke.told(&["delete", "lan/lab"]);
    assert!(
        refused
            .contains(&format!("exit 1\n--- stdout\n--- stderr\nerror: lan/lab comes from {}", "STATE/files/lan.yaml")),
        "{refused}"
    );
    let unknown = stoke.told(&["get", "lan", "lap"]);
    assert!(unknown.contains("error: there is no lan called lap\nhint: did you mean lab?"), "{unknown}");

    // A broken edit changes nothing; a good one is applied.
    std::fs::write(&path, LAN.replace("egress", "egres")).unwrap();
    let finding = format!("{path}:6:3: spec: unknown field \"egres\"; did you mean \"egress\"?");
    until("broken edit told", || std::fs::read_to_string(&up.stderr).unwrap().contains(&finding).then_some(()));
    std::fs::write(&path, LAN.replace("egress: None", "egress: None\n  mtu: 1400")).unwrap();
    until("edit applied", || stoke.stdout(&["get", "lan/lab", "-o", "json"]).contains("\"mtu\": 1400").then_some(()));

    let more = stoke.file("more.yaml", &LAN.replace("lab", "other").replace("10.77", "10.78"));
    assert!(stoke.stdout(&["up", &more]).contains("create lan/other\nhanded to the Stokehold that runs here"));
    until("two LANs", || (stoke.stdout(&["get", "lan", "-o", "name"]) == "lan/lab\nlan/other\n").then_some(()));

    let (clean, told) = up.interrupt();
    assert!(clean && told.contains("machines keep running"), "{told}");
    assert!(told.starts_with("create lan/lab\n"), "{told}");

    // What ran still runs, and the next `up` finds it.
    let up = Up::start(&stoke, &folder);
    let again = until("found again", || Some(pids(&stoke)).filter(|pids| pids.len() == 3));
    assert!(runs.iter().all(|process| again.contains(process)), "{runs:?} {again:?}");
    let down = stoke.stdout(&["down", "--purge"]);
    assert!(down.contains("router-default-lab") && down.contains("node"), "{down}");
    let (clean, told) = up.end();
    assert!(clean && told.ends_with("everything was ended by stoke down\n"), "{told}");
    let left: Vec<_> =
        ["run/workloads", "store.redb"].into_iter().filter(|n| stoke.state.path().join(n).exists()).collect();
    assert!(left.is_empty(), "{left:?}");
    assert!(stoke.stdout(&["down"]).starts_with("nothing ran here"), "a second down has nothing to do");
}

#[test]
fn a_file_that_goes_takes_its_objects_along() {
    let stoke = Stoke::new();
    let _ended = Ended(&stoke);
    stoke.file("files/lan.yaml", LAN);
    let other = stoke.file("files/other.yaml", &LAN.replace("lab", "other").replace("10.77", "10.79"));
    let folder = stoke.state.path().join("files").display().to_string();
    let up = Up::start(&stoke, &folder);
    let names = |wanted: &str| (stoke.stdout(&["get", "lans", "-o", "name"]) == wanted).then_some(());
    until("both", || names("lan/lab\nlan/other\n"));
    std::fs::remove_file(other).unwrap();
    until("one", || names("lan/lab\n"));
    let (clean, told) = up.interrupt();
    assert!(clean && told.contains("remove lan/other"), "{told}");
}

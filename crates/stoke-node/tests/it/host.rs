//! A host in a network namespace, and the node agent on it.

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::net::Ipv4Addr;
use std::os::fd::AsFd as _;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use stoke_api::report::{NodeAgentReport, Report};

/// Who runs the agent.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum User {
    Root,
    /// `nobody`, on a host where users may open `/dev/net/tun`, as udev sees to everywhere.
    Ordinary,
}

/// Address of the host on its outer network.
pub(crate) const HOST: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 2);

/// Runs a test on a host of its own: a thread in a new network namespace with a default route.
pub(crate) fn on_a_host(test: impl FnOnce() + Send + 'static) {
    let thread = std::thread::spawn(move || {
        stoke_sys::namespace::unshare_network().expect("network namespaces need root");
        ip("link set lo up");
        ip("link add wan0 type veth peer name world0");
        ip("link set world0 up");
        ip("address add 198.51.100.2/24 dev wan0");
        ip("link set wan0 up");
        ip("route add default via 198.51.100.1");
        test();
    });
    if let Err(panic) = thread.join() {
        std::panic::resume_unwind(panic);
    }
}

pub(crate) fn ip(arguments: &str) {
    let status = Command::new("ip").args(arguments.split(' ')).status().expect("iproute2 is installed");
    assert!(status.success(), "ip {arguments}");
}

/// Waits until the condition holds.
pub(crate) fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let end = Instant::now() + Duration::from_secs(20);
    while !condition() {
        assert!(Instant::now() < end, "never happened: {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// The agent, its run folder, and what else the test started; all end with it.
pub(crate) struct Agent {
    user: User,
    folder: tempfile::TempDir,
    processes: Vec<Child>,
}

impl Agent {
    /// Starts the agent with LAN `lab`, `10.10.0.0/24`, on bridge `lab0`.
    pub(crate) fn start(user: User, uplinks: &[&str]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        std::fs::set_permissions(folder.path(), std::fs::Permissions::from_mode(0o777)).unwrap();
        let mut agent = Self { user, folder, processes: Vec::new() };
        // By a program of its own: what this process writes cannot be executed while a test beside this one has forked
        // and not yet executed, since the child has a copy of the descriptor.
        let copied = Command::new("cp").args([program_built(), agent.path("agent")]).status().unwrap();
        assert!(copied.success(), "cp: {copied}");
        agent.configure(uplinks);
        agent.launch();
        agent
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn configure(&self, uplinks: &[&str]) {
        let config = serde_json::json!({
            "installation": "0a1b2c3d", "egress": true, "portsSocket": self.path("ports.sock"),
            "lans": [{
                "lan": {"kind": "Lan", "namespace": "default", "name": "lab"}, "bridge": "lab0",
                "mac": "52:54:00:aa:00:01", "mtu": 1500, "addresses": ["10.10.0.1/24"], "masquerade": true,
                "uplinks": uplinks
            }]
        });
        std::fs::write(self.path("config.json"), config.to_string()).unwrap();
    }

    /// Starts the agent and waits until it answers.
    pub(crate) fn launch(&mut self) {
        let names = ["config.json", "admin.sock"].map(|name| self.path(name).display().to_string());
        let run_dir = self.folder.path().display().to_string();
        self.run(&["node", &run_dir, &names[0], &names[1]]);
        until("the agent answers", || self.get("/live").is_some());
    }

    /// Starts pasta as `stoke up` does, and waits until the agent sees the way out.
    pub(crate) fn open_the_way_out(&mut self) {
        self.open_the_way_out_with("nameserver 198.51.100.53\n");
    }

    /// The same on a host whose `/etc/resolv.conf` says this.
    pub(crate) fn open_the_way_out_with(&mut self, resolv_conf: &str) {
        let text = self.path("resolv.conf");
        std::fs::write(&text, resolv_conf).unwrap();
        let run_dir = self.folder.path().display().to_string();
        let pasta = self.command(&["pasta", &run_dir]);
        let script = "mount --bind $1 /etc/resolv.conf || exit; shift; exec \"$@\"";
        let mut command = Command::new("unshare");
        command.args(["-m", "sh", "-c", script, "sh"]).arg(text).arg(pasta.get_program()).args(pasta.get_args());
        self.processes.push(command.spawn().expect("util-linux is installed"));
        until("the way out is there", || self.report().egress_failure.is_none());
    }

    fn run(&mut self, arguments: &[&str]) {
        let process = self.command(arguments).spawn().expect("the example was built");
        self.processes.push(process);
    }

    /// The example, as the user; an ordinary one with a `/dev/net/tun` that is open to all.
    fn command(&self, arguments: &[&str]) -> Command {
        let program = self.path("agent");
        let mut command = match self.user {
            User::Root => Command::new(program),
            User::Ordinary => {
                let script = "test -e $1 || mknod -m 666 $1 c 10 200; mount --bind $1 /dev/net/tun || exit; shift; \
                              exec setpriv --reuid 65534 --regid 65534 --clear-groups \"$@\"";
                let mut command = Command::new("unshare");
                command.args(["-m", "sh", "-c", script, "sh"]).arg(self.path("tun")).arg(program);
                command
            }
        };
        command.args(arguments);
        command
    }

    /// Kills the process that was started last.
    pub(crate) fn kill_the_last(&mut self) {
        let mut last = self.processes.pop().expect("there is one");
        last.kill().unwrap();
        last.wait().unwrap();
    }

    /// Kills the holder and its `sleep`.
    pub(crate) fn kill_the_holder(&self) {
        let pid = std::fs::read_to_string(self.path("holder.pid")).unwrap();
        let status = Command::new("kill").args(["-9", "--", &format!("-{}", pid.trim())]).status().unwrap();
        assert!(status.success());
        let gone = || std::fs::metadata(format!("/proc/{}/ns/net", pid.trim())).is_err();
        until("the holder is dead", gone);
    }

    /// A process inside, as a router is.
    pub(crate) fn add_member(&mut self) {
        let run_dir = self.folder.path().display().to_string();
        let mut command = self.command(&["member", &run_dir]);
        let mut member = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("the example was built");
        member.stdout.as_mut().unwrap().read_exact(&mut [0; 7]).unwrap();
        // Before the agent's own process, which is killed as the last.
        self.processes.insert(0, member);
    }

    /// Runs something in a thread inside of the agent's network namespace.
    pub(crate) fn inside<T: Send + 'static>(&self, action: impl FnOnce() -> T + Send + 'static) -> T {
        let namespace = File::open(self.path("ns/net")).unwrap();
        let thread = std::thread::spawn(move || {
            move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network)).unwrap();
            action()
        });
        thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }

    /// Identity of the network namespace.
    pub(crate) fn namespace(&self) -> u64 {
        std::fs::metadata(self.path("ns/net")).unwrap().ino()
    }

    pub(crate) fn report(&self) -> NodeAgentReport {
        match serde_json::from_str(&self.get("/status").expect("the agent answers")).unwrap() {
            Report::Node(report) => report,
            other => panic!("a report of another role: {other:?}"),
        }
    }

    /// Body of an answer with status 200.
    pub(crate) fn get(&self, path: &str) -> Option<String> {
        self.ask(&format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n"))
    }

    /// Body of an answer with status 200.
    pub(crate) fn post(&self, path: &str, body: &str) -> Option<String> {
        let length = body.len();
        let head = "host: x\r\nconnection: close\r\ncontent-type: application/json";
        self.ask(&format!("POST {path} HTTP/1.1\r\n{head}\r\ncontent-length: {length}\r\n\r\n{body}"))
    }

    fn ask(&self, request: &str) -> Option<String> {
        let mut stream = UnixStream::connect(self.path("admin.sock")).ok()?;
        stream.write_all(request.as_bytes()).ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).ok()?;
        let (head, body) = answer.split_once("\r\n\r\n")?;
        head.starts_with("HTTP/1.1 200").then(|| body.to_owned())
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        for process in &mut self.processes {
            let _ = process.kill();
            let _ = process.wait();
        }
        let ended = stoke_node::teardown(self.folder.path(), "0a1b2c3d");
        assert!(ended.is_ok() || std::thread::panicking(), "{ended:?}");
    }
}

/// The example that cargo builds with the tests.
pub(crate) fn program_built() -> PathBuf {
    let test = std::env::current_exe().unwrap();
    test.parent().and_then(Path::parent).unwrap().join("examples/agent")
}

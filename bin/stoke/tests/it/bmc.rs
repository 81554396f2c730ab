//! A server behind a management controller, from its file to its console. The controller is simulated; what it switches is a
//! real QEMU.

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::process::{Child, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use rustix::fs::{Mode, OFlags};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use testbed::bmc::{IpmiServer, USER};
use testbed::wait_for;

use crate::installation::{Ended, Up};
use crate::stoke::Stoke;

const NAME: &str = "server/rack1-07";

fn objects(stoke: &Stoke, server: &IpmiServer) -> String {
    let empty = stoke.state.path().join("empty");
    std::fs::create_dir(&empty).unwrap();
    let (empty, password) = (empty.display(), server.password_file());
    let (address, port, password) = (&server.address, server.port(), password.display());
    format!(
        "apiVersion: stokehold.dev/v1alpha1
kind: Lan
metadata: {{name: lab}}
spec:
  subnets: [{{name: v4, cidr: 10.79.0.0/24, pools: [10.79.0.100-10.79.0.199]}}]
  egress: None
---
apiVersion: stokehold.dev/v1alpha1
kind: Image
metadata: {{name: none}}
spec: {{source: {{tree: {{path: {empty}}}}}, forms: {{netboot: {{}}}}}}
---
apiVersion: stokehold.dev/v1alpha1
kind: Farm
metadata: {{name: lab}}
spec: {{lan: lab, image: none}}
---
apiVersion: stokehold.dev/v1alpha1
kind: Server
metadata: {{name: rack1-07}}
spec:
  farm: {{namespace: default, name: lab}}
  macs: [\"52:54:00:00:00:07\"]
  bmc:
    ipmi: {{address: {address}, port: {port}, user: {USER}, password: {{file: {password}}}, cipherSuite: 3}}
"
    )
}

/// Failures of a controller on a busy host are followed by pauses, so this is long.
const LIMIT: Duration = Duration::from_mins(5);

fn until<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    wait_for(what, LIMIT, || Ok(look())).unwrap()
}

/// `stoke console` on a terminal, and what it shows.
struct Console {
    child: Child,
    leader: File,
    shown: Receiver<Vec<u8>>,
}

impl Console {
    fn open(stoke: &Stoke) -> Self {
        let leader = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC).unwrap();
        grantpt(&leader).unwrap();
        unlockpt(&leader).unwrap();
        let path = ptsname(&leader, Vec::new()).unwrap();
        let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC;
        let terminal = File::from(rustix::fs::open(&path, flags, Mode::empty()).unwrap());
        let mut command = stoke.command();
        command.args(["console", NAME]).stdin(terminal.try_clone().unwrap()).stdout(terminal).stderr(Stdio::null());
        let child = command.spawn().unwrap();
        let leader = File::from(leader);
        let mut reader = leader.try_clone().unwrap();
        let (tell, shown) = channel();
        std::thread::spawn(move || {
            let mut buffer = [0; 4096];
            // It ends when nobody has the terminal any more.
            while let Ok(length @ 1..) = reader.read(&mut buffer) {
                if tell.send(buffer[..length].to_vec()).is_err() {
                    return;
                }
            }
        });
        Self { child, leader, shown }
    }

    /// By its keys; whether it was a good end.
    fn detach(mut self) -> bool {
        self.leader.write_all(b"\r~.").unwrap();
        self.child.wait().unwrap().success()
    }

    fn until(&self, text: &str) {
        let mut all = Vec::new();
        while !String::from_utf8_lossy(&all).contains(text) {
            let more = self.shown.recv_timeout(LIMIT).ok();
            assert!(more.is_some(), "only {:?}", String::from_utf8_lossy(&all));
            all.extend(more.unwrap_or_default());
        }
    }
}

impl Drop for Console {
    fn drop(&mut self) {
        // After a failed test; ipmitool ends with the simulator.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn a_server_is_switched_and_shows_its_console() {
    let server = IpmiServer::start().unwrap();
    let stoke = Stoke::new();
    let _ended = Ended(&stoke);
    let path = stoke.file("files/lab.yaml", &objects(&stoke, &server));
    let up = Up::start(&stoke, &path);
    // It listens before it has read the files.
    let says = |what: &str| stoke.told(&["get", NAME, "-o", "json"]).contains(what).then_some(());
    until("it is off", || says("\"PoweredOff\""));
    let refused = stoke.told(&["reboot", NAME]);
    assert!(refused.contains("it is switched off; start it"), "{refused}");

    assert_eq!(stoke.stdout(&["start", NAME]), format!("{NAME} starts\n"));
    let guest = until("QEMU", || server.guest());
    until("it is on", || says("\"requestsDone\": 1"));
    let piped = stoke.told(&["console", NAME]);
    assert!(piped.contains("needs a terminal"), "{piped}");
    let console = Console::open(&stoke);
    console.until("SeaBIOS");
    assert!(console.detach());

    // Nothing of ours runs there: it is power-cycled at once.
    assert_eq!(stoke.stdout(&["reboot", NAME]), format!("{NAME} reboots\n"));
    until("another QEMU", || server.guest().filter(|now| *now != guest));
    assert_eq!(stoke.stdout(&["stop", NAME]), format!("{NAME} shuts down\n"));
    until("no QEMU", || server.guest().is_none().then_some(()));
    until("it is off again", || says("\"requestsDone\": 2"));
    let told = stoke.stdout(&["describe", NAME]);
    assert!(told.contains("power-cycled by its management controller"), "{told}");
    assert!(told.contains("asked to shut down by its management controller"), "{told}");
    assert!(!told.contains(testbed::bmc::PASSWORD), "{told}");
    up.interrupt();
}

//! Servers with management controllers: OpenIPMI's simulator, and sushy-tools' Redfish emulator. Behind the simulator is a
//! QEMU, which runs while the server is on, and which speaks to it as to its own controller.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use anyhow::{Context as _, Result};
use rustix::process::{Pid, Signal, kill_process, test_kill_process};

use crate::tools;
use crate::wait::{Process, wait_for};

/// Who logs in to either.
pub const USER: &str = "operator";
/// With what.
pub const PASSWORD: &str = "s3cret";
/// The UUID of the emulated system.
pub const UUID: &str = "27946b59-9e44-4fa7-8e91-f3527a1ef094";
/// The address of its interface.
pub const MAC: &str = "52:54:00:00:00:07";

/// The emulator, as a package of Python's index.
const WHEEL: &str = "sushy-tools==2.2.0";
/// How long a busy machine may take to start one.
const LIMIT: Duration = Duration::from_mins(1);
const IPMI_PORT: u16 = 6230;
const CONTROLLER_PORT: u16 = 6231;
const SERIAL_PORT: u16 = 6232;
const REDFISH_PORT: u16 = 6240;

/// An address of this host that no other test of this run has.
fn address() -> String {
    static NEXT: AtomicU32 = AtomicU32::new(1);
    let [.., high, low] = std::process::id().to_be_bytes();
    format!("127.{}.{high}.{low}", 64 + NEXT.fetch_add(1, Ordering::Relaxed) % 64)
}

/// Writes a password as only its owner may read it.
fn write_password(path: &Path) -> Result<()> {
    let mut file = std::fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path)?;
    Ok(file.write_all(PASSWORD.as_bytes())?)
}

/// A server with an IPMI controller.
pub struct IpmiServer {
    /// Where the controller listens.
    pub address: String,
    folder: tempfile::TempDir,
    _simulator: Process,
}

impl IpmiServer {
    /// A server that is off.
    ///
    /// # Errors
    /// If the simulator or QEMU is missing.
    pub fn start() -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let address = address();
        let at = |name: &str| folder.path().join(name);
        fs_err::create_dir(at("state"))?;
        fs_err::write(at("chassis"), chassis(folder.path(), &address))?;
        fs_err::write(at("lan.conf"), configuration(folder.path(), &address))?;
        fs_err::write(at("commands"), COMMANDS)?;
        write_password(&at("password"))?;
        let mut simulator = Command::new("ipmi_sim");
        simulator.arg("-c").arg(at("lan.conf")).arg("-f").arg(at("commands")).arg("-s").arg(at("state")).arg("-n");
        simulator.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let simulator = Process::start(&mut simulator).context("is the package openipmi installed?")?;
        let server = Self { address, folder, _simulator: simulator };
        wait_for("the IPMI simulator", LIMIT, || Ok(server.answers().then_some(())))?;
        Ok(server)
    }

    /// Whether it lets people in. A connection to its other port would end it when that is closed.
    fn answers(&self) -> bool {
        let mut ask = Command::new("ipmitool");
        ask.args(["-I", "lanplus", "-C", "3", "-N", "1", "-R", "1", "-H", &self.address, "-p", &IPMI_PORT.to_string()]);
        ask.args(["-U", USER, "-f"]).arg(self.password_file()).args(["mc", "guid"]);
        let ask = ask.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        ask.status().is_ok_and(|status| status.success())
    }

    /// The UDP port of the controller.
    pub fn port(&self) -> u16 {
        IPMI_PORT
    }

    /// A file with the password.
    pub fn password_file(&self) -> PathBuf {
        self.folder.path().join("password")
    }

    /// The process of the server's QEMU, while that runs.
    pub fn guest(&self) -> Option<Pid> {
        let text = fs_err::read_to_string(self.folder.path().join("qemu.pid")).ok()?;
        let pid = Pid::from_raw(text.trim().parse().ok()?)?;
        test_kill_process(pid).is_ok().then_some(pid)
    }

    /// The device that was asked for as the next to boot from.
    pub fn next_boot(&self) -> Option<String> {
        Some(fs_err::read_to_string(self.folder.path().join("boot")).ok()?.trim().to_owned())
    }

    /// From now on the server does not heed its power button.
    ///
    /// # Errors
    /// If that cannot be noted.
    pub fn hang(&self) -> Result<()> {
        Ok(fs_err::write(self.folder.path().join("hangs"), "")?)
    }
}

impl Drop for IpmiServer {
    fn drop(&mut self) {
        if let Some(guest) = self.guest() {
            // It may have ended just now.
            let _ = kill_process(guest, Signal::KILL);
        }
    }
}

/// What the simulator emulates: one controller (`ipmi_sim_cmd(5)`).
const COMMANDS: &str = "mc_setbmc 0x20
mc_add 0x20 0 no-device-sdrs 0x23 9 8 0x9f 0x1291 0xf02 persist_sdr
sel_enable 0x20 1000 0x0a
mc_enable 0x20
";

/// How it is reached (`ipmi_lan(5)`).
fn configuration(folder: &Path, address: &str) -> String {
    let (folder, all) = (folder.display(), "none md2 md5 straight");
    let guid = UUID.replace('-', "");
    format!(
        "name \"test\"
set_working_mc 0x20
startlan 1
  addr {address} {IPMI_PORT}
  priv_limit admin
  allowed_auths_callback {all}
  allowed_auths_user {all}
  allowed_auths_operator {all}
  allowed_auths_admin {all}
  guid {guid}
endlan
serial 15 {address} {CONTROLLER_PORT} codec VM
sol \"tcp:{address}:{SERIAL_PORT}\" 115200
chassis_control \"sh {folder}/chassis 0x20\"
user 1 true \"\" \"\" user 10 none md2 md5 straight
user 2 true \"{USER}\" \"{PASSWORD}\" admin 10 none md2 md5 straight
"
    )
}

/// What the simulator runs for each question about the chassis and each order to it.
fn chassis(folder: &Path, address: &str) -> String {
    let folder = folder.display();
    format!(
        r#"cd {folder} || exit 1
running() {{ [ -e qemu.pid ] && kill -0 "$(cat qemu.pid)" 2>/dev/null; }}
off() {{
    running || return 0
    kill -9 "$(cat qemu.pid)"
    while running; do sleep 0.05; done
    rm -f qemu.pid
}}
on() {{
    running && return 0
    setsid qemu-system-x86_64 -M pc,graphics=off -m 32 -display none -nodefaults -boot reboot-timeout=1000 \
        -chardev socket,id=bmc,host={address},port={CONTROLLER_PORT},reconnect=1 \
        -device ipmi-bmc-extern,id=bmc0,chardev=bmc -device isa-ipmi-kcs,bmc=bmc0,irq=5 \
        -chardev socket,id=serial,host={address},port={SERIAL_PORT},server=on,wait=off \
        -device isa-serial,chardev=serial </dev/null >/dev/null 2>&1 &
    # Not awaited: the controller answers nobody meanwhile.
    echo $! >qemu.pid
}}
case "$2 $3 $4" in
    "get power "*) if running; then echo power:1; else echo power:0; fi ;;
    "set power 1") on ;;
    "set power 0") off ;;
    "set reset "*) off; on ;;
    "set shutdown "*) [ -e hangs ] || off ;;
    "set boot "*) echo "$4" >boot ;;
    "get boot "*) echo "boot:$(cat boot 2>/dev/null || echo none)" ;;
esac
"#
    )
}

/// A server behind a Redfish service. It takes up to eleven seconds to do what it is told, as metal does.
pub struct RedfishServer {
    /// `http://ADDRESS:PORT`.
    pub url: String,
    folder: tempfile::TempDir,
    _emulator: Process,
}

impl RedfishServer {
    /// A server that is off, and another one, which is [`OTHER`].
    ///
    /// # Errors
    /// If the emulator cannot be had.
    pub fn start() -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let address = address();
        write_password(&folder.path().join("password"))?;
        let environment = tools::python(WHEEL)?;
        let hash = "import bcrypt, sys; print(bcrypt.hashpw(sys.stdin.buffer.read(), bcrypt.gensalt(4)).decode())";
        let mut command = Command::new(environment.join("bin/python3"));
        let password = fs_err::File::open(folder.path().join("password"))?.into_file();
        let hashed = command.args(["-c", hash]).stdin(password).output()?;
        let users = format!("{USER}:{}", String::from_utf8_lossy(&hashed.stdout));
        fs_err::write(folder.path().join("users"), users)?;
        fs_err::write(folder.path().join("emulator.py"), emulator(folder.path(), &address))?;
        let mut emulator = Command::new(environment.join("bin/sushy-emulator"));
        emulator.arg("--fake").arg("--config").arg(folder.path().join("emulator.py")).current_dir(folder.path());
        emulator.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let emulator = Process::start(&mut emulator)?;
        wait_for("the Redfish emulator", LIMIT, || Ok(answers(&address).then_some(())))?;
        Ok(Self { url: format!("http://{address}:{REDFISH_PORT}"), folder, _emulator: emulator })
    }

    /// A file with the password.
    pub fn password_file(&self) -> PathBuf {
        self.folder.path().join("password")
    }
}

/// The UUID of the other system behind the same service.
pub const OTHER: &str = "37946b59-9e44-4fa7-8e91-f3527a1ef095";

fn answers(address: &str) -> bool {
    let Ok(mut stream) = TcpStream::connect((address, REDFISH_PORT)) else { return false };
    let asked = stream.write_all(b"GET /redfish/v1/ HTTP/1.0\r\n\r\n");
    let mut answer = String::new();
    asked.is_ok() && stream.read_to_string(&mut answer).is_ok() && answer.contains(" 200 ")
}

fn emulator(folder: &Path, address: &str) -> String {
    let folder = folder.display();
    let system = |uuid: &str, mac: &str| {
        let nics = format!("[{{'mac': '{mac}', 'ip': '10.0.0.1'}}]");
        format!("{{'uuid': '{uuid}', 'name': 'n{mac}', 'power_state': 'Off', 'nics': {nics}}}")
    };
    let systems = [system(UUID, MAC), system(OTHER, "52:54:00:00:00:08")].join(", ");
    format!(
        "SUSHY_EMULATOR_LISTEN_IP = '{address}'
SUSHY_EMULATOR_LISTEN_PORT = {REDFISH_PORT}
SUSHY_EMULATOR_FAKE_DRIVER = True
SUSHY_EMULATOR_STATE_DIR = '{folder}'
SUSHY_EMULATOR_AUTH_FILE = '{folder}/users'
SUSHY_EMULATOR_FAKE_SYSTEMS = [{systems}]
"
    )
}

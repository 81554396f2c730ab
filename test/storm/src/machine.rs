//! One machine that boots, from power-on to ready.
//!
//! ```text
//!   firmware: DHCP -> program (TFTP) -> iPXE: DHCP -> script -> kernel, initramfs (HTTP)
//!     -> stoke-init: DHCP -> hello -> root (NBD, or a copy in memory) -> reports -> ready
//! ```
//!
//! Each step tries again as the real one does, and notes how long it took with all its attempts.

use std::fs::File;
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use serde::Serialize;
use stoke_api::MacAddr;
use stoke_api::node::{
    DHCP_OPTION_FARM, Event, Hello, Manifest, PROTOCOL, Phase, Report, VENDOR_CLASS, fits_in_memory,
};
use stoke_init::peer::Gift;

use crate::content::Checker;
use crate::dhcp::{Answer, Options};
use crate::http::{Connection, Head, parts};
use crate::lab::{Blob, Lab};
use crate::root;
use crate::tftp;

/// What iPXE says of itself in option 175: it can HTTP (19), bzImage (24), and EFI images (36) where there is UEFI.
const IPXE_FEATURES: [u8; 12] = [0x13, 1, 1, 0x18, 1, 1, 0x24, 1, 1, 0x22, 1, 1];
/// How long all attempts of one step together may take.
const STEP: Duration = Duration::from_mins(5);

/// Steps of a boot, in order.
pub const STEPS: [&str; 8] =
    ["firmware DHCP", "program", "iPXE DHCP", "script", "kernel", "init DHCP", "hello", "root"];

/// A machine.
#[derive(Clone, Copy, Debug)]
pub struct Machine {
    /// Its number, from which everything else of it is made.
    pub number: u16,
    /// Whether its memory holds the root.
    pub large: bool,
    /// Whether it has a BIOS rather than UEFI.
    pub bios: bool,
}

/// What became of a boot.
pub struct Booted {
    /// How long each of [`STEPS`] took.
    pub steps: Vec<Duration>,
    /// Who gave how many bytes of the root, if it was copied.
    pub given: Vec<(String, u64)>,
    /// Whether the farm was to give it.
    pub direct: bool,
    /// What the resident keeps.
    pub resident: Arc<Resident>,
}

/// A machine that runs.
pub struct Resident {
    machine: Machine,
    address: Ipv4Addr,
    report: Report,
    farms: Vec<String>,
    /// The connection over which its root comes.
    pub root: Option<TcpStream>,
}

impl Machine {
    /// Its address on the wire.
    pub fn mac(self) -> MacAddr {
        let [high, low] = self.number.to_be_bytes();
        MacAddr([0x52, 0x54, 0, 0xb0, high, low])
    }

    fn memory(self) -> u64 {
        if self.large { 8 << 30 } else { 256 << 20 }
    }

    /// What firmware and iPXE say.
    fn firmware(self) -> Options {
        let (class, architecture) =
            if self.bios { ("PXEClient:Arch:00000:UNDI:002001", 0) } else { ("PXEClient:Arch:00007:UNDI:003001", 7) };
        let mut uuid = vec![0; 15];
        uuid.extend(self.number.to_be_bytes());
        Options::from([
            (55, vec![1, 3, 6, 15, 43, 60, 66, 67]),
            (60, class.into()),
            (93, vec![0, architecture]),
            (94, vec![1, 3, 1]),
            (97, uuid),
        ])
    }

    fn transaction(self, pass: u8) -> u32 {
        let [high, low] = self.number.to_be_bytes();
        u32::from_be_bytes([0x5a, pass, high, low])
    }
}

/// Boots a machine.
///
/// # Errors
/// If a step does not succeed, with all the attempts that the real one makes.
pub fn boot(lab: &Lab, machine: Machine) -> Result<Booted> {
    let mut clock = Clock { begun: Instant::now(), steps: Vec::new() };
    let mac = machine.mac();
    let lease = clock.step(|| lab.dhcp()?.ask(mac, machine.transaction(1), &machine.firmware()))?;
    let address = lease.address;
    clock.step(|| load_program(lab, machine, &lease))?;
    let mut ipxe = machine.firmware();
    ipxe.extend([(77, b"iPXE".to_vec()), (175, IPXE_FEATURES.to_vec())]);
    let lease = clock.step(|| lab.dhcp()?.ask(mac, machine.transaction(2), &ipxe))?;
    ensure!(lease.address == address, "firmware had {address}, iPXE gets {}", lease.address);
    let mut script = clock.step(|| fetch_script(address, &lease.file))?;
    clock.step(|| load_parts(lab, address, &mut script, &lease.file))?;
    let init = Options::from([(55, vec![1, 3, 6, 12, 15, 17, 26, DHCP_OPTION_FARM]), (60, VENDOR_CLASS.into())]);
    let lease = clock.step(|| lab.dhcp()?.ask(mac, machine.transaction(3), &init))?;
    ensure!(lease.address == address, "firmware had {address}, stoke-init gets {}", lease.address);
    let farms = lease.options.get(&DHCP_OPTION_FARM).context("no farm in the lease")?;
    let farms: Vec<_> = String::from_utf8(farms.clone())?.split(' ').map(str::to_owned).collect();
    let manifest = clock.step(|| say_hello(lab, machine, address, &farms))?;
    let rooted = clock.step(|| fetch_root(lab, machine, address, &manifest))?;
    finish(lab, machine, address, manifest, rooted, clock.steps)
}

/// The boot program. A transfer cannot outlive its server: firmware begins anew from the first packet, which is all that it
/// can do.
fn load_program(lab: &Lab, machine: Machine, first: &Answer) -> Result<()> {
    let mut lease = first.clone();
    again(|| {
        let loaded = tftp::load(lease.address, lease.next, &lease.file);
        if loaded.is_err() {
            lease = lab.dhcp()?.ask(machine.mac(), machine.transaction(1), &machine.firmware())?;
            ensure!(lease.address == first.address, "firmware had {}, now {}", first.address, lease.address);
        }
        ensure!(loaded? == *lab.program(), "{} has wrong bytes", lease.file);
        Ok(())
    })
}

struct Clock {
    begun: Instant,
    steps: Vec<Duration>,
}

impl Clock {
    fn step<T>(&mut self, step: impl FnOnce() -> Result<T>) -> Result<T> {
        let name = STEPS.get(self.steps.len()).copied().unwrap_or_default();
        let result =
            step().with_context(|| format!("{name}, {:.1} s after power-on", self.begun.elapsed().as_secs_f64()));
        let before: Duration = self.steps.iter().sum();
        self.steps.push(self.begun.elapsed().saturating_sub(before));
        result
    }
}

/// Tries again after pauses of 1, 2, 4 and then 8 seconds, as the scripts do, until the step takes too long.
fn again<T>(mut attempt: impl FnMut() -> Result<T>) -> Result<T> {
    let (begin, mut pause) = (Instant::now(), Duration::from_secs(1));
    loop {
        match attempt() {
            Err(_) if begin.elapsed() < STEP => std::thread::sleep(pause),
            result => return result,
        }
        pause = (pause * 2).min(Duration::from_secs(8));
    }
}

/// The script that says what to load; waits as often as it is told to.
fn fetch_script(from: Ipv4Addr, url: &str) -> Result<String> {
    let begin = Instant::now();
    parts(url).with_context(|| format!("iPXE is told to load {url:?}"))?;
    loop {
        let script = again(|| get_text(from, url))?;
        let Some(seconds) = script.lines().find_map(|line| line.strip_prefix("sleep ")?.parse().ok()) else {
            return Ok(script);
        };
        if script.contains("\nkernel ") {
            return Ok(script);
        }
        ensure!(script.contains("chain "), "refused: {script}");
        ensure!(begin.elapsed() < STEP, "the farm says wait for ever: {script}");
        std::thread::sleep(Duration::from_secs(seconds));
    }
}

fn get_text(from: Ipv4Addr, url: &str) -> Result<String> {
    let (host, path) = parts(url)?;
    let mut connection = Connection::open(from, host, None)?;
    let head = connection.ask("GET", path, "", b"")?;
    let text = connection.text(head.length)?;
    ensure!(head.status == 200, "{url}: {} {text}", head.status);
    Ok(text)
}

/// Kernel and initramfs. If one fails, the script is fetched anew, as it says itself.
fn load_parts(lab: &Lab, from: Ipv4Addr, script: &mut String, url: &str) -> Result<()> {
    again(|| {
        let loaded = load_script(lab, from, script);
        if loaded.is_err()
            && let Ok(fresh) = fetch_script(from, url)
        {
            *script = fresh;
        }
        loaded
    })
}

fn load_script(lab: &Lab, from: Ipv4Addr, script: &str) -> Result<()> {
    let is_part = |line: &&str| line.starts_with("kernel ") || line.starts_with("initrd ");
    let url = |line: &'_ str| line.split(' ').find(|word| word.starts_with("http://")).map(str::to_owned);
    let urls: Vec<_> = script.lines().filter(is_part).filter_map(url).collect();
    ensure!(urls.len() == 3, "no script of ours: {script}");
    for url in urls {
        let (host, path) = parts(&url)?;
        let blob = lab.blob(path).with_context(|| format!("{url} is no blob of this lab"))?;
        load_blob(from, host, path, blob).with_context(|| url.clone())?;
    }
    Ok(())
}

fn load_blob(from: Ipv4Addr, host: SocketAddr, path: &str, blob: &Blob) -> Result<()> {
    let mut connection = Connection::open(from, host, None)?;
    let head = connection.ask("GET", path, "", b"")?;
    ensure!(head.status == 200 && head.length == blob.size, "status {} with {} bytes", head.status, head.length);
    let mut checker = Checker::new(blob.content, 0);
    connection.body(head.length, |piece| checker.take(piece))
}

/// Asks the replicas in turn until one gives a session.
fn say_hello(lab: &Lab, machine: Machine, address: Ipv4Addr, farms: &[String]) -> Result<Manifest> {
    let hello = Hello {
        protocol: PROTOCOL,
        boot_mac: machine.mac(),
        macs: vec![machine.mac()],
        uuid: None,
        address,
        root: lab.root().digest,
        memory: machine.memory(),
        cpus: 2,
        product: "simulated".into(),
        uptime_ms: 1000,
        orders_seen: None,
        config_generation: stoke_api::objects::NodeConfig::GENERATION,
    };
    let begin = Instant::now();
    loop {
        let (head, text) = again(|| post_to_any(lab, address, farms, "/v1/node/hello", &hello))?;
        match head {
            Head { status: 200, .. } => return serde_json::from_str(&text).context("no manifest"),
            Head { status: 503, retry_after, .. } if begin.elapsed() < STEP => {
                std::thread::sleep(Duration::from_secs(retry_after.unwrap_or(5)));
            }
            Head { status, .. } => bail!("hello: {status} {text}"),
        }
    }
}

fn post_to_any(
    lab: &Lab,
    from: Ipv4Addr,
    farms: &[String],
    path: &str,
    body: &impl Serialize,
) -> Result<(Head, String)> {
    let mut last = anyhow::anyhow!("no farm is named");
    for farm in farms {
        match post(lab, from, farm, path, body) {
            Ok(answer) => return Ok(answer),
            Err(error) => last = error.context(format!("{farm}{path}")),
        }
    }
    Err(last)
}

fn post(lab: &Lab, from: Ipv4Addr, farm: &str, path: &str, body: &impl Serialize) -> Result<(Head, String)> {
    let mut connection = Connection::open(from, parts(farm)?.0, Some(lab.tls()))?;
    let body = serde_json::to_vec(body)?;
    let head = connection.ask("POST", path, "content-type: application/json\r\n", &body)?;
    let text = connection.text(head.length)?;
    Ok((head, text))
}

/// How the root came.
enum Rooted {
    Copied(Vec<(String, u64)>),
    Attached(TcpStream),
}

fn fetch_root(lab: &Lab, machine: Machine, from: Ipv4Addr, manifest: &Manifest) -> Result<Rooted> {
    let blob = lab.root();
    ensure!(manifest.root.blob == blob.digest && manifest.root.size == blob.size, "another root: {:?}", manifest.root);
    if fits_in_memory(blob.size, machine.memory()) {
        return again(|| root::copy(from, &manifest.http, blob.size, blob.content)).map(Rooted::Copied);
    }
    let export = blob.digest.to_string();
    again(|| root::attach(from, &manifest.nbd, &export, blob.size, blob.content)).map(Rooted::Attached)
}

/// Gives the root to others, if it is in memory and the farm wants it, and reports.
fn finish(
    lab: &Lab,
    machine: Machine,
    address: Ipv4Addr,
    manifest: Manifest,
    rooted: Rooted,
    steps: Vec<Duration>,
) -> Result<Booted> {
    let direct = manifest.http.first().is_some_and(|url| lab.is_farm(url));
    let (mode, given, root) = match rooted {
        Rooted::Copied(given) => ("ram", given, None),
        Rooted::Attached(stream) => ("nbd", Vec::new(), Some(stream)),
    };
    let serves = if mode == "ram" && manifest.serve_peers {
        let memory = File::open(lab.root_file())?;
        Gift::new(memory.into(), &lab.root().digest, lab.root().size).offer(address)?
    } else {
        String::new()
    };
    let phases = [Phase::Init, Phase::Network, Phase::Manifest, Phase::Root, Phase::Switched, Phase::Ready];
    let event = |(phase, uptime_ms): (Phase, u64)| Event { phase, uptime_ms, detail: String::new() };
    let report = Report {
        session: manifest.session,
        events: phases.into_iter().zip(1000..).map(event).collect(),
        ssh_host_keys: vec![format!("ssh-ed25519 {}", machine.mac())],
        root: mode.to_owned(),
        serves,
        ..Report::default()
    };
    let resident = Arc::new(Resident { machine, address, report, farms: manifest.farms, root });
    resident.report(lab)?;
    Ok(Booted { steps, given, direct: direct && mode == "ram", resident })
}

impl Resident {
    /// Says how the machine is: the first report has all of the boot, and the same again says that it is alive.
    ///
    /// # Errors
    /// If no replica takes it.
    pub fn report(&self, lab: &Lab) -> Result<()> {
        let (head, text) = again(|| post_to_any(lab, self.address, &self.farms, "/v1/node/report", &self.report))?;
        ensure!(head.status == 204, "{}: report: {} {text}", self.machine.mac(), head.status);
        Ok(())
    }

    /// Its interface.
    pub fn mac(&self) -> MacAddr {
        self.machine.mac()
    }
}

/// A machine by its number: most have memory for the root, a third has a BIOS.
pub fn numbered(number: u16) -> Machine {
    Machine { number, large: !number.is_multiple_of(5), bios: number.is_multiple_of(3) }
}

/// For threads.
pub(crate) type Shared = Arc<Lab>;

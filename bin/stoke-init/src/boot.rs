//! PID 1 of the initramfs: from the kernel's hand to the system's, step by step.

use std::convert::Infallible;
use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::AsRawFd as _;
use std::time::Duration;

use anyhow::{Context as _, Result};
use rustix::system::{RebootCommand, reboot, sethostname};
use stoke_api::node::{BAKED_PATH, BOOT_RECORD_PATH, Baked, BootRecord, CA_PATH, Hello, Keep, PROTOCOL, Phase};
use stoke_api::objects::NodeConfig;
use stoke_api::trust::Hex;

use crate::cmdline::Cmdline;
use crate::farm::{Farm, FarmError, distinct};
use crate::findings::Expected;
use crate::handoff::{FarmLink, Gift, Handoff, NbdLink};
use crate::identity::{Hardware, machine_id};
use crate::journal::{Journal, uptime_ms};
use crate::modules::Loader;
use crate::network::{self, Connected, Wanted};
use crate::plan::{Authority, Plan};
use crate::reporter::Reporter;
use crate::root::{self, Attached};
use crate::{clock, configure, disk, kernel_fs, layers, ltsp, secrets, shutdown, switch, verity};

/// After so many attempts at the root the machine starts from the firmware again: what it runs may be what is wrong.
const ATTEMPTS: u32 = 10;
/// How long the farm is given to hear of a failure before the machine reboots.
const LAST_WORDS: Duration = Duration::from_secs(5);
/// How often the farm is asked in vain before a node boots what it has on its disk.
const BEFORE_OFFLINE: u32 = 3;
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// Boots. Never returns: it ends as the system's init, or in a reboot.
pub(crate) fn run() -> ! {
    if let Err(error) = kernel_fs::mount_all() {
        eprintln!("stoke-init: {error:#}");
    }
    // For threads that live as long as the process.
    let journal: &'static Journal = Box::leak(Box::new(Journal::on_console()));
    let mut reporter = None;
    let Err(error) = boot(journal, &mut reporter);
    journal.reached(Phase::Failed, &format!("{error:#}; rebooting"));
    if let Some(reporter) = reporter {
        reporter.flush(journal, LAST_WORDS);
    }
    loop {
        std::thread::sleep(LAST_WORDS);
        let _ = reboot(RebootCommand::Restart);
    }
}

fn boot(journal: &'static Journal, reporter: &mut Option<Reporter>) -> Result<Infallible> {
    let baked = read_baked()?;
    let cmdline = Cmdline::parse(&kernel_fs::attribute("/proc/cmdline"));
    journal.reached(Phase::Init, &format!("image {} for {}", baked.name, baked.kernel));
    for word in &cmdline.refused {
        journal.say(&format!("the kernel argument {word:?} means nothing"));
    }
    let hardware = Hardware::read();
    let mut loader = Loader::new();
    journal.say(&format!("{} kernel modules for this hardware", loader.load_for_hardware()));
    for failure in loader.failures() {
        journal.say(failure);
    }
    let connected = connect(&cmdline, &hardware, &mut loader, journal)?;
    if clock::not_before(baked.built_at) {
        journal.say("the clock was before the image was built: set to that");
    }
    let mut machine = Machine {
        journal,
        baked,
        cmdline,
        hardware,
        connected,
        loader,
        reporter,
        unanswered: 0,
        keeper: None,
        host_key: None,
        secrets: configure::Secrets::new(),
    };
    let rooted = machine.root_with_retries()?;
    machine.hand_over(rooted)
}

fn read_baked() -> Result<Baked> {
    let text = fs::read_to_string(BAKED_PATH).with_context(|| format!("this initramfs has no {BAKED_PATH}"))?;
    serde_json::from_str(&text).with_context(|| format!("{BAKED_PATH} cannot be read"))
}

fn connect(cmdline: &Cmdline, hardware: &Hardware, loader: &mut Loader, journal: &Journal) -> Result<Connected> {
    let wanted = Wanted {
        boot_interface: cmdline.boot_interface,
        uuid: hardware.uuid_on_the_wire(),
        any_offer: cmdline.farm.is_some() || cmdline.root.is_some(),
    };
    let connected = network::connect(&wanted, loader, journal)?;
    let (interface, lease) = (&connected.interface, &connected.lease);
    let detail = format!("{} {}/{} from {}", interface.name, lease.address, lease.prefix, lease.server);
    journal.reached(Phase::Network, &detail);
    Ok(connected)
}

/// What is known once there is a network.
struct Machine<'a> {
    journal: &'static Journal,
    baked: Baked,
    cmdline: Cmdline,
    hardware: Hardware,
    connected: Connected,
    loader: Loader,
    reporter: &'a mut Option<Reporter>,
    /// How often no replica of the farm has answered.
    unanswered: u32,
    /// The farm, if it keeps the SSH host key, and the key that it kept.
    keeper: Option<Farm>,
    host_key: Option<String>,
    /// What the farm gave this node in this boot.
    secrets: configure::Secrets,
}

/// A root that is ready to be switched to.
struct Rooted {
    plan: Plan,
    farm: Option<FarmLink>,
    attached: Attached,
    applied: configure::Applied,
}

impl Machine<'_> {
    /// Tries until there is a root, with longer and longer pauses.
    ///
    /// # Errors
    /// After [`ATTEMPTS`] failures, with the last one.
    fn root_with_retries(&mut self) -> Result<Rooted> {
        let (mut failures, mut pause) = (0, Duration::from_secs(1));
        loop {
            let error = match self.root() {
                Ok(rooted) => return Ok(rooted),
                Err(error) => error,
            };
            if let Some(FarmError::Wait { after, .. }) = error.downcast_ref() {
                // Not a failure: the farm spreads the load.
                self.journal.say(&format!("{error:#}"));
                std::thread::sleep(*after);
                continue;
            }
            failures += 1;
            if failures == ATTEMPTS {
                return Err(error.context(format!("no root after {failures} attempts")));
            }
            self.journal.reached(Phase::Failed, &format!("{error:#}; attempt {failures} of {ATTEMPTS}"));
            std::thread::sleep(pause);
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    /// One attempt: plan, attach, verify, overlay, configure.
    fn root(&mut self) -> Result<Rooted> {
        let (mut plan, farm) = self.plan()?;
        let attached = root::attach(&plan, &self.baked.root, &self.hardware, &mut self.loader, self.journal)?;
        match self.furnish(&mut plan, &attached) {
            Ok(applied) => Ok(Rooted { plan, farm, attached, applied }),
            Err(error) => {
                let error = verity::explain(error, &self.baked.root.blob);
                attached.give_back();
                Err(error)
            }
        }
    }

    fn furnish(&self, plan: &mut Plan, attached: &Attached) -> Result<configure::Applied> {
        root::keep_meanwhile(attached, self.journal)?;
        if let Some(mapped) = &attached.mapped {
            layers::mount_lower(mapped, self.baked.root.format)?;
        }
        layers::assemble(plan.config.overlay_size)?;
        self.journal.reached(Phase::Root, &self.words(plan, attached));
        self.furnish_for_ltsp(plan)?;
        self.configure(plan)
    }

    fn words(&self, plan: &Plan, attached: &Attached) -> String {
        match &plan.nfs {
            Some(nfs) if attached.mapped.is_none() => format!("nfs {}:{}, not verified", nfs.server, nfs.path),
            _ => format!("{} {}", attached.mode(), self.baked.root.blob.short()),
        }
    }

    fn plan(&mut self) -> Result<(Plan, Option<FarmLink>)> {
        let (lease, mac) = (&self.connected.lease, self.connected.interface.mac);
        match Authority::find(&self.cmdline, lease)? {
            Authority::Root(url) => {
                let plan = Plan::from_root(&url, lease, mac)?;
                self.journal.reached(Phase::Manifest, &format!("{url}, without a farm"));
                Ok((plan, None))
            }
            Authority::Farm(urls) => self.ask_farm(&urls),
        }
    }

    fn ask_farm(&mut self, urls: &[String]) -> Result<(Plan, Option<FarmLink>)> {
        let ca_pem = fs::read_to_string(CA_PATH).with_context(|| {
            format!("there is a farm at {}, but its CA is not in this initramfs ({CA_PATH})", urls.join(" "))
        })?;
        let (farm, hello) = (Farm::new(urls, &ca_pem)?, self.hello());
        let manifest = match farm.hello(&hello) {
            Err(error @ FarmError::Unreachable { .. }) => return self.without_farm(error, urls, ca_pem, hello),
            answer => answer?,
        };
        if clock::follow(manifest.now_ms) {
            self.journal.say("the clock now follows the farm's");
        }
        self.journal.reached(Phase::Manifest, &format!("{} from {}", manifest.name, farm.url()));
        // The one that answered, then those that it names, then those that DHCP named.
        let known = std::iter::once(farm.url()).chain(manifest.farms.iter().cloned()).chain(urls.to_vec());
        let (session, orders) = (manifest.session.clone(), manifest.orders);
        let link = FarmLink { urls: distinct(known), ca_pem, session: session.clone(), orders, hello };
        if manifest.keeps_host_key {
            self.ask_for_host_key(&farm, &session);
        }
        *self.reporter = Some(Reporter::start(farm.clone(), session.clone(), self.journal));
        self.secrets = secrets::fetch(&farm, &session, manifest.trust, self.journal)?;
        let plan = Plan::from_manifest(manifest, &self.baked, &self.cmdline)?;
        Ok((plan, Some(link)))
    }

    /// The SSH host key of earlier boots. Without it the node makes another one.
    fn ask_for_host_key(&mut self, farm: &Farm, session: &str) {
        self.keeper = Some(farm.clone());
        match farm.kept(session) {
            Ok(kept) => {
                let key = kept.ssh_host_key.and_then(|key| String::from_utf8(key.0).ok());
                self.host_key = key.or_else(|| self.host_key.take());
            }
            Err(error) => self.journal.say(&format!("the farm does not give our SSH host key: {error}")),
        }
    }

    /// Gives the farm an SSH host key that was made in this boot.
    fn keep_host_key(&mut self, farm: Option<&FarmLink>, new: Option<&Hex>) {
        let Some(key) = new else { return };
        self.host_key = String::from_utf8(key.0.clone()).ok();
        if let (Some(link), Some(keeper)) = (farm, &self.keeper)
            && let Err(error) = keeper.keep(&Keep { session: link.session.clone(), ssh_host_key: key.clone() })
        {
            self.journal.say(&format!("the farm does not keep our SSH host key: {error}"));
        }
    }

    /// No replica answers: what is on the node's disk, if it may be booted so. The resident finds the farm when it is back.
    fn without_farm(
        &mut self,
        error: FarmError,
        urls: &[String],
        ca_pem: String,
        hello: Hello,
    ) -> Result<(Plan, Option<FarmLink>)> {
        self.unanswered += 1;
        if self.unanswered < BEFORE_OFFLINE {
            return Err(error.into());
        }
        let Some((manifest, host_key)) = disk::last_manifest(&self.baked.root.blob, &mut self.loader) else {
            return Err(error.into());
        };
        self.host_key = host_key;
        self.journal.reached(Phase::Manifest, &format!("{} as the disk has it: no farm answers", manifest.name));
        let known = urls.iter().chain(&manifest.farms).cloned();
        // The session is of another boot: the resident begins one of its own.
        let link = FarmLink { urls: distinct(known), ca_pem, session: String::new(), orders: manifest.orders, hello };
        Ok((Plan::from_manifest(manifest, &self.baked, &self.cmdline)?, Some(link)))
    }

    fn hello(&self) -> Hello {
        Hello {
            protocol: PROTOCOL,
            boot_mac: self.connected.interface.mac,
            macs: network::interfaces().iter().map(|interface| interface.mac).collect(),
            uuid: self.hardware.uuid.clone(),
            address: self.connected.lease.address,
            root: self.baked.root.blob,
            memory: self.hardware.memory,
            cpus: self.hardware.cpus,
            product: self.hardware.product.clone(),
            uptime_ms: uptime_ms(),
            orders_seen: None,
            config_generation: NodeConfig::GENERATION,
        }
    }

    /// What scripts of LTSP expect, on a farm that has a configuration of it.
    fn furnish_for_ltsp(&self, plan: &mut Plan) -> Result<()> {
        if plan.config.compatibility.is_none() {
            return Ok(());
        }
        let Connected { interface, lease, .. } = &self.connected;
        let cmdline = kernel_fs::attribute("/proc/cmdline");
        let hostname = configure::hostname(&plan.name, &plan.config).to_owned();
        let server = plan.nbd.first().map_or(IpAddr::V4(lease.server), SocketAddr::ip);
        let (domain, cmdline) = (plan.domain.as_str(), cmdline.as_str());
        let node = ltsp::Node { hostname: &hostname, domain, interface, lease, server, cmdline };
        let root = layers::NEW_ROOT.as_ref();
        let config = ltsp::with_own_file(root, &plan.config, &node);
        ltsp::furnish(root, &node).context("could not make what scripts of LTSP expect")?;
        plan.config = config;
        Ok(())
    }

    fn configure(&self, plan: &Plan) -> Result<configure::Applied> {
        let lease = &self.connected.lease;
        let machine_id = machine_id(self.hardware.uuid.as_deref(), self.connected.interface.mac);
        let settings = configure::Settings {
            name: &plan.name,
            domain: &plan.domain,
            address: lease.address,
            dns: &lease.dns,
            machine_id: &machine_id,
            boot: configure::BootLink {
                name: self.connected.interface.name.clone(),
                mac: self.connected.interface.mac,
            },
            config: &plan.config,
            secrets: &self.secrets,
            host_key: self.host_key.as_deref(),
        };
        let root = layers::NEW_ROOT.as_ref();
        let mut applied = configure::apply(root, &settings).context("could not configure the node")?;
        applied.remarks.extend(configure::missing_arguments(&plan.config, &kernel_fs::attribute("/proc/cmdline")));
        for remark in &applied.remarks {
            self.journal.say(remark);
        }
        let remarks = configure::run_before_init(root, &plan.config.hooks, &self.hook_environment(plan), self.journal)?;
        applied.remarks.extend(remarks);
        Ok(applied)
    }

    /// What hooks before init may know of this boot.
    fn hook_environment(&self, plan: &Plan) -> Vec<(String, String)> {
        let Connected { interface, lease, .. } = &self.connected;
        let word = |name: &str, value: String| (name.to_owned(), value);
        vec![
            word("HOSTNAME", configure::hostname(&plan.name, &plan.config).to_owned()),
            word("STOKEHOLD_NODE", plan.name.clone()),
            word("STOKEHOLD_ADDRESS", lease.address.to_string()),
            word("STOKEHOLD_INTERFACE", interface.name.clone()),
            word("STOKEHOLD_MAC", interface.mac.to_string()),
            word("STOKEHOLD_SERVER", lease.server.to_string()),
            word("STOKEHOLD_IMAGE", plan.image.map(|image| image.to_string()).unwrap_or_default()),
        ]
    }

    /// Starts the resident, records the boot and becomes the system's init.
    fn hand_over(&mut self, rooted: Rooted) -> Result<Infallible> {
        let init = switch::find_init()?;
        let Rooted { plan, farm, mut attached, applied } = rooted;
        self.keep_host_key(farm.as_ref(), applied.new_host_key.as_ref());
        sethostname(configure::hostname(&plan.name, &plan.config).as_bytes()).context("could not set the host name")?;
        let descriptors = attached.descriptors();
        let waiting = switch::start_resident(descriptors)?;
        let numbers = switch::numbers(descriptors);
        let gift = attached.memory().filter(|_| plan.serve_peers).map(|memory| Gift {
            descriptor: memory.as_raw_fd(),
            blob: self.baked.root.blob,
            size: self.baked.root.size,
        });
        let nbd = attached.nbd().map(|(device, export)| NbdLink {
            index: device.index,
            export: export.clone(),
            descriptors: numbers.clone(),
            ahead: attached.cached_nbd().map(|device| (device, plan.hot.clone())),
        });
        let slot = attached.slot().map(|slot| {
            // Without it a boot needs the farm, as any other does.
            if let Err(error) = slot.keep(plan.keep.as_deref(), self.host_key.as_deref()) {
                self.journal.say(&format!("{error:#}"));
            }
            slot.place()
        });
        let slot = slot.and_then(|(slot, root)| Some((*numbers.first()?, slot, root)));
        switch::move_kernel_fs()?;
        if let Err(error) = shutdown::prepare() {
            self.journal.say(&format!("the root will not be given back at the end: {error:#}"));
        }
        layers::let_go();
        self.journal.reached(Phase::Switched, init);
        self.record(&plan, attached.mode(), farm.as_ref())?;
        waiting.release(&Handoff {
            farm,
            nbd,
            gift,
            slot,
            interface: self.connected.interface.clone(),
            lease: self.connected.lease.clone(),
            lease_age_ms: u64::try_from(self.connected.since.elapsed().as_millis()).unwrap_or_default(),
            uuid: self.hardware.uuid_on_the_wire(),
            events: self.journal.events(),
            ssh_host_keys: applied.ssh_host_keys,
            mode: attached.mode().to_owned(),
            device: attached.mapped.clone().unwrap_or_default(),
            says_ready: applied.says_ready,
            mounts: Expected::of(&plan.config.mounts),
            remarks: applied.remarks,
        })?;
        switch::switch(init)
    }

    /// For people on the node, and for programs.
    fn record(&self, plan: &Plan, mode: &str, farm: Option<&FarmLink>) -> Result<()> {
        let record = BootRecord {
            name: plan.name.clone(),
            image: plan.image,
            root: self.baked.root.blob,
            mode: mode.to_owned(),
            farm: farm.and_then(|farm| farm.urls.first().cloned()),
            events: self.journal.events(),
        };
        let path = format!("{}{BOOT_RECORD_PATH}", layers::NEW_ROOT);
        let text = serde_json::to_string_pretty(&record).context("could not encode the boot record")?;
        let folder = std::path::Path::new(&path).parent().map_or(Ok(()), fs::create_dir_all);
        folder.and_then(|()| fs::write(&path, text)).with_context(|| format!("could not write {path}"))
    }
}

//! Values of LTSP to the configuration of a node.
//!
//! Each key becomes a typed field where there is one. What is a program (`PREINIT_`, `RCFILE_`, …), and what only a shell
//! can tell, goes into one script (`script`) that the node runs before its system starts.

use std::collections::BTreeMap;
use std::net::IpAddr;

use stoke_api::objects::{
    FileEntry, FileMode, Hook, HookFailure, HookTime, HostEntry, ModuleEntry, MountEntry, NodeConfig, RootMode,
    SwapEntry, UnitEntry,
};

use super::expand::expand;
use super::keys::{self, Rule, rule};
use super::order::by_version;
use super::script::{self, Program, Task};
use super::{Assignment, Finding, Machine, Place, is_true, lts_conf};

/// The name of the script among the node's hooks.
pub const HOOK: &str = "ltsp";

/// Which LTSP the configuration is of: they differ in what a line of a crontab is, among other things.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Generation {
    /// `lts.conf`.
    Five,
    /// `ltsp.conf`.
    Later,
}

/// A variable of a machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Value {
    /// Where it is set, and to what.
    pub assignment: Assignment,
    /// What a shell makes of it; `None` if only a shell can tell.
    pub text: Option<String>,
}

/// The variables of a machine, by name.
pub type Values = BTreeMap<String, Value>;

/// What a node gets.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Translation {
    /// Its configuration.
    pub config: NodeConfig,
    /// Where its root is, if that is said.
    pub root: Option<RootMode>,
    /// By the path of each value of the configuration, as in [`crate::config::Merged::origins`], the line that it is from.
    pub places: BTreeMap<String, Place>,
    /// What is wrong with values; what they would have become is left out.
    pub findings: Vec<Finding>,
}

/// The variables that `lts.conf` sets for a machine, each replaced by others as far as those are known.
pub fn known_values(resolved: &lts_conf::Resolved, machine: &Machine<'_>) -> Values {
    let mut variables = machine.variables();
    let mut values = Values::new();
    let mut waiting: Vec<_> = resolved.values.values().collect();
    waiting.sort_by(|one, other| by_version(&one.key, &other.key));
    // As often as something new was told, since one may use another that comes later.
    loop {
        let (told, rest): (Vec<_>, Vec<_>) =
            waiting.into_iter().partition(|assignment| expand(&assignment.value, &variables).is_some());
        for assignment in &told {
            let text = expand(&assignment.value, &variables);
            variables.extend(text.clone().map(|text| (assignment.key.clone(), text)));
            values.insert(assignment.key.clone(), Value { assignment: (*assignment).clone(), text });
        }
        waiting = rest;
        if told.is_empty() {
            break;
        }
    }
    let untold = waiting.into_iter().map(|assignment| (assignment.key.clone(), assignment.clone()));
    values.extend(untold.map(|(key, assignment)| (key, Value { assignment, text: None })));
    values
}

/// The configuration of a machine that these variables mean. `own_code` runs before all else of the script.
pub fn translate(
    values: &Values,
    machine: &Machine<'_>,
    generation: Generation,
    own_code: Option<&str>,
) -> Translation {
    let mut builder = Builder {
        machine,
        generation,
        out: Translation::default(),
        crontab: String::new(),
        kept: Vec::new(),
        removed: Vec::new(),
        disabled: Vec::new(),
        removes: !values.is_empty(),
        program: Program { own_code: own_code.map(str::to_owned), ..Program::default() },
    };
    let mut in_order: Vec<_> = values.values().collect();
    in_order.sort_by(|one, other| by_version(&one.assignment.key, &other.assignment.key));
    for value in in_order {
        builder.value(value);
    }
    builder.hostname(values);
    builder.services();
    builder.finish()
}

struct Builder<'a> {
    machine: &'a Machine<'a>,
    generation: Generation,
    out: Translation,
    crontab: String,
    kept: Vec<String>,
    removed: Vec<String>,
    disabled: Vec<String>,
    /// Whether LTSP's own list of services is removed.
    removes: bool,
    program: Program,
}

impl Builder<'_> {
    fn value(&mut self, value: &Value) {
        let Value { assignment, text } = value;
        let rule = rule(&assignment.key);
        if !matches!(rule, Rule::Nothing(_) | Rule::Like) {
            self.program.variables.push(value.clone());
        }
        let Some(text) = text else { return self.untold(assignment, rule) };
        match self.told(assignment, rule, text) {
            Ok(path) if path.is_empty() => {}
            Ok(path) => drop(self.out.places.insert(path, assignment.place.clone())),
            Err(message) => self.wrong(assignment, &message),
        }
    }

    fn wrong(&mut self, assignment: &Assignment, message: &str) {
        let message = format!("{}: {message}", assignment.key);
        self.out.findings.push(Finding { place: assignment.place.clone(), message });
    }

    /// A value that only the node's shell can tell: the script does what a field would have done.
    fn untold(&mut self, assignment: &Assignment, rule: Rule) {
        let key = assignment.key.clone();
        match rule {
            Rule::Fstab => self.program.fstab.push(key),
            Rule::Hosts => self.program.hosts.push(key),
            Rule::Crontab => self.program.crontab.push(key),
            Rule::Module => self.program.modules.push(key),
            Rule::Hostname => self.program.tasks.push(Task::Hostname),
            Rule::Timezone => self.program.tasks.push(Task::Timezone),
            Rule::Remove | Rule::Disable => self.program.services.push(key),
            Rule::Preinit | Rule::InitCommand | Rule::RcFile | Rule::BeforeInit | Rule::AfterInit => {
                self.script_part(rule, key);
            }
            Rule::Own | Rule::Nothing(_) | Rule::Server | Rule::Like => {}
            _ => {
                let message = "only a shell on the node can tell this value, and it is needed before: write it out";
                self.wrong(assignment, message);
            }
        }
    }

    fn script_part(&mut self, rule: Rule, key: String) {
        match rule {
            Rule::Preinit => self.program.preinit.push(key),
            Rule::InitCommand => self.program.init_commands.push(key),
            Rule::RcFile => self.program.rc_lines.push(key),
            Rule::BeforeInit => self.program.before_init.push(key),
            _ => self.program.after_init.push(key),
        }
    }

    /// Gives the path of the value that it becomes; an empty one if it becomes none.
    fn told(&mut self, assignment: &Assignment, rule: Rule, text: &str) -> Result<String, String> {
        let config = &mut self.out.config;
        match rule {
            Rule::Fstab => return fstab(config, text),
            Rule::Hosts => return hosts(config, text),
            Rule::Module => return module(config, text),
            Rule::SearchDomain => config.dns.search = words(text),
            Rule::DnsServer => config.dns.servers = addresses(text)?,
            Rule::Timezone => config.timezone = Some(text.trim().to_owned()).filter(|zone| !zone.is_empty()),
            Rule::Timeserver => self.out.config.ntp = self.servers(text)?,
            Rule::KernelParameters => config.kernel_arguments = words(text),
            Rule::SyslogHost => self.syslog(text)?,
            Rule::Crontab => self.crontab.extend([text, "\n"]),
            _ => self.switch(assignment, rule, text),
        }
        Ok(self.path_of(rule).to_owned())
    }

    /// The field that a key of one value becomes.
    fn path_of(&self, rule: Rule) -> &'static str {
        match (rule, self.generation) {
            (Rule::SearchDomain, _) => "dns.search",
            (Rule::DnsServer, _) => "dns.servers",
            (Rule::Timezone, _) => "timezone",
            (Rule::Timeserver, _) => "ntp",
            (Rule::SyslogHost, _) => "files[/etc/rsyslog.d/90-ltsp.conf]",
            (Rule::Crontab, Generation::Five) => "files[/var/spool/cron/crontabs/root]",
            (Rule::Crontab, Generation::Later) => "files[/etc/cron.d/ltsp]",
            (Rule::Hostname | Rule::HostnameBase | Rule::HostnameExtra, _) => "hostname",
            (
                Rule::Preinit
                | Rule::InitCommand
                | Rule::RcFile
                | Rule::BeforeInit
                | Rule::AfterInit
                | Rule::OverlayDir
                | Rule::RemoveLowRam
                | Rule::LocalSwap,
                _,
            ) => "hooks[ltsp]",
            _ => "",
        }
    }

    /// Keys that are no value of a field.
    fn switch(&mut self, assignment: &Assignment, rule: Rule, text: &str) {
        match rule {
            Rule::ToRam if is_true(text) => self.out.root = Some(RootMode::Ram),
            Rule::ToDrive if is_true(text) => self.out.root = Some(RootMode::Disk),
            Rule::Keep => self.kept.extend(services(text)),
            Rule::Remove => self.removed.extend(services(text)),
            Rule::Disable => self.disabled.extend(services(text)),
            Rule::OmitFunctions => self.omit(text),
            Rule::OverlayDir => self.program.tasks.push(Task::Overlay),
            Rule::RemoveLowRam => self.program.tasks.push(Task::RemoveLowRam),
            Rule::LocalSwap if is_true(text) => self.program.tasks.push(Task::LocalSwap),
            Rule::ConfigureFstab if !is_true(text) => self.program.tasks.push(Task::KeepFstab),
            Rule::Preinit | Rule::InitCommand | Rule::RcFile | Rule::BeforeInit | Rule::AfterInit => {
                self.script_part(rule, assignment.key.clone());
            }
            _ => {}
        }
    }

    /// Functions of LTSP that shall do nothing.
    fn omit(&mut self, text: &str) {
        if words(text).iter().any(|name| keys::REMOVING_FUNCTIONS.contains(&name.as_str())) {
            self.removes = false;
        }
    }

    /// Servers by name or address; `auto` and `server` mean the farm.
    fn servers(&self, text: &str) -> Result<Vec<String>, String> {
        let server = || self.machine.server.map(|server| server.to_string());
        let named = |word: String| match word.to_ascii_lowercase().as_str() {
            "auto" | "server" => server().ok_or_else(|| "the farm has no address yet".to_owned()),
            _ => Ok(word),
        };
        words(text).into_iter().map(named).collect()
    }

    fn syslog(&mut self, text: &str) -> Result<(), String> {
        let targets = self.servers(text)?;
        let content = targets.iter().fold(String::new(), |content, target| content + &format!("*.* @{target}\n"));
        if !content.is_empty() {
            self.file("/etc/rsyslog.d/90-ltsp.conf", content, 0o644, false);
        }
        Ok(())
    }

    fn file(&mut self, path: &str, content: String, mode: u32, append: bool) {
        let (path, content, mode) = (path.to_owned(), Some(content), Some(FileMode(mode)));
        self.out.config.files.push(FileEntry { path, content, mode, append, ..FileEntry::default() });
    }

    /// `HOSTNAME`, or what `HOSTNAME_BASE` and `HOSTNAME_EXTRA` make of the address or the MAC address.
    fn hostname(&mut self, values: &Values) {
        let told = |key: &str| values.get(key).and_then(|value| Some((value, value.text.as_deref()?)));
        if let Some((value, text)) = told("HOSTNAME") {
            match self.pseudo_variables(text) {
                Ok(name) => self.out.config.hostname = Some(name.to_lowercase()).filter(|name| !name.is_empty()),
                Err(message) => self.wrong(&value.assignment, &message),
            }
            return;
        }
        let Some((value, _)) = told("HOSTNAME_BASE").or_else(|| told("HOSTNAME_EXTRA")) else { return };
        let base = told("HOSTNAME_BASE").map_or("ltsp", |(_, text)| text);
        let by_mac = told("HOSTNAME_EXTRA").is_some_and(|(_, text)| text.eq_ignore_ascii_case("mac"));
        match self.pseudo_variables(if by_mac { "%{MAC}" } else { "%{IP}" }) {
            Ok(extra) => self.out.config.hostname = Some(format!("{base}{extra}").to_lowercase()),
            Err(message) => self.wrong(&value.assignment, &message),
        }
    }

    /// `%{MAC}`: the MAC address without colons; `%{IP}`: the last number of the address.
    fn pseudo_variables(&self, text: &str) -> Result<String, String> {
        let mut name = text.to_owned();
        if name.contains("%{MAC}") {
            let mac = self.machine.macs.first().ok_or("the machine's MAC address is not known")?;
            name = name.replace("%{MAC}", &mac.to_string().replace(':', ""));
        }
        if name.contains("%{IP}") {
            let address = self.machine.address.ok_or("the machine's address is not known before it boots")?;
            let [.., last] = address.octets();
            name = name.replace("%{IP}", &last.to_string());
        }
        Ok(name)
    }

    /// LTSP's list without what is kept, and what is named besides.
    fn services(&mut self) {
        let mounts_nfs = self.out.config.mounts.iter().any(|mount| {
            mount.fs_type.as_deref().is_some_and(|kind| kind.starts_with("nfs")) || mount.device.contains(":/")
        });
        let needed = |unit: &str| mounts_nfs && keys::NEEDED_BY_NFS.contains(&unit);
        let listed = keys::REMOVED.iter().filter(|unit| self.removes && !needed(unit)).map(|unit| (*unit).to_owned());
        let masked: Vec<_> = listed.chain(self.removed.iter().cloned()).collect();
        for (names, mask) in [(masked, true), (self.disabled.clone(), false)] {
            for name in names {
                if !self.is_kept(&name) && self.out.config.units.iter().all(|unit| unit.name != name) {
                    let enabled = (!mask).then_some(false);
                    self.out.config.units.push(UnitEntry { name, masked: mask, enabled, ..UnitEntry::default() });
                }
            }
        }
    }

    /// A service is kept with the sockets and timers of its name.
    fn is_kept(&self, unit: &str) -> bool {
        let stem = |name: &str| name.rsplit_once('.').map_or(name, |(stem, _)| stem).to_owned();
        self.kept.iter().any(|kept| kept == unit || stem(kept) == stem(unit))
    }

    fn finish(mut self) -> Translation {
        if !self.crontab.is_empty() {
            let content = std::mem::take(&mut self.crontab);
            match self.generation {
                // LTSP 5 puts the lines into root's own crontab, later ones into the system's, where a line has a user.
                Generation::Five => self.file("/var/spool/cron/crontabs/root", content, 0o600, true),
                Generation::Later => self.file("/etc/cron.d/ltsp", content, 0o644, false),
            }
        }
        self.program.kept.clone_from(&self.kept);
        if let Some(script) = script::render(&self.program, self.generation) {
            let name = HOOK.to_owned();
            let (when, on_failure) = (HookTime::PreInit, HookFailure::Continue);
            self.out.config.hooks.push(Hook { name, when, script, on_failure });
        }
        self.out
    }
}

/// What is mounted before a node is configured, whatever a line says.
pub(crate) const THERE: [&str; 5] = ["/", "/proc", "/sys", "/dev", "/run"];

/// A line of fstab(5).
fn fstab(config: &mut NodeConfig, line: &str) -> Result<String, String> {
    let line = line.trim();
    if line.is_empty() || line.starts_with('#') {
        return Ok(String::new());
    }
    let fields: Vec<_> = line.split_whitespace().map(unescaped).collect();
    let [device, path, rest @ ..] = &fields[..] else {
        return Err(format!("{line:?} is no line of an fstab: DEVICE PATH TYPE OPTIONS 0 0"));
    };
    let fs_type = rest.first().filter(|kind| *kind != "auto").cloned();
    let options = rest.get(1).map_or("", String::as_str);
    if fs_type.as_deref() == Some("swap") {
        let (device, place) = (device.clone(), format!("swap[{device}]"));
        if config.swap.iter().all(|swap| swap.device != device) {
            config.swap.push(SwapEntry { device });
        }
        return Ok(place);
    }
    let options = options.split(',').filter(|option| !option.is_empty() && *option != "defaults");
    let options = options.map(str::to_owned).collect();
    if THERE.contains(&path.as_str()) {
        return Ok(String::new());
    }
    // The later line wins, as its mount would lie over the other.
    config.mounts.retain(|mount| mount.path != *path);
    config.mounts.push(MountEntry { path: path.clone(), device: device.clone(), fs_type, options });
    Ok(format!("mounts[{path}]"))
}

/// The octal escapes of fstab(5).
fn unescaped(field: &str) -> String {
    [("\\040", " "), ("\\011", "\t"), ("\\134", "\\")]
        .into_iter()
        .fold(field.to_owned(), |text, (escape, character)| text.replace(escape, character))
}

/// A line of hosts(5).
fn hosts(config: &mut NodeConfig, line: &str) -> Result<String, String> {
    let mut words = line.split('#').next().unwrap_or_default().split_whitespace();
    let Some(word) = words.next() else { return Ok(String::new()) };
    let address: IpAddr = word.parse().map_err(|_| format!("{word:?} is no address"))?;
    let names: Vec<_> = words.map(str::to_owned).collect();
    if names.is_empty() {
        return Err(format!("{word} has no name: write ADDRESS NAME"));
    }
    match config.hosts.iter_mut().find(|host| host.address == address) {
        Some(host) => host.names.extend(names),
        None => config.hosts.push(HostEntry { address, names }),
    }
    Ok(format!("hosts[{address}]"))
}

/// A module and its options.
fn module(config: &mut NodeConfig, line: &str) -> Result<String, String> {
    let mut words = words(line).into_iter();
    let name = words.next().ok_or("no module is named")?;
    let options: Vec<_> = words.collect();
    let place = format!("modules[{name}]");
    match config.modules.iter_mut().find(|module| module.name == name) {
        Some(module) => module.options.extend(options),
        None => config.modules.push(ModuleEntry { name, options }),
    }
    Ok(place)
}

fn addresses(text: &str) -> Result<Vec<IpAddr>, String> {
    let address = |word: String| word.parse().map_err(|_| format!("{word:?} is no address"));
    words(text).into_iter().map(address).collect()
}

fn words(text: &str) -> Vec<String> {
    text.split([' ', '\t', ',', '\n']).filter(|word| !word.is_empty()).map(str::to_owned).collect()
}

/// Endings of units that people name (systemd.unit(5)).
const UNIT_TYPES: [&str; 6] = [".service", ".socket", ".timer", ".mount", ".path", ".target"];

/// Names of units: a bare name is a service's.
fn services(text: &str) -> Vec<String> {
    let has_type = |name: &str| UNIT_TYPES.iter().any(|ending| name.ends_with(ending));
    let typed = |name: String| if has_type(&name) { name } else { format!("{name}.service") };
    words(text).into_iter().map(typed).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lts::Source;
    use std::net::Ipv4Addr;
    use stoke_api::MacAddr;

    const MAC: MacAddr = MacAddr([0x52, 0x54, 0, 0, 0, 0x0a]);

    fn translated(text: &str) -> Translation {
        let (address, server) = (Some(Ipv4Addr::new(10, 0, 0, 9)), Some(Ipv4Addr::new(10, 0, 0, 1).into()));
        let machine = Machine { macs: &[MAC], address, hostname: "node-1", server };
        let conf = lts_conf::LtsConf::parse(Source { name: "lts.conf", text, included: &BTreeMap::new() });
        translate(&known_values(&conf.resolve(&machine), &machine), &machine, Generation::Five, None)
    }

    fn script(translation: &Translation) -> &str {
        translation.config.hooks.first().map_or("", |hook| &hook.script)
    }

    #[test]
    fn names_addresses_and_times() {
        let text = "[default]\nHOSTNAME_BASE=rack\nHOSTNAME_EXTRA=mac\nHOSTS_1=\"10.0.0.5 store.lab store\"\n\
                    HOSTS_2=\"10.0.0.5 other\"\nDNS_SERVER=10.0.0.2\nSEARCH_DOMAIN=\"lab.internal\"\n\
                    TIMEZONE=Europe/Berlin\nTIMESERVER=auto\nSYSLOG_HOST=$SERVER\nLTSP_NBD_TO_RAM=True\n";
        let out = translated(text);
        assert_eq!(out.findings, []);
        assert_eq!(out.root, Some(RootMode::Ram));
        assert_eq!(out.config.hostname.as_deref(), Some("rack52540000000a"));
        assert_eq!(out.config.hosts[0].names, ["store.lab", "store", "other"]);
        assert_eq!(out.config.dns.search, ["lab.internal"]);
        assert_eq!(out.config.ntp, ["10.0.0.1"]);
        assert_eq!(out.config.files[0].content.as_deref(), Some("*.* @10.0.0.1\n"));
        assert_eq!(out.places["hosts[10.0.0.5]"].to_string(), "lts.conf:5");
        assert_eq!(out.places["timezone"].to_string(), "lts.conf:8");
        assert_eq!(script(&out), "");
        assert_eq!(out.config.check("spec"), []);
    }

    #[test]
    fn lines_of_fstab_in_the_order_of_their_numbers() {
        let text = "[default]\nFSTAB_10=\"$SERVER:/home /home nfs defaults,nolock 0 0\"\n\
                    FSTAB_2=\"/dev/data/docker /var/lib/docker ext4 nofail,noatime 0 2\"\n\
                    FSTAB_1=\"LABEL=swap none swap sw 0 0\"\nFSTAB_3=\"LABEL=a\\040b /srv auto\"\nFSTAB_4=broken\n";
        let out = translated(text);
        let mounts: Vec<_> = out.config.mounts.iter().map(|mount| format!("{} {}", mount.path, mount.device)).collect();
        assert_eq!(mounts, ["/var/lib/docker /dev/data/docker", "/srv LABEL=a b", "/home 10.0.0.1:/home"]);
        assert_eq!(out.config.mounts[2].options, ["nolock"]);
        assert_eq!(out.config.swap[0].device, "LABEL=swap");
        assert_eq!(out.findings[0].message, "FSTAB_4: \"broken\" is no line of an fstab: DEVICE PATH TYPE OPTIONS 0 0");
        let masked = |name: &str| out.config.units.iter().any(|unit| unit.name == name && unit.masked);
        assert!(masked("nbd-server.service") && !masked("rpcbind.service"));
    }

    #[test]
    fn services_are_kept_and_removed() {
        let text = "[default]\nKEEP_SYSTEM_SERVICES=\"ssh rpcbind nfs-server smartd apt-daily\"\nRM_SYSTEM_SERVICES=\"smartd cups.path\"\n";
        let out = translated(text);
        let names: Vec<_> = out.config.units.iter().map(|unit| unit.name.as_str()).collect();
        for kept in ["rpcbind.service", "rpcbind.socket", "nfs-server.service", "smartd.service", "apt-daily.timer"] {
            assert!(!names.contains(&kept), "{kept}");
        }
        for removed in ["cups.path", "nfs-kernel-server.service", "dnsmasq.service"] {
            assert!(names.contains(&removed), "{removed}");
        }
        assert_eq!(translated("").config, NodeConfig::default());
    }

    #[test]
    fn what_is_a_program_goes_into_the_script_in_the_order_of_ltsp() {
        let text = "[default]\nRCFILE_2=\"sysctl -w a=1\"\nRCFILE_1='echo \"it'\nPREINIT_02=\"echo $HOSTNAME\"\nPREINIT_1=\"touch /a\"\n\
                    INIT_COMMAND_1=\"X=1\"\nMINE=5\nOVERLAY_DIR=/opt/over\nUSE_LOCAL_SWAP=y\n";
        let out = translated(text);
        let script = script(&out);
        let at = |what: &str| script.find(what).unwrap_or_else(|| panic!("{what} in {script}"));
        let order = [
            "export MINE='5'",
            "export PREINIT_02='echo node-1'",
            "eval \"$INIT_COMMAND_1\"",
            "tar -C \"$OVERLAY_DIR\"",
            "blkid -t TYPE=swap",
            "printf '%s\\n' \"$RCFILE_1\"",
            "printf '%s\\n' \"$RCFILE_2\"",
            "sh -c \"$PREINIT_1\n$PREINIT_02\"",
        ];
        assert!(order.map(at).is_sorted(), "{script}");
        assert_eq!(out.config.check("spec"), []);
    }

    #[test]
    fn what_only_a_shell_can_tell_is_left_to_it() {
        let text =
            "[default]\nFSTAB_1=\"$(cat /etc/x):/home /home nfs\"\nHOSTNAME=\"node-`cat /y`\"\nDNS_SERVER=$GATEWAY\n";
        let out = translated(text);
        let script = script(&out);
        assert!(script.contains("export FSTAB_1=\"$(cat /etc/x):/home /home nfs\"\n"), "{script}");
        assert!(script.contains("printf '%s\\n' \"$FSTAB_1\" >>/etc/fstab"), "{script}");
        assert!(script.contains("echo \"$HOSTNAME\" >/etc/hostname"), "{script}");
        assert!(out.findings[0].message.starts_with("DNS_SERVER: only a shell on the node can tell"));
    }

    #[test]
    fn variables_use_each_other_in_any_order() {
        let out = translated("[default]\nTIMEZONE=$ZONE\nZONE=$CONTINENT/Berlin\nCONTINENT=Europe\n");
        assert_eq!(out.config.timezone.as_deref(), Some("Europe/Berlin"));
    }
}

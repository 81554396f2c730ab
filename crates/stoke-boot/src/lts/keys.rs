//! What each key of LTSP means here: the table that translation, reports and documentation go by.

use super::lts_conf;

/// What is done with a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Rule {
    Like,
    Hostname,
    HostnameBase,
    HostnameExtra,
    Hosts,
    Server,
    SearchDomain,
    DnsServer,
    ToRam,
    ToDrive,
    Fstab,
    ConfigureFstab,
    Crontab,
    OverlayDir,
    Preinit,
    InitCommand,
    RcFile,
    Module,
    Keep,
    Remove,
    Disable,
    RemoveLowRam,
    RamThreshold,
    Timezone,
    Timeserver,
    SyslogHost,
    LocalSwap,
    KernelParameters,
    BeforeInit,
    AfterInit,
    OmitFunctions,
    /// Neither LTSP's nor ours: people's own, which their scripts read.
    Own,
    /// Without meaning here, and why.
    Nothing(&'static str),
}

/// What becomes of a line.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fate {
    /// It becomes this field of a node's configuration.
    Field(&'static str),
    /// It decides where the root is.
    Root,
    /// The node does it by a script, before its system starts.
    Script,
    /// It only is a variable of that script's environment.
    Variable,
    /// It says which sections hold.
    Selects,
    /// It has no meaning here: why, and what to do instead.
    Nothing(String),
    /// It would have a meaning, and cannot be understood.
    Wrong(String),
}

const DESKTOP: &str = "it is about desktops, sound, printers or thin clients: nodes of this farm are servers";
const WRITABLE: &str = "the whole root is writable: what is written goes to memory";
const BOOT_DISK: &str = "the kernel comes from the farm, together with the root that fits it";
const NBD_SWAP: &str = "the farm exports no swap: use a partition (USE_LOCAL_SWAP or FSTAB_)";
const DRIVE: &str = "the drive that keeps the root is chosen by a label: spec.boot.disk of the Farm";
const REFRESH: &str = "a root on a drive is always that of the version to boot: what differs is fetched";

/// Keys of LTSP 5 and of later versions, the longest beginning first where one is in another. A star stands for any end.
const KEYS: &[(&str, Rule)] = &[
    ("LIKE", Rule::Like),
    ("HOSTNAME", Rule::Hostname),
    ("HOSTNAME_BASE", Rule::HostnameBase),
    ("HOSTNAME_EXTRA", Rule::HostnameExtra),
    ("HOSTS_*", Rule::Hosts),
    ("SERVER", Rule::Server),
    ("SEARCH_DOMAIN", Rule::SearchDomain),
    ("DNS_SERVER", Rule::DnsServer),
    ("LTSP_NBD_TO_RAM", Rule::ToRam),
    ("IMAGE_TO_RAM", Rule::ToRam),
    ("LTSP_NBD_TO_DRIVE", Rule::ToDrive),
    ("LTSP_NBD_TO_DRIVE_AUTOREFRESH", Rule::Nothing(REFRESH)),
    ("LTSP_DATA_DRIVE", Rule::Nothing(DRIVE)),
    ("LTSP_MOUNT_DATA_DRIVE", Rule::Nothing("say what is mounted where: FSTAB_1=\"LABEL=data /srv ext4 nofail 0 0\"")),
    ("LTSP_ROOT_WRITE_METHOD", Rule::Nothing(WRITABLE)),
    ("LTSP_RW_DIRS*", Rule::Nothing(WRITABLE)),
    ("LTSP_COPY_DIRS*", Rule::Nothing(WRITABLE)),
    ("LTSP_BINDFILES*", Rule::Nothing(WRITABLE)),
    ("FSTAB_*", Rule::Fstab),
    ("CONFIGURE_FSTAB", Rule::ConfigureFstab),
    ("CRONTAB_*", Rule::Crontab),
    ("OVERLAY_DIR", Rule::OverlayDir),
    ("PREINIT_*", Rule::Preinit),
    ("INIT_COMMAND_*", Rule::InitCommand),
    ("RCFILE_*", Rule::RcFile),
    ("MODULE_*", Rule::Module),
    ("KEEP_SYSTEM_SERVICES", Rule::Keep),
    ("RM_SYSTEM_SERVICES", Rule::Remove),
    ("MASK_SYSTEM_SERVICES", Rule::Remove),
    ("DISABLE_SYSTEM_SERVICES", Rule::Disable),
    ("RM_THIN_SYSTEM_SERVICES", Rule::Nothing("it is for thin clients only: use RM_SYSTEM_SERVICES")),
    ("RM_LOW_RAM_SERVICES", Rule::RemoveLowRam),
    ("RM_RAM_THRESHOLD", Rule::RamThreshold),
    ("TIMEZONE", Rule::Timezone),
    ("TIMESERVER", Rule::Timeserver),
    ("HWCLOCK", Rule::Nothing("the clock follows the farm's from the boot on")),
    ("SYSLOG_HOST", Rule::SyslogHost),
    ("NBD_SWAP*", Rule::Nothing(NBD_SWAP)),
    ("USE_LOCAL_SWAP", Rule::LocalSwap),
    ("LOCAL_SWAP", Rule::LocalSwap),
    ("ENCRYPT_SWAP", Rule::Nothing("swap areas are used as they are and never written over by something else")),
    ("KERNEL_DEVICE", Rule::Nothing(BOOT_DISK)),
    ("KERNEL_DIR", Rule::Nothing(BOOT_DISK)),
    ("KERNEL_NAME", Rule::Nothing(BOOT_DISK)),
    ("INITRD_NAME", Rule::Nothing(BOOT_DISK)),
    ("NET_DEVICE_METHOD", Rule::Nothing("the interface that boots keeps its address and its lease is renewed")),
    ("KERNEL_PARAMETERS", Rule::KernelParameters),
    ("DEFAULT_IMAGE", Rule::Nothing("the image is spec.image of the Farm")),
    ("MENU_TIMEOUT", Rule::Nothing("there is no boot menu")),
    ("RPI_IMAGE", Rule::Nothing("the image is spec.image of the Farm")),
    ("NAT", Rule::Nothing("the way out is spec.egress of the Lan")),
    ("ADD_IMAGE_EXCLUDES", Rule::Nothing("what an image leaves out is said in the Image")),
    ("OMIT_IMAGE_EXCLUDES", Rule::Nothing("what an image leaves out is said in the Image")),
    ("DEBUG_LOG", Rule::Nothing("what the scripts print is logged")),
    ("DEBUG_SHELL", Rule::Nothing("a failed boot is reported and tried again; nobody waits in a shell")),
    ("OMIT_FUNCTIONS", Rule::OmitFunctions),
    ("PRE_INIT_*", Rule::BeforeInit),
    ("PRE_INITRD_BOTTOM_*", Rule::Nothing("no shell runs before the root is there: use PRE_INIT_")),
    ("POST_INITRD_BOTTOM_*", Rule::BeforeInit),
    ("POST_INIT_*", Rule::AfterInit),
    ("AUTOLOGIN", Rule::Nothing(DESKTOP)),
    ("CONFIGURE_X", Rule::Nothing(DESKTOP)),
    ("CUPS_SERVER", Rule::Nothing(DESKTOP)),
    ("DEFAULT_DISPLAY*", Rule::Nothing(DESKTOP)),
    ("DISABLE_SESSION_SERVICES", Rule::Nothing(DESKTOP)),
    ("FAT_RAM_THRESHOLD", Rule::Nothing(DESKTOP)),
    ("GDM3_CONF", Rule::Nothing(DESKTOP)),
    ("KEEP_SESSION_SERVICES", Rule::Nothing(DESKTOP)),
    ("LDM_*", Rule::Nothing(DESKTOP)),
    ("LIGHTDM_CONF", Rule::Nothing(DESKTOP)),
    ("LOCALDEV*", Rule::Nothing(DESKTOP)),
    ("LOCAL_APPS*", Rule::Nothing(DESKTOP)),
    ("LTSP_FATCLIENT", Rule::Nothing("each node runs its own programs")),
    ("MASK_SESSION_SERVICES", Rule::Nothing(DESKTOP)),
    ("MULTISEAT", Rule::Nothing(DESKTOP)),
    ("PASSWORDS_*", Rule::Nothing(DESKTOP)),
    ("POST_LOGIN_*", Rule::Nothing(DESKTOP)),
    ("POST_SESSION_*", Rule::Nothing(DESKTOP)),
    ("PRE_LOGIN_*", Rule::Nothing(DESKTOP)),
    ("PRE_SESSION_*", Rule::Nothing(DESKTOP)),
    ("PRINTER_*", Rule::Nothing(DESKTOP)),
    ("PWMERGE_*", Rule::Nothing(DESKTOP)),
    ("RDP_*", Rule::Nothing(DESKTOP)),
    ("RELOGIN", Rule::Nothing(DESKTOP)),
    ("REMOTEAPPS", Rule::Nothing(DESKTOP)),
    ("SCANNER", Rule::Nothing(DESKTOP)),
    ("SCREEN_*", Rule::Nothing(DESKTOP)),
    ("SDDM_CONF", Rule::Nothing(DESKTOP)),
    ("SOUND*", Rule::Nothing(DESKTOP)),
    ("TELNET_HOST", Rule::Nothing(DESKTOP)),
    ("UDEV_SEAT_*", Rule::Nothing(DESKTOP)),
    ("USE_XFS", Rule::Nothing(DESKTOP)),
    ("VOLUME", Rule::Nothing(DESKTOP)),
    ("XFS_SERVER", Rule::Nothing(DESKTOP)),
    ("XKB*", Rule::Nothing(DESKTOP)),
    ("XRANDR*", Rule::Nothing(DESKTOP)),
    ("XSERVER*", Rule::Nothing(DESKTOP)),
    ("X_*", Rule::Nothing(DESKTOP)),
];

/// What is done with a key.
pub(crate) fn rule(key: &str) -> Rule {
    let is = |pattern: &str| match pattern.strip_suffix('*') {
        Some(beginning) => key.starts_with(beginning),
        None => key == pattern,
    };
    KEYS.iter().find(|(pattern, _)| is(pattern)).map_or(Rule::Own, |(_, rule)| *rule)
}

/// What becomes of a key, whatever its value is.
pub fn fate(key: &str) -> Fate {
    match rule(key) {
        Rule::Like => Fate::Selects,
        Rule::Hostname | Rule::HostnameBase | Rule::HostnameExtra => Fate::Field("hostname"),
        Rule::Hosts => Fate::Field("hosts"),
        Rule::SearchDomain => Fate::Field("dns.search"),
        Rule::DnsServer => Fate::Field("dns.servers"),
        Rule::ToRam | Rule::ToDrive => Fate::Root,
        Rule::Fstab => Fate::Field("mounts"),
        Rule::Crontab | Rule::SyslogHost => Fate::Field("files"),
        Rule::Module => Fate::Field("modules"),
        Rule::Keep | Rule::Remove | Rule::Disable | Rule::OmitFunctions => Fate::Field("units"),
        Rule::Timezone => Fate::Field("timezone"),
        Rule::Timeserver => Fate::Field("ntp"),
        Rule::KernelParameters => Fate::Field("kernelArguments"),
        Rule::OverlayDir
        | Rule::Preinit
        | Rule::InitCommand
        | Rule::RcFile
        | Rule::ConfigureFstab
        | Rule::RemoveLowRam
        | Rule::RamThreshold
        | Rule::LocalSwap
        | Rule::BeforeInit
        | Rule::AfterInit => Fate::Script,
        Rule::Server | Rule::Own => Fate::Variable,
        Rule::Nothing(why) => Fate::Nothing(why.to_owned()),
    }
}

/// Services that LTSP keeps from starting on its clients, as far as servers have them, but for those that a node of this
/// farm is reached by (ssh, D-Bus, logind). `KEEP_SYSTEM_SERVICES` spares them.
pub const REMOVED: [&str; 17] = [
    "apt-daily.service",
    "apt-daily.timer",
    "apt-daily-upgrade.service",
    "apt-daily-upgrade.timer",
    "dnsmasq.service",
    "fwupd-refresh.timer",
    "grub-common.service",
    "isc-dhcp-server.service",
    "man-db.timer",
    "nbd-server.service",
    "nfs-kernel-server.service",
    "nfs-server.service",
    "packagekit.service",
    "rpcbind.service",
    "rpcbind.socket",
    "tftpd-hpa.service",
    "unattended-upgrades.service",
];

/// Those of [`REMOVED`] that a node needs which mounts something by NFS.
pub(crate) const NEEDED_BY_NFS: [&str; 2] = ["rpcbind.service", "rpcbind.socket"];

/// Functions of LTSP that remove services: who omits one wants them all.
pub(crate) const REMOVING_FUNCTIONS: [&str; 5] =
    ["services_main", "disable_system_services", "mask_system_services", "mask_services_main", "rm_system_services"];

/// What `LIKE` names, for reports.
pub(crate) fn likes(value: &str) -> Vec<String> {
    lts_conf::words(value).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_name_is_meant() {
        assert_eq!(rule("HOSTNAME_EXTRA"), Rule::HostnameExtra);
        assert_eq!(rule("HOSTS_1"), Rule::Hosts);
        assert_eq!(rule("LOCAL_SWAP"), Rule::LocalSwap);
        assert_eq!(rule("PRE_INIT_X"), Rule::BeforeInit);
        assert_eq!(rule("POST_INITRD_BOTTOM_X"), Rule::BeforeInit);
        assert_eq!(rule("MY_OWN"), Rule::Own);
        assert_eq!(rule("FSTAB"), Rule::Own);
    }

    #[test]
    fn no_key_is_hidden_by_one_before_it() {
        for (index, (pattern, rule)) in KEYS.iter().enumerate() {
            let key = pattern.replace('*', "");
            let first = KEYS.iter().position(|(other, _)| match other.strip_suffix('*') {
                Some(beginning) => key.starts_with(beginning),
                None => *other == key,
            });
            assert_eq!(first, Some(index), "{pattern} {rule:?}");
        }
    }
}

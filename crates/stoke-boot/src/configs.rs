//! Configurations of PXELINUX and GRUB: the names that they ask for, and what they are told.
//!
//! Both ask for a name with the machine in it, then for ever less exact ones. The first that tells the machine is answered,
//! so nothing is asked twice:
//!
//! - PXELINUX: `pxelinux.cfg/` and the UUID, `01-` and the MAC, the address in hexadecimal with ever fewer digits,
//!   `default`.
//! - GRUB: `grub.cfg-01-` and the MAC, `grub.cfg-` and the address likewise, `grub.cfg`.
//!
//! Both load kernel and initramfs by HTTP; GRUB goes back to TFTP if that fails. What fails is tried again after a pause,
//! with a configuration that is fetched anew and names what the farm has then.

use stoke_api::MacAddr;
use stoke_api::workload::FarmImage;

use crate::render::plain;

/// Whose configuration it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Loader {
    /// PXELINUX.
    Pxelinux,
    /// GRUB.
    Grub,
}

/// Which machine's configuration it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Subject {
    /// The one with this interface.
    Mac(MacAddr),
    /// The one with this SMBIOS UUID.
    Uuid(String),
    /// The one that asks; the name gives its address at most.
    Asker,
}

/// The name of a configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigName {
    /// Whose.
    pub loader: Loader,
    /// Which machine's.
    pub subject: Subject,
}

impl ConfigName {
    /// Reads a file's name, in any folder. `None` if it is no configuration's.
    pub fn parse(name: &str) -> Option<Self> {
        let last = name.rsplit('/').next().unwrap_or(name);
        let folder = name.rsplit('/').nth(1);
        if folder == Some("pxelinux.cfg") {
            let subject = if last == "default" { Some(Subject::Asker) } else { subject(last) };
            return Some(Self { loader: Loader::Pxelinux, subject: subject? });
        }
        let of = last.strip_prefix("grub.cfg")?;
        let subject = if of.is_empty() { Subject::Asker } else { subject(of.strip_prefix('-')?)? };
        Some(Self { loader: Loader::Grub, subject })
    }
}

fn subject(text: &str) -> Option<Subject> {
    if let Some(mac) = text.strip_prefix("01-") {
        return mac.replace('-', ":").parse().ok().map(Subject::Mac);
    }
    let hexadecimal = |part: &str| part.bytes().all(|byte| byte.is_ascii_hexdigit());
    if (1..=8).contains(&text.len()) && hexadecimal(text) {
        return Some(Subject::Asker);
    }
    let lengths = text.split('-').map(str::len).eq([8, 4, 4, 4, 12]);
    (lengths && text.split('-').all(hexadecimal)).then(|| Subject::Uuid(text.to_ascii_lowercase()))
}

/// What a loader is to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Task<'a> {
    /// Boot an image.
    Boot {
        /// The machine's name.
        name: &'a str,
        /// The image.
        image: &'a FarmImage,
    },
    /// Ask again.
    Wait {
        /// After so many seconds.
        seconds: u32,
        /// Why.
        reason: &'a str,
    },
    /// Leave the machine to its next boot device.
    Refuse {
        /// Why.
        reason: &'a str,
    },
}

/// Seconds before a loader tries again what has failed.
const PAUSE: u32 = 5;

/// The configuration that tells a loader its task. `server` is the farm's HTTP server without `http://`, for example
/// `10.10.0.1` or `10.10.0.1:8080`.
pub fn config(loader: Loader, server: &str, mac: MacAddr, task: &Task<'_>) -> String {
    match loader {
        Loader::Pxelinux => pxelinux(server, mac, task),
        Loader::Grub => grub(server, mac, task),
    }
}

/// The configuration of a GRUB that did not say which machine it is on: it asks again by its MAC.
pub fn grub_by_mac() -> String {
    "configfile $prefix/grub.cfg-01-$net_default_mac\n".to_owned()
}

fn dashed(mac: MacAddr) -> String {
    mac.to_string().replace(':', "-")
}

fn arguments(image: &FarmImage, mac: MacAddr) -> Vec<String> {
    let own = image.kernel_arguments.iter().map(|argument| plain(argument));
    own.chain([format!("BOOTIF=01-{}", dashed(mac))]).collect()
}

fn greeting(name: &str, image: &FarmImage) -> String {
    format!("Stokehold: {} boots image {}", plain(name), image.digest.short())
}

/// An unattended PXELINUX that has failed waits at its prompt, where `TIMEOUT` (tenths of a second) brings it back. The
/// configuration's own name begins with `::`, which is the root of the TFTP server wherever PXELINUX came from.
fn pxelinux(server: &str, mac: MacAddr, task: &Task<'_>) -> String {
    let lines = match task {
        Task::Boot { name, image } => {
            let url = |path: String| format!("http://{server}{path}");
            let archives = [image.farm_initramfs, image.initramfs].map(|blob| url(blob.http_path())).join(",");
            vec![
                "DEFAULT boot".to_owned(),
                "PROMPT 0".to_owned(),
                format!("TIMEOUT {}", PAUSE * 10),
                format!("SAY {}", greeting(name, image)),
                "LABEL boot".to_owned(),
                format!("  LINUX {}", url(image.kernel.http_path())),
                format!("  INITRD {archives}"),
                format!("  APPEND {}", arguments(image, mac).join(" ")),
            ]
        }
        Task::Wait { seconds, reason } => vec![
            "DEFAULT again".to_owned(),
            "PROMPT 1".to_owned(),
            format!("TIMEOUT {}", seconds.max(&1) * 10),
            format!("SAY Stokehold: {}; next attempt in {seconds} s", plain(reason)),
            "LABEL again".to_owned(),
            format!("  CONFIG ::pxelinux.cfg/01-{}", dashed(mac)),
        ],
        Task::Refuse { reason } => vec![
            "DEFAULT next".to_owned(),
            "PROMPT 0".to_owned(),
            format!("SAY Stokehold: {mac}: {}", plain(reason)),
            "LABEL next".to_owned(),
            // -1: the machine's next boot device.
            "  LOCALBOOT -1".to_owned(),
        ],
    };
    lines.join("\n") + "\n"
}

/// A word of GRUB's language, which knows no way to write a quote between quotes.
fn word(text: &str) -> String {
    let simple = |c: char| c.is_ascii_alphanumeric() || "-_=.,:/+@%".contains(c);
    let text = plain(text).replace('\'', "");
    if text.chars().all(simple) { text } else { format!("'{text}'") }
}

fn grub(server: &str, mac: MacAddr, task: &Task<'_>) -> String {
    let again = format!("configfile $prefix/grub.cfg-01-{}", dashed(mac));
    let lines = match task {
        Task::Boot { name, image } => {
            let arguments: Vec<_> = arguments(image, mac).iter().map(|argument| word(argument)).collect();
            let archives = [image.farm_initramfs, image.initramfs].map(|blob| format!("$from{}", blob.http_path()));
            let host = server.split(':').next().unwrap_or(server);
            vec![
                format!("echo {}", word(&greeting(name, image))),
                format!("for from in '(http,{server})' '(tftp,{host})'; do"),
                format!("  if linux $from{} {}; then", image.kernel.http_path(), arguments.join(" ")),
                format!("    if initrd {}; then boot; fi", archives.join(" ")),
                "  fi".to_owned(),
                "done".to_owned(),
                format!("echo 'Stokehold: the farm could not be reached; next attempt in {PAUSE} s'"),
                format!("sleep {PAUSE}"),
                again,
            ]
        }
        Task::Wait { seconds, reason } => {
            let told = format!("Stokehold: {reason}; next attempt in {seconds} s");
            vec![format!("echo {}", word(&told)), format!("sleep {seconds}"), again]
        }
        Task::Refuse { reason } => {
            let told = format!("Stokehold: {mac}: {reason}");
            vec![format!("echo {}", word(&told)), format!("sleep {PAUSE}"), "exit".to_owned()]
        }
    };
    lines.join("\n") + "\n"
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::render::tests::image;

    const MAC: MacAddr = MacAddr([0x52, 0x54, 0, 0, 0, 7]);

    fn parsed(name: &str) -> Option<(Loader, Subject)> {
        ConfigName::parse(name).map(|name| (name.loader, name.subject))
    }

    #[test]
    fn names_as_the_loaders_ask_for_them() {
        let of = |loader, subject| Some((loader, subject));
        let uuid = Subject::Uuid("6f1c1d5e-0000-4000-8000-000000000001".into());
        for (name, expected) in [
            ("pxelinux.cfg/6f1c1d5e-0000-4000-8000-000000000001", of(Loader::Pxelinux, uuid)),
            ("ltsp/amd64/pxelinux.cfg/01-52-54-00-00-00-07", of(Loader::Pxelinux, Subject::Mac(MAC))),
            ("pxelinux.cfg/0a0a0015", of(Loader::Pxelinux, Subject::Asker)),
            ("pxelinux.cfg/0", of(Loader::Pxelinux, Subject::Asker)),
            ("pxelinux.cfg/default", of(Loader::Pxelinux, Subject::Asker)),
            ("grub/grub.cfg-01-52-54-00-00-00-07", of(Loader::Grub, Subject::Mac(MAC))),
            ("grub/grub.cfg-01-52:54:00:00:00:07", of(Loader::Grub, Subject::Mac(MAC))),
            ("grub.cfg-0A0A0015", of(Loader::Grub, Subject::Asker)),
            ("debian-installer/amd64/grub/grub.cfg", of(Loader::Grub, Subject::Asker)),
            ("pxelinux.cfg/20-52-54-00-00-00-07", None),
            ("pxelinux.cfg/01-52-54", None),
            ("pxelinux.cfg/", None),
            ("grub.cfg.old", None),
            ("grub/x86_64-efi/command.lst", None),
            ("", None),
        ] {
            assert_eq!(parsed(name), expected, "{name}");
        }
    }

    fn all(loader: Loader) -> String {
        let image = image();
        let tasks = [
            Task::Boot { name: "rack1-07", image: &image },
            Task::Wait { seconds: 5, reason: "the image is being built" },
            Task::Refuse { reason: "no object names this machine" },
        ];
        tasks.map(|task| config(loader, "10.10.0.1:8080", MAC, &task)).join("--\n")
    }

    #[test]
    fn configurations_of_pxelinux() {
        insta::assert_snapshot!(all(Loader::Pxelinux));
    }

    #[test]
    fn configurations_of_grub() {
        insta::assert_snapshot!(all(Loader::Grub));
    }

    #[test]
    fn an_argument_is_one_word_of_grub() {
        assert_eq!(word("console=ttyS0,115200"), "console=ttyS0,115200");
        assert_eq!(word("a=b c;$d'\n"), "'a=b c;$d'");
    }
}

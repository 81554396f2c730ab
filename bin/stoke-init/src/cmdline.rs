//! What the kernel's command line asks of us. Words of others are left alone.

use stoke_api::MacAddr;
use stoke_api::node::Mode;

/// The words that are ours.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Cmdline {
    /// `stoke.farm=URL`: the farm, whatever DHCP says.
    pub farm: Option<String>,
    /// `stoke.fallback=URL,URL`: the farm's replicas, if DHCP names none. Farms write it into their boot scripts: the DHCP server
    /// may be somebody else's.
    pub fallback: Option<String>,
    /// `stoke.root=URL`: the root without a farm, by `nbd://HOST:PORT/EXPORT` or `http://…`.
    pub root: Option<String>,
    /// `stoke.mode=auto|nbd|ram`: where the root is while the node runs, whatever the farm says.
    pub mode: Option<Mode>,
    /// `BOOTIF=01-52-54-…`: the interface that the firmware booted from, as PXELINUX and iPXE write it.
    pub boot_interface: Option<MacAddr>,
    /// Words that are ours and mean nothing, for the console.
    pub refused: Vec<String>,
}

impl Cmdline {
    /// Reads the command line; the last of several wins, as with the kernel's own.
    pub fn parse(text: &str) -> Self {
        text.split_whitespace().fold(Self::default(), |mut so_far, word| {
            if !so_far.take(word) {
                so_far.refused.push(word.to_owned());
            }
            so_far
        })
    }

    fn take(&mut self, word: &str) -> bool {
        let Some((key, value)) = word.split_once('=') else {
            return !word.starts_with("stoke.");
        };
        match key {
            "stoke.farm" => self.farm = Some(value.to_owned()),
            "stoke.fallback" => self.fallback = Some(value.to_owned()),
            "stoke.root" => self.root = Some(value.to_owned()),
            "stoke.mode" => match mode(value) {
                Some(mode) => self.mode = Some(mode),
                None => return false,
            },
            "BOOTIF" => match boot_interface(value) {
                Some(mac) => self.boot_interface = Some(mac),
                None => return false,
            },
            other => return !other.starts_with("stoke."),
        }
        true
    }
}

fn mode(text: &str) -> Option<Mode> {
    match text {
        "auto" => Some(Mode::Auto),
        "nbd" => Some(Mode::Nbd),
        "ram" => Some(Mode::Ram),
        _ => None,
    }
}

/// The address, with the hardware type (01, Ethernet) in front or without.
fn boot_interface(text: &str) -> Option<MacAddr> {
    let address = if text.len() == 20 { text.get(3..)? } else { text };
    address.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_of_ours_among_those_of_others() {
        let line = "quiet console=ttyS0,115200 BOOTIF=01-52-54-00-aa-bb-cc stoke.mode=ram stoke.farm=https://10.0.0.1:8443 stoke.fallback=https://10.0.0.2 ro";
        let cmdline = Cmdline::parse(line);
        assert_eq!(cmdline.boot_interface, Some(MacAddr([0x52, 0x54, 0, 0xaa, 0xbb, 0xcc])));
        assert_eq!(cmdline.mode, Some(Mode::Ram));
        assert_eq!(cmdline.farm.as_deref(), Some("https://10.0.0.1:8443"));
        assert_eq!(cmdline.fallback.as_deref(), Some("https://10.0.0.2"));
        assert_eq!(cmdline.refused, [""; 0]);
    }

    #[test]
    fn ipxe_may_leave_the_hardware_type_out_and_the_last_word_wins() {
        let cmdline = Cmdline::parse("BOOTIF=52:54:00:aa:bb:cc stoke.root=nbd://a/x stoke.root=nbd://b/y");
        assert_eq!(cmdline.boot_interface, Some(MacAddr([0x52, 0x54, 0, 0xaa, 0xbb, 0xcc])));
        assert_eq!(cmdline.root.as_deref(), Some("nbd://b/y"));
    }

    #[test]
    fn what_cannot_be_understood_is_named() {
        let cmdline = Cmdline::parse("stoke.mode=fast stoke.rescue BOOTIF=eth0 splash");
        assert_eq!(cmdline.refused, ["stoke.mode=fast", "stoke.rescue", "BOOTIF=eth0"]);
    }
}

//! What this machine is.

use std::path::Path;

use stoke_api::MacAddr;

use crate::kernel_fs::attribute;

/// Facts about the machine that do not change while it runs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Hardware {
    /// SMBIOS UUID in its usual text form; none if the maker left it empty.
    pub(crate) uuid: Option<String>,
    /// Maker and model.
    pub(crate) product: String,
    /// `MemTotal` in bytes.
    pub(crate) memory: u64,
    /// Number of processors.
    pub(crate) cpus: u32,
}

impl Hardware {
    /// Looks.
    pub(crate) fn read() -> Self {
        let dmi = Path::new("/sys/class/dmi/id");
        let words = ["sys_vendor", "product_name"].map(|name| attribute(dmi.join(name)));
        let cpus = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        Self {
            uuid: usable_uuid(&attribute(dmi.join("product_uuid"))),
            product: words.join(" ").trim().to_owned(),
            memory: memory_total(&attribute("/proc/meminfo")),
            cpus: u32::try_from(cpus).unwrap_or(1),
        }
    }

    /// The UUID as 16 bytes in the order in which firmware sends it in option 97: the first three groups are
    /// little-endian (SMBIOS specification, section 7.2.1), and the kernel prints them swapped back.
    pub(crate) fn uuid_on_the_wire(&self) -> Option<[u8; 16]> {
        let mut bytes = uuid_bytes(self.uuid.as_deref()?)?;
        for group in [0..4, 4..6, 6..8] {
            bytes.get_mut(group)?.reverse();
        }
        Some(bytes)
    }
}

/// Some makers leave the field all zeroes or all ones.
fn usable_uuid(text: &str) -> Option<String> {
    let bytes = uuid_bytes(text)?;
    (bytes != [0; 16] && bytes != [0xff; 16]).then(|| text.to_lowercase())
}

fn uuid_bytes(text: &str) -> Option<[u8; 16]> {
    let digits: String = text.chars().filter(|c| *c != '-').collect();
    let number = u128::from_str_radix(&digits, 16).ok()?;
    (digits.len() == 32).then(|| number.to_be_bytes())
}

fn memory_total(meminfo: &str) -> u64 {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemTotal:"));
    let kibibytes = line.and_then(|line| line.split_whitespace().next()).and_then(|number| number.parse::<u64>().ok());
    kibibytes.unwrap_or_default() * 1024
}

/// Bytes for `/etc/machine-id` (machine-id(5)): the same at each boot, different for each machine, and not the UUID
/// itself, which is no secret but may not be given away by everything that shows a machine id.
pub(crate) fn machine_id(uuid: Option<&str>, mac: MacAddr) -> String {
    let own = uuid.map_or_else(|| mac.to_string(), str::to_lowercase);
    let digest =
        aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, format!("stokehold machine-id {own}").as_bytes());
    let mut bytes: [u8; 16] = digest.as_ref().first_chunk().copied().unwrap_or_default();
    // Marked as a random UUID, as systemd does (`id128_make_v4_uuid`).
    if let Some(version) = bytes.get_mut(6) {
        *version = *version & 0x0f | 0x40;
    }
    if let Some(variant) = bytes.get_mut(8) {
        *variant = *variant & 0x3f | 0x80;
    }
    bytes.iter().map(|byte| format!("{byte:02x}")).collect::<Vec<_>>().concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn uuids_that_say_nothing_are_none() {
        assert_eq!(usable_uuid("00000000-0000-0000-0000-000000000000"), None);
        assert_eq!(usable_uuid("FFFFFFFF-FFFF-FFFF-FFFF-FFFFFFFFFFFF"), None);
        assert_eq!(usable_uuid("Not Specified"), None);
        assert!(usable_uuid("4C4C4544-0051-3510-8051-B4C04F4B3332").is_some());
    }

    #[test]
    fn firmware_sends_the_first_groups_the_other_way_round() {
        let hardware = Hardware { uuid: Some("00112233-4455-6677-8899-aabbccddeeff".into()), ..Hardware::default() };
        let wire = hardware.uuid_on_the_wire().unwrap();
        assert_eq!(wire[..10], [0x33, 0x22, 0x11, 0, 0x55, 0x44, 0x77, 0x66, 0x88, 0x99]);
    }

    #[test]
    fn memory_is_in_bytes() {
        assert_eq!(memory_total("MemTotal:        1012345 kB\nMemFree: 1 kB"), 1_012_345 * 1024);
    }

    #[test]
    fn a_machine_id_is_stable_and_each_machine_has_its_own() {
        let [one, other] = [MacAddr([2, 0, 0, 0, 0, 1]), MacAddr([2, 0, 0, 0, 0, 2])];
        assert_eq!(machine_id(None, one), machine_id(None, one));
        assert_ne!(machine_id(None, one), machine_id(None, other));
        assert_eq!(machine_id(Some("AB"), one), machine_id(Some("ab"), other));
        assert_eq!(machine_id(None, one).len(), 32);
    }
}

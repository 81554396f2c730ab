//! Disks: of virtual machines, and those of nodes that keep their roots.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::Problem;
use crate::names::{Bytes, ObjectName};

/// A disk of a virtual machine. It is blank at first, kept as long as the machine's object is, and gone with it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct VmDisk {
    /// Its name, which is also its serial number: `/dev/disk/by-id/virtio-NAME` inside. At most 20 characters.
    pub name: ObjectName,
    /// Its size. A disk grows at the machine's next start; one that should shrink stays as it is.
    pub size: Bytes,
}

/// The disk of a node that keeps its root: a partition or a whole disk, which must be blank or our own. Anything else on it is
/// left alone, and the boot fails with what it is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct DiskRoot {
    /// What it is called: the name of a GPT partition, or the serial number of a whole disk (of a `Machine`, the disk's name).
    /// Once it is our own, by the label that we wrote to it.
    pub label: String,
    /// Whether a node may boot what it has, with its last configuration, when no server of the farm answers.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub offline: bool,
}

impl DiskRoot {
    pub(super) fn check(&self, at: &str) -> Vec<Problem> {
        // GPT has room for 36 characters of a name (UEFI 2.10, section 5.3.3).
        let fits = (1..=36).contains(&self.label.chars().count()) && !self.label.contains(char::is_control);
        let message = format!("{:?} is no name of a partition or disk: 1 to 36 characters", self.label);
        if fits { Vec::new() } else { vec![Problem::new(format!("{at}.label"), message)] }
    }
}

/// Characters of a virtio disk's serial number (`VIRTIO_BLK_ID_BYTES`).
const SERIAL: usize = 20;
const SMALLEST: Bytes = Bytes(1 << 20);

/// What is wrong with a machine's disks.
pub(super) fn check(disks: &[VmDisk]) -> Vec<Problem> {
    let mut problems = Vec::new();
    for (index, disk) in disks.iter().enumerate() {
        let at = format!("spec.vm.disks[{index}]");
        let name = disk.name.as_str();
        if disks.iter().take(index).any(|earlier| earlier.name == disk.name) {
            problems.push(Problem::new(format!("{at}.name"), format!("{name:?} is already the name of another disk")));
        }
        if name.len() > SERIAL {
            let message =
                format!("{name:?} is longer than {SERIAL} characters, which is all that a disk can say of itself");
            problems.push(Problem::new(format!("{at}.name"), message));
        }
        if disk.size < SMALLEST || !disk.size.0.is_multiple_of(4096) {
            let message = format!("{} is no size of a disk: whole multiples of 4Ki from 1Mi on", disk.size);
            problems.push(Problem::new(format!("{at}.size"), message));
        }
    }
    problems
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_label_is_what_a_partition_can_be_called() {
        let problems = |label: &str| DiskRoot { label: label.to_owned(), offline: false }.check("at").len();
        assert_eq!([problems("stokehold"), problems(""), problems(&"x".repeat(37)), problems("a\n")], [0, 1, 1, 1]);
    }

    #[test]
    fn names_are_serial_numbers_and_sizes_are_whole_blocks() {
        let disk = |name: &str, size| VmDisk { name: name.parse().unwrap(), size: Bytes(size) };
        assert_eq!(check(&[disk("data", 1 << 30), disk("root", 1 << 20)]), []);
        let wrong = [disk("data", 1 << 30), disk("data", 1000), disk("a-name-that-is-too-long", 1 << 30)];
        let fields: Vec<_> = check(&wrong).into_iter().map(|problem| problem.field).collect();
        assert_eq!(fields, ["spec.vm.disks[1].name", "spec.vm.disks[1].size", "spec.vm.disks[2].name"]);
    }
}

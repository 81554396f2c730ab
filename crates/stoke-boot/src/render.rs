//! The scripts that iPXE gets.
//!
//! A script survives a farm that is restarted, and one whose image was replaced meanwhile: whatever fails is followed by a
//! pause that grows from 1 to 8 seconds, and by fetching the script anew, which names what the farm has then.
//!
//! Debian 12's iPXE is of 2019 and knows no `initrd.magic` (2021) nor offers its files to the kernel by `LoadFile2` (2023). All
//! versions show each file to a UEFI kernel by its name, and the kernel reads each `initrd=` of its command line, in order
//! (Linux' `drivers/firmware/efi/libstub/file.c`); so the files are named and the kernel is told. It joins them without
//! padding, and an archive that is not compressed must begin at a multiple of four (`unpack_to_rootfs` in `init/initramfs.c`): so
//! the farm's, which is not compressed, comes first. Under a BIOS, iPXE joins them itself, and the words mean nothing.
//!
//! What this module never does: I/O, or decide what a machine gets.

use stoke_api::MacAddr;
use stoke_api::workload::FarmImage;

/// Path on a farm's HTTP server of the script; the query `mac=` names the machine.
pub const SCRIPT_PATH: &str = "/v1/boot.ipxe";

/// Names under which the kernel finds the two initramfs, in its order.
const INITRAMFS: [&str; 2] = ["farm.cpio", "image.cpio"];

/// URL of the script for a machine.
pub fn script_url(base: &str, mac: MacAddr) -> String {
    format!("{base}{SCRIPT_PATH}?mac={mac}")
}

/// The script that boots an image. `base` is the farm's HTTP server, for example `http://10.10.0.1`.
pub fn boot(base: &str, name: &str, image: &FarmImage, mac: MacAddr) -> String {
    let [first, second] = INITRAMFS;
    let arguments = kernel_arguments(image, mac);
    let url = |path: String| format!("{base}{path}");
    let lines = [
        "imgfree ||".to_owned(),
        format!("echo Stokehold: {} boots image {}", plain(name), image.digest.short()),
        format!("kernel {} {arguments} || goto again", url(image.kernel.http_path())),
        format!("initrd --name {first} {} || goto again", url(image.farm_initramfs.http_path())),
        format!("initrd --name {second} {} || goto again", url(image.initramfs.http_path())),
        "boot ||".to_owned(),
        ":again".to_owned(),
        "isset ${stoke-pause} || set stoke-pause 1".to_owned(),
        "echo Stokehold: the farm could not be reached; next attempt in ${stoke-pause} s".to_owned(),
        "sleep ${stoke-pause}".to_owned(),
        // From the longest down, so that one line at most applies.
        "iseq ${stoke-pause} 4 && set stoke-pause 8 ||".to_owned(),
        "iseq ${stoke-pause} 2 && set stoke-pause 4 ||".to_owned(),
        "iseq ${stoke-pause} 1 && set stoke-pause 2 ||".to_owned(),
        format!("chain --replace {} || goto again", script_url(base, mac)),
    ];
    script(&lines)
}

/// The script that asks again after some seconds: nothing to boot yet, or too many boot at once.
pub fn wait(base: &str, mac: MacAddr, seconds: u32, reason: &str) -> String {
    let lines = [
        ":again".to_owned(),
        format!("echo Stokehold: {}; next attempt in {seconds} s", plain(reason)),
        format!("sleep {seconds}"),
        format!("chain --replace {} || goto again", script_url(base, mac)),
    ];
    script(&lines)
}

/// The script for a machine that gets nothing: it says why and lets the firmware try its next boot device.
pub fn refuse(mac: MacAddr, reason: &str) -> String {
    script(&[format!("echo Stokehold: {mac}: {}", plain(reason)), "sleep 5".to_owned(), "exit 1".to_owned()])
}

/// The kernel's command line. The interface is named as PXELINUX does it, hardware type (01, Ethernet) first.
fn kernel_arguments(image: &FarmImage, mac: MacAddr) -> String {
    let mut arguments: Vec<String> = INITRAMFS.iter().map(|name| format!("initrd={name}")).collect();
    arguments.extend(image.kernel_arguments.iter().map(|argument| plain(argument)));
    arguments.push(format!("BOOTIF=01-{}", mac.to_string().replace(':', "-")));
    arguments.join(" ")
}

fn script(lines: &[String]) -> String {
    format!("#!ipxe\n{}\n", lines.join("\n"))
}

/// A text that stays on its line and is not expanded.
pub(crate) fn plain(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).collect::<String>().replace("${", "$ {")
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use stoke_api::Digest;
    use stoke_api::node::{RootInfo, Verity};
    use stoke_api::objects::RootFormat;
    use stoke_api::workload::BlobRef;

    const MAC: MacAddr = MacAddr([0x52, 0x54, 0, 0, 0, 7]);

    fn blob(byte: u8) -> BlobRef {
        BlobRef { digest: Digest([byte; 32]), size: 4096 }
    }

    pub(crate) fn image() -> FarmImage {
        let verity = Verity { root_hash: "00".repeat(32), salt: String::new(), data_blocks: 1, hash_offset: 4096 };
        FarmImage {
            digest: Digest([1; 32]),
            architecture: stoke_api::workload::Architecture::Amd64,
            kernel: blob(2),
            initramfs: blob(3),
            farm_initramfs: blob(4),
            uki: None,
            root: RootInfo { format: RootFormat::Squashfs, blob: Digest([5; 32]), size: 8192, verity },
            kernel_arguments: vec!["console=ttyS0,115200".into(), "panic=10".into()],
            built_at: 0,
        }
    }

    #[test]
    fn script_of_a_node() {
        insta::assert_snapshot!(boot("http://10.10.0.1", "rack1-07", &image(), MAC));
    }

    #[test]
    fn script_while_there_is_no_image() {
        insta::assert_snapshot!(wait("http://10.10.0.1:8080", MAC, 5, "the image is being built"));
    }

    #[test]
    fn script_of_a_stranger() {
        insta::assert_snapshot!(refuse(MAC, "no object names this machine"));
    }

    #[test]
    fn a_reason_cannot_smuggle_commands_in() {
        let script = refuse(MAC, "x\nshell\n${net0/mac}");
        assert_eq!(script.lines().nth(1), Some("echo Stokehold: 52:54:00:00:00:07: xshell$ {net0/mac}"));
    }
}

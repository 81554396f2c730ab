//! Names as firmware writes them.

/// A name as it is compared: Windows' slashes turned, without empty and `.` parts, `..` resolved, without regard to case.
/// What would lead out of the root leads nowhere: it becomes the root, which is no file.
pub fn plain_name(name: &str) -> String {
    let mut parts: Vec<&str> = Vec::new();
    // Some loaders ask for `tftp://server/name`, or `(tftp,server)/name`, as their configuration wrote it.
    let name = name.strip_prefix("tftp://").map_or(name, |rest| rest.split_once('/').map_or("", |(_, path)| path));
    let name = if name.starts_with('(') { name.split_once(')').map_or(name, |(_, path)| path) } else { name };
    for part in name.split(['/', '\\']) {
        match part {
            "" | "." => {}
            ".." => {
                if parts.pop().is_none() {
                    return String::new();
                }
            }
            part => parts.push(part),
        }
    }
    parts.join("/").to_ascii_lowercase()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_forms_that_firmware_writes() {
        for name in [
            "Boot/snponly.efi",
            "/boot/snponly.efi",
            "\\Boot\\SNPONLY.EFI",
            "//boot///snponly.efi",
            "./boot/./snponly.efi",
            "x/../boot/snponly.efi",
            "tftp://10.0.0.1/boot/snponly.efi",
            "(tftp,10.0.0.1)/boot/snponly.efi",
        ] {
            assert_eq!(plain_name(name), "boot/snponly.efi", "{name}");
        }
    }

    #[test]
    fn nothing_leads_out_of_the_root() {
        for name in ["../etc/shadow", "a/../../etc/shadow", "..\\..\\x", "/", "", "."] {
            assert_eq!(plain_name(name), "", "{name}");
        }
    }

    proptest! {
        #[test]
        fn a_plain_name_stays_as_it_is(name in "[ -~]{0,40}") {
            let plain = plain_name(&name);
            prop_assert!(plain.split('/').all(|part| part != ".."));
            if !plain.starts_with('(') && !plain.starts_with("tftp:") {
                prop_assert_eq!(plain_name(&plain), plain);
            }
        }
    }
}

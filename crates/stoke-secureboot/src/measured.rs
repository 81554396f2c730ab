//! What firmware and systemd's stub measure of a unified kernel image when they start it.
//!
//! Firmware takes the Authenticode hash of each program that it starts into register 4 (TCG, "PC Client Platform Firmware
//! Profile", section 3.3.4.5); the stub takes its own sections into register 11, by name and content (systemd-stub(7),
//! systemd-measure(1)). The stub then has the firmware start the kernel in it, which is a program, too.

use std::ops::Range;

use sha2::{Digest as _, Sha256};

use crate::authenticode::{hash, number};

/// The sections that the stub measures, in its order: that of version 252; the others follow for those stubs that know them
/// (`UnifiedSection` in systemd's `uki.h`). A section that is not there is not measured.
const MEASURED: [&str; 7] = [".linux", ".osrel", ".cmdline", ".initrd", ".splash", ".dtb", ".pcrpkey"];
/// What stubs from version 253 on measure of ours besides, behind `.dtb`.
const LATER: &str = ".uname";
/// How a stub names its version (systemd-stub(7)).
const VERSION: &[u8] = b"#### LoaderInfo: systemd-stub ";

/// The largest section: more would be no kernel.
const MOST: usize = 1 << 30;

type Hash = [u8; 32];

/// The measurements of a unified kernel image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Measured {
    /// The image as a program.
    pub program: Hash,
    /// The kernel in it as a program, with the room that it has in memory.
    pub kernel: Hash,
    /// Register 11 afterwards.
    pub register_11: Hash,
}

impl Measured {
    /// Of an image, signed or not. `None` if it is none, or has no kernel in it.
    pub fn of(image: &[u8]) -> Option<Self> {
        let sections = sections(image)?;
        let (_, kernel) = sections.iter().find(|(name, _)| *name == ".linux")?;
        Some(Self { program: hash(image)?, kernel: hash(kernel)?, register_11: register_11(&sections, version(image)) })
    }
}

fn register_11(sections: &[(String, Vec<u8>)], version: u32) -> Hash {
    let measured = MEASURED.iter().flat_map(|name| match *name {
        ".pcrpkey" if version >= 253 => vec![LATER, name],
        _ => vec![*name],
    });
    let found = measured.filter_map(|name| sections.iter().find(|(found, _)| found == name));
    found.fold([0; 32], |register, (name, content)| {
        // The name with the zero at its end.
        let named = extend(&register, &Sha256::digest([name.as_bytes(), &[0]].concat()).into());
        extend(&named, &Sha256::digest(content).into())
    })
}

fn extend(register: &Hash, measured: &Hash) -> Hash {
    Sha256::digest([&register[..], measured].concat()).into()
}

/// Major version of the stub; that of Debian 12 if it does not say.
fn version(image: &[u8]) -> u32 {
    let at = image.windows(VERSION.len()).position(|window| window == VERSION).map(|at| at + VERSION.len());
    let digits = at.and_then(|at| image.get(at..at + 8)).unwrap_or_default();
    let number: String = digits.iter().map(|byte| char::from(*byte)).take_while(char::is_ascii_digit).collect();
    number.parse().unwrap_or(252)
}

/// The sections by name, as they are in memory: what the file does not have is zero.
fn sections(image: &[u8]) -> Option<Vec<(String, Vec<u8>)>> {
    let pe = number::<4>(image, 0x3c).filter(|at| *at < 1 << 20)?;
    let table = pe + 24 + number::<2>(image, pe + 20)?;
    let section = |index: usize| {
        let at = table + index * 40;
        let name = String::from_utf8_lossy(image.get(at..at + 8)?).trim_end_matches('\0').to_owned();
        let (in_memory, raw, begin) =
            (number::<4>(image, at + 8)?, number::<4>(image, at + 16)?, number::<4>(image, at + 20)?);
        let file: Range<usize> = begin..begin.checked_add(raw.min(in_memory))?;
        let mut content = image.get(file)?.to_vec();
        content.resize(Some(in_memory).filter(|size| *size <= MOST)?, 0);
        Some((name, content))
    };
    let all = (0..number::<2>(image, pe + 6)?).map(|index| {
        let at = table + index * 40;
        let named = image.get(at..at + 8).map(|name| String::from_utf8_lossy(name).trim_end_matches('\0').to_owned());
        // Only what is measured is copied.
        match named {
            Some(name) if name == LATER || MEASURED.contains(&name.as_str()) => section(index).map(Some),
            Some(_) => Some(None),
            None => None,
        }
    });
    Some(all.collect::<Option<Vec<_>>>()?.into_iter().flatten().collect())
}

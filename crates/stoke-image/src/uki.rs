//! Unified kernel images: a PE program that is systemd's stub, with kernel, initramfs and arguments as further sections
//! (systemd-stub(7); Microsoft's PE format specification for the headers).
//!
//! The sections are appended in Rust, not by objcopy: a farm takes the image's sections out again and appends them with
//! its own initramfs, without the stub's file and the same to the byte. The addresses follow from the stub's own
//! sections; the kernel comes last and has the room that it asks for behind it, because the stub may start it in place.

use std::ops::Range;

/// Offset in the DOS header of where the PE header is.
const PE_POINTER: usize = 0x3c;
/// Length of the COFF header behind the signature `PE\0\0`.
const COFF_HEADER: usize = 20;
/// Length of a section's header.
const SECTION_HEADER: usize = 40;
/// Initialised data, readable (`IMAGE_SCN_CNT_INITIALIZED_DATA | IMAGE_SCN_MEM_READ`).
const DATA: u32 = 0x4000_0040;
/// Sections of ours begin on a page: the stub's own alignment is smaller, and firmware protects memory by pages.
const PAGE: u32 = 4096;

/// The sections of ours, in the order in which they are appended.
const OURS: [&str; 5] = [".osrel", ".cmdline", ".uname", ".initrd", ".linux"];

/// Why bytes cannot be, or cannot become, a unified kernel image.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum UkiError {
    /// Not a PE program for 64 bit.
    #[error("the stub is no 64-bit PE program")]
    NotPe,
    /// No room for the headers of more sections.
    #[error("the stub has no room for {0} more section headers")]
    NoRoom(usize),
    /// More than an address in a PE program can express.
    #[error("the unified kernel image would be over 4 GiB")]
    TooLarge,
    /// A part is missing.
    #[error("the unified kernel image has no section {0}")]
    NoSection(&'static str),
}

/// The parts of a unified kernel image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Parts {
    /// Content of `/etc/os-release` in the image.
    pub os_release: Vec<u8>,
    /// Kernel arguments, by blanks.
    pub arguments: String,
    /// Version of the kernel.
    pub kernel_version: String,
    /// The initramfs, or several behind each other.
    pub initramfs: Vec<u8>,
    /// The kernel.
    pub kernel: Vec<u8>,
}

/// Makes a unified kernel image of a stub and parts.
///
/// # Errors
/// If the stub is none.
pub fn assemble(stub: &[u8], parts: &Parts) -> Result<Vec<u8>, UkiError> {
    let mut pe = Pe::parse(stub)?;
    // Strings end in a zero, as the stub expects for the arguments.
    let text = |text: &str| [text.as_bytes(), &[0]].concat();
    let (arguments, version) = (text(&parts.arguments), text(&parts.kernel_version));
    let contents = [&parts.os_release, &arguments, &version, &parts.initramfs, &parts.kernel];
    pe.make_room(OURS.len())?;
    for (name, content) in OURS.iter().zip(contents) {
        let room = if *name == ".linux" { image_size(content).unwrap_or_default() } else { 0 };
        pe.append(name, content, room)?;
    }
    Ok(pe.bytes)
}

/// Takes a unified kernel image of [`assemble`] apart: the stub, and the parts.
///
/// # Errors
/// If it is none.
pub fn take_apart(uki: &[u8]) -> Result<(Vec<u8>, Parts), UkiError> {
    let pe = Pe::parse(uki)?;
    let content = |name: &'static str| {
        let section = pe.sections().find(|section| section.name == name).ok_or(UkiError::NoSection(name))?;
        let bytes = uki.get(section.raw.clone()).ok_or(UkiError::NotPe)?;
        Ok(bytes.get(..section.virtual_size.min(bytes.len())).unwrap_or_default().to_vec())
    };
    let text = |name| content(name).map(|bytes| String::from_utf8_lossy(&bytes).trim_end_matches('\0').to_owned());
    let parts = Parts {
        os_release: content(OURS[0])?,
        arguments: text(OURS[1])?,
        kernel_version: text(OURS[2])?,
        initramfs: content(OURS[3])?,
        kernel: content(OURS[4])?,
    };
    Ok((pe.without(&OURS)?, parts))
}

/// `SizeOfImage` of a kernel, which is a PE program too: what it needs in memory.
fn image_size(kernel: &[u8]) -> Option<u32> {
    let pe = Pe::parse(kernel).ok()?;
    get_u32(kernel, pe.optional + 56)
}

struct Pe {
    bytes: Vec<u8>,
    coff: usize,
    optional: usize,
    table: usize,
}

struct Section {
    name: String,
    virtual_size: usize,
    virtual_end: u32,
    raw: Range<usize>,
}

fn get_u16(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_le_bytes(*bytes.get(at..)?.first_chunk()?))
}

fn get_u32(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(*bytes.get(at..)?.first_chunk()?))
}

fn size(number: u32) -> usize {
    usize::try_from(number).unwrap_or(usize::MAX)
}

fn put(bytes: &mut [u8], at: usize, value: &[u8]) -> Result<(), UkiError> {
    bytes.get_mut(at..at + value.len()).ok_or(UkiError::NotPe)?.copy_from_slice(value);
    Ok(())
}

impl Pe {
    fn parse(bytes: &[u8]) -> Result<Self, UkiError> {
        let pe = get_u32(bytes, PE_POINTER).map(size).filter(|at| *at < 1 << 20).ok_or(UkiError::NotPe)?;
        let (coff, optional) = (pe + 4, pe + 4 + COFF_HEADER);
        let signed = bytes.get(pe..coff) == Some(b"PE\0\0") && get_u16(bytes, optional) == Some(0x20b);
        let optional_size = get_u16(bytes, coff + 16).filter(|_| signed).ok_or(UkiError::NotPe)?;
        let table = optional + usize::from(optional_size);
        Ok(Self { bytes: bytes.to_vec(), coff, optional, table })
    }

    fn count(&self) -> u16 {
        get_u16(&self.bytes, self.coff + 2).unwrap_or_default()
    }

    fn alignments(&self) -> Result<(u32, u32), UkiError> {
        let alignment = |at, most: u32| {
            get_u32(&self.bytes, at).filter(|alignment| alignment.is_power_of_two() && *alignment <= most)
        };
        let of_sections = alignment(self.optional + 32, 16 << 20);
        // The specification's limit (Microsoft PE and COFF, "Optional Header Windows-Specific Fields"); more would make a
        // file of gigabytes out of nothing.
        let of_file = alignment(self.optional + 36, 64 << 10);
        of_sections.zip(of_file).ok_or(UkiError::NotPe)
    }

    fn sections(&self) -> impl Iterator<Item = Section> {
        (0..usize::from(self.count())).filter_map(|index| {
            let at = self.table + index * SECTION_HEADER;
            let name = self.bytes.get(at..at + 8)?;
            let name = String::from_utf8_lossy(name).trim_end_matches('\0').to_owned();
            let field = |offset| get_u32(&self.bytes, at + offset);
            let (virtual_size, address, length, offset) = (field(8)?, field(12)?, field(16)?, field(20)?);
            let raw = size(offset)..size(offset).saturating_add(size(length));
            Some(Section {
                name,
                virtual_size: size(virtual_size),
                virtual_end: address.saturating_add(virtual_size),
                raw,
            })
        })
    }

    /// Checks that the headers of `more` sections fit before the first section's content.
    fn make_room(&self, more: usize) -> Result<(), UkiError> {
        let end = self.table + (usize::from(self.count()) + more) * SECTION_HEADER;
        let headers = get_u32(&self.bytes, self.optional + 60).map_or(0, size);
        let first = self.sections().filter(|section| !section.raw.is_empty()).map(|section| section.raw.start).min();
        if end <= headers && first.is_none_or(|first| end <= first) { Ok(()) } else { Err(UkiError::NoRoom(more)) }
    }

    fn append(&mut self, name: &str, content: &[u8], room: u32) -> Result<(), UkiError> {
        let (of_sections, of_file) = self.alignments()?;
        let of_sections = of_sections.max(PAGE);
        let end = self.sections().map(|section| section.virtual_end).max().unwrap_or_default();
        let length = u32::try_from(content.len()).map_err(|_| UkiError::TooLarge)?;
        let in_memory = length.max(room);
        let address = end.checked_next_multiple_of(of_sections).ok_or(UkiError::TooLarge)?;
        let image = address.checked_add(in_memory).and_then(|end| end.checked_next_multiple_of(of_sections));
        let image = image.ok_or(UkiError::TooLarge)?;
        self.bytes.resize(self.bytes.len().next_multiple_of(size(of_file)), 0);
        let offset = u32::try_from(self.bytes.len()).map_err(|_| UkiError::TooLarge)?;
        self.bytes.extend_from_slice(content);
        self.bytes.resize(self.bytes.len().next_multiple_of(size(of_file)), 0);
        let raw = u32::try_from(self.bytes.len()).map_err(|_| UkiError::TooLarge)? - offset;
        self.header(name, [in_memory, address, raw, offset])?;
        let data = get_u32(&self.bytes, self.optional + 8).unwrap_or_default().wrapping_add(raw);
        put(&mut self.bytes, self.optional + 8, &data.to_le_bytes())?;
        // Nobody checks the checksum of a boot program, and a wrong one is worse than none.
        put(&mut self.bytes, self.optional + 64, &[0; 4])?;
        put(&mut self.bytes, self.optional + 56, &image.to_le_bytes())
    }

    /// Writes the header of one more section.
    fn header(&mut self, name: &str, sizes: [u32; 4]) -> Result<(), UkiError> {
        let count = self.count();
        let at = self.table + usize::from(count) * SECTION_HEADER;
        let mut header = [0; SECTION_HEADER];
        put(&mut header, 0, name.as_bytes())?;
        for (index, value) in sizes.iter().enumerate() {
            put(&mut header, 8 + 4 * index, &value.to_le_bytes())?;
        }
        put(&mut header, 36, &DATA.to_le_bytes())?;
        put(&mut self.bytes, at, &header)?;
        put(&mut self.bytes, self.coff + 2, &count.saturating_add(1).to_le_bytes())
    }

    /// The program as it was before sections of these names were appended to it.
    fn without(&self, names: &[&str]) -> Result<Vec<u8>, UkiError> {
        let (ours, theirs): (Vec<_>, Vec<_>) = self.sections().partition(|s| names.contains(&s.name.as_str()));
        let mut bytes = self.bytes.clone();
        bytes.truncate(ours.iter().map(|section| section.raw.start).min().unwrap_or(bytes.len()));
        let table_end = self.table + theirs.len() * SECTION_HEADER;
        put(&mut bytes, table_end, &vec![0; ours.len() * SECTION_HEADER])?;
        let count = u16::try_from(theirs.len()).map_err(|_| UkiError::NotPe)?;
        put(&mut bytes, self.coff + 2, &count.to_le_bytes())?;
        let data = get_u32(&bytes, self.optional + 8).unwrap_or_default();
        let raw: usize = ours.iter().map(|section| section.raw.len()).sum();
        let data = data.wrapping_sub(u32::try_from(raw).map_err(|_| UkiError::TooLarge)?);
        put(&mut bytes, self.optional + 8, &data.to_le_bytes())?;
        let (of_sections, _) = self.alignments()?;
        let end = theirs.iter().map(|section| section.virtual_end).max().unwrap_or_default();
        let image = end.checked_next_multiple_of(of_sections).ok_or(UkiError::TooLarge)?;
        put(&mut bytes, self.optional + 56, &image.to_le_bytes())?;
        Ok(bytes)
    }
}

//! The device mapper by its control device (Linux' `include/uapi/linux/dm-ioctl.h`).
//!
//! A device is created empty, gets a table, and is resumed, which makes the table live.

use std::fs::{File, OpenOptions};
use std::io;

use rustix::ioctl::{Opcode, Updater, ioctl, opcode};

/// Where the kernel puts the control device.
const CONTROL: &str = "/dev/mapper/control";
/// `DM_IOCTL`.
const GROUP: u8 = 0xfd;
/// The interface version that we speak; the kernel accepts any minor up to its own.
const VERSION: [u32; 3] = [4, 0, 0];
/// `DM_READONLY_FLAG`.
const READ_ONLY: u32 = 1;
/// Room for one target with its parameters, and for one status line.
const PAYLOAD: usize = 4096;

const DEV_CREATE: Opcode = opcode::read_write::<Header>(GROUP, 3);
const DEV_REMOVE: Opcode = opcode::read_write::<Header>(GROUP, 4);
const DEV_SUSPEND: Opcode = opcode::read_write::<Header>(GROUP, 6);
const TABLE_LOAD: Opcode = opcode::read_write::<Header>(GROUP, 9);
const TABLE_STATUS: Opcode = opcode::read_write::<Header>(GROUP, 12);

/// `struct dm_ioctl`.
#[repr(C)]
struct Header {
    version: [u32; 3],
    data_size: u32,
    data_start: u32,
    target_count: u32,
    open_count: i32,
    flags: u32,
    event_nr: u32,
    padding: u32,
    dev: u64,
    name: [u8; 128],
    uuid: [u8; 129],
    data: [u8; 7],
}

/// A header and what follows it: the kernel reads and writes `data_size` bytes in all.
#[repr(C)]
struct Request {
    header: Header,
    payload: [u8; PAYLOAD],
}

const HEADER_SIZE: usize = size_of::<Header>();
const REQUEST_SIZE: u32 = 312 + 4096;
const _: () = assert!(HEADER_SIZE == 312 && size_of::<Request>() == REQUEST_SIZE as usize);
/// `sizeof(struct dm_target_spec)`.
const TARGET_SPEC: usize = 40;

/// Why an operation on a mapped device failed.
#[derive(Debug, thiserror::Error)]
pub enum DmError {
    /// The control device is missing: the module `dm_mod` is not loaded, or `/dev` is not there.
    #[error("could not open {CONTROL} (is the module dm_mod loaded?)")]
    Open(#[source] io::Error),
    /// A name or table that does not fit the interface.
    #[error("device mapper: {0:?} is too long")]
    TooLong(String),
    /// The kernel refused.
    #[error("device mapper: could not {verb} {name}")]
    Refused {
        /// What was asked.
        verb: &'static str,
        /// Of which device.
        name: String,
        /// The kernel's reason; it prints more to its log.
        #[source]
        source: rustix::io::Errno,
    },
}

/// One target of a table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// Length in sectors of 512 bytes; it starts at 0.
    pub sectors: u64,
    /// Its type, for example `verity`.
    pub kind: String,
    /// Its parameters, as one line.
    pub parameters: String,
}

/// The open control device.
#[derive(Debug)]
pub struct DeviceMapper {
    control: File,
}

impl DeviceMapper {
    /// Opens the control device.
    ///
    /// # Errors
    /// If it is not there or not permitted.
    pub fn open() -> Result<Self, DmError> {
        let control = OpenOptions::new().read(true).write(true).open(CONTROL).map_err(DmError::Open)?;
        Ok(Self { control })
    }

    /// Creates an empty device and returns its minor number: it will be `/dev/dm-MINOR`.
    ///
    /// # Errors
    /// If the name is taken or too long.
    pub fn create(&self, name: &str) -> Result<u32, DmError> {
        let reply = self.call::<DEV_CREATE>("create", request(name)?, name)?;
        // `huge_encode_dev` in Linux' include/linux/kdev_t.h: the minor is in bits 0-7 and 20-31.
        let dev = reply.header.dev;
        Ok(u32::try_from((dev & 0xff) | ((dev >> 12) & 0xf_ff00)).unwrap_or_default())
    }

    /// Gives a device its table, read-only. It becomes live with [`Self::resume`].
    ///
    /// # Errors
    /// If the target refuses its parameters.
    pub fn load(&self, name: &str, target: &Target) -> Result<(), DmError> {
        let mut request = request(name)?;
        request.header.flags = READ_ONLY;
        request.header.target_count = 1;
        encode_target(&mut request.payload, target)?;
        self.call::<TABLE_LOAD>("load the table of", request, name).map(drop)
    }

    /// Makes the loaded table live.
    ///
    /// # Errors
    /// If there is none.
    pub fn resume(&self, name: &str) -> Result<(), DmError> {
        self.call::<DEV_SUSPEND>("resume", request(name)?, name).map(drop)
    }

    /// Removes a device.
    ///
    /// # Errors
    /// If it is in use or not there.
    pub fn remove(&self, name: &str) -> Result<(), DmError> {
        self.call::<DEV_REMOVE>("remove", request(name)?, name).map(drop)
    }

    /// The status line of the device's first target; of `verity` it is `V` or, once anything was found corrupted, `C`.
    ///
    /// # Errors
    /// If there is no such device.
    pub fn status(&self, name: &str) -> Result<String, DmError> {
        let reply = self.call::<TABLE_STATUS>("ask the status of", request(name)?, name)?;
        let text = reply.payload.get(TARGET_SPEC..).unwrap_or_default();
        let end = text.iter().position(|byte| *byte == 0).unwrap_or(text.len());
        Ok(String::from_utf8_lossy(text.get(..end).unwrap_or_default()).trim().to_owned())
    }

    fn call<const OPCODE: Opcode>(
        &self,
        verb: &'static str,
        mut request: Box<Request>,
        name: &str,
    ) -> Result<Box<Request>, DmError> {
        // JUSTIFICATION: there is no other interface to the device mapper.
        // SAFETY: OPCODE is one of the five above, all of which take a `dm_ioctl`; `Request` is one followed by its
        // payload, and `data_size` never says more than its size.
        let updater = unsafe { Updater::<OPCODE, Request>::new(&mut request) };
        // JUSTIFICATION: as above.
        // SAFETY: the descriptor is the control device; the kernel writes within `data_size` bytes of the request.
        let result = unsafe { ioctl(&self.control, updater) };
        match result {
            Ok(()) => Ok(request),
            Err(source) => Err(DmError::Refused { verb, name: name.to_owned(), source }),
        }
    }
}

fn request(name: &str) -> Result<Box<Request>, DmError> {
    let mut field = [0; 128];
    put(&mut field, name)?;
    let header = Header {
        version: VERSION,
        data_size: REQUEST_SIZE,
        data_start: u32::try_from(HEADER_SIZE).unwrap_or_default(),
        target_count: 0,
        open_count: 0,
        flags: 0,
        event_nr: 0,
        padding: 0,
        dev: 0,
        name: field,
        uuid: [0; 129],
        data: [0; 7],
    };
    Ok(Box::new(Request { header, payload: [0; PAYLOAD] }))
}

/// `struct dm_target_spec`: start, length, status, offset of the next one, type; then the parameters.
fn encode_target(payload: &mut [u8; PAYLOAD], target: &Target) -> Result<(), DmError> {
    let mut kind = [0; 16];
    put(&mut kind, &target.kind)?;
    let spec = [&0_u64.to_ne_bytes()[..], &target.sectors.to_ne_bytes(), &[0; 8], &kind].concat();
    let (head, parameters) = payload.split_at_mut(TARGET_SPEC);
    head.copy_from_slice(&spec);
    put(parameters, &target.parameters)
}

/// Copies `text` into a field that ends with a zero byte.
fn put(field: &mut [u8], text: &str) -> Result<(), DmError> {
    let room = field.len().saturating_sub(1);
    match field.get_mut(..text.len()) {
        Some(start) if text.len() <= room => {
            start.copy_from_slice(text.as_bytes());
            Ok(())
        }
        _ => Err(DmError::TooLong(text.to_owned())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_target_is_laid_out_as_the_kernel_reads_it() {
        let mut payload = [0; PAYLOAD];
        let target = Target { sectors: 0x0102, kind: "verity".into(), parameters: "1 a b".into() };
        encode_target(&mut payload, &target).unwrap();
        assert_eq!(payload[8..10], [0x02, 0x01]);
        assert_eq!(&payload[24..31], b"verity\0");
        assert_eq!(&payload[40..46], b"1 a b\0");
    }

    #[test]
    fn a_name_of_128_bytes_leaves_no_room_for_its_end() {
        assert!(request(&"a".repeat(127)).is_ok());
        assert!(matches!(request(&"a".repeat(128)), Err(DmError::TooLong(_))));
    }
}

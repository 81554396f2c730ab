//! The numbers of the protocol, named as in the NBD project's `doc/proto.md`, and reading them from bytes.

/// First eight bytes of a server: `NBDMAGIC`.
pub const INIT_MAGIC: u64 = 0x4e42_444d_4147_4943;
/// Begins newstyle negotiation and each option: `IHAVEOPT`.
pub const OPTION_MAGIC: u64 = 0x4948_4156_454f_5054;
/// Begins each reply to an option.
pub const OPTION_REPLY_MAGIC: u64 = 0x0003_e889_0455_65a9;
/// Begins each request.
pub const REQUEST_MAGIC: u32 = 0x2560_9513;
/// Begins a simple reply.
pub const SIMPLE_REPLY_MAGIC: u32 = 0x6744_6698;
/// Begins a chunk of a structured reply.
pub const STRUCTURED_REPLY_MAGIC: u32 = 0x668e_33ef;

/// Handshake flag, both directions: fixed newstyle.
pub const FLAG_FIXED_NEWSTYLE: u16 = 1;
/// Handshake flag, both directions: no 124 zeroes after the answer to [`OPT_EXPORT_NAME`].
pub const FLAG_NO_ZEROES: u16 = 1 << 1;

/// Option: enter transmission with this export; failure closes the connection.
pub const OPT_EXPORT_NAME: u32 = 1;
/// Option: end of the negotiation.
pub const OPT_ABORT: u32 = 2;
/// Option: names of all exports.
pub const OPT_LIST: u32 = 3;
/// Option: go on inside of TLS.
pub const OPT_STARTTLS: u32 = 5;
/// Option: describe an export.
pub const OPT_INFO: u32 = 6;
/// Option: describe an export and enter transmission.
pub const OPT_GO: u32 = 7;
/// Option: the client understands structured replies.
pub const OPT_STRUCTURED_REPLY: u32 = 8;
/// Option: which metadata contexts an export has.
pub const OPT_LIST_META_CONTEXT: u32 = 9;
/// Option: which metadata contexts the client will ask for.
pub const OPT_SET_META_CONTEXT: u32 = 10;

/// Reply to an option: done.
pub const REP_ACK: u32 = 1;
/// Reply to an option: one export's name.
pub const REP_SERVER: u32 = 2;
/// Reply to an option: a piece of information on an export.
pub const REP_INFO: u32 = 3;
/// Reply to an option: a metadata context.
pub const REP_META_CONTEXT: u32 = 4;
/// Set in every reply that is an error.
pub const REP_ERROR: u32 = 1 << 31;
/// Error reply: no such option here.
pub const REP_ERR_UNSUP: u32 = REP_ERROR | 1;
/// Error reply: the option's data make no sense.
pub const REP_ERR_INVALID: u32 = REP_ERROR | 3;
/// Error reply: only inside of TLS.
pub const REP_ERR_TLS_REQD: u32 = REP_ERROR | 5;
/// Error reply: no such export.
pub const REP_ERR_UNKNOWN: u32 = REP_ERROR | 6;
/// Error reply: the option's data are too long.
pub const REP_ERR_TOO_BIG: u32 = REP_ERROR | 9;

/// Information: size and transmission flags.
pub const INFO_EXPORT: u16 = 0;
/// Information: the export's name.
pub const INFO_NAME: u16 = 1;
/// Information: block sizes.
pub const INFO_BLOCK_SIZE: u16 = 3;

/// Transmission flag: the flags are valid.
pub const FLAG_HAS_FLAGS: u16 = 1;
/// Transmission flag: no writes.
pub const FLAG_READ_ONLY: u16 = 1 << 1;
/// Transmission flag: the client may forbid that a structured read is split.
pub const FLAG_SEND_DF: u16 = 1 << 7;
/// Transmission flag: several connections see the same content.
pub const FLAG_CAN_MULTI_CONN: u16 = 1 << 8;
/// Transmission flag: [`CMD_CACHE`] is understood.
pub const FLAG_SEND_CACHE: u16 = 1 << 10;

/// Command: read.
pub const CMD_READ: u16 = 0;
/// Command: write. Its data follow the request.
pub const CMD_WRITE: u16 = 1;
/// Command: goodbye; has no reply.
pub const CMD_DISC: u16 = 2;
/// Command: flush.
pub const CMD_FLUSH: u16 = 3;
/// Command: trim.
pub const CMD_TRIM: u16 = 4;
/// Command: read soon.
pub const CMD_CACHE: u16 = 5;
/// Command: write zeroes.
pub const CMD_WRITE_ZEROES: u16 = 6;
/// Command: what is data and what is a hole.
pub const CMD_BLOCK_STATUS: u16 = 7;

/// Flag of a read: one chunk, however long.
pub const CMD_FLAG_DF: u16 = 1 << 2;
/// Flag of a block status request: one descriptor.
pub const CMD_FLAG_REQ_ONE: u16 = 1 << 3;

/// The metadata context in which a block is data, or a hole that reads as zeroes.
pub const BASE_ALLOCATION: &str = "base:allocation";
/// Block status: nothing is stored here, and it reads as zeroes (`NBD_STATE_HOLE` and `NBD_STATE_ZERO`).
pub const STATE_HOLE_ZERO: u32 = 3;

/// Flag of a structured reply's last chunk.
pub const REPLY_FLAG_DONE: u16 = 1;
/// Chunk without content.
pub const REPLY_TYPE_NONE: u16 = 0;
/// Chunk of data: offset, then content.
pub const REPLY_TYPE_OFFSET_DATA: u16 = 1;
/// Chunk of zeroes: offset, then length.
pub const REPLY_TYPE_OFFSET_HOLE: u16 = 2;
/// Chunk of block status descriptors.
pub const REPLY_TYPE_BLOCK_STATUS: u16 = 5;
/// Chunk that says that the whole command failed.
pub const REPLY_TYPE_ERROR: u16 = (1 << 15) + 1;

/// Error: the export is read-only.
pub const EPERM: u32 = 1;
/// Error: the storage failed.
pub const EIO: u32 = 5;
/// Error: the request makes no sense.
pub const EINVAL: u32 = 22;
/// Error: the request is too long.
pub const EOVERFLOW: u32 = 75;

/// Bytes of a request.
pub const REQUEST_LENGTH: usize = 28;
/// Bytes of an option before its data.
pub const OPTION_LENGTH: usize = 16;
/// Longest export name ("a string", in the protocol's words).
pub const NAME_LIMIT: usize = 4096;
/// Longest read that is served: the protocol's own advice, and what Linux sends at most.
pub const READ_LIMIT: u32 = 32 << 20;

/// Reads numbers in network byte order off the front of a slice.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Cursor<'a>(pub(crate) &'a [u8]);

impl<'a> Cursor<'a> {
    pub(crate) fn take(&mut self, length: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(taken)
    }

    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        self.take(N)?.try_into().ok()
    }

    pub(crate) fn u16(&mut self) -> Option<u16> {
        self.array().map(u16::from_be_bytes)
    }

    pub(crate) fn u32(&mut self) -> Option<u32> {
        self.array().map(u32::from_be_bytes)
    }

    pub(crate) fn u64(&mut self) -> Option<u64> {
        self.array().map(u64::from_be_bytes)
    }
}

/// Appends numbers in network byte order.
pub(crate) trait Put {
    fn put(&mut self, bytes: &[u8]);

    fn put_u16(&mut self, number: u16) {
        self.put(&number.to_be_bytes());
    }

    fn put_u32(&mut self, number: u32) {
        self.put(&number.to_be_bytes());
    }

    fn put_u64(&mut self, number: u64) {
        self.put(&number.to_be_bytes());
    }
}

impl Put for Vec<u8> {
    fn put(&mut self, bytes: &[u8]) {
        self.extend_from_slice(bytes);
    }
}

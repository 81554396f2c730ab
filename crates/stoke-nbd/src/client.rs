//! The client's side of the handshake, synchronous, over anything that is `Read + Write`.
//!
//! Afterwards the socket is ready for transmission: `stoke-init` passes it to the kernel (`NBD_CMD_CONNECT` over netlink,
//! Linux' `drivers/block/nbd.c`) with the size and flags learnt here.

use std::io::{self, Read, Write};

use crate::wire::{self, Cursor, Put as _};

/// Longest reply to an option that is read into memory; names and messages are far shorter.
const REPLY_LIMIT: u32 = 64 << 10;

/// What the server says of the export.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Negotiated {
    /// Size in bytes.
    pub size: u64,
    /// Transmission flags, `FLAG_*` of [`wire`].
    pub flags: u16,
    /// Smallest, preferred and largest block, if the server said so.
    pub block_sizes: Option<[u32; 3]>,
}

/// Why there is no connection to the export.
#[derive(Debug, thiserror::Error)]
pub enum NegotiateError {
    /// The connection failed, or ended too early.
    #[error("the NBD server broke off")]
    Io(#[from] io::Error),
    /// The other side speaks something else.
    #[error("this is no NBD server with fixed newstyle negotiation")]
    NotNbd,
    /// It has no such export.
    #[error("the NBD server has no export {0}")]
    UnknownExport(String),
    /// It refuses for another reason.
    #[error("the NBD server refuses export {export}: error {code:#x} {message}")]
    Refused {
        /// The export.
        export: String,
        /// The reply's number, `REP_ERR_*` of [`wire`].
        code: u32,
        /// What it said.
        message: String,
    },
    /// The export's name is longer than the protocol allows.
    #[error("the export's name has {0} bytes, 4096 are allowed")]
    NameTooLong(usize),
    /// It let us in without saying how large the export is.
    #[error("the NBD server does not say how large export {0} is")]
    NoSize(String),
}

/// Negotiates `OPT_GO` for an export. Simple replies are kept: the kernel understands no others.
///
/// # Errors
/// If the server has no such export, or is none. The connection is of no use then.
pub fn negotiate<S: Read + Write>(stream: &mut S, export: &str) -> Result<Negotiated, NegotiateError> {
    if export.len() > wire::NAME_LIMIT {
        return Err(NegotiateError::NameTooLong(export.len()));
    }
    greet(stream)?;
    stream.write_all(&go(export))?;
    stream.flush()?;
    let mut learnt = Learnt::default();
    loop {
        let (kind, data) = option_reply(stream)?;
        match kind {
            wire::REP_ACK => return learnt.finish(export),
            wire::REP_INFO => learnt.note(&data),
            wire::REP_ERR_UNKNOWN => return Err(NegotiateError::UnknownExport(export.to_owned())),
            code if code & wire::REP_ERROR != 0 => return Err(refused(export, code, &data)),
            // Information of a kind that we do not know: the protocol wants it ignored.
            _ => {}
        }
    }
}

/// Why something could not be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The connection failed, or ended too early.
    #[error("the NBD server broke off")]
    Io(#[from] io::Error),
    /// The other side answers something else than what it was asked.
    #[error("the NBD server answers what it was not asked")]
    NotAnAnswer,
    /// It cannot read.
    #[error("the NBD server cannot read its export: error {0}")]
    Refused(u32),
}

/// Reads some bytes of the export over a connection that was negotiated and has no other request on its way.
///
/// # Errors
/// If the server does not give them. The connection is of no use then.
pub fn read<S: Read + Write>(stream: &mut S, offset: u64, into: &mut [u8]) -> Result<(), ReadError> {
    let mut request = Vec::with_capacity(wire::REQUEST_LENGTH);
    request.put_u32(wire::REQUEST_MAGIC);
    request.put_u16(0);
    request.put_u16(wire::CMD_READ);
    request.put_u64(offset);
    request.put_u64(offset);
    request.put_u32(u32::try_from(into.len()).map_err(io::Error::other)?);
    stream.write_all(&request)?;
    stream.flush()?;
    let mut header = [0; 16];
    stream.read_exact(&mut header)?;
    let mut cursor = Cursor(&header);
    match (cursor.u32(), cursor.u32(), cursor.u64()) {
        (Some(wire::SIMPLE_REPLY_MAGIC), Some(0), Some(cookie)) if cookie == offset => Ok(stream.read_exact(into)?),
        (Some(wire::SIMPLE_REPLY_MAGIC), Some(error @ 1..), Some(cookie)) if cookie == offset => {
            Err(ReadError::Refused(error))
        }
        _ => Err(ReadError::NotAnAnswer),
    }
}

#[derive(Default)]
struct Learnt {
    export: Option<(u64, u16)>,
    block_sizes: Option<[u32; 3]>,
}

impl Learnt {
    fn note(&mut self, data: &[u8]) {
        let mut cursor = Cursor(data);
        match cursor.u16() {
            Some(wire::INFO_EXPORT) => self.export = cursor.u64().zip(cursor.u16()).or(self.export),
            Some(wire::INFO_BLOCK_SIZE) => {
                if let (Some(least), Some(preferred), Some(most)) = (cursor.u32(), cursor.u32(), cursor.u32()) {
                    self.block_sizes = Some([least, preferred, most]);
                }
            }
            _ => {}
        }
    }

    fn finish(self, export: &str) -> Result<Negotiated, NegotiateError> {
        let (size, flags) = self.export.ok_or_else(|| NegotiateError::NoSize(export.to_owned()))?;
        Ok(Negotiated { size, flags, block_sizes: self.block_sizes })
    }
}

fn greet<S: Read + Write>(stream: &mut S) -> Result<(), NegotiateError> {
    let mut greeting = [0; 18];
    stream.read_exact(&mut greeting)?;
    let mut cursor = Cursor(&greeting);
    let magic = (cursor.u64(), cursor.u64());
    let flags = cursor.u16().unwrap_or_default();
    if magic != (Some(wire::INIT_MAGIC), Some(wire::OPTION_MAGIC)) || flags & wire::FLAG_FIXED_NEWSTYLE == 0 {
        return Err(NegotiateError::NotNbd);
    }
    // The server's flags are echoed as far as we know them, as the protocol asks for.
    let ours = flags & (wire::FLAG_FIXED_NEWSTYLE | wire::FLAG_NO_ZEROES);
    stream.write_all(&u32::from(ours).to_be_bytes())?;
    Ok(())
}

fn go(export: &str) -> Vec<u8> {
    let mut data = Vec::with_capacity(export.len() + 8);
    data.put_u32(u32::try_from(export.len()).unwrap_or_default());
    data.put(export.as_bytes());
    data.put_u16(1);
    data.put_u16(wire::INFO_BLOCK_SIZE);
    let mut option = Vec::with_capacity(wire::OPTION_LENGTH + data.len());
    option.put_u64(wire::OPTION_MAGIC);
    option.put_u32(wire::OPT_GO);
    option.put_u32(u32::try_from(data.len()).unwrap_or_default());
    option.put(&data);
    option
}

fn option_reply<S: Read>(stream: &mut S) -> Result<(u32, Vec<u8>), NegotiateError> {
    let mut header = [0; 20];
    stream.read_exact(&mut header)?;
    let mut cursor = Cursor(&header);
    let (magic, option, kind, length) = (cursor.u64(), cursor.u32(), cursor.u32(), cursor.u32());
    let (Some(wire::OPTION_REPLY_MAGIC), Some(wire::OPT_GO), Some(kind), Some(length @ ..=REPLY_LIMIT)) =
        (magic, option, kind, length)
    else {
        return Err(NegotiateError::NotNbd);
    };
    let mut data = vec![0; length as usize];
    stream.read_exact(&mut data)?;
    Ok((kind, data))
}

fn refused(export: &str, code: u32, data: &[u8]) -> NegotiateError {
    let message = String::from_utf8_lossy(data).chars().filter(|c| !c.is_control()).take(200).collect();
    NegotiateError::Refused { export: export.to_owned(), code, message }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    use crate::session::{Event, Export, Exports, Session};
    use proptest::prelude::*;

    struct Images;

    impl Exports for Images {
        type Handle = ();
        fn find(&self, name: &str) -> Option<Export<()>> {
            (name == "sha256:ab").then_some(Export {
                handle: (),
                size: 12_288,
                preferred_block: 131_072,
                holes: Arc::default(),
            })
        }
        fn names(&self) -> Vec<String> {
            Vec::new()
        }
    }

    /// Our own server at the other end of a wire without time.
    struct Wire {
        session: Session<()>,
        pending: Vec<u8>,
    }

    impl Read for Wire {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            while let event @ (Event::Read(_) | Event::Cache { .. }) = self.session.poll(&Images) {
                self.session.take_output(&mut self.pending);
                let Event::Read(mut read) = event else { continue };
                let length = self.session.next_part(&mut read, &mut self.pending);
                self.pending.resize(self.pending.len() + length as usize, 7);
            }
            self.session.take_output(&mut self.pending);
            let count = buffer.len().min(self.pending.len());
            buffer[..count].copy_from_slice(&self.pending[..count]);
            self.pending.drain(..count);
            Ok(count)
        }
    }

    impl Write for Wire {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.session.receive(bytes);
            Ok(bytes.len())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn wire() -> Wire {
        Wire { session: Session::new(), pending: Vec::new() }
    }

    #[test]
    fn our_client_understands_our_server() {
        let negotiated = negotiate(&mut wire(), "sha256:ab").unwrap();
        assert_eq!((negotiated.size, negotiated.block_sizes), (12_288, Some([1, 131_072, 32 << 20])));
        let wanted = wire::FLAG_READ_ONLY | wire::FLAG_CAN_MULTI_CONN;
        assert_eq!(negotiated.flags & wanted, wanted);
    }

    #[test]
    fn our_client_reads_from_our_server() {
        let (mut wire, mut block) = (wire(), [0; 512]);
        negotiate(&mut wire, "sha256:ab").unwrap();
        for offset in [0, 4096] {
            read(&mut wire, offset, &mut block).unwrap();
            assert_eq!(block, [7; 512]);
        }
        let beyond = read(&mut wire, 12_288, &mut block).unwrap_err();
        assert!(matches!(beyond, ReadError::Refused(wire::EINVAL)), "{beyond}");
    }

    #[test]
    fn an_answer_to_another_request_is_none() {
        let mut other = Vec::new();
        other.put_u32(wire::SIMPLE_REPLY_MAGIC);
        other.put_u32(0);
        other.put_u64(5);
        let error = read(&mut Fixed(io::Cursor::new(other)), 4096, &mut [0; 512]).unwrap_err();
        assert!(matches!(error, ReadError::NotAnAnswer), "{error}");
    }

    #[test]
    fn an_unknown_export_is_named() {
        let error = negotiate(&mut wire(), "sha256:cd").unwrap_err();
        assert_eq!(error.to_string(), "the NBD server has no export sha256:cd");
    }

    /// A server that says the same whatever it hears.
    struct Fixed(io::Cursor<Vec<u8>>);
    impl Read for Fixed {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            self.0.read(buffer)
        }
    }

    impl Write for Fixed {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            Ok(bytes.len())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    proptest! {
        #[test]
        fn no_server_makes_the_client_panic(bytes: Vec<u8>, real in any::<bool>()) {
            let mut input = Vec::new();
            if real {
                input.put_u64(wire::INIT_MAGIC);
                input.put_u64(wire::OPTION_MAGIC);
                input.put_u16(3);
            }
            input.extend(bytes);
            let _ = negotiate(&mut Fixed(io::Cursor::new(input)), "x");
        }
    }
}

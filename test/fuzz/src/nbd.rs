//! NBD: both sides of a connection.

use std::io::{self, Cursor, Read, Write};

use stoke_nbd::client::negotiate;
use stoke_nbd::{Event, Export, Exports, Session};

use crate::pieces::Pieces;

const SIZE: u64 = 1 << 20;

struct One;

impl Exports for One {
    type Handle = ();

    fn find(&self, name: &str) -> Option<Export<()>> {
        (name == "root" || name.is_empty()).then_some(Export { handle: (), size: SIZE, preferred_block: 4096 })
    }

    fn names(&self) -> Vec<String> {
        vec!["root".to_owned()]
    }
}

/// What a client sends, in pieces as the network cuts it: reads are within the export, and what is sent back is bounded by
/// what came in.
pub fn session(input: &[u8]) {
    let mut pieces = Pieces(input);
    let mut session = Session::new();
    let mut output = Vec::new();
    while !pieces.is_empty() {
        let length = usize::from(pieces.byte()) + 1;
        session.receive(pieces.bytes(length));
        // Each event needs a request of 28 bytes, or an option of 16.
        for _ in 0..=length {
            let event = session.poll(&One);
            session.take_output(&mut output);
            assert!(output.len() <= 64 << 10, "{} bytes of output at once", output.len());
            output.clear();
            match event {
                Event::Read(read) => {
                    assert!(read.offset + u64::from(read.length) <= SIZE, "a read behind the end");
                    let header = session.read_header(&read);
                    assert!(header.as_ref().len() <= 28);
                    if read.cookie % 2 == 0 {
                        session.fail(read.cookie, 5);
                    }
                }
                Event::Cache { offset, length } => assert!(offset + u64::from(length) <= SIZE),
                Event::NeedInput => break,
                Event::Close => return,
            }
        }
    }
}

/// A server that says what it likes.
struct Server<'a>(Cursor<&'a [u8]>);

impl Read for Server<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.0.read(buffer)
    }
}

impl Write for Server<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// What a server says while an export is negotiated.
pub fn client(input: &[u8]) {
    let _ = negotiate(&mut Server(Cursor::new(input)), "root");
}

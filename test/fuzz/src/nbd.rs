//! NBD: both sides of a connection.

use std::io::{self, Cursor, Read, Write};
use std::sync::Arc;

use stoke_nbd::client::negotiate;
use stoke_nbd::session::Tls;
use stoke_nbd::{Event, Export, Exports, Holes, Read as Wanted, Session, hot};

use crate::pieces::Pieces;

const SIZE: u64 = 1 << 20;

struct One;

impl Exports for One {
    type Handle = ();

    fn find(&self, name: &str) -> Option<Export<()>> {
        let holes = || Arc::new(Holes::new(vec![(8192, 4096), (65536, 65536)]));
        let ours = name == "root" || name.is_empty();
        ours.then(|| Export { handle: (), size: SIZE, preferred_block: 4096, holes: holes() })
    }

    fn names(&self) -> Vec<String> {
        vec!["root".to_owned()]
    }
}

/// What a client sends, in pieces as the network cuts it: reads are within the export, and what is sent back is bounded by
/// what came in.
pub fn session(input: &[u8]) {
    for tls in [Tls::Unavailable, Tls::Offered, Tls::Required] {
        serve(Session::with_tls(tls), input);
    }
}

fn serve(mut session: Session<()>, input: &[u8]) {
    let mut pieces = Pieces(input);
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
                Event::Read(read) => answer(&mut session, read),
                Event::Cache { offset, length } => assert!(offset + u64::from(length) <= SIZE),
                Event::StartTls => session.secured(),
                Event::NeedInput => {
                    session.rest();
                    break;
                }
                Event::Close => return,
            }
        }
    }
}

/// The parts of an answer are the read's, in order, and all of it.
fn answer(session: &mut Session<()>, mut read: Wanted) {
    assert!(read.offset + u64::from(read.length) <= SIZE, "a read behind the end");
    let end = read.offset + u64::from(read.length);
    let mut headers = Vec::new();
    loop {
        let from = read.offset;
        let data = session.next_part(&mut read, &mut headers);
        assert!(from + u64::from(data) <= read.offset, "more data than was asked for");
        assert!(headers.len() <= 4096, "{} bytes of headers", headers.len());
        if read.length == 0 {
            break;
        }
    }
    assert_eq!(read.offset, end);
    if read.cookie.is_multiple_of(2) {
        session.fail(read.cookie, 5);
    }
}

/// A list of parts of an image, as the farm keeps and hands them out: cut to the image.
pub fn hot_list(input: &[u8]) {
    let mut pieces = Pieces(input);
    let size = u64::from(pieces.number());
    let Ok(ranges) = serde_json::from_slice::<Vec<hot::Range>>(pieces.0) else { return };
    for (offset, length) in hot::within(&ranges, size) {
        assert!(length > 0 && offset + u64::from(length) <= size, "a part behind the end");
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

//! The state machine, byte by byte.

use super::*;
use proptest::prelude::*;

use crate::holes::Holes;

struct One;

/// Data, then a hole in the middle of the export, then data.
fn holes() -> Arc<Holes> {
    Arc::new(Holes::new(vec![(8192, 12_288)]))
}

fn read(offset: u64, length: u32) -> Read {
    Read { cookie: 77, offset, length, whole: false }
}

impl Exports for One {
    type Handle = ();
    fn find(&self, name: &str) -> Option<Export<()>> {
        (name == "one").then_some(Export { handle: (), size: 1 << 20, preferred_block: 4096, holes: holes() })
    }
    fn names(&self) -> Vec<String> {
        vec!["one".to_owned()]
    }
}

fn option(number: u32, data: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    bytes.put_u64(wire::OPTION_MAGIC);
    bytes.put_u32(number);
    bytes.put_u32(u32::try_from(data.len()).unwrap());
    bytes.put(data);
    bytes
}

fn go(name: &str) -> Vec<u8> {
    let mut data = Vec::new();
    data.put_u32(u32::try_from(name.len()).unwrap());
    data.put(name.as_bytes());
    data.put_u16(0);
    option(wire::OPT_GO, &data)
}

fn request(command: u16, offset: u64, length: u32) -> Vec<u8> {
    let mut bytes = Vec::new();
    bytes.put_u32(wire::REQUEST_MAGIC);
    bytes.put_u16(0);
    bytes.put_u16(command);
    bytes.put_u64(77);
    bytes.put_u64(offset);
    bytes.put_u32(length);
    bytes
}

fn output(session: &mut Session<()>) -> Vec<u8> {
    let mut bytes = Vec::new();
    session.take_output(&mut bytes);
    bytes
}

/// A session in transmission, with its output thrown away.
fn transmitting() -> Session<()> {
    let mut session = Session::new();
    session.receive(&3_u32.to_be_bytes());
    session.receive(&go("one"));
    assert_eq!(session.poll(&One), Event::NeedInput);
    assert!(session.export().is_some());
    output(&mut session);
    session
}

#[test]
fn an_unknown_export_leaves_the_negotiation_open() {
    let mut session = Session::new();
    session.receive(&3_u32.to_be_bytes());
    session.receive(&go("two"));
    session.receive(&go("one"));
    assert_eq!(session.poll(&One), Event::NeedInput);
    assert_eq!(session.export().map(|export| export.size), Some(1 << 20));
}

#[test]
fn reads_beyond_the_end_are_refused_without_reading() {
    let mut session = transmitting();
    for (offset, length) in [(1 << 20, 1), ((1 << 20) - 1, 2), (u64::MAX, 4096)] {
        session.receive(&request(wire::CMD_READ, offset, length));
        assert_eq!(session.poll(&One), Event::NeedInput);
        assert_eq!(output(&mut session).get(4..8).unwrap(), wire::EINVAL.to_be_bytes());
    }
}

#[test]
fn a_write_is_refused_and_its_data_are_not_taken_for_requests() {
    let mut session = transmitting();
    session.receive(&request(wire::CMD_WRITE, 0, 100));
    session.receive(&[0xff; 60]);
    assert_eq!(session.poll(&One), Event::NeedInput);
    assert_eq!(output(&mut session).get(4..8).unwrap(), wire::EPERM.to_be_bytes());
    session.receive(&[0xff; 40]);
    session.receive(&request(wire::CMD_READ, 0, 512));
    assert_eq!(session.poll(&One), Event::Read(read(0, 512)));
}

#[test]
fn an_option_of_gigabytes_is_skipped_without_being_kept() {
    let mut session = Session::<()>::new();
    session.receive(&3_u32.to_be_bytes());
    let mut huge = option(wire::OPT_GO, b"");
    huge.truncate(12);
    huge.put_u32(u32::MAX);
    session.receive(&huge);
    assert_eq!(session.poll(&One), Event::NeedInput);
    session.receive(&vec![0; 1 << 16]);
    assert_eq!((session.input.len(), session.poll(&One)), (0, Event::NeedInput));
}

proptest! {
    #[test]
    fn no_bytes_panic_and_none_are_hoarded(chunks in proptest::collection::vec(any::<Vec<u8>>(), 0..20)) {
        let mut session = Session::<()>::new();
        session.receive(&3_u32.to_be_bytes());
        for chunk in chunks {
            session.receive(&chunk);
            while !matches!(session.poll(&One), Event::NeedInput | Event::Close) {}
            prop_assert!(session.input.len() <= wire::NAME_LIMIT + 2048);
        }
    }

    #[test]
    fn any_cut_of_the_stream_gives_the_same_answers(cuts in proptest::collection::vec(1_usize..40, 1..60)) {
        let mut stream = 3_u32.to_be_bytes().to_vec();
        stream.extend(option(wire::OPT_STRUCTURED_REPLY, b""));
        stream.extend(option(99, b"what"));
        stream.extend(go("one"));
        stream.extend(request(wire::CMD_WRITE, 0, 7));
        stream.extend([1; 7]);
        stream.extend(request(wire::CMD_READ, 4096, 512));
        stream.extend(request(wire::CMD_DISC, 0, 0));
        let run = |pieces: Vec<&[u8]>| {
            let (mut session, mut events) = (Session::<()>::new(), Vec::new());
            for piece in pieces {
                session.receive(piece);
                loop {
                    match session.poll(&One) {
                        Event::NeedInput => break,
                        event => {
                            let over = event == Event::Close;
                            events.push(event);
                            if over { break }
                        }
                    }
                }
            }
            (events, output(&mut session))
        };
        let (mut pieces, mut rest, mut cuts) = (Vec::new(), stream.as_slice(), cuts.into_iter().cycle());
        while !rest.is_empty() {
            let (piece, left) = rest.split_at(cuts.next().unwrap().min(rest.len()));
            pieces.push(piece);
            rest = left;
        }
        prop_assert_eq!(run(pieces), run(vec![&stream]));
    }
}

/// A session that has negotiated structured replies and block status.
fn structured() -> Session<()> {
    let mut session = Session::new();
    session.receive(&3_u32.to_be_bytes());
    session.receive(&option(wire::OPT_STRUCTURED_REPLY, b""));
    session.receive(&option(wire::OPT_SET_META_CONTEXT, &meta("one", &[wire::BASE_ALLOCATION])));
    session.receive(&go("one"));
    assert_eq!(session.poll(&One), Event::NeedInput);
    output(&mut session);
    session
}

fn meta(name: &str, queries: &[&str]) -> Vec<u8> {
    let mut data = Vec::new();
    data.put_u32(u32::try_from(name.len()).unwrap());
    data.put(name.as_bytes());
    data.put_u32(u32::try_from(queries.len()).unwrap());
    for query in queries {
        data.put_u32(u32::try_from(query.len()).unwrap());
        data.put(query.as_bytes());
    }
    data
}

/// Chunks of a structured answer: flags, kind and content.
fn chunks(mut bytes: &[u8]) -> Vec<(u16, u16, Vec<u8>)> {
    let mut chunks = Vec::new();
    while !bytes.is_empty() {
        let mut cursor = Cursor(bytes);
        assert_eq!(cursor.u32(), Some(wire::STRUCTURED_REPLY_MAGIC));
        let (flags, kind, cookie) = (cursor.u16().unwrap(), cursor.u16().unwrap(), cursor.u64());
        assert_eq!(cookie, Some(77));
        let length = cursor.u32().unwrap() as usize;
        chunks.push((flags, kind, cursor.take(length).unwrap().to_vec()));
        bytes = cursor.0;
    }
    chunks
}

/// The whole answer to a read, with `data` bytes of 7 as the driver would put them in.
fn answer(session: &mut Session<()>) -> Vec<u8> {
    let Event::Read(mut read) = session.poll(&One) else { panic!("no read") };
    let mut bytes = Vec::new();
    loop {
        let data = session.next_part(&mut read, &mut bytes);
        bytes.resize(bytes.len() + data as usize, 7);
        if read.length == 0 {
            return bytes;
        }
    }
}

#[test]
fn a_read_over_a_hole_is_answered_in_chunks_of_which_the_hole_has_no_data() {
    let mut session = structured();
    session.receive(&request(wire::CMD_READ, 4096, 16_384));
    let chunks = chunks(&answer(&mut session));
    let kinds: Vec<_> = chunks.iter().map(|(flags, kind, content)| (*flags, *kind, content.len())).collect();
    let (data, hole) = (wire::REPLY_TYPE_OFFSET_DATA, wire::REPLY_TYPE_OFFSET_HOLE);
    assert_eq!(kinds, [(0, data, 8 + 4096), (0, hole, 12), (1, data, 8 + 8192)]);
    let mut hole = Cursor(&chunks[1].2);
    assert_eq!((hole.u64(), hole.u32()), (Some(8192), Some(4096)));
}

#[test]
fn a_read_that_ends_in_a_hole_is_done_with_it_and_one_of_no_length_is_done_at_once() {
    let mut session = structured();
    session.receive(&request(wire::CMD_READ, 8192, 4096));
    assert_eq!(chunks(&answer(&mut session)).iter().map(|chunk| (chunk.0, chunk.1)).collect::<Vec<_>>(), [(1, 2)]);
    session.receive(&request(wire::CMD_READ, 8192, 0));
    assert_eq!(chunks(&answer(&mut session)), [(1, wire::REPLY_TYPE_NONE, vec![])]);
}

#[test]
fn a_read_that_must_not_be_split_is_not() {
    let mut session = structured();
    let mut bytes = request(wire::CMD_READ, 4096, 16_384);
    bytes[5] = u8::try_from(wire::CMD_FLAG_DF).unwrap();
    session.receive(&bytes);
    let chunks = chunks(&answer(&mut session));
    assert_eq!((chunks.len(), chunks[0].2.len()), (1, 8 + 16_384));
}

#[test]
fn block_status_tells_data_from_holes() {
    let mut session = structured();
    session.receive(&request(wire::CMD_BLOCK_STATUS, 4096, 65_536));
    assert_eq!(session.poll(&One), Event::NeedInput);
    let status = |session: &mut Session<()>| {
        let chunks = chunks(&output(session));
        assert_eq!((chunks.len(), chunks[0].0, chunks[0].1), (1, 1, wire::REPLY_TYPE_BLOCK_STATUS));
        chunks[0].2.chunks(4).map(|word| u32::from_be_bytes(word.try_into().unwrap())).collect::<Vec<_>>()
    };
    assert_eq!(status(&mut session), [1, 4096, 0, 4096, 3, 57_344, 0]);
    let mut one = request(wire::CMD_BLOCK_STATUS, 4096, 65_536);
    one[5] = u8::try_from(wire::CMD_FLAG_REQ_ONE).unwrap();
    session.receive(&one);
    assert_eq!(session.poll(&One), Event::NeedInput);
    assert_eq!(status(&mut session), [1, 4096, 0]);
}

#[test]
fn block_status_that_was_not_negotiated_or_for_another_export_is_refused() {
    for (structured, chosen) in [(true, None), (true, Some("two")), (false, Some("one"))] {
        let mut session = Session::new();
        session.receive(&3_u32.to_be_bytes());
        if structured {
            session.receive(&option(wire::OPT_STRUCTURED_REPLY, b""));
        }
        if let Some(name) = chosen {
            session.receive(&option(wire::OPT_SET_META_CONTEXT, &meta(name, &[wire::BASE_ALLOCATION])));
        }
        session.receive(&go("one"));
        session.receive(&request(wire::CMD_BLOCK_STATUS, 0, 4096));
        session.poll(&One);
        let State::Transmit { allocation, .. } = session.state else { panic!("no transmission") };
        assert!(!allocation);
        assert!(output(&mut session).windows(4).any(|word| word == wire::EINVAL.to_be_bytes()));
    }
}

#[test]
fn what_came_in_the_clear_behind_starttls_is_not_believed() {
    let mut session = Session::<()>::with_tls(Tls::Offered);
    session.receive(&3_u32.to_be_bytes());
    session.receive(&[option(wire::OPT_STARTTLS, b""), go("one")].concat());
    assert_eq!(session.poll(&One), Event::Close);
}

#[test]
fn inside_of_tls_the_negotiation_begins_anew() {
    let mut session = Session::<()>::with_tls(Tls::Required);
    session.receive(&3_u32.to_be_bytes());
    session.receive(&[option(wire::OPT_STRUCTURED_REPLY, b""), go("one")].concat());
    assert_eq!(session.poll(&One), Event::NeedInput);
    assert!(session.export().is_none(), "nothing is said outside of TLS");
    session.receive(&option(wire::OPT_STARTTLS, b""));
    assert_eq!(session.poll(&One), Event::StartTls);
    session.secured();
    session.receive(&go("one"));
    assert_eq!(session.poll(&One), Event::NeedInput);
    assert!(session.export().is_some() && !session.structured);
}

#[test]
fn without_tls_starttls_is_unsupported() {
    let mut session = Session::<()>::new();
    session.receive(&3_u32.to_be_bytes());
    session.receive(&option(wire::OPT_STARTTLS, b""));
    assert_eq!(session.poll(&One), Event::NeedInput);
    assert!(output(&mut session).windows(4).any(|word| word == wire::REP_ERR_UNSUP.to_be_bytes()));
}

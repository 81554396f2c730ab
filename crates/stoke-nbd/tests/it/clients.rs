//! What real clients see.

use std::fs;
use std::io::{Read as _, Write as _};

use stoke_nbd::{client, wire};

use crate::bed::{Bed, HOLE, SIZE, byte_at, must};

fn image() -> Vec<u8> {
    (0..SIZE).map(byte_at).collect()
}

#[test]
fn nbdcopy_gets_the_image_over_one_connection_and_over_several() {
    let bed = Bed::new();
    for connections in ["1", "4"] {
        let to = bed.path("copy");
        must("nbdcopy", &["--connections", connections, &bed.uri(), to.to_str().unwrap()]);
        assert!(fs::read(&to).unwrap() == image(), "with {connections} connections it is another image");
    }
}

#[test]
fn nbdinfo_and_qemu_see_the_hole() {
    let bed = Bed::new();
    let map = must("nbdinfo", &["--map", &bed.uri()]);
    let rows: Vec<Vec<&str>> = map.lines().map(|line| line.split_whitespace().collect()).collect();
    let (begin, length, rest) =
        (HOLE.start.to_string(), (HOLE.end - HOLE.start).to_string(), (SIZE - HOLE.end).to_string());
    let end = HOLE.end.to_string();
    assert_eq!(rows.len(), 3, "{map}");
    assert_eq!(rows[0][..3], ["0", &begin, "0"], "{map}");
    assert_eq!(rows[1][..3], [&begin, &length, "3"], "{map}");
    assert_eq!(rows[2][..3], [&end, &rest, "0"], "{map}");

    let to = bed.path("qemu");
    must("qemu-img", &["convert", "-f", "raw", "-O", "raw", &bed.uri(), to.to_str().unwrap()]);
    assert!(fs::read(&to).unwrap() == image(), "QEMU got another image");
}

#[test]
fn what_nbdinfo_is_told() {
    let bed = Bed::new();
    let info = must("nbdinfo", &[&bed.uri()]);
    for line in [
        "protocol: newstyle-fixed without TLS, using structured packets",
        "export-size: 8388608 (8M)",
        "is_read_only: true",
        "can_multi_conn: true",
        "can_cache: true",
        "can_df: true",
        "base:allocation",
        "block_size_minimum: 1",
        "block_size_preferred: 4096",
        "block_size_maximum: 33554432",
    ] {
        assert!(info.contains(line), "{line} is not in\n{info}");
    }
    assert_eq!(must("nbdinfo", &["--list", &format!("nbd://{}", bed.address)]).matches("export=").count(), 1);
}

#[test]
fn reads_of_every_length_at_once_are_answered_in_order() {
    let (bed, image) = (Bed::new(), image());
    let mut stream = bed.attach();
    // Around the length from which on data are not gathered, and over the hole; the last one is refused.
    let lengths = [1_u32, 0, 511, 4096, 16_383, 16_384, 16_385, 65_536, 1 << 20, 4 << 20];
    let mut requests = Vec::new();
    for (cookie, length) in (0_u64..).zip(lengths) {
        for field in
            [&wire::REQUEST_MAGIC.to_be_bytes()[..], &[0; 4], &cookie.to_be_bytes(), &(cookie * 7).to_be_bytes()]
        {
            requests.extend(field);
        }
        requests.extend(length.to_be_bytes());
    }
    stream.write_all(&requests).unwrap();
    for (cookie, length) in (0_u64..).zip(lengths) {
        let mut header = [0; 16];
        stream.read_exact(&mut header).unwrap();
        assert_eq!(header[8..], cookie.to_be_bytes());
        assert_eq!(header[..8], [wire::SIMPLE_REPLY_MAGIC.to_be_bytes(), [0; 4]].concat());
        let mut data = vec![0xee; length as usize];
        stream.read_exact(&mut data).unwrap();
        let offset = usize::try_from(cookie * 7).unwrap();
        assert!(data == image[offset..offset + data.len()], "{length} bytes at {offset} are others");
    }
    let beyond = client::read(&mut stream, SIZE - 1, &mut [0; 2]).unwrap_err();
    assert!(matches!(beyond, client::ReadError::Refused(wire::EINVAL)), "{beyond}");
}

#[test]
fn far_more_busy_clients_than_threads_all_get_what_they_asked_for() {
    let (bed, image) = (Bed::new(), image());
    let client = |number: u64| {
        let mut stream = bed.attach();
        let mut block = vec![0; 20_000];
        for turn in 0..20 {
            let offset = (number * 40_503 + turn * 7919) % (SIZE - 20_000);
            client::read(&mut stream, offset, &mut block).unwrap();
            let at = usize::try_from(offset).unwrap();
            assert!(block == image[at..at + block.len()], "20000 bytes at {offset} are others");
        }
    };
    std::thread::scope(|scope| {
        for number in 0..200 {
            let client = &client;
            scope.spawn(move || client(number));
        }
    });
}

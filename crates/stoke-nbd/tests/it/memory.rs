//! What clients cost that do nothing, or nothing good.

use std::io::Write as _;
use std::net::TcpStream;
use std::time::{Duration, Instant};

use stoke_nbd::{client, wire};

use crate::bed::{Bed, SIZE, must};

/// Bound for an idle client in KiB. Measured: about 4.
const IDLE: i64 = 64;

fn more_descriptors() {
    use rustix::process::{Resource, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, rustix::process::Rlimit { current: limit.maximum, ..limit }).unwrap();
}

#[test]
fn a_thousand_idle_clients_cost_little_and_are_still_served() {
    more_descriptors();
    let bed = Bed::new();
    drop(bed.attach());
    let before = bed.memory();
    let mut clients: Vec<TcpStream> = (0..1000).map(|_| bed.attach()).collect();
    let each = (bed.memory() - before) / 1000;
    assert!(each < IDLE, "{each} KiB for an idle client");
    for client in &mut clients {
        let mut block = [0; 512];
        client::read(client, 4096, &mut block).unwrap();
        assert!(block.iter().all(|byte| *byte != 0));
    }
    let each = (bed.memory() - before) / 1000;
    assert!(each < IDLE, "{each} KiB for a client that has read");
}

/// Sends requests for the whole image until the server takes no more.
fn ask_and_never_read(client: &mut TcpStream) {
    let mut request = Vec::new();
    for field in
        [&wire::REQUEST_MAGIC.to_be_bytes()[..], &[0; 4], &[0; 16], &u32::try_from(SIZE).unwrap().to_be_bytes()]
    {
        request.extend(field);
    }
    client.set_write_timeout(Some(Duration::from_millis(500))).unwrap();
    let many = request.repeat(1000);
    let begin = Instant::now();
    // A full socket, or enough of them.
    while begin.elapsed() < Duration::from_secs(5) && client.write_all(&many).is_ok() {}
}

#[test]
fn clients_that_read_nothing_cost_bounded_memory_and_keep_nobody_waiting() {
    let bed = Bed::new();
    drop(bed.attach());
    let before = bed.memory();
    let mut clients: Vec<TcpStream> = (0..100).map(|_| bed.attach()).collect();
    std::thread::scope(|scope| {
        for client in &mut clients {
            scope.spawn(|| ask_and_never_read(client));
        }
    });
    let grown = bed.memory() - before;
    // Each may hold a batch of requests and one of answers, each thread its buffers.
    assert!(grown < 100 * 256, "100 clients that read nothing cost {grown} KiB");
    let to = bed.path("copy");
    must("nbdcopy", &[&bed.uri(), to.to_str().unwrap()]);
    assert_eq!(std::fs::metadata(to).unwrap().len(), SIZE);
    drop(clients);
}

#[test]
fn short_answers_that_nobody_reads_are_bounded_too() {
    let bed = Bed::new();
    drop(bed.attach());
    let (before, mut client) = (bed.memory(), bed.attach());
    let mut request = Vec::new();
    for field in [&wire::REQUEST_MAGIC.to_be_bytes()[..], &[0; 4], &[0; 16], &4096_u32.to_be_bytes()] {
        request.extend(field);
    }
    client.set_write_timeout(Some(Duration::from_millis(500))).unwrap();
    let many = request.repeat(1000);
    // Far more than any socket's buffers.
    let taken = (0..10_000).take_while(|_| client.write_all(&many).is_ok()).count();
    assert!(taken < 10_000, "the server takes requests without end");
    let grown = bed.memory() - before;
    assert!(grown < 4096, "a client that reads nothing costs {grown} KiB");
}

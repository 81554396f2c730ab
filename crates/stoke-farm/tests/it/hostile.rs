//! Clients that mean no good, or are broken: what they cost in memory is bounded, and others are served meanwhile.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::time::Duration;

use crate::bed::{Bed, blob_path, must, pattern};

/// Clients at once.
const CROWD: usize = 1000;
/// Packets of each kind.
const PACKETS: u32 = 10_000;
/// What a crowd may cost at its worst, in KiB: 96 KiB for each of it, of which debug builds and allocators take their share.
const ALLOWED: u64 = 96 << 10;

/// Both ends of the connections are in processes that begin with a thousand descriptors on many hosts.
fn crowded_bed() -> Bed {
    must("prlimit", &["--pid", &std::process::id().to_string(), "--nofile=16384:"]);
    Bed::new()
}

/// Its largest size so far, in KiB.
fn peak(bed: &Bed) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", bed.pid())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

fn connect(bed: &Bed, port: u16) -> TcpStream {
    TcpStream::connect((bed.config.address, port)).unwrap()
}

/// Whether blobs are had by HTTP as before.
fn serves(bed: &Bed) {
    let file = bed.path("fetched");
    let url = bed.http(&blob_path(&bed.config.images[0].root.blob));
    must(
        "curl",
        &["-fsS", "--max-time", "60", "--retry", "10", "--retry-all-errors", "-o", file.to_str().unwrap(), &url],
    );
    assert!(std::fs::read(&file).unwrap() == bed.root);
}

fn within_bounds(bed: &Bed, before: u64) {
    let grown = peak(bed).saturating_sub(before);
    assert!(grown <= ALLOWED, "the farm grew by {grown} KiB");
}

/// Waits until the farm has dealt with what was sent before: it answers a question that comes behind it.
fn answered(socket: &UdpSocket, farm: SocketAddr) {
    let mut buffer = [0; 2048];
    for _ in 0..300 {
        socket.send_to(b"\0\x01no such file\0octet\0", farm).unwrap();
        if socket.recv_from(&mut buffer).is_ok() {
            return;
        }
    }
    panic!("TFTP answers no more");
}

#[test]
fn tftp_packets_that_make_no_sense() {
    let bed = crowded_bed();
    let before = peak(&bed);
    let farm = SocketAddr::from((bed.config.address, bed.config.tftp_port));
    let socket = UdpSocket::bind((bed.config.address, 0)).unwrap();
    socket.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
    for number in 0..PACKETS {
        let length = if number % 100 == 0 { 60_000 } else { 4 + number as usize % 600 };
        let mut packet = pattern(length, number);
        // Most have an operation that is known.
        packet[..2].copy_from_slice(&[0, u8::try_from(number % 8).unwrap()]);
        let _ = socket.send_to(&packet, farm);
        if number % 500 == 0 {
            answered(&socket, farm);
        }
    }
    answered(&socket, farm);
    within_bounds(&bed, before);
    serves(&bed);
}

#[test]
fn tftp_clients_that_never_acknowledge() {
    let bed = crowded_bed();
    let before = peak(&bed);
    let farm = SocketAddr::from((bed.config.address, bed.config.tftp_port));
    let crowd: Vec<_> = (0..CROWD).map(|_| UdpSocket::bind((bed.config.address, 0)).unwrap()).collect();
    for socket in &crowd {
        socket.send_to(b"\0\x01undionly.kpxe\0octet\0blksize\x001468\0windowsize\x0064\0", farm).unwrap();
    }
    let last = crowd.last().unwrap();
    last.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
    answered(last, farm);
    within_bounds(&bed, before);
    serves(&bed);
}

#[test]
fn requests_that_never_end() {
    let bed = crowded_bed();
    let before = peak(&bed);
    let mut crowd: Vec<_> = (0..CROWD).map(|_| connect(&bed, bed.config.http_port)).collect();
    for stream in &mut crowd {
        // Who waits for more of it may have closed it already to make room.
        let _ = stream.write_all(b"GET /v1/boot.ipxe?mac=52:54:00:00:00:01 HTTP/1.1\r\nHost: farm\r\nX-Slow: ");
    }
    serves(&bed);
    within_bounds(&bed, before);
}

#[test]
fn requests_that_are_too_long_are_refused() {
    let bed = Bed::new();
    let before = peak(&bed);
    for _ in 0..20 {
        let mut stream = connect(&bed, bed.config.http_port);
        stream.set_read_timeout(Some(Duration::from_mins(1))).unwrap();
        let _ = stream.write_all(b"GET / HTTP/1.1\r\nHost: farm\r\nX-Long: ");
        // It is closed long before all of this.
        let _ = stream.write_all(&vec![b'x'; 4 << 20]);
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer);
        assert!(!answer.starts_with(b"HTTP/1.1 2"), "{}", String::from_utf8_lossy(&answer));
    }
    within_bounds(&bed, before);
    serves(&bed);
}

#[test]
fn clients_that_ask_for_a_root_and_read_nothing() {
    let bed = crowded_bed();
    let before = peak(&bed);
    let path = blob_path(&bed.config.images[0].root.blob);
    let request = format!("GET {path} HTTP/1.1\r\nHost: farm\r\n\r\n");
    let mut crowd: Vec<_> = (0..CROWD).map(|_| connect(&bed, bed.config.http_port)).collect();
    for stream in &mut crowd {
        let _ = stream.write_all(request.as_bytes());
    }
    serves(&bed);
    within_bounds(&bed, before);
}

#[test]
fn tls_handshakes_that_never_begin_and_some_that_are_none() {
    let bed = crowded_bed();
    let before = peak(&bed);
    let mut crowd: Vec<_> = (0..CROWD).map(|_| connect(&bed, bed.config.node_port)).collect();
    for (number, stream) in crowd.iter_mut().enumerate().filter(|(number, _)| number % 2 == 0) {
        let _ = stream.write_all(&pattern(2000, u32::try_from(number).unwrap()));
    }
    let node = format!("https://{}:{}/v1/node/orders?session=none", bed.config.address, bed.config.node_port);
    let status = must("curl", &["-sSk", "--max-time", "60", "-o", "/dev/null", "-w", "%{http_code}", &node]);
    assert_eq!(status, "410");
    within_bounds(&bed, before);
}

#[test]
fn nbd_clients_that_ask_for_everything_and_read_nothing() {
    let bed = crowded_bed();
    let before = peak(&bed);
    let export = bed.config.images[0].root.blob.to_string();
    let size = u32::try_from(bed.root.len()).unwrap();
    let mut crowd: Vec<_> = (0..CROWD / 4).map(|_| connect(&bed, bed.config.nbd_port)).collect();
    for stream in &mut crowd {
        let mut bytes = 3_u32.to_be_bytes().to_vec();
        // NBD_OPT_GO without information requests.
        bytes.extend(b"IHAVEOPT");
        bytes.extend(7_u32.to_be_bytes());
        bytes.extend(u32::try_from(export.len() + 6).unwrap().to_be_bytes());
        bytes.extend(u32::try_from(export.len()).unwrap().to_be_bytes());
        bytes.extend(export.as_bytes());
        bytes.extend([0, 0]);
        for cookie in 0..50_u64 {
            bytes.extend(0x2560_9513_u32.to_be_bytes());
            bytes.extend([0; 4]);
            bytes.extend(cookie.to_be_bytes());
            bytes.extend(0_u64.to_be_bytes());
            bytes.extend(size.to_be_bytes());
        }
        let _ = stream.write_all(&bytes);
    }
    let output = bed.path("copy");
    must("nbdcopy", &[&bed.nbd(&bed.config.images[0].root.blob), output.to_str().unwrap()]);
    assert!(std::fs::read(&output).unwrap() == bed.root);
    within_bounds(&bed, before);
}

#[test]
fn nbd_connections_that_speak_something_else() {
    let bed = crowded_bed();
    let before = peak(&bed);
    let mut crowd: Vec<_> = (0..CROWD).map(|_| connect(&bed, bed.config.nbd_port)).collect();
    for (number, stream) in crowd.iter_mut().enumerate().filter(|(number, _)| number % 2 == 0) {
        let _ = stream.write_all(&pattern(3000, u32::try_from(number).unwrap()));
    }
    must("nbdinfo", &["--size", &bed.nbd(&bed.config.images[0].root.blob)]);
    within_bounds(&bed, before);
}

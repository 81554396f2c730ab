//! Boot programs, scripts and blobs over IPv6.

use std::net::{Ipv6Addr, TcpListener, TcpStream, UdpSocket};

use crate::bed::{Bed, blob_path, must, pattern};

/// A port that is free on the loopback address, of which IPv6 has one only.
fn free<S>(bind: impl Fn((Ipv6Addr, u16)) -> std::io::Result<S>, port: impl Fn(&S) -> u16) -> u16 {
    port(&bind((Ipv6Addr::LOCALHOST, 0)).unwrap())
}

#[test]
fn what_boots_is_served_over_ipv6_and_names_it() {
    let mut bed = Bed::stopped();
    bed.config.address6 = Some(Ipv6Addr::LOCALHOST);
    bed.config.http_port = free(TcpListener::bind, |socket| socket.local_addr().unwrap().port());
    bed.config.tftp_port = free(UdpSocket::bind, |socket| socket.local_addr().unwrap().port());
    bed.start();
    let base = format!("http://[::1]:{}", bed.config.http_port);
    let get = |url: &str| must("curl", &["-sS", "-f", "-g", url]);

    let script = get(&format!("{base}/v1/boot.ipxe?mac=52:54:00:00:00:07"));
    assert!(script.contains(&format!("kernel {base}/v1/blob/sha256/")), "{script}");
    assert!(!script.contains("http://127."), "{script}");
    let script = get(&bed.http("/v1/boot.ipxe?mac=52:54:00:00:00:07"));
    assert!(!script.contains("[::1]"), "who came over IPv4 goes on so: {script}");

    let to = bed.path("got");
    let fetch = |url: &str| {
        must("curl", &["-sS", "-f", "-g", "-o", to.to_str().unwrap(), url]);
        std::fs::read(&to).unwrap()
    };
    let root = bed.config.images[0].root.blob;
    assert!(fetch(&format!("{base}{}", blob_path(&root))) == bed.root);
    assert!(fetch(&format!("tftp://[::1]:{}/snponly.efi", bed.config.tftp_port)) == pattern(180_000, 6));

    bed.config.address6 = None;
    bed.reload();
    let port = bed.config.http_port;
    bed.wait("the socket to be closed", |_| TcpStream::connect((Ipv6Addr::LOCALHOST, port)).is_err());
}

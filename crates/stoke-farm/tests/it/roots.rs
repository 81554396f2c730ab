//! Roots over NBD: what boots read is remembered, and TLS for who wants it.

use std::net::TcpStream;

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, ExtendedKeyUsagePurpose, IsCa, KeyPair};
use stoke_api::node::Phase;
use stoke_api::objects::NbdTls;
use stoke_nbd::client;

use crate::bed::{Bed, MAC, must, run};
use crate::nodes::{begin, post, reached};

/// Reads a block of the root at each of these offsets, as a node that boots.
fn read(bed: &Bed, offsets: &[u64]) {
    let root = bed.config.images[0].root.blob;
    let mut stream = TcpStream::connect((bed.config.address, bed.config.nbd_port)).unwrap();
    client::negotiate(&mut stream, &root.to_string()).unwrap();
    for offset in offsets {
        let mut block = vec![0; 4096];
        client::read(&mut stream, *offset, &mut block).unwrap();
        let at = usize::try_from(*offset).unwrap();
        assert!(block == bed.root[at..at + 4096], "the block at {offset} is another one");
    }
}

#[test]
fn what_the_first_boot_reads_is_told_to_the_next_one_also_by_a_farm_that_was_killed() {
    let mut bed = Bed::new();
    let manifest = begin(&bed, MAC);
    assert_eq!(manifest.hot, [], "nobody has booted yet");
    read(&bed, &[0x20_0000, 0, 0x20_1000]);
    assert_eq!(post(&bed, "/v1/node/report", &reached(&manifest.session, Phase::Ready, 9000)).1, "204");
    // In whole blocks of 64 KiB, in the order of the first reads.
    let hot = [(0x20_0000, 65_536), (0, 65_536)];
    bed.wait("what the boot has read", |bed| begin(bed, MAC).hot == hot);
    // Another boot changes nothing.
    read(&bed, &[0x10_0000]);
    let manifest = begin(&bed, MAC);
    assert_eq!(post(&bed, "/v1/node/report", &reached(&manifest.session, Phase::Ready, 9000)).1, "204");
    assert_eq!(begin(&bed, MAC).hot, hot);
    let root = bed.config.images[0].root.blob;
    bed.wait("the list on disk", |bed| bed.config.state.join("hot").join(format!("{}.json", root.hex())).exists());
    bed.kill();
    bed.start();
    assert_eq!(begin(&bed, MAC).hot, hot);
}

/// A CA, and a folder with a client's certificate of it as GnuTLS wants it; trusts the farm's own certificate.
fn client_in_tls(bed: &Bed) -> String {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let ca = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
    let mut params = CertificateParams::new(vec!["a-client".to_owned()]).unwrap();
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    let key = KeyPair::generate().unwrap();
    let certificate = params.signed_by(&key, &ca).unwrap();
    let folder = bed.path("client");
    std::fs::create_dir(&folder).unwrap();
    std::fs::copy(&bed.config.certificate, folder.join("ca-cert.pem")).unwrap();
    std::fs::write(folder.join("client-cert.pem"), certificate.pem()).unwrap();
    std::fs::write(folder.join("client-key.pem"), key.serialize_pem()).unwrap();
    ca.pem()
}

#[test]
fn roots_in_tls_for_clients_with_a_certificate_and_in_memory_for_nodes() {
    let mut bed = Bed::stopped();
    let client_ca = client_in_tls(&bed);
    bed.config.nbd_tls = Some(NbdTls { client_ca: client_ca.clone(), required: true });
    bed.start();
    let (root, folder) = (bed.config.images[0].root.blob, bed.path("client"));
    let plain = bed.nbd(&root);
    let secure = format!("{}?tls-certificates={}", plain.replacen("nbd:", "nbds:", 1), folder.display());
    let copy = bed.path("copy");
    must("nbdcopy", &[&secure, copy.to_str().unwrap()]);
    assert!(std::fs::read(&copy).unwrap() == bed.root, "nbdcopy got something else");
    assert!(!run("nbdinfo", &["--size", &plain]).status.success(), "a client without TLS is let in");
    assert_eq!(begin(&bed, MAC).nbd, [], "the kernel's client has no TLS");

    // Not required any more: both ways, without a new socket.
    bed.config.nbd_tls = Some(NbdTls { client_ca, required: false });
    bed.reload();
    must("nbdinfo", &["--size", &plain]);
    must("nbdinfo", &["--size", &secure]);
    assert_eq!(begin(&bed, MAC).nbd.len(), 1);
}

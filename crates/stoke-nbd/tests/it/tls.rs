//! Clients in TLS, with certificates.

use std::path::Path;

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, ExtendedKeyUsagePurpose, IsCa, KeyPair};

use crate::bed::{Bed, SIZE, must, run};

struct Ca(CertifiedIssuer<'static, KeyPair>);

impl Ca {
    fn new() -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        Self(CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap())
    }

    /// Writes a certificate of this CA and its key.
    fn issue(&self, name: &str, purpose: ExtendedKeyUsagePurpose, certificate: &Path, key: &Path) {
        let mut params = CertificateParams::new(vec![name.to_owned()]).unwrap();
        params.extended_key_usages = vec![purpose];
        let pair = KeyPair::generate().unwrap();
        let issued = params.signed_by(&pair, &self.0).unwrap();
        std::fs::write(certificate, issued.pem()).unwrap();
        std::fs::write(key, pair.serialize_pem()).unwrap();
    }

    /// A folder as GnuTLS' clients want it, with a certificate of this CA.
    fn folder_for_client(&self, folder: &Path, server_ca: &Self) {
        std::fs::create_dir(folder).unwrap();
        std::fs::write(folder.join("ca-cert.pem"), server_ca.0.pem()).unwrap();
        let (certificate, key) = (folder.join("client-cert.pem"), folder.join("client-key.pem"));
        self.issue("a-client", ExtendedKeyUsagePurpose::ClientAuth, &certificate, &key);
    }
}

/// A server that wants certificates of the CA, and folders of a client with one and of one with another CA's.
fn bed() -> Bed {
    let folder = tempfile::tempdir().unwrap();
    let (ca, other) = (Ca::new(), Ca::new());
    let path = |name: &str| folder.path().join(name);
    ca.issue("127.0.0.1", ExtendedKeyUsagePurpose::ServerAuth, &path("server.pem"), &path("server-key.pem"));
    std::fs::write(path("clients-ca.pem"), ca.0.pem()).unwrap();
    ca.folder_for_client(&path("known"), &ca);
    other.folder_for_client(&path("unknown"), &ca);
    let files = ["server.pem", "server-key.pem", "clients-ca.pem"].map(|name| path(name).display().to_string());
    Bed::with(folder, &files.each_ref().map(String::as_str))
}

fn uri(bed: &Bed, client: &str) -> String {
    format!("nbds://{}/image?tls-certificates={}", bed.address, bed.path(client).display())
}

#[test]
fn nbdcopy_with_a_certificate_gets_the_image_and_nobody_else_does() {
    let bed = bed();
    let to = bed.path("copy");
    must("nbdcopy", &["--connections=2", &uri(&bed, "known"), to.to_str().unwrap()]);
    assert!(std::fs::read(&to).unwrap() == std::fs::read(bed.path("image")).unwrap(), "it is another image");
    assert!(must("nbdinfo", &[&uri(&bed, "known")]).contains("protocol: newstyle-fixed with TLS"));
    assert!(!run("nbdinfo", &["--size", &uri(&bed, "unknown")]).status.success(), "another CA's client is let in");
    assert!(!run("nbdinfo", &["--size", &bed.uri()]).status.success(), "a client without TLS is let in");
}

#[test]
fn qemu_with_a_certificate_reads_the_image() {
    let bed = bed();
    let credentials = format!("tls-creds-x509,id=tls,endpoint=client,dir={}", bed.path("known").display());
    let (host, port) = (bed.address.ip(), bed.address.port());
    let image = format!("driver=nbd,host={host},port={port},export=image,tls-creds=tls");
    let info = must("qemu-img", &["info", "--object", &credentials, "--image-opts", &image]);
    assert!(info.contains(&format!("({SIZE} bytes)")), "{info}");
    let copy = bed.path("copy");
    let convert = ["convert", "--object", &credentials, "--image-opts", &image, "-O", "raw", copy.to_str().unwrap()];
    must("qemu-img", &convert);
    assert!(std::fs::read(&copy).unwrap() == std::fs::read(bed.path("image")).unwrap(), "it is another image");
}

//! What is served, by which real client.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;

use stoke_nbd::wire;

use crate::bed::{Bed, blob_path, must, pattern, run};

fn text(path: &std::path::Path) -> &str {
    path.to_str().unwrap()
}

#[test]
fn tftp_hpa_and_atftp_get_a_boot_program() {
    let bed = Bed::new();
    let (address, port) = (bed.config.address.to_string(), bed.config.tftp_port.to_string());
    let wanted = pattern(180_000, 6);
    let hpa = bed.path("hpa");
    fs::create_dir(&hpa).unwrap();
    let script = format!("cd {} && tftp -m binary {address} {port} -c get snponly.efi", text(&hpa));
    must("sh", &["-c", &script]);
    assert!(fs::read(hpa.join("snponly.efi")).unwrap() == wanted, "tftp-hpa got something else");
    for options in
        [&["blksize 1468"][..], &["blksize 1468", "windowsize 8"], &["blksize 512", "windowsize 64", "tsize 0"]]
    {
        let to = bed.path("atftp");
        let mut arguments: Vec<&str> = options.iter().flat_map(|option| ["--option", option]).collect();
        arguments.extend(["--get", "--remote-file", "\\Boot\\SNPONLY.EFI", "--local-file", text(&to), &address, &port]);
        must("atftp", &arguments);
        assert!(fs::read(&to).unwrap() == wanted, "atftp with {options:?} got something else");
    }
}

#[test]
fn tftp_by_curl_and_what_is_not_there() {
    let bed = Bed::new();
    let url = |name: &str| format!("tftp://{}:{}/{name}", bed.config.address, bed.config.tftp_port);
    let to = bed.path("curl");
    must("curl", &["-sS", "--tftp-blksize", "1024", "-o", text(&to), &url("snponly.efi")]);
    assert!(fs::read(&to).unwrap() == pattern(180_000, 6));
    let refused = run("curl", &["-sS", "-o", text(&to), &url("../config.json")]);
    assert_eq!(refused.status.code(), Some(68), "curl's word for no such file over TFTP");
    let written = run("curl", &["-sS", "-T", text(&bed.path("config.json")), &url("x")]);
    assert!(!written.status.success());
}

#[test]
fn blobs_by_curl_whole_in_parts_and_by_head() {
    let bed = Bed::new();
    let root = bed.config.images[0].root.blob;
    let url = bed.http(&blob_path(&root));
    let to = bed.path("blob");
    must("curl", &["-sS", "-f", "-o", text(&to), &url]);
    assert!(fs::read(&to).unwrap() == bed.root);
    must("curl", &["-sS", "-f", "-r", "1000000-1999999", "-o", text(&to), &url]);
    assert!(fs::read(&to).unwrap() == bed.root[1_000_000..2_000_000]);
    let head = must("curl", &["-sS", "-f", "-I", &url]).to_lowercase();
    for line in [
        "http/1.1 200 ok",
        &format!("content-length: {}", bed.root.len()),
        &format!("etag: \"{root}\""),
        "accept-ranges: bytes",
        "content-type: application/octet-stream",
        "cache-control: public, max-age=31536000, immutable",
    ] {
        assert!(head.contains(line), "{line} is not in\n{head}");
    }
    let whole = must("curl", &["-sS", "-D", "-", "-o", "/dev/null", &url]).to_lowercase();
    assert!(whole.contains("content-length: ") && !whole.contains("transfer-encoding"), "{whole}");
}

#[test]
fn answers_that_are_no_content() {
    let bed = Bed::new();
    let image = &bed.config.images[0];
    let url = bed.http(&blob_path(&image.kernel.digest));
    let status = |arguments: &[&str]| {
        let all = [&["-sS", "-o", "/dev/null", "-w", "%{http_code}"], arguments].concat();
        must("curl", &all)
    };
    assert_eq!(status(&["-r", "100001-", &url]), "416");
    let tag = format!("If-None-Match: \"{}\"", image.kernel.digest);
    assert_eq!(status(&["-H", &tag, &url]), "304");
    assert_eq!(status(&["-H", "If-Range: \"other\"", "-r", "0-9", &url]), "200");
    assert_eq!(status(&[&bed.http(&format!("/v1/blob/sha256/{}", "0".repeat(64)))]), "404");
    assert_eq!(status(&["--path-as-is", &bed.http("/v1/blob/sha256/../../config.json")]), "404");
    assert_eq!(status(&["-X", "PUT", &url]), "405");
    let uki = bed.http(&format!("{}.efi", blob_path(&image.uki.unwrap().digest)));
    assert!(must("curl", &["-sS", "-I", &uki]).to_lowercase().contains("content-type: application/efi"));
    assert_eq!(status(&[&bed.http("/v1/boot/snponly.efi")]), "200");
}

#[test]
fn a_blob_that_is_damaged_on_disk_is_not_served() {
    let bed = Bed::new();
    let kernel = bed.config.images[0].kernel.digest;
    fs::write(bed.config.blobs.join("sha256").join(kernel.hex()), "short").unwrap();
    let answer = must("curl", &["-sS", "-w", "%{http_code}", &bed.http(&blob_path(&kernel))]);
    assert!(
        answer.contains("has 5 bytes instead of 100001; build the image again") && answer.ends_with("503"),
        "{answer}"
    );
}

#[test]
fn nbdinfo_nbdcopy_and_qemu_img_read_a_root() {
    let bed = Bed::new();
    let root = bed.config.images[0].root.blob;
    let uri = bed.nbd(&root);
    let info = must("nbdinfo", &[&uri]);
    for line in [
        "protocol: newstyle-fixed without TLS, using structured packets",
        "is_read_only: true",
        "can_multi_conn: true",
        "block_size_preferred: 4096",
        &format!("export-size: {}", bed.root.len()),
    ] {
        assert!(info.contains(line), "{line} is not in\n{info}");
    }
    let list = must("nbdinfo", &["--list", &format!("nbd://{}:{}", bed.config.address, bed.config.nbd_port)]);
    assert!(list.contains(&root.to_string()), "{list}");
    let to = bed.path("copy");
    for options in [
        &["--connections=4"][..],
        &["--synchronous"],
        &["--request-size=4096", "--requests=16"],
        &["--request-size=2097152"],
    ] {
        let _ = fs::remove_file(&to);
        must("nbdcopy", &[options, &[&uri, text(&to)]].concat());
        assert!(fs::read(&to).unwrap() == bed.root, "nbdcopy {options:?} got something else");
    }
    must("qemu-img", &["convert", "-f", "raw", "-O", "raw", &uri, text(&to)]);
    assert!(fs::read(&to).unwrap() == bed.root, "qemu-img got something else");
}

#[test]
fn a_root_that_is_attached_stays_readable_when_its_image_is_withdrawn() {
    let mut bed = Bed::new();
    let root = bed.config.images[0].root.blob;
    let mut stream = TcpStream::connect((bed.config.address, bed.config.nbd_port)).unwrap();
    let negotiated = stoke_nbd::client::negotiate(&mut stream, &root.to_string()).unwrap();
    assert_eq!(negotiated.size, bed.root.len() as u64);
    bed.config.images.clear();
    bed.config.nbd_port += 1;
    bed.reload();
    let mut request = wire::REQUEST_MAGIC.to_be_bytes().to_vec();
    request.extend([0, 0, 0, 0]);
    request.extend(7_u64.to_be_bytes());
    request.extend(1_000_000_u64.to_be_bytes());
    request.extend(4096_u32.to_be_bytes());
    stream.write_all(&request).unwrap();
    let mut reply = vec![0; 16 + 4096];
    stream.read_exact(&mut reply).unwrap();
    assert_eq!(reply[..8], [&wire::SIMPLE_REPLY_MAGIC.to_be_bytes()[..], &[0; 4]].concat());
    assert!(reply[16..] == bed.root[1_000_000..1_004_096]);
    bed.wait("the new port", |bed| bed.report().ready);
    assert!(!run("nbdinfo", &[&bed.nbd(&root)]).status.success(), "nobody new gets it");
}

#[test]
fn an_export_that_is_not_there_is_refused() {
    let bed = Bed::new();
    let kernel = bed.config.images[0].kernel.digest;
    assert!(!run("nbdinfo", &[&bed.nbd(&kernel)]).status.success(), "a kernel is no root");
    assert!(!run("nbdinfo", &[&format!("nbd://{}:{}/x", bed.config.address, bed.config.nbd_port)]).status.success());
}

#[test]
fn the_boot_script_names_what_the_farm_has() {
    let mut bed = Bed::new();
    let url = bed.http("/v1/boot.ipxe?mac=52:54:00:00:00:07");
    let script = must("curl", &["-sS", "-f", &url]);
    assert!(script.starts_with("#!ipxe\n") && script.contains("BOOTIF=01-52-54-00-00-00-07"), "{script}");
    for blob in [bed.config.images[0].kernel, bed.config.images[0].initramfs, bed.config.images[0].farm_initramfs] {
        assert!(script.contains(&bed.http(&blob_path(&blob.digest))), "{script}");
    }
    let stranger = must("curl", &["-sS", "-f", &bed.http("/v1/boot.ipxe?mac=52:54:00:00:00:99")]);
    assert!(stranger.contains("no Server or Machine") && stranger.contains("exit 1"), "{stranger}");
    bed.config.images.clear();
    bed.reload();
    assert!(must("curl", &["-sS", "-f", &url]).contains("not built yet; next attempt in 5 s"));
    assert_eq!(must("curl", &["-sS", "-w", "%{http_code}", "-o", "/dev/null", &bed.http("/v1/boot.ipxe")]), "400");
}

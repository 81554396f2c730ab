//! Other people's clients, over both families and both kinds of ports.

use std::fs;
use std::sync::atomic::Ordering;

use stoke_tftp::server::{Ports, Settings};

use crate::bed::{Bed, LINES, must, pattern, run};

const SIZE: usize = 180_000;
const NAME: &str = "bytes-180000";

fn beds() -> [Bed; 4] {
    let classic = Settings { ports: Ports::Classic, ..Settings::default() };
    let single = Settings::default();
    [Bed::on("127.0.0.1", single), Bed::on("127.0.0.1", classic), Bed::on("::1", single), Bed::on("::1", classic)]
}

#[test]
fn atftp_with_blocks_and_windows_of_all_sizes() {
    for bed in beds() {
        let (host, port) = (bed.address.ip().to_string(), bed.address.port().to_string());
        let folder = tempfile::tempdir().unwrap();
        let options: [&[&str]; 5] = [
            &[],
            &["blksize 1468"],
            &["blksize 1428", "windowsize 8"],
            &["blksize 512", "windowsize 64", "tsize 0"],
            &["blksize 8", "windowsize 16"],
        ];
        for (number, options) in options.iter().enumerate() {
            let to = folder.path().join(number.to_string());
            let mut arguments: Vec<&str> = options.iter().flat_map(|option| ["--option", option]).collect();
            let name = "\\Some\\..\\BYTES-180000";
            arguments.extend(["--get", "--remote-file", name, "--local-file", to.to_str().unwrap(), &host, &port]);
            must("atftp", &arguments);
            assert!(fs::read(&to).unwrap() == pattern(SIZE), "atftp with {options:?} got something else");
            bed.wait_ended(&format!("{NAME} Complete {SIZE} of {SIZE}"));
        }
        assert_eq!(bed.counters.failed.load(Ordering::Relaxed), 0, "{:?}", bed.ended());
    }
}

#[test]
fn tftp_hpa_in_both_modes() {
    for bed in beds() {
        let folder = tempfile::tempdir().unwrap();
        let (host, port) = (bed.address.ip().to_string(), bed.address.port().to_string());
        let get = |mode: &str, name: &str| {
            let script = format!("cd {} && tftp -m {mode} {host} {port} -c get {name}", folder.path().display());
            must("sh", &["-c", &script]);
            fs::read(folder.path().join(name)).unwrap()
        };
        assert!(get("binary", NAME) == pattern(SIZE));
        // The client turns the line ends of the wire into its own again.
        assert_eq!(get("ascii", "lines"), LINES.as_bytes());
        bed.wait_ended(&format!("lines Complete {0} of {0}", LINES.len() + LINES.matches('\n').count()));
    }
}

#[test]
fn curl_and_what_is_not_there() {
    for bed in beds() {
        let to = tempfile::NamedTempFile::new().unwrap();
        let to = to.path().to_str().unwrap();
        let url = |name: &str| format!("tftp://{}/{name}", bed.address);
        must("curl", &["-sS", "--globoff", "--tftp-blksize", "1024", "-o", to, &url(NAME)]);
        assert!(fs::read(to).unwrap() == pattern(SIZE));
        // Sizes around a block's: the last block may be empty. (This client cannot receive an empty file.)
        for size in [1, 511, 512, 513, 1024] {
            must("curl", &["-sS", "--globoff", "-o", to, &url(&format!("bytes-{size}"))]);
            assert!(fs::read(to).unwrap() == pattern(size), "{size} bytes");
        }
        let missing = run("curl", &["-sS", "--globoff", "-o", to, &url("../etc/shadow")]);
        assert_eq!(missing.status.code(), Some(68), "curl's word for no such file over TFTP");
        assert!(!run("curl", &["-sS", "--globoff", "-T", to, &url("x")]).status.success(), "it only reads");
        assert!(!run("curl", &["-sS", "--globoff", "-o", to, &url("broken")]).status.success());
        bed.wait_ended("etc/shadow refused: no such file");
    }
}

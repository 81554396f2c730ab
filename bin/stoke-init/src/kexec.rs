//! Going over to another image version without firmware: its kernel and initramfs are fetched, checked against their digests
//! and loaded; the system then goes down as it does for a reboot, and the running kernel starts the new one.
//!
//! What cannot be done here is done by the firmware: every failure is a reason to reboot in the usual way.

use std::ffi::CString;
use std::fs::File;
use std::io::{Read as _, Write as _};
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, bail};
use aws_lc_rs::digest;
use rustix::fs::{MemfdFlags, memfd_create};
use stoke_api::MacAddr;
use stoke_api::node::Kexec;
use stoke_api::workload::BlobRef;
use ureq::Agent;

const CONNECT: Duration = Duration::from_secs(5);
const WHOLE: Duration = Duration::from_mins(5);
/// More than this is no kernel and no initramfs.
const LARGEST: u64 = 1 << 30;
/// The longest command line of the kernel on x86 and Arm (`COMMAND_LINE_SIZE`).
const COMMAND_LINE: usize = 2047;
const PIECE: usize = 256 << 10;

/// Fetches and loads a kernel. When this returns, PID 1 can be asked to start it.
///
/// # Errors
/// If it cannot be had, is not what it should be, or the running kernel does not take it.
pub(crate) fn load(kexec: &Kexec, boots_from: MacAddr) -> Result<()> {
    if !Path::new("/run/systemd/system").exists() {
        bail!("PID 1 is not systemd");
    }
    let command_line = command_line(kexec, boots_from)?;
    let kernel = fetch(kexec, std::slice::from_ref(&kexec.kernel)).context("the kernel")?;
    let initramfs = fetch(kexec, &kexec.initramfs).context("the initramfs")?;
    stoke_sys::kexec::load(kernel, initramfs, &command_line).context("the running kernel does not take it")
}

/// Shuts the system down and starts the kernel that was loaded.
///
/// # Errors
/// If PID 1 cannot be asked.
pub(crate) fn start() -> Result<()> {
    stoke_sys::kexec::ask_init().context("could not ask PID 1")
}

/// The kernel's command line, with the interface named as boot loaders name it.
fn command_line(kexec: &Kexec, boots_from: MacAddr) -> Result<CString> {
    let text = format!("{} BOOTIF=01-{}", kexec.command_line, boots_from.to_string().replace(':', "-"));
    if text.len() > COMMAND_LINE {
        bail!("a command line of {} bytes is too long", text.len());
    }
    CString::new(text).context("the command line has a zero in it")
}

/// Fetches blobs into one file in memory, one behind the other, each at a multiple of four as the kernel wants its archives
/// (`unpack_to_rootfs` in Linux' `init/initramfs.c`). The file is open for reading only.
fn fetch(kexec: &Kexec, blobs: &[BlobRef]) -> Result<OwnedFd> {
    let memory = memfd_create("kexec", MemfdFlags::CLOEXEC).context("could not get memory")?;
    let mut file = File::from(memory);
    let mut size = 0;
    for blob in blobs {
        if blob.size > LARGEST {
            bail!("{} has {} bytes", blob.digest, blob.size);
        }
        fetch_from_any(kexec, blob, &mut file, size)?;
        size = (size + blob.size).next_multiple_of(4);
        file.set_len(size).context("could not get memory")?;
    }
    // kernel_read_file() in Linux' fs/kernel_read_file.c refuses what somebody may still write.
    let read_only = File::open(format!("/proc/self/fd/{}", file.as_raw_fd())).context("could not open it again")?;
    Ok(read_only.into())
}

fn fetch_from_any(kexec: &Kexec, blob: &BlobRef, file: &mut File, at: u64) -> Result<()> {
    let config = Agent::config_builder().timeout_connect(Some(CONNECT)).timeout_global(Some(WHOLE)).max_redirects(0);
    let agent: Agent = config.build().into();
    let mut last = anyhow!("the farm names no server");
    for server in &kexec.http {
        let url = format!("{server}{}", blob.http_path());
        match fetch_from(&agent, &url, blob, file, at) {
            Ok(()) => return Ok(()),
            Err(error) => last = error.context(url),
        }
    }
    Err(last)
}

fn fetch_from(agent: &Agent, url: &str, blob: &BlobRef, file: &mut File, at: u64) -> Result<()> {
    use std::io::{Seek as _, SeekFrom};
    file.set_len(at).and_then(|()| file.seek(SeekFrom::Start(at))).context("could not get memory")?;
    let mut body = agent.get(url).call()?.into_body().into_reader().take(blob.size + 1);
    let (mut hash, mut piece) = (digest::Context::new(&digest::SHA256), vec![0; PIECE]);
    loop {
        let count = body.read(&mut piece)?;
        let read = piece.get(..count).unwrap_or_default();
        if read.is_empty() {
            break;
        }
        hash.update(read);
        file.write_all(read).context("could not get memory")?;
    }
    if hash.finish().as_ref() == blob.digest.0 { Ok(()) } else { bail!("its content is not what its digest says") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;
    use stoke_api::names::Digest;

    /// An HTTP server of one file, for as long as it is asked.
    fn serve(content: &'static [u8]) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let mut stream = stream.unwrap();
                let _ = stream.read(&mut [0; 4096]);
                let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\nconnection: close\r\n\r\n", content.len());
                let _ = stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(content));
            }
        });
        url
    }

    fn blob(content: &[u8]) -> BlobRef {
        let hash = digest::digest(&digest::SHA256, content);
        BlobRef { digest: Digest(hash.as_ref().try_into().unwrap()), size: content.len() as u64 }
    }

    fn kexec(http: Vec<String>) -> Kexec {
        let kernel = blob(b"kernel");
        Kexec { image: kernel.digest, kernel, initramfs: vec![], command_line: "quiet".into(), http }
    }

    fn read(file: OwnedFd) -> Vec<u8> {
        let mut content = Vec::new();
        File::from(file).read_to_end(&mut content).unwrap();
        content
    }

    #[test]
    fn archives_follow_each_other_at_multiples_of_four_and_can_only_be_read() {
        let kexec = kexec(vec!["http://127.0.0.1:1".into(), serve(b"abcde")]);
        let file = fetch(&kexec, &[blob(b"abcde"), blob(b"abcde")]).unwrap();
        assert!(rustix::fs::fcntl_getfl(&file).unwrap() & rustix::fs::OFlags::RWMODE == rustix::fs::OFlags::RDONLY);
        assert_eq!(read(file), b"abcde\0\0\0abcde\0\0\0");
    }

    #[test]
    fn what_is_not_as_its_digest_says_is_refused() {
        let kexec = kexec(vec![serve(b"abcdX")]);
        let error = format!("{:#}", fetch(&kexec, &[blob(b"abcde")]).unwrap_err());
        assert!(error.contains("not what its digest says"), "{error}");
        let longer = fetch(&self::kexec(vec![serve(b"abcdef")]), &[blob(b"abcde")]);
        assert!(format!("{:#}", longer.unwrap_err()).contains("not what its digest says"));
    }

    #[test]
    fn the_command_line_names_the_interface_and_has_an_end() {
        let mac = MacAddr([0x52, 0x54, 0, 0, 0, 1]);
        let mut kexec = kexec(vec![]);
        assert_eq!(command_line(&kexec, mac).unwrap().as_c_str(), c"quiet BOOTIF=01-52-54-00-00-00-01");
        kexec.command_line = "x".repeat(3000);
        assert!(command_line(&kexec, mac).is_err());
    }
}

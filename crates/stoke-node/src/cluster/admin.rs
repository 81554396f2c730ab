//! The admin sockets of roles in pods, asked from outside. What is at the other end is the pod's: it is only connected to
//! if it is a socket and no link, and neither the size nor the time of its answers is up to it.

use std::os::fd::AsRawFd as _;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use axum::body::Bytes;
use axum::http::{Request, Response};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper_util::rt::TokioIo;
use rustix::fs::{FileType, Mode, OFlags};
use stoke_api::agent::ADMIN_SOCKET;
use stoke_api::report::Report;
use tokio::net::UnixStream;
use tokio::time::timeout;

/// How long a report may take, and how large it may be.
const REPORT: (Duration, usize) = (Duration::from_secs(2), 1 << 20);

/// Asks the role in a pod's folder for its report.
///
/// # Errors
/// If nobody answers, or not in time, or nonsense.
pub(super) async fn report(folder: &Path) -> anyhow::Result<Report> {
    let request = Request::get("/status").header("host", "pod").body(Full::default())?;
    let response = ask(folder, request, REPORT).await?;
    ensure!(response.status().is_success(), "the role answered {}", response.status());
    serde_json::from_slice(response.body()).context("the role's report is none")
}

/// Passes on a request; the whole answer.
///
/// # Errors
/// If nobody answers, or more than the limits allow.
pub(super) async fn ask(
    folder: &Path,
    request: Request<Full<Bytes>>,
    (patience, limit): (Duration, usize),
) -> anyhow::Result<Response<Bytes>> {
    let stream = connect(folder).await.context("the role does not answer yet")?;
    let exchange = async {
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
        let connection = tokio::spawn(connection);
        let _abort = AbortOnDrop(connection.abort_handle());
        let (head, body) = sender.send_request(request).await?.into_parts();
        let body = Limited::new(body, limit).collect().await;
        let body = body.map_err(|error| anyhow::anyhow!("the role's answer broke off or is too large: {error}"))?;
        anyhow::Ok(Response::from_parts(head, body.to_bytes()))
    };
    timeout(patience, exchange).await.context("the role did not answer in time")?
}

struct AbortOnDrop(tokio::task::AbortHandle);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

async fn connect(folder: &Path) -> anyhow::Result<UnixStream> {
    let path = folder.join(ADMIN_SOCKET);
    let socket = rustix::fs::open(&path, OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())?;
    let kind = FileType::from_raw_mode(rustix::fs::fstat(&socket)?.st_mode);
    ensure!(kind == FileType::Socket, "its admin.sock is no socket");
    Ok(UnixStream::connect(format!("/proc/self/fd/{}", socket.as_raw_fd())).await?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folder_with(answer: &'static [u8]) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        let listener = std::os::unix::net::UnixListener::bind(folder.path().join(ADMIN_SOCKET)).unwrap();
        std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let _ = std::io::Read::read(&mut stream, &mut [0; 4096]);
            while std::io::Write::write_all(&mut stream, answer).is_ok() {}
        });
        folder
    }

    #[tokio::test]
    async fn a_pod_that_never_stops_talking_is_cut_off() {
        for endless in [
            b"HTTP/1.1 200 OK\r\ncontent-length: 99999999999\r\n\r\n{\"".as_slice(),
            b"HTTP/1.1 200 OK\r\nx: y\r\n",
            b"nonsense ",
        ] {
            let folder = folder_with(endless);
            report(folder.path()).await.unwrap_err();
        }
    }

    #[tokio::test]
    async fn a_link_instead_of_a_socket_is_not_followed() {
        let (folder, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let _listener = std::os::unix::net::UnixListener::bind(other.path().join("x.sock")).unwrap();
        std::os::unix::fs::symlink(other.path().join("x.sock"), folder.path().join(ADMIN_SOCKET)).unwrap();
        let refused = report(folder.path()).await.unwrap_err();
        assert!(format!("{refused:#}").contains("no socket"), "{refused:#}");
    }
}

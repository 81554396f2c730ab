//! A client for HTTP/1.1 over Unix sockets: one request, one connection.

use std::path::{Path, PathBuf};
use std::time::Duration;

use http_body_util::{BodyExt as _, Full};
use hyper::body::Bytes;
use hyper::{Method, Request, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum HttpError {
    /// Nobody serves the socket.
    #[error("nobody answers on {path}")]
    Connect {
        /// The socket.
        path: PathBuf,
        /// The reason.
        source: std::io::Error,
    },
    /// The answer did not come in time.
    #[error("{path} did not answer within {limit:?}")]
    TimedOut {
        /// The socket.
        path: PathBuf,
        /// How long was waited.
        limit: Duration,
    },
    /// The connection broke.
    #[error("the connection to {path} broke")]
    Broken {
        /// The socket.
        path: PathBuf,
        /// The reason.
        source: hyper::Error,
    },
    /// The request could not be written down.
    #[error("this is no request")]
    Request(#[source] hyper::http::Error),
}

/// An answer.
#[derive(Debug)]
pub struct Answer {
    /// Its status.
    pub status: StatusCode,
    /// Its body.
    pub body: Bytes,
}

impl Answer {
    /// The body as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).trim().to_owned()
    }
}

/// Asks and waits for the whole answer, at most `limit`.
///
/// # Errors
/// If there is none.
pub async fn request(
    socket: &Path,
    method: Method,
    path: &str,
    body: Vec<u8>,
    limit: Duration,
) -> Result<Answer, HttpError> {
    let timed_out = |_| HttpError::TimedOut { path: socket.to_owned(), limit };
    tokio::time::timeout(limit, exchange(socket, method, path, body)).await.map_err(timed_out)?
}

async fn exchange(socket: &Path, method: Method, path: &str, body: Vec<u8>) -> Result<Answer, HttpError> {
    let broken = |source| HttpError::Broken { path: socket.to_owned(), source };
    let connect = |source| HttpError::Connect { path: socket.to_owned(), source };
    let stream = UnixStream::connect(socket).await.map_err(connect)?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(broken)?;
    let driver = tokio::spawn(connection);
    let request = Request::builder().method(method).uri(path).header("host", "stokehold");
    let request = request.header("content-type", "application/json").body(Full::new(Bytes::from(body)));
    let response = sender.send_request(request.map_err(HttpError::Request)?).await.map_err(broken)?;
    let status = response.status();
    let body = response.into_body().collect().await.map_err(broken)?.to_bytes();
    driver.abort();
    Ok(Answer { status, body })
}

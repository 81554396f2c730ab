//! One HTTP connection: requests one after the other, blobs answered here, everything else by the site's routes.
//!
//! ```text
//!            first byte within 75 s     head within 30 s        answered, at the client's pace
//!   waiting --------------------> reading --------> answering -----------------> waiting, or the end
//! ```
//!
//! While it waits or reads, a connection may be asked to leave for others ([`Crowd`]); it has then cost nobody anything.

use std::fs::File;
use std::net::SocketAddr;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use axum::Router;
use axum::body::{Body, HttpBody as _};
use axum::extract::ConnectInfo;
use axum::http::header::{self, HeaderMap, HeaderValue};
use axum::http::{Method, StatusCode, Version};
use axum::response::{IntoResponse as _, Response};
use http_body_util::BodyExt as _;
use hyper::service::Service as _;
use hyper_util::service::TowerToHyperService;
use stoke_api::Digest;
use tokio::time::{Instant, timeout_at};

use crate::blob::{self, Answer, Blob};
use crate::crowd::Crowd;
use crate::farm::Farm;
use crate::files::open_sized;
use crate::request::{self, Malformed, Request};
use crate::trace::Noted;
use crate::wire::Wire;

/// How long a connection may wait for its next request.
const IDLE: Duration = Duration::from_secs(75);
/// How long a request may take to arrive once it began.
const ARRIVAL: Duration = Duration::from_secs(30);
/// How long a file stays open for the next request of the same connection.
const OPEN: Duration = Duration::from_secs(1);
/// Longest content of unknown length that is put together so that its length can be said.
const COLLECTED: usize = 16 << 20;

/// What is served on a socket: blobs of a farm, and routes.
#[derive(Debug)]
pub(crate) struct Site {
    pub(crate) farm: Arc<Farm>,
    pub(crate) routes: Router,
}

/// Holds it until either side ends it.
pub(crate) async fn hold(wire: Wire, site: &Site, crowd: &Crowd, peer: SocketAddr) {
    let mut conversation = Conversation { wire, site, peer, input: Vec::new(), last: None };
    match conversation.run(crowd).await {
        Ok(()) => conversation.wire.finish().await,
        Err(error) => tracing::debug!(%peer, %error, "HTTP connection ended"),
    }
}

struct Conversation<'a> {
    wire: Wire,
    site: &'a Site,
    peer: SocketAddr,
    /// What was received and not understood yet: a part of a head, requests that came together.
    input: Vec<u8>,
    /// The file that was asked for last: clients ask for many parts of one.
    last: Option<Opened>,
}

/// A file that is open.
struct Opened {
    digest: Digest,
    file: Arc<File>,
    since: Instant,
}

impl Opened {
    /// Whether it is still what its path names, as far as we care: the file may have been replaced meanwhile.
    fn is(&self, digest: Digest, size: u64) -> bool {
        let same = self.digest == digest && self.since.elapsed() < OPEN;
        same && self.file.metadata().is_ok_and(|found| found.len() == size)
    }
}

/// What comes next.
enum Next {
    Request(Box<Request>, Vec<u8>),
    Malformed(Malformed),
    End,
}

impl Conversation<'_> {
    async fn run(&mut self, crowd: &Crowd) -> std::io::Result<()> {
        loop {
            match self.next(crowd).await? {
                Next::End => return Ok(()),
                Next::Malformed(malformed) => {
                    tracing::debug!(peer = %self.peer, "HTTP: {malformed}");
                    let response = (malformed.status(), format!("{malformed}\n")).into_response();
                    return self.respond(response, &Ending::of(None)).await;
                }
                Next::Request(request, body) => {
                    let ending = Ending::of(Some(&request));
                    self.answer(*request, body, &ending).await?;
                    if ending.last {
                        return Ok(());
                    }
                }
            }
        }
    }

    async fn next(&mut self, crowd: &Crowd) -> std::io::Result<Next> {
        let place = crowd.enter();
        tokio::select! {
            () = place.asked_to_leave() => Err(std::io::Error::other("asked to leave")),
            next = self.read() => next,
        }
    }

    async fn read(&mut self) -> std::io::Result<Next> {
        let mut deadline = Instant::now() + if self.input.is_empty() { IDLE } else { ARRIVAL };
        loop {
            match request::parse(&self.input) {
                Ok(Some((request, head))) => return self.read_body(request, head, deadline).await,
                Ok(None) => {}
                Err(malformed) => return Ok(Next::Malformed(malformed)),
            }
            if self.input.is_empty() {
                // Memory is for those who speak.
                self.input = Vec::new();
            }
            let first = self.input.is_empty();
            if !self.receive(deadline).await? {
                return Ok(Next::End);
            }
            if first {
                deadline = Instant::now() + ARRIVAL;
            }
        }
    }

    /// Waits for more of the client; tells whether more came.
    async fn receive(&mut self, deadline: Instant) -> std::io::Result<bool> {
        match timeout_at(deadline, self.wire.receive(&mut self.input)).await {
            Ok(received) => Ok(received? > 0),
            Err(_late) => Ok(false),
        }
    }

    async fn read_body(&mut self, request: Request, head: usize, deadline: Instant) -> std::io::Result<Next> {
        let whole = head + request.body;
        if request.expects_continue && self.input.len() < whole {
            self.wire.send(b"HTTP/1.1 100 Continue\r\n\r\n", false).await?;
        }
        while self.input.len() < whole {
            if !self.receive(deadline).await? {
                return Ok(Next::End);
            }
        }
        let rest = self.input.split_off(whole);
        let body = std::mem::replace(&mut self.input, rest).split_off(head);
        Ok(Next::Request(Box::new(request), body))
    }

    async fn answer(&mut self, request: Request, body: Vec<u8>, ending: &Ending) -> std::io::Result<()> {
        if let Some(name) = blob::name_in(request.target.path()) {
            return self.answer_blob(&request, name, ending).await;
        }
        let mut asked = axum::http::Request::new(Body::from(body));
        *asked.method_mut() = request.method;
        *asked.uri_mut() = request.target;
        *asked.version_mut() = request.version;
        *asked.headers_mut() = request.fields;
        asked.extensions_mut().insert(ConnectInfo(self.peer));
        let response = match TowerToHyperService::new(self.site.routes.clone()).call(asked).await {
            Ok(response) => response,
            Err(never) => match never {},
        };
        self.respond(response, ending).await
    }

    async fn answer_blob(&mut self, request: &Request, name: &str, ending: &Ending) -> std::io::Result<()> {
        let farm = &self.site.farm;
        let found = blob::digest_of(name).and_then(|digest| Some((digest, farm.serving().blob(&digest)?)));
        let Some((digest, (path, size))) = found else {
            let text = "no image of this farm has this blob\n";
            return self.respond((StatusCode::NOT_FOUND, text).into_response(), ending).await;
        };
        let file = match self.open(digest, path, size).await {
            Ok(file) => file,
            Err(error) => {
                tracing::error!(%digest, %error, "HTTP: cannot serve a blob");
                let retry = [(header::RETRY_AFTER, "5")];
                let response = (StatusCode::SERVICE_UNAVAILABLE, retry, format!("{error}\n")).into_response();
                return self.respond(response, ending).await;
            }
        };
        let answer = blob::answer(request, Blob { digest, size, kind: blob::media_type(name) });
        let Answer { status, fields, part } = answer;
        self.wire.send(&ending.head(status, &fields), !part.is_empty()).await?;
        if status.is_success() {
            farm.metrics.blobs.inc();
        }
        if part.start == 0 && !part.is_empty() {
            farm.fetches(&farm.serving(), self.peer, &digest);
        }
        self.send_part(digest, &file, part).await
    }

    async fn open(&mut self, digest: Digest, path: PathBuf, size: u64) -> std::io::Result<Arc<File>> {
        if let Some(last) = self.last.as_ref().filter(|last| last.is(digest, size)) {
            return Ok(last.file.clone());
        }
        let opened = tokio::task::spawn_blocking(move || open_sized(&path, size)).await;
        let file = Arc::new(opened.map_err(std::io::Error::other).flatten()?);
        self.last = Some(Opened { digest, file: file.clone(), since: Instant::now() });
        Ok(file)
    }

    async fn send_part(&mut self, digest: Digest, file: &Arc<File>, part: Range<u64>) -> std::io::Result<()> {
        let (farm, began) = (&self.site.farm, Instant::now());
        let (nothing, sent) = (part.is_empty(), AtomicU64::new(0));
        let count = |bytes| {
            sent.fetch_add(bytes, Ordering::Relaxed);
            farm.metrics.http_bytes.inc_by(bytes);
        };
        let in_flight = farm.metrics.in_flight();
        let outcome = self.wire.send_file(file, part, &count).await;
        drop(in_flight);
        if !nothing {
            let result = outcome.as_ref().map_or_else(ToString::to_string, |()| "sent".to_owned());
            let noted = Noted::now("http", farm.serving().part_of(&digest), result);
            farm.trace.client(self.peer.ip(), noted.took(began.elapsed()).bytes(sent.into_inner()));
        }
        outcome
    }

    /// Sends what a route answers. Its length is always said: firmware wants no chunks.
    async fn respond(&mut self, response: Response, ending: &Ending) -> std::io::Result<()> {
        let (mut parts, mut body) = response.into_parts();
        let bare = parts.status == StatusCode::NO_CONTENT || parts.status == StatusCode::NOT_MODIFIED;
        if !bare && !parts.headers.contains_key(header::CONTENT_LENGTH) {
            let length = if let Some(length) = body.size_hint().exact() {
                length
            } else {
                let whole = axum::body::to_bytes(body, COLLECTED).await.map_err(std::io::Error::other)?;
                let length = whole.len() as u64;
                body = Body::from(whole);
                length
            };
            parts.headers.insert(header::CONTENT_LENGTH, HeaderValue::from(length));
        }
        let silent = bare || ending.head_only || body.is_end_stream();
        self.wire.send(&ending.head(parts.status, &parts.headers), !silent).await?;
        while !silent && let Some(frame) = body.frame().await {
            let frame = frame.map_err(std::io::Error::other)?;
            if let Some(bytes) = frame.data_ref() {
                self.wire.send(bytes, !body.is_end_stream()).await?;
            }
        }
        Ok(())
    }
}

/// How an answer ends, and what is said of it.
struct Ending {
    /// No further request is read.
    last: bool,
    /// What the client is told of it, if it does not take it for granted.
    word: Option<&'static str>,
    /// No content follows the head.
    head_only: bool,
}

impl Ending {
    /// Of the answer to a request; to none, if it was not understood.
    fn of(request: Option<&Request>) -> Self {
        let last = !request.is_some_and(|request| request.persistent);
        let old = request.is_some_and(|request| request.version == Version::HTTP_10);
        let word = if last { Some("close") } else { old.then_some("keep-alive") };
        Self { last, word, head_only: request.is_some_and(|request| request.method == Method::HEAD) }
    }

    /// The head of an answer.
    fn head(&self, status: StatusCode, fields: &HeaderMap) -> Vec<u8> {
        let reason = status.canonical_reason().unwrap_or("Unknown");
        let mut head = format!("HTTP/1.1 {} {reason}\r\n", status.as_u16()).into_bytes();
        let mut field = |name: &str, value: &[u8]| {
            head.extend(titled(name));
            for part in [b": ", value, b"\r\n"] {
                head.extend_from_slice(part);
            }
        };
        for (name, value) in fields {
            // These are the connection's own.
            if name != header::CONNECTION && name != header::TRANSFER_ENCODING {
                field(name.as_str(), value.as_bytes());
            }
        }
        if !fields.contains_key(header::DATE) {
            field("date", http_date(jiff::Timestamp::now()).as_bytes());
        }
        if let Some(word) = self.word {
            field("connection", word.as_bytes());
        }
        head.extend_from_slice(b"\r\n");
        head
    }
}

/// A field's name with capitals: GRUB 2.06 knows its `Content-Length` in no other case, and without it waits for the end of
/// the connection (`grub-core/net/http.c`).
fn titled(name: &str) -> impl Iterator<Item = u8> {
    let before = std::iter::once(b'-').chain(name.bytes());
    before.zip(name.bytes()).map(|(before, byte)| if before == b'-' { byte.to_ascii_uppercase() } else { byte })
}

/// A time as HTTP writes it (RFC 9110, section 5.6.7).
fn http_date(time: jiff::Timestamp) -> String {
    time.strftime("%a, %d %b %Y %H:%M:%S GMT").to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ending(text: &str) -> Ending {
        Ending::of(Some(&request::parse(text.as_bytes()).unwrap().unwrap().0))
    }

    #[test]
    fn what_a_client_is_told_of_the_connection() {
        let word = |text: &str| ending(text).word;
        assert_eq!(word("GET / HTTP/1.1\r\nHost: x\r\n\r\n"), None);
        assert_eq!(word("GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"), Some("close"));
        assert_eq!(word("GET / HTTP/1.0\r\n\r\n"), Some("close"));
        assert_eq!(word("GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n"), Some("keep-alive"));
        assert_eq!(Ending::of(None).word, Some("close"));
    }

    #[test]
    fn a_head_as_it_is_sent() {
        let mut fields = HeaderMap::new();
        fields.insert(header::CONTENT_LENGTH, HeaderValue::from(5));
        fields.insert(header::TRANSFER_ENCODING, HeaderValue::from_static("chunked"));
        fields.insert(header::DATE, HeaderValue::from_static("now"));
        let head = ending("GET / HTTP/1.0\r\n\r\n").head(StatusCode::OK, &fields);
        let expected = "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nDate: now\r\nConnection: close\r\n\r\n";
        assert_eq!(String::from_utf8(head).unwrap(), expected);
    }

    #[test]
    fn dates() {
        let time = jiff::Timestamp::from_second(784_111_777).unwrap();
        assert_eq!(http_date(time), "Sun, 06 Nov 1994 08:49:37 GMT");
    }
}

//! The head of an HTTP/1 request, parsed: pure, and strict where leniency would let two readers see two requests.
//!
//! Lines are read by `httparse`; what follows from them is decided here: how long the body is, whether the connection goes
//! on, whether the client waits for a word before it sends its body.

use axum::http::header::{self, HeaderMap, HeaderName, HeaderValue};
use axum::http::{Method, StatusCode, Uri, Version};

/// Longest head in bytes.
pub const HEAD: usize = 16 << 10;
/// Most header fields.
const FIELDS: usize = 64;
/// Longest body in bytes: what nodes report.
pub const BODY: usize = 64 << 10;

/// A request without its body.
#[derive(Clone, Debug)]
pub struct Request {
    /// What is to be done.
    pub method: Method,
    /// To what.
    pub target: Uri,
    /// HTTP/1.0 or HTTP/1.1.
    pub version: Version,
    /// All fields.
    pub fields: HeaderMap,
    /// Length of the body that follows, in bytes.
    pub body: usize,
    /// Whether the client may ask more on this connection.
    pub persistent: bool,
    /// Whether the client sends its body only when told to (RFC 9110, section 10.1.1).
    pub expects_continue: bool,
}

/// Why a head is not understood. The connection ends: where the next request begins is not known.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    /// It is not HTTP.
    #[error("this is no HTTP request: {0}")]
    Syntax(httparse::Error),
    /// Longer than [`HEAD`], or more fields than we read.
    #[error("the request's head is longer than 16 KiB or has more than 64 fields")]
    TooLong,
    /// The target is no URI.
    #[error("the request's target is no path")]
    Target,
    /// A field that must be there once, is not, or has no meaning.
    #[error("the field {0} is missing, there twice, or without sense")]
    Field(&'static str),
    /// The body is longer than [`BODY`].
    #[error("a request's body is at most 64 KiB long")]
    Body,
    /// The body's length is not said in advance.
    #[error("say the body's length (Content-Length)")]
    Length,
}

impl Malformed {
    /// The status that says so.
    pub fn status(self) -> StatusCode {
        match self {
            Self::Syntax(httparse::Error::Version) => StatusCode::HTTP_VERSION_NOT_SUPPORTED,
            Self::Syntax(_) | Self::Target | Self::Field(_) => StatusCode::BAD_REQUEST,
            Self::TooLong => StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
            Self::Body => StatusCode::PAYLOAD_TOO_LARGE,
            Self::Length => StatusCode::LENGTH_REQUIRED,
        }
    }
}

/// Parses the head at the beginning of `input`. Returns it with its length in bytes, or nothing while it is not complete.
///
/// # Errors
/// If no more bytes can make it a request.
pub fn parse(input: &[u8]) -> Result<Option<(Request, usize)>, Malformed> {
    let mut fields = [httparse::EMPTY_HEADER; FIELDS];
    let mut head = httparse::Request::new(&mut fields);
    let length = match head.parse(input) {
        Ok(httparse::Status::Complete(length)) if length <= HEAD => length,
        Ok(httparse::Status::Partial) if input.len() < HEAD => return Ok(None),
        Ok(_) | Err(httparse::Error::TooManyHeaders) => return Err(Malformed::TooLong),
        Err(error) => return Err(Malformed::Syntax(error)),
    };
    Ok(Some((understood(&head)?, length)))
}

fn understood(head: &httparse::Request<'_, '_>) -> Result<Request, Malformed> {
    let method = head.method.and_then(|name| Method::from_bytes(name.as_bytes()).ok());
    let method = method.ok_or(Malformed::Syntax(httparse::Error::Token))?;
    let target = head.path.and_then(|path| path.parse::<Uri>().ok()).ok_or(Malformed::Target)?;
    let version = if head.version == Some(0) { Version::HTTP_10 } else { Version::HTTP_11 };
    let fields = all_fields(head.headers)?;
    // RFC 9112, section 3.2: one and only one, since 1.1.
    let hosts = fields.get_all(header::HOST).iter().count();
    if hosts > 1 || (hosts == 0 && version == Version::HTTP_11) {
        return Err(Malformed::Field("Host"));
    }
    let body = body_length(&fields)?;
    let persistent = persistent(&fields, version);
    let expects_continue = version == Version::HTTP_11
        && fields.get(header::EXPECT).is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"100-continue"));
    Ok(Request { method, target, version, fields, body, persistent, expects_continue })
}

fn all_fields(read: &[httparse::Header<'_>]) -> Result<HeaderMap, Malformed> {
    let mut fields = HeaderMap::with_capacity(read.len());
    for field in read {
        let name = HeaderName::from_bytes(field.name.as_bytes());
        let name = name.map_err(|_| Malformed::Syntax(httparse::Error::HeaderName))?;
        let value = HeaderValue::from_bytes(field.value);
        fields.append(name, value.map_err(|_| Malformed::Syntax(httparse::Error::HeaderValue))?);
    }
    Ok(fields)
}

/// RFC 9112, section 6.3. We read no chunks: nodes say how long their reports are, and nobody else has a body.
fn body_length(fields: &HeaderMap) -> Result<usize, Malformed> {
    if fields.contains_key(header::TRANSFER_ENCODING) {
        return Err(Malformed::Length);
    }
    let mut lengths = fields.get_all(header::CONTENT_LENGTH).iter();
    let Some(first) = lengths.next() else { return Ok(0) };
    let digits = first.to_str().ok().filter(|text| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()));
    if digits.is_none() || lengths.any(|other| other != first) {
        return Err(Malformed::Field("Content-Length"));
    }
    // More digits than a number has are a body that is too long, too.
    let length = digits.and_then(|digits| digits.parse::<usize>().ok());
    length.filter(|length| *length <= BODY).ok_or(Malformed::Body)
}

/// RFC 9112, section 9.3.
fn persistent(fields: &HeaderMap, version: Version) -> bool {
    let has = |wanted: &str| {
        let values = fields.get_all(header::CONNECTION).iter().filter_map(|value| value.to_str().ok());
        let mut options = values.flat_map(|value| value.split(','));
        options.any(|option| option.trim().eq_ignore_ascii_case(wanted))
    };
    !has("close") && (version == Version::HTTP_11 || has("keep-alive"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn one(text: &str) -> Result<Option<(Request, usize)>, Malformed> {
        parse(text.as_bytes())
    }

    fn request(text: &str) -> Request {
        one(text).unwrap().unwrap().0
    }

    #[test]
    fn requests_of_firmware_ipxe_and_curl() {
        let ovmf = "HEAD /v1/blob/sha256/ab.efi HTTP/1.1\r\nHost: 10.10.0.1\r\nAccept: */*\r\nUser-Agent: UefiHttpBoot/1.0\r\n\r\n";
        let read = request(ovmf);
        assert_eq!((read.method, read.target.path(), read.body), (Method::HEAD, "/v1/blob/sha256/ab.efi", 0));
        assert!(read.persistent && !read.expects_continue);
        let ipxe =
            request("GET /v1/boot.ipxe?mac=52:54:00:00:00:07 HTTP/1.1\r\nConnection: keep-alive\r\nHost: x\r\n\r\n");
        assert_eq!(ipxe.target.query(), Some("mac=52:54:00:00:00:07"));
        let posted =
            "POST /v1/node/hello HTTP/1.1\r\nHost: x\r\nContent-Length: 7\r\nExpect: 100-Continue\r\n\r\n{\"a\":1}";
        let (posted, length) = one(posted).unwrap().unwrap();
        assert_eq!((posted.body, posted.expects_continue), (7, true));
        assert_eq!(
            length,
            "POST /v1/node/hello HTTP/1.1\r\nHost: x\r\nContent-Length: 7\r\nExpect: 100-Continue\r\n\r\n".len()
        );
    }

    #[test]
    fn who_may_go_on_on_the_same_connection() {
        let goes_on =
            |version: &str, more: &str| request(&format!("GET / HTTP/{version}\r\nhost: x\r\n{more}\r\n")).persistent;
        assert!(goes_on("1.1", "") && !goes_on("1.1", "Connection: Close\r\n"));
        assert!(!goes_on("1.0", "") && goes_on("1.0", "Connection: TE, Keep-Alive\r\n"));
        assert!(!goes_on("1.1", "Connection: x\r\nConnection: close\r\n"));
    }

    #[test]
    fn http_1_0_needs_no_host() {
        assert_eq!(request("GET / HTTP/1.0\r\n\r\n").version, Version::HTTP_10);
        assert_eq!(one("GET / HTTP/1.1\r\n\r\n").unwrap_err(), Malformed::Field("Host"));
        assert_eq!(one("GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n").unwrap_err(), Malformed::Field("Host"));
    }

    #[test]
    fn an_absolute_target_is_taken_apart() {
        let read = request("GET http://10.10.0.1/v1/blob/sha256/00?x HTTP/1.1\r\nHost: 10.10.0.1\r\n\r\n");
        assert_eq!(read.target.path(), "/v1/blob/sha256/00");
    }

    #[test]
    fn bodies_whose_length_is_not_clear_are_refused() {
        let refused = |more: &str| one(&format!("POST / HTTP/1.1\r\nHost: x\r\n{more}\r\n")).unwrap_err();
        assert_eq!(refused("Transfer-Encoding: chunked\r\n").status(), StatusCode::LENGTH_REQUIRED);
        assert_eq!(refused("Content-Length: 1\r\nTransfer-Encoding: chunked\r\n"), Malformed::Length);
        for lengths in
            ["Content-Length: 1\r\nContent-Length: 2\r\n", "Content-Length: +1\r\n", "Content-Length: 1, 1\r\n"]
        {
            assert_eq!(refused(lengths), Malformed::Field("Content-Length"), "{lengths}");
        }
        for long in ["65537", "99999999999999999999999999"] {
            assert_eq!(refused(&format!("Content-Length: {long}\r\n")), Malformed::Body);
        }
        let twice = request("POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nContent-Length: 5\r\n\r\n");
        assert_eq!(twice.body, 5);
    }

    #[test]
    fn what_is_no_http_is_told_so() {
        assert_eq!(one("\x16\x03\x01\x02\x00\x01").unwrap_err().status(), StatusCode::BAD_REQUEST);
        assert_eq!(one("GET / HTTP/3.0\r\n\r\n").unwrap_err().status(), StatusCode::HTTP_VERSION_NOT_SUPPORTED);
        assert_eq!(
            one("GET / HTTP/1.1\r\nHost: x\r\n folded: y\r\n\r\n").unwrap_err().status(),
            StatusCode::BAD_REQUEST
        );
    }

    #[test]
    fn heads_are_bounded() {
        let endless = format!("GET /{} HTTP/1.1\r\n", "x".repeat(HEAD));
        assert_eq!(one(&endless).unwrap_err(), Malformed::TooLong);
        let many = format!("GET / HTTP/1.1\r\nHost: x\r\n{}\r\n", "a: b\r\n".repeat(FIELDS));
        assert_eq!(one(&many).unwrap_err().status(), StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE);
    }

    proptest! {
        #[test]
        fn no_input_makes_it_panic(input in proptest::collection::vec(any::<u8>(), 0..600)) {
            if let Ok(Some((_, length))) = parse(&input) {
                prop_assert!(length <= input.len());
            }
        }

        /// Whatever is cut off, the rest is waited for; whatever follows, the head stays the same.
        #[test]
        fn a_head_in_pieces(path in "/[a-z0-9/]{0,40}", length in 0usize..100, cut in 0usize..100, after in "[ -~\r\n]{0,40}") {
            let text = format!("GET {path} HTTP/1.1\r\nHost: x\r\nContent-Length: {length}\r\n\r\n");
            let cut = cut.min(text.len() - 1);
            prop_assert!(one(&text[..cut]).unwrap().is_none());
            let (read, taken) = one(&format!("{text}{after}")).unwrap().unwrap();
            prop_assert_eq!((read.target.path(), read.body, taken), (path.as_str(), length, text.len()));
        }
    }
}

//! What is answered to a request for a blob: status, fields, and which part of it follows. Pure.
//!
//! What UEFI firmware asks of a server is kept: a length with every answer, no chunks, no redirects, a media type that it
//! knows. A blob never changes, so it is cached for ever and its digest is its tag.

use std::ops::Range;

use axum::http::header::{self, HeaderMap, HeaderName, HeaderValue};
use axum::http::{Method, StatusCode};
use stoke_api::Digest;

use crate::request::Request;

/// Where blobs are, by digest.
const FOLDER: &str = "/v1/blob/sha256/";

/// Name of the blob that a path asks for, if it asks for one.
pub(crate) fn name_in(path: &str) -> Option<&str> {
    path.strip_prefix(FOLDER)
}

/// The digest that a blob's name is made of. UEFI firmware wants a suffix that it knows.
pub(crate) fn digest_of(name: &str) -> Option<Digest> {
    Digest::from_hex(name.strip_suffix(".efi").unwrap_or(name)).ok()
}

/// The media type of a file: UEFI goes by it first (UEFI 2.10, section 24.7.3.1).
pub(crate) fn media_type(name: &str) -> &'static str {
    let efi = std::path::Path::new(name).extension().is_some_and(|extension| extension == "efi");
    if efi { "application/efi" } else { "application/octet-stream" }
}

/// A blob.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Blob {
    pub(crate) digest: Digest,
    /// In bytes.
    pub(crate) size: u64,
    /// Media type.
    pub(crate) kind: &'static str,
}

/// An answer.
#[derive(Clone, Debug)]
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) fields: HeaderMap,
    /// Bytes of the blob that follow; empty for a request that wants the head alone.
    pub(crate) part: Range<u64>,
}

/// What is answered.
pub(crate) fn answer(request: &Request, blob: Blob) -> Answer {
    let tag = format!("\"{}\"", blob.digest);
    if request.method != Method::GET && request.method != Method::HEAD {
        let fields = [(header::ALLOW, "GET, HEAD".to_owned()), (header::CONTENT_LENGTH, "0".to_owned())];
        return empty(StatusCode::METHOD_NOT_ALLOWED, fields);
    }
    // RFC 9110, section 13.2.2: in this order.
    if !tagged(request, &header::IF_MATCH, &tag, true).unwrap_or(true) {
        return empty(StatusCode::PRECONDITION_FAILED, [(header::ETAG, tag), (header::CONTENT_LENGTH, "0".to_owned())]);
    }
    if tagged(request, &header::IF_NONE_MATCH, &tag, false).unwrap_or(false) {
        return empty(StatusCode::NOT_MODIFIED, [(header::ETAG, tag), (header::CACHE_CONTROL, FOR_EVER.to_owned())]);
    }
    match wanted(request, &tag, blob.size) {
        Wanted::Nothing => {
            let size = format!("bytes */{}", blob.size);
            let fields = [(header::CONTENT_RANGE, size), (header::CONTENT_LENGTH, "0".to_owned())];
            empty(StatusCode::RANGE_NOT_SATISFIABLE, fields)
        }
        Wanted::Whole => content(request, blob, tag, 0..blob.size, StatusCode::OK),
        Wanted::Part(part) => content(request, blob, tag, part, StatusCode::PARTIAL_CONTENT),
    }
}

const FOR_EVER: &str = "public, max-age=31536000, immutable";

fn content(request: &Request, blob: Blob, tag: String, part: Range<u64>, status: StatusCode) -> Answer {
    let mut fields = vec![
        (header::CONTENT_TYPE, blob.kind.to_owned()),
        (header::CONTENT_LENGTH, (part.end - part.start).to_string()),
        (header::ACCEPT_RANGES, "bytes".to_owned()),
        (header::ETAG, tag),
        (header::CACHE_CONTROL, FOR_EVER.to_owned()),
    ];
    if status == StatusCode::PARTIAL_CONTENT {
        let range = format!("bytes {}-{}/{}", part.start, part.end.saturating_sub(1), blob.size);
        fields.push((header::CONTENT_RANGE, range));
    }
    let part = if request.method == Method::HEAD { 0..0 } else { part };
    Answer { part, ..empty(status, fields) }
}

fn empty(status: StatusCode, fields: impl IntoIterator<Item = (HeaderName, String)>) -> Answer {
    let field = |(name, text): (HeaderName, String)| Some((name, HeaderValue::try_from(text).ok()?));
    Answer { status, fields: fields.into_iter().filter_map(field).collect(), part: 0..0 }
}

/// Whether a list of tags has ours; nothing if there is no such field. Ours is strong, so a weak one equals it only where a
/// weak comparison will do (RFC 9110, section 8.8.3.2).
fn tagged(request: &Request, field: &HeaderName, tag: &str, strong: bool) -> Option<bool> {
    let mut values = request.fields.get_all(field).iter().peekable();
    values.peek()?;
    let same = |one: &str| {
        let one = one.trim();
        let one = if strong { one } else { one.strip_prefix("W/").unwrap_or(one) };
        one == tag || one == "*"
    };
    Some(values.filter_map(|value| value.to_str().ok()).any(|tags| tags.split(',').any(same)))
}

fn wanted(request: &Request, tag: &str, size: u64) -> Wanted {
    let text = |name: HeaderName| request.fields.get(name).and_then(|value| value.to_str().ok());
    let range = text(header::RANGE).filter(|_| request.method == Method::GET);
    // A range of another version is of no use: then the whole is sent (RFC 9110, section 13.1.5).
    let same = request.fields.get(header::IF_RANGE).is_none_or(|condition| condition == tag);
    range.filter(|_| same).map_or(Wanted::Whole, |range| Wanted::parse(range, size))
}

/// What part of a blob is wanted.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Wanted {
    Whole,
    Part(Range<u64>),
    Nothing,
}

impl Wanted {
    /// Parses a `Range` field. What we do not understand, and several ranges at once, may be answered by the whole (RFC 9110,
    /// section 14.2).
    fn parse(text: &str, size: u64) -> Self {
        match Self::part(text, size) {
            None => Self::Whole,
            Some(range) if range.start >= range.end => Self::Nothing,
            Some(range) => Self::Part(range),
        }
    }

    fn part(text: &str, size: u64) -> Option<Range<u64>> {
        let (unit, range) = text.split_once('=')?;
        let (first, last) = range.trim().split_once('-')?;
        if !unit.eq_ignore_ascii_case("bytes") {
            return None;
        }
        match (first, last) {
            ("", last) => Some(size.saturating_sub(number(last)?)..size),
            (first, "") => Some(number(first)?..size),
            (first, last) => {
                let (first, last) = (number(first)?, number(last)?);
                (first <= last).then(|| first..last.saturating_add(1).min(size))
            }
        }
    }
}

/// A decimal number without a sign. One that is too large for us is as good as the largest.
fn number(text: &str) -> Option<u64> {
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    digits.then(|| text.parse().unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const BLOB: Blob = Blob { digest: Digest([7; 32]), size: 1000, kind: "application/octet-stream" };

    fn ask(method: &str, fields: &str) -> Answer {
        let text = format!("{method} /v1/blob/sha256/07 HTTP/1.1\r\nHost: x\r\n{fields}\r\n");
        answer(&crate::request::parse(text.as_bytes()).unwrap().unwrap().0, BLOB)
    }

    fn field(answer: &Answer, name: HeaderName) -> String {
        answer.fields.get(name).map(|value| value.to_str().unwrap().to_owned()).unwrap_or_default()
    }

    #[test]
    fn ranges_as_clients_write_them() {
        let parse = |text: &str| Wanted::parse(text, 1000);
        assert_eq!(parse("bytes=0-99"), Wanted::Part(0..100));
        assert_eq!(parse("Bytes=900-"), Wanted::Part(900..1000));
        assert_eq!(parse("bytes=-10"), Wanted::Part(990..1000));
        assert_eq!(parse("bytes=-5000"), Wanted::Part(0..1000));
        assert_eq!(parse("bytes=500-99999"), Wanted::Part(500..1000));
        assert_eq!(parse("bytes=500-99999999999999999999999"), Wanted::Part(500..1000));
        for nothing in ["bytes=1000-", "bytes=1000-1001", "bytes=-0", "bytes=99999999999999999999999-"] {
            assert_eq!(parse(nothing), Wanted::Nothing, "{nothing}");
        }
        for whole in ["bytes=5-2", "bytes=0-1,5-6", "lines=1-2", "bytes=-", "bytes=x-", "bytes=+1-2", ""] {
            assert_eq!(parse(whole), Wanted::Whole, "{whole}");
        }
    }

    #[test]
    fn the_whole_a_part_and_the_head_alone() {
        let whole = ask("GET", "");
        assert_eq!((whole.status, whole.part.clone()), (StatusCode::OK, 0..1000));
        assert_eq!(field(&whole, header::CONTENT_LENGTH), "1000");
        let part = ask("GET", "Range: bytes=-10\r\n");
        assert_eq!((part.status, part.part.clone()), (StatusCode::PARTIAL_CONTENT, 990..1000));
        assert_eq!(field(&part, header::CONTENT_RANGE), "bytes 990-999/1000");
        let head = ask("HEAD", "Range: bytes=0-9\r\n");
        assert_eq!((head.status, head.part.clone()), (StatusCode::OK, 0..0), "a range is of GET alone");
        assert_eq!(field(&head, header::CONTENT_LENGTH), "1000");
        let outside = ask("GET", "Range: bytes=1000-\r\n");
        assert_eq!(
            (outside.status, field(&outside, header::CONTENT_RANGE)),
            (StatusCode::RANGE_NOT_SATISFIABLE, "bytes */1000".into())
        );
    }

    #[test]
    fn conditions() {
        let tag = format!("\"{}\"", BLOB.digest);
        let status = |fields: &str| ask("GET", fields).status.as_u16();
        assert_eq!(status(&format!("If-None-Match: {tag}\r\n")), 304);
        assert_eq!(status(&format!("If-None-Match: \"x\", W/{tag}\r\n")), 304);
        assert_eq!(status("If-None-Match: *\r\n"), 304);
        assert_eq!(status("If-None-Match: \"x\"\r\n"), 200);
        assert_eq!(status(&format!("If-Match: {tag}\r\n")), 200);
        assert_eq!(status(&format!("If-Match: W/{tag}\r\n")), 412);
        assert_eq!(status(&format!("If-Range: {tag}\r\nRange: bytes=0-1\r\n")), 206);
        assert_eq!(status("If-Range: \"x\"\r\nRange: bytes=0-1\r\n"), 200);
        assert_eq!(status("If-Range: Sat, 21 Nov 2026 00:00:00 GMT\r\nRange: bytes=0-1\r\n"), 200);
        assert_eq!(ask("PUT", "").status.as_u16(), 405);
    }

    #[test]
    fn only_digests_name_blobs() {
        let hex = "ab".repeat(32);
        assert_eq!(digest_of(&hex), digest_of(&format!("{hex}.efi")));
        assert!(digest_of(&hex).is_some());
        for other in ["", "..", "../../etc/passwd", &hex[1..], &format!("{hex}.efi.efi")] {
            assert_eq!(digest_of(other), None, "{other}");
        }
        assert_eq!(name_in("/v1/blob/sha512/x"), None);
    }

    proptest! {
        #[test]
        fn a_part_is_inside_and_its_length_is_said(range in "(bytes=)?[0-9]{0,5}-?[0-9]{0,21}") {
            let answer = ask("GET", &format!("Range: {range}\r\n"));
            prop_assert!(answer.part.start <= answer.part.end && answer.part.end <= BLOB.size);
            prop_assert_eq!(field(&answer, header::CONTENT_LENGTH), (answer.part.end - answer.part.start).to_string());
        }
    }
}

//! HTTP: the head of a request, as firmware, nodes and strangers write it.

use stoke_farm::request::{BODY, HEAD, parse};

/// Bytes as they came so far: what is taken was there, and one byte more changes nothing about a whole head.
pub fn head(input: &[u8]) {
    match parse(input) {
        Ok(Some((request, length))) => {
            assert!(length <= input.len() && length <= HEAD, "a head of {length} bytes of {}", input.len());
            assert!(request.body <= BODY);
            let more = [input, b"x"].concat();
            assert!(parse(&more).is_ok_and(|again| again.is_some_and(|(_, again)| again == length)));
        }
        Ok(None) => assert!(input.len() <= HEAD, "{} bytes without end", input.len()),
        Err(malformed) => assert!(malformed.status().is_client_error() || malformed.status().is_server_error()),
    }
}

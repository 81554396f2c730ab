//! Commands as bytes, and their answers (part 1, section 18; part 3).

use crate::tpm::TpmError;
use crate::wire::{Reader, Writer};

/// TPM_ST_NO_SESSIONS and TPM_ST_SESSIONS (part 2, section 6.9).
const NO_SESSIONS: u16 = 0x8001;
const SESSIONS: u16 = 0x8002;
/// TPM_RS_PW: the place of a session stands for an empty password (part 2, section 7.4).
const PASSWORD: u32 = 0x4000_0009;
/// Bytes in front of every command and answer.
const HEADER: usize = 10;
/// continueSession (part 2, section 8.4).
const CONTINUE: u8 = 1;

/// TPM_CC_… (part 2, section 6.5.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub(crate) enum Code {
    CreatePrimary = 0x131,
    ActivateCredential = 0x147,
    NvRead = 0x14e,
    PolicySecret = 0x151,
    Quote = 0x158,
    FlushContext = 0x165,
    NvReadPublic = 0x169,
    StartAuthSession = 0x176,
    PcrRead = 0x17e,
}

/// How one handle of a command is authorised.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Auth {
    /// By the empty password.
    Empty,
    /// By this policy session.
    Policy(u32),
}

/// A command: code, handles, authorisation of the first of them, parameters.
pub(crate) fn encode(code: Code, handles: &[u32], auth: &[Auth], parameters: &[u8]) -> Vec<u8> {
    let handles = handles.iter().fold(Writer::default(), |writer, handle| writer.u32(*handle)).done();
    let sessions = auth.iter().fold(Writer::default(), |writer, auth| {
        let (handle, attributes) = match auth {
            Auth::Empty => (PASSWORD, 0),
            Auth::Policy(session) => (*session, CONTINUE),
        };
        writer.u32(handle).sized(&[]).u8(attributes).sized(&[])
    });
    let sessions = sessions.done();
    let length = |bytes: &[u8]| u32::try_from(bytes.len()).unwrap_or(u32::MAX);
    let sessions =
        if auth.is_empty() { sessions } else { Writer::default().u32(length(&sessions)).raw(&sessions).done() };
    let body = [&handles[..], &sessions, parameters].concat();
    let tag = if auth.is_empty() { NO_SESSIONS } else { SESSIONS };
    let size = length(&body).saturating_add(u32::try_from(HEADER).unwrap_or_default());
    Writer::default().u16(tag).u32(size).u32(code as u32).raw(&body).done()
}

/// The handle, if the answer has one, and the parameters of an answer.
pub(crate) fn decode(code: Code, answer: &[u8], has_handle: bool) -> Result<(u32, &[u8]), TpmError> {
    let broken = || TpmError::Broken(code as u32);
    let mut reader = Reader::new(answer);
    let header = (reader.u16(), reader.u32(), reader.u32());
    let (Some(tag), Some(_), Some(result)) = header else { return Err(broken()) };
    if result != 0 {
        return Err(TpmError::Refused { command: code as u32, result });
    }
    let handle = if has_handle { reader.u32().ok_or_else(broken)? } else { 0 };
    if tag == SESSIONS {
        let length = reader.u32().and_then(|length| usize::try_from(length).ok()).ok_or_else(broken)?;
        return Ok((handle, reader.take(length).ok_or_else(broken)?));
    }
    Ok((handle, reader.rest()))
}

//! Blobs (OCI distribution specification, "Pulling blobs", "Pushing blobs").

use std::io::{self, Read, Write};

use sha2::{Digest as _, Sha256};
use stoke_api::Digest;
use stoke_api::workload::BlobRef;
use ureq::http::{Response, StatusCode};
use ureq::{Body, SendBody};

use crate::client::{Registry, RegistryError};

/// How often a download that breaks is taken up again, as long as nothing more comes.
const TRIES: u32 = 5;

impl Registry {
    /// Whether the repository has a blob.
    ///
    /// # Errors
    /// If the registry does not answer.
    pub fn has_blob(&self, digest: &Digest) -> Result<bool, RegistryError> {
        let url = self.url(&format!("blobs/{digest}"));
        let answer = self.ask(&url, false, &mut |authorization| {
            let request = self.agent.head(&url);
            match authorization {
                Some(value) => request.header("authorization", value).call(),
                None => request.call(),
            }
        })?;
        match self.good(&url, answer) {
            Ok(_) => Ok(true),
            Err(RegistryError::NotFound(_)) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Writes a blob; a download that breaks goes on where it was. `read` is told of each piece. What came is compared
    /// with size and digest: after an error, what was written is worth nothing.
    ///
    /// # Errors
    /// If it cannot be had whole, or is another one.
    pub fn get_blob(&self, blob: &BlobRef, to: &mut dyn Write, read: &mut dyn FnMut(u64)) -> Result<(), RegistryError> {
        let url = self.url(&format!("blobs/{}", blob.digest));
        let (mut at, mut hash, mut tries) = (0, Sha256::new(), 0);
        while at < blob.size || tries == 0 {
            let before = at;
            let mut piece = |bytes: &[u8]| {
                hash.update(bytes);
                at += bytes.len() as u64;
                read(bytes.len() as u64);
                to.write_all(bytes)
            };
            let broke = match self.get_from(&url, before, blob.size)? {
                Some(answer) => copy(answer, blob.size - before, &mut piece)?,
                // It begins anew and cannot go on in the middle: all that came before is read once more and dropped.
                None => return Err(RegistryError::Strange { url, why: "it cannot go on with a download".to_owned() }),
            };
            tries = if at > before { 1 } else { tries + 1 };
            match broke {
                Some(error) if at < blob.size && tries > TRIES => return Err(RegistryError::File(error)),
                None if at < blob.size && tries > TRIES => break,
                _ => {}
            }
        }
        let found = Digest(hash.finalize().into());
        if at == blob.size && found == blob.digest {
            return Ok(());
        }
        Err(RegistryError::Tampered { url, digest: blob.digest })
    }

    /// The rest of a blob; `None` if the registry can only begin at the beginning.
    fn get_from(&self, url: &str, at: u64, size: u64) -> Result<Option<Response<Body>>, RegistryError> {
        let answer = self.ask(url, false, &mut |authorization| {
            let mut request = self.agent.get(url);
            if at > 0 {
                request = request.header("range", format!("bytes={at}-{}", size.saturating_sub(1)));
            }
            match authorization {
                Some(value) => request.header("authorization", value).call(),
                None => request.call(),
            }
        })?;
        let answer = self.good(url, answer)?;
        Ok((at == 0 || answer.status() == StatusCode::PARTIAL_CONTENT).then_some(answer))
    }

    /// Uploads a blob in one request, unless it is there. `content` is called for each try. Whether it was uploaded.
    ///
    /// # Errors
    /// If it cannot be read, or the registry does not take it.
    pub fn put_blob<R: Read>(
        &self,
        blob: &BlobRef,
        mut content: impl FnMut() -> io::Result<R>,
    ) -> Result<bool, RegistryError> {
        if self.has_blob(&blob.digest)? {
            return Ok(false);
        }
        let begin = self.url("blobs/uploads/");
        let answer = self.ask(&begin, true, &mut |authorization| {
            let request = self.agent.post(&begin);
            match authorization {
                Some(value) => request.header("authorization", value).send_empty(),
                None => request.send_empty(),
            }
        })?;
        let answer = self.good(&begin, answer)?;
        let location = answer.headers().get("location").and_then(|value| value.to_str().ok());
        let strange = || RegistryError::Strange { url: begin.clone(), why: "it does not say where to".to_owned() };
        let location = self.resolve(location.ok_or_else(strange)?);
        let joint = if location.contains('?') { '&' } else { '?' };
        let url = format!("{location}{joint}digest={}", blob.digest);
        let mut unreadable = None;
        let answer = self.ask(&url, true, &mut |authorization| {
            let mut from = match content() {
                Ok(from) => from.take(blob.size),
                Err(error) => {
                    unreadable = Some(io::Error::new(error.kind(), error.to_string()));
                    return Err(ureq::Error::Io(error));
                }
            };
            let request = self.agent.put(&url).header("content-type", "application/octet-stream");
            let request = request.header("content-length", blob.size.to_string());
            let request = match authorization {
                Some(value) => request.header("authorization", value),
                None => request,
            };
            request.send(SendBody::from_reader(&mut from))
        });
        if let Some(error) = unreadable {
            return Err(RegistryError::File(error));
        }
        self.good(&url, answer?)?;
        Ok(true)
    }
}

/// Copies at most `left` bytes; the error that ended it early, if one of the connection did.
fn copy(
    mut answer: Response<Body>,
    left: u64,
    piece: &mut dyn FnMut(&[u8]) -> io::Result<()>,
) -> io::Result<Option<io::Error>> {
    // One byte more than expected makes it another blob.
    let mut from = answer.body_mut().with_config().limit(u64::MAX).reader().take(left.saturating_add(1));
    let mut buffer = vec![0; 1 << 16];
    loop {
        match from.read(&mut buffer) {
            Ok(0) => return Ok(None),
            Ok(read) => piece(buffer.get(..read).unwrap_or_default())?,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Ok(Some(error)),
        }
    }
}

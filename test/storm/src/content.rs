//! Content that tells of every eight bytes where they belong, so that a byte out of place is noticed by who reads it.

use std::io::{self, Write};

/// Bytes of a word.
const WORD: usize = 8;
/// An odd number without a pattern (the golden ratio), so that neighbours differ in all bytes.
const SPREAD: u64 = 0x9e37_79b9_7f4a_7c15;

/// Content of one kind; two kinds differ everywhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Content(pub u64);

impl Content {
    fn word(self, number: u64) -> [u8; WORD] {
        (number ^ (self.0 << 48)).wrapping_mul(SPREAD).to_le_bytes()
    }

    /// Writes so many bytes, a multiple of eight.
    ///
    /// # Errors
    /// If they cannot be written.
    pub fn write(self, to: &mut impl Write, size: u64) -> io::Result<()> {
        (0..size / WORD as u64).try_for_each(|number| to.write_all(&self.word(number)))
    }

    /// Whether these bytes are what is at this place, both multiples of eight but for an end.
    pub fn is_at(self, offset: u64, bytes: &[u8]) -> bool {
        let first = offset / WORD as u64;
        let words = bytes.chunks(WORD).zip(first..);
        words.into_iter().all(|(word, number)| self.word(number).get(..word.len()) == Some(word))
    }
}

/// Checks a stream of bytes that comes in pieces of any size.
#[derive(Debug)]
pub(crate) struct Checker {
    content: Content,
    at: u64,
    /// The beginning of a word whose end has not come.
    rest: Vec<u8>,
}

impl Checker {
    pub(crate) fn new(content: Content, at: u64) -> Self {
        Self { content, at, rest: Vec::with_capacity(WORD) }
    }

    /// Takes the next piece.
    ///
    /// # Errors
    /// If it is not what belongs there.
    pub(crate) fn take(&mut self, mut bytes: &[u8]) -> anyhow::Result<()> {
        if !self.rest.is_empty() {
            let (head, tail) = bytes.split_at(bytes.len().min(WORD - self.rest.len()));
            self.rest.extend_from_slice(head);
            bytes = tail;
            if self.rest.len() < WORD {
                return Ok(());
            }
            let word = std::mem::take(&mut self.rest);
            self.check(&word)?;
        }
        let (whole, rest) = bytes.split_at(bytes.len() / WORD * WORD);
        self.check(whole)?;
        self.rest.extend_from_slice(rest);
        Ok(())
    }

    fn check(&mut self, bytes: &[u8]) -> anyhow::Result<()> {
        anyhow::ensure!(
            self.content.is_at(self.at, bytes),
            "wrong bytes in the {} that begin at {}",
            bytes.len(),
            self.at
        );
        self.at += bytes.len() as u64;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(content: Content) -> Vec<u8> {
        let mut bytes = Vec::new();
        content.write(&mut bytes, 64).unwrap();
        bytes
    }

    #[test]
    fn a_byte_out_of_place_is_noticed() {
        let mut all = bytes(Content(1));
        assert!(Content(1).is_at(0, &all) && Content(1).is_at(16, &all[16..]) && Content(1).is_at(8, &all[8..19]));
        assert!(!Content(2).is_at(0, &all) && !Content(1).is_at(8, &all[16..24]));
        all[63] ^= 1;
        assert!(!Content(1).is_at(0, &all));
    }

    #[test]
    fn pieces_of_any_size_are_checked() {
        let all = bytes(Content(3));
        for size in [1, 3, 8, 11, 64] {
            let mut checker = Checker::new(Content(3), 0);
            all.chunks(size).for_each(|piece| checker.take(piece).unwrap());
            assert_eq!(checker.at, 64);
            let mut wrong = Checker::new(Content(3), 8);
            assert!(all.chunks(size).any(|piece| wrong.take(piece).is_err()), "{size}");
        }
    }
}

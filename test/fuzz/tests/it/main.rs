//! The corpora, replayed and changed.

#[cfg(test)]
mod replay;

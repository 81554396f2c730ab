//! Against swtpm, whose TPM is the reference implementation of the TCG.

#[cfg(test)]
mod trust;

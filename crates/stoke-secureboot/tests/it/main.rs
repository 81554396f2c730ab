//! Keys and signatures, judged by other people's tools.

#[cfg(test)]
mod keys;
#[cfg(test)]
mod measured;

//! The client against distribution's registry, and against servers that behave badly.

#[cfg(test)]
mod real;
#[cfg(test)]
mod strange;

//! What people are told when something fails: one line, and what to do next.

use std::fmt;
use std::io::{self, Write as _};

use stoke_api::load::Finding;

use crate::output::{self, Color};

/// A failure with the next step.
#[derive(Debug)]
pub(crate) struct Failure {
    message: String,
    hint: Option<String>,
    usage: bool,
}

impl Failure {
    /// A failure that says what happened and what to do.
    pub(crate) fn hinted(message: impl Into<String>, hint: impl Into<String>) -> anyhow::Error {
        Self { message: message.into(), hint: Some(hint.into()), usage: false }.into()
    }

    /// A command line that makes no sense.
    pub(crate) fn usage(message: impl Into<String>, hint: impl Into<String>) -> anyhow::Error {
        Self { message: message.into(), hint: Some(hint.into()), usage: true }.into()
    }

    /// A failure whose next step nobody knows.
    pub(crate) fn plain(message: impl Into<String>) -> anyhow::Error {
        Self { message: message.into(), hint: None, usage: false }.into()
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Failure {}

/// Everything that is wrong in the files.
#[derive(Debug)]
pub(crate) struct BadFiles(pub(crate) Vec<Finding>);

impl fmt::Display for BadFiles {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.len() {
            1 => f.write_str("one problem in the files; nothing was changed"),
            many => write!(f, "{many} problems in the files; nothing was changed"),
        }
    }
}

impl std::error::Error for BadFiles {}

/// Prints an error to standard error.
pub(crate) fn print(error: &anyhow::Error) {
    // Nobody is left to be told if standard error is gone.
    let _ = try_print(error);
}

fn try_print(error: &anyhow::Error) -> io::Result<()> {
    let mut stderr = io::stderr().lock();
    for finding in error.downcast_ref::<BadFiles>().into_iter().flat_map(|bad| &bad.0) {
        writeln!(stderr, "{finding}")?;
    }
    writeln!(stderr, "{} {}", output::paint_stderr(Color::Red, "error:"), plain(&format!("{error:#}")))?;
    let hint = error.chain().find_map(|cause| cause.downcast_ref::<Failure>()?.hint.as_deref());
    if let Some(hint) = hint {
        writeln!(stderr, "{} {hint}", output::paint_stderr(Color::Cyan, "hint:"))?;
    }
    Ok(())
}

/// Without the numbers that the operating system gives its errors: the words say the same.
fn plain(text: &str) -> String {
    let mut parts = text.split(" (os error ");
    let mut plain = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let number = part.find(')').filter(|end| part.bytes().take(*end).all(|byte| byte.is_ascii_digit()));
        match number.and_then(|end| part.get(end + 1..)) {
            Some(rest) => plain.push_str(rest),
            None => plain.extend([" (os error ", part]),
        }
    }
    plain
}

/// Whether the reader of our output went away: success, as for every filter in a pipe.
pub(crate) fn is_broken_pipe(error: &anyhow::Error) -> bool {
    let broken = |cause: &(dyn std::error::Error + 'static)| {
        cause.downcast_ref::<io::Error>().is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe)
    };
    error.chain().any(broken)
}

/// Whether the command line was at fault.
pub(crate) fn is_usage(error: &anyhow::Error) -> bool {
    error.chain().any(|cause| cause.downcast_ref::<Failure>().is_some_and(|failure| failure.usage))
}

#[cfg(test)]
mod tests {
    use super::plain;

    #[test]
    fn numbers_of_errors_are_left_out() {
        let cases = [
            ("cannot make /a: Read-only file system (os error 30)", "cannot make /a: Read-only file system"),
            ("a: no (os error 2): b", "a: no: b"),
            ("nothing (os error x) here", "nothing (os error x) here"),
        ];
        for (text, wanted) in cases {
            assert_eq!(plain(text), wanted);
        }
    }
}

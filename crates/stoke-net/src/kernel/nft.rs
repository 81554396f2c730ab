//! The program `nft`, spoken to in JSON.

use std::io::{self, Write as _};
use std::process::{Command, Output, Stdio};

use serde_json::Value;

use super::KernelError;

/// Where Debian has it: not in an ordinary user's `PATH`.
const PROGRAMS: [&str; 2] = ["nft", "/usr/sbin/nft"];

/// The namespace's tables; `None` if the program is not there to ask.
pub(super) fn list() -> Result<Option<Value>, KernelError> {
    let output = match run(&["-j", "list", "ruleset"], "") {
        Err(KernelError::NoNft) => return Ok(None),
        output => output?,
    };
    let listing = serde_json::from_slice(&output.stdout).map_err(io::Error::from);
    listing.map(Some).map_err(|error| KernelError::Read("packet filter", error))
}

/// Carries out commands, all or none.
pub(super) fn load(commands: &Value) -> Result<(), KernelError> {
    run(&["-j", "-f", "-"], &commands.to_string()).map(|_| ())
}

fn run(arguments: &[&str], input: &str) -> Result<Output, KernelError> {
    for program in PROGRAMS {
        match talk(program, arguments, input) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(KernelError::NftProcess(error)),
            Ok(output) if output.status.success() => return Ok(output),
            Ok(output) => return Err(KernelError::Nft(first_line(&output.stderr))),
        }
    }
    Err(KernelError::NoNft)
}

fn talk(program: &str, arguments: &[&str], input: &str) -> io::Result<Output> {
    let mut command = Command::new(program);
    command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn()?;
    // The pipe is closed at the end of the statement. Commands are small: it takes them whole.
    let written = child.stdin.take().map_or(Ok(()), |mut stdin| stdin.write_all(input.as_bytes()));
    let output = child.wait_with_output()?;
    // A program that ended early says why.
    if output.status.success() {
        written?;
    }
    Ok(output)
}

fn first_line(text: &[u8]) -> String {
    String::from_utf8_lossy(text).lines().next().unwrap_or("it did not say why").to_owned()
}

//! The file that `--log` names. Callers read the last error from it, so its lines are in the shape that runc's have.

use std::fs::OpenOptions;
use std::io::Write as _;
use std::path::PathBuf;

use crate::cli::{Global, LogFormat};

/// Where to write, and how.
#[derive(Debug)]
pub(crate) struct Log {
    path: Option<PathBuf>,
    format: LogFormat,
    debug: bool,
}

impl Log {
    pub(crate) fn new(global: &Global) -> Self {
        Self { path: global.log.clone(), format: global.log_format, debug: global.debug }
    }

    /// Why a verb failed.
    pub(crate) fn error(&self, message: &str) {
        self.write("error", message);
    }

    /// What went wrong without failing the verb.
    pub(crate) fn warning(&self, message: &str) {
        self.write("warning", message);
    }

    /// What only `--debug` shows.
    pub(crate) fn debug(&self, message: &str) {
        if self.debug {
            self.write("debug", message);
        }
    }

    /// Opened for each line: it may be rotated at any moment. That it cannot be written is no reason to fail.
    fn write(&self, level: &str, message: &str) {
        let Some(path) = &self.path else { return };
        let time = jiff::Timestamp::now();
        let line = match self.format {
            LogFormat::Json => {
                serde_json::json!({"level": level, "msg": message, "time": time.to_string()}).to_string()
            }
            LogFormat::Text => format!("time={:?} level={level} msg={message:?}", time.to_string()),
        };
        let file = OpenOptions::new().append(true).create(true).open(path);
        let _unwritten = file.and_then(|mut file| writeln!(file, "{line}"));
    }
}

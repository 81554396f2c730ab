//! Why a verb failed.

use std::io;

/// Why a verb failed. The texts that callers look for ("container does not exist", "container not running") stand as they do.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A field of `config.json` or an argument that cannot be meant, or that is not done.
    #[error("{field}: {reason}")]
    Field {
        /// As the specification writes it, from the top: `linux.intelRdt`.
        field: String,
        /// What is wrong with it.
        reason: String,
    },
    /// A file or argument that is no such thing.
    #[error("{0}")]
    Input(String),
    /// No container of this name.
    #[error("container does not exist: {0}")]
    NotFound(String),
    /// A container of this name is there already.
    #[error("container {0} exists already: delete it first, or choose another name")]
    Exists(String),
    /// The container is not in the state that the verb needs.
    #[error("{0}")]
    State(String),
    /// The kernel refuses something.
    #[error("{what}")]
    System {
        /// What was asked of it.
        what: String,
        /// Its answer.
        source: io::Error,
    },
    /// liblxc did not start the container.
    #[error("liblxc: {0}")]
    Lxc(String),
    /// libseccomp is missing or refuses a rule.
    #[error("linux.seccomp: {0}")]
    Seccomp(String),
    /// A hook failed.
    #[error("{kind} hook {path}: {reason}")]
    Hook {
        /// Which list it is in.
        kind: &'static str,
        /// Its program.
        path: String,
        /// How it ended.
        reason: String,
    },
    /// The container's first process says why it cannot go on.
    #[error("{message}")]
    Init {
        /// What it says.
        message: String,
        /// What a shell would exit with: 127 if the program is not there, 126 if it cannot be executed.
        code: u8,
    },
}

/// What a verb gives.
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    /// A refusal of the kernel.
    pub fn system(what: impl Into<String>, source: impl Into<io::Error>) -> Self {
        Self::System { what: what.into(), source: source.into() }
    }

    /// A field that cannot be meant.
    pub fn field(field: impl Into<String>, reason: impl Into<String>) -> Self {
        Self::Field { field: field.into(), reason: reason.into() }
    }

    /// What the program exits with.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Init { code, .. } => *code,
            _ => 1,
        }
    }

    /// The message with all its causes, in one line.
    pub fn line(&self) -> String {
        let mut line = self.to_string();
        let mut cause = std::error::Error::source(self);
        while let Some(error) = cause {
            line = format!("{line}: {error}");
            cause = error.source();
        }
        line.replace('\n', " ")
    }
}

/// Says what was asked of the kernel when it refuses.
pub trait Context<T> {
    /// Says it.
    fn context(self, what: impl FnOnce() -> String) -> Result<T>;
}

impl<T, E: Into<io::Error>> Context<T> for Result<T, E> {
    fn context(self, what: impl FnOnce() -> String) -> Result<T> {
        self.map_err(|source| Error::system(what(), source))
    }
}

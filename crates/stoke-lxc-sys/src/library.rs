//! A shared library that is opened by its name, and its functions by theirs.

use std::ffi::{CStr, CString, c_void};
use std::ptr::NonNull;

/// Why a library cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum LibraryError {
    /// It is not there.
    #[error("cannot open {name}: install {package} ({reason})")]
    Missing {
        /// File name of the library.
        name: &'static str,
        /// Debian package that has it.
        package: &'static str,
        /// What the loader says.
        reason: String,
    },
    /// It is too old.
    #[error("{name} has no function {function}: it is older than this program needs")]
    Function {
        /// File name of the library.
        name: &'static str,
        /// What is missing.
        function: String,
    },
}

/// An open library. It stays open: closing it would leave dangling functions.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Library {
    handle: NonNull<c_void>,
    name: &'static str,
}

impl Library {
    pub(crate) fn open(name: &'static str, package: &'static str) -> Result<Self, LibraryError> {
        let missing = |reason| LibraryError::Missing { name, package, reason };
        let file = CString::new(name).map_err(|error| missing(error.to_string()))?;
        // JUSTIFICATION: verbs that do not need the library must neither wait for it nor fail without it.
        // SAFETY: its constructors are those of a library that the system ships to be loaded by any program.
        let handle = unsafe { libc::dlopen(file.as_ptr(), libc::RTLD_NOW | libc::RTLD_LOCAL) };
        NonNull::new(handle).map(|handle| Self { handle, name }).ok_or_else(|| missing(last_error()))
    }

    /// The address of a function, never null.
    pub(crate) fn function(self, function: &CStr) -> Result<NonNull<c_void>, LibraryError> {
        // JUSTIFICATION: a library opened at run time has no symbols at link time.
        // SAFETY: the handle is open, the name is a C string.
        let address = unsafe { libc::dlsym(self.handle.as_ptr(), function.as_ptr()) };
        let function = || function.to_string_lossy().into_owned();
        NonNull::new(address).ok_or_else(|| LibraryError::Function { name: self.name, function: function() })
    }
}

fn last_error() -> String {
    // JUSTIFICATION: the loader tells its errors by this function only.
    // SAFETY: it takes nothing and answers a C string or null.
    let text = unsafe { libc::dlerror() };
    if text.is_null() {
        return "no reason given".to_owned();
    }
    // JUSTIFICATION: as above.
    // SAFETY: not null, so it is a C string that lives until the next call of the loader by this thread.
    unsafe { CStr::from_ptr(text) }.to_string_lossy().into_owned()
}

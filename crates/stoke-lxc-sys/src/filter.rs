//! A seccomp filter: rules with the names of system calls and architectures, compiled by libseccomp to the kernel's program.

use std::ffi::{CString, c_char, c_int, c_uint, c_void};
use std::io::{Read as _, Seek as _};
use std::os::fd::AsRawFd as _;
use std::ptr::NonNull;

use crate::library::{Library, LibraryError};

/// `__NR_SCMP_ERROR`: no such system call.
const UNKNOWN: c_int = -1;

/// Why a filter cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum FilterError {
    /// libseccomp is not to be had.
    #[error(transparent)]
    Library(#[from] LibraryError),
    /// libseccomp refuses something.
    #[error("libseccomp: {what}")]
    Refused {
        /// What was asked of it.
        what: String,
        /// The error number that it answered.
        source: std::io::Error,
    },
}

/// A comparison of one argument (`struct scmp_arg_cmp`).
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Comparison {
    /// Which argument, from 0.
    pub argument: c_uint,
    /// `enum scmp_compare`.
    pub operator: c_int,
    /// What it is compared with, or the mask.
    pub first: u64,
    /// For a masked comparison: what must remain.
    pub second: u64,
}

macro_rules! functions {
    ($($field:ident: $symbol:literal, fn($($argument:ty),*) -> $answer:ty;)*) => {
        #[derive(Clone, Copy)]
        struct Functions { $($field: unsafe extern "C" fn($($argument),*) -> $answer,)* }
        impl Functions {
            fn load(library: Library) -> Result<Self, LibraryError> {
                $(
                    let address = library.function($symbol)?;
                    // JUSTIFICATION: the loader knows addresses, not types.
                    // SAFETY: the symbol has this type in libseccomp's `seccomp.h` since version 2.5.
                    let $field = unsafe { std::mem::transmute::<*mut c_void, unsafe extern "C" fn($($argument),*) -> $answer>(address.as_ptr()) };
                )*
                Ok(Self { $($field),* })
            }
        }
    };
}

functions! {
    init: c"seccomp_init", fn(u32) -> *mut c_void;
    release: c"seccomp_release", fn(*mut c_void) -> ();
    resolve_architecture: c"seccomp_arch_resolve_name", fn(*const c_char) -> u32;
    add_architecture: c"seccomp_arch_add", fn(*mut c_void, u32) -> c_int;
    resolve_call: c"seccomp_syscall_resolve_name", fn(*const c_char) -> c_int;
    add_rule: c"seccomp_rule_add_array", fn(*mut c_void, u32, c_int, c_uint, *const Comparison) -> c_int;
    set_attribute: c"seccomp_attr_set", fn(*mut c_void, c_int, u32) -> c_int;
    export: c"seccomp_export_bpf", fn(*mut c_void, c_int) -> c_int;
}

/// A filter in the making.
pub struct Filter {
    functions: Functions,
    context: NonNull<c_void>,
}

impl Filter {
    /// A filter that answers every call with `action` (`SECCOMP_RET_*`).
    ///
    /// # Errors
    /// Without libseccomp, or if it does not know the action.
    pub fn new(action: u32) -> Result<Self, FilterError> {
        let functions = Functions::load(Library::open("libseccomp.so.2", "libseccomp2")?)?;
        // JUSTIFICATION: libseccomp is a C library.
        // SAFETY: takes a number.
        let context = NonNull::new(unsafe { (functions.init)(action) });
        let context = context.ok_or_else(|| refused(format!("default action {action:#x}"), -libc::EINVAL))?;
        Ok(Self { functions, context })
    }

    /// Adds an architecture by libseccomp's name for it (`x86_64`, `aarch64`).
    ///
    /// # Errors
    /// If it does not know the name.
    pub fn add_architecture(&mut self, name: &str) -> Result<(), FilterError> {
        let what = || format!("architecture {name}");
        let text = CString::new(name).map_err(|_| refused(what(), -libc::EINVAL))?;
        // JUSTIFICATION: libseccomp is a C library.
        // SAFETY: reads a C string.
        let token = unsafe { (self.functions.resolve_architecture)(text.as_ptr()) };
        if token == 0 {
            return Err(refused(what(), -libc::EINVAL));
        }
        // JUSTIFICATION: libseccomp is a C library.
        // SAFETY: the context is ours and alive.
        match unsafe { (self.functions.add_architecture)(self.context.as_ptr(), token) } {
            // The native one is there from the beginning.
            0 => Ok(()),
            code if code == -libc::EEXIST => Ok(()),
            code => Err(refused(what(), code)),
        }
    }

    /// Answers calls of this name, if all comparisons hold, with `action`. Says whether the name is known.
    ///
    /// # Errors
    /// If libseccomp refuses the rule.
    pub fn add_rule(&mut self, action: u32, call: &str, comparisons: &[Comparison]) -> Result<bool, FilterError> {
        let what = || format!("rule for {call}");
        let name = CString::new(call).map_err(|_| refused(what(), -libc::EINVAL))?;
        // JUSTIFICATION: libseccomp is a C library.
        // SAFETY: reads a C string.
        let number = unsafe { (self.functions.resolve_call)(name.as_ptr()) };
        if number == UNKNOWN {
            return Ok(false);
        }
        let count = c_uint::try_from(comparisons.len()).unwrap_or_default();
        // JUSTIFICATION: libseccomp is a C library.
        // SAFETY: the context is ours and alive; it reads `count` comparisons, which are laid out as its own.
        let code =
            unsafe { (self.functions.add_rule)(self.context.as_ptr(), action, number, count, comparisons.as_ptr()) };
        if code == 0 { Ok(true) } else { Err(refused(what(), code)) }
    }

    /// Has the program be a tree of comparisons and not a list (`SCMP_FLTATR_CTL_OPTIMIZE`), where libseccomp can.
    pub fn optimize(&mut self) {
        const OPTIMIZE: c_int = 8;
        // JUSTIFICATION: libseccomp is a C library.
        // SAFETY: the context is ours and alive; an older version answers an error, and nothing has changed.
        unsafe { (self.functions.set_attribute)(self.context.as_ptr(), OPTIMIZE, 2) };
    }

    /// The program, in the kernel's layout.
    ///
    /// # Errors
    /// If the rules contradict each other.
    pub fn program(&self) -> Result<Vec<u8>, FilterError> {
        let read = |source| FilterError::Refused { what: "its program cannot be read".to_owned(), source };
        let memory = rustix::fs::memfd_create("filter", rustix::fs::MemfdFlags::CLOEXEC);
        let mut file = std::fs::File::from(memory.map_err(|error| read(error.into()))?);
        // JUSTIFICATION: libseccomp is a C library.
        // SAFETY: the context is ours and alive, the descriptor open.
        let code = unsafe { (self.functions.export)(self.context.as_ptr(), file.as_raw_fd()) };
        if code != 0 {
            return Err(refused("the filter".to_owned(), code));
        }
        let mut program = Vec::new();
        file.rewind().and_then(|()| file.read_to_end(&mut program)).map_err(read)?;
        Ok(program)
    }
}

impl Drop for Filter {
    fn drop(&mut self) {
        // JUSTIFICATION: libseccomp is a C library.
        // SAFETY: the context is ours, and nobody uses it after this.
        unsafe { (self.functions.release)(self.context.as_ptr()) }
    }
}

fn refused(what: String, code: c_int) -> FilterError {
    FilterError::Refused { what, source: std::io::Error::from_raw_os_error(-code) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_filter_is_a_program_of_eight_byte_instructions() {
        let mut filter = Filter::new(0x7fff_0000).unwrap();
        filter.add_architecture("x86").unwrap();
        let comparison = Comparison { argument: 0, operator: 4, first: 3, second: 0 };
        assert!(filter.add_rule(0x0005_0001, "getpid", &[comparison]).unwrap());
        assert!(!filter.add_rule(0x0005_0001, "no_such_call", &[]).unwrap());
        let program = filter.program().unwrap();
        assert!(!program.is_empty() && program.len().is_multiple_of(8));
    }

    #[test]
    fn an_unknown_architecture_is_an_error() {
        let mut filter = Filter::new(0x7fff_0000).unwrap();
        assert_eq!(filter.add_architecture("pdp11").unwrap_err().to_string(), "libseccomp: architecture pdp11");
    }
}

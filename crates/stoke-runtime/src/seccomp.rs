//! `linux.seccomp` as a program of the kernel: names of actions, architectures and comparisons become libseccomp's.

use stoke_lxc_sys::filter::{Comparison, Filter};

use crate::error::{Error, Result};
use crate::spec::{Seccomp, SyscallArgument};

/// `SECCOMP_RET_*` of Linux' `include/uapi/linux/seccomp.h`.
const ACTIONS: [(&str, u32); 9] = [
    ("SCMP_ACT_KILL", 0),
    ("SCMP_ACT_KILL_THREAD", 0),
    ("SCMP_ACT_KILL_PROCESS", 0x8000_0000),
    ("SCMP_ACT_TRAP", 0x0003_0000),
    ("SCMP_ACT_ERRNO", 0x0005_0000),
    ("SCMP_ACT_NOTIFY", 0x7fc0_0000),
    ("SCMP_ACT_TRACE", 0x7ff0_0000),
    ("SCMP_ACT_LOG", 0x7ffc_0000),
    ("SCMP_ACT_ALLOW", 0x7fff_0000),
];
/// Flags of seccomp(2).
const FLAGS: [(&str, u64); 4] = [
    ("SECCOMP_FILTER_FLAG_TSYNC", 1),
    ("SECCOMP_FILTER_FLAG_LOG", 1 << 1),
    ("SECCOMP_FILTER_FLAG_SPEC_ALLOW", 1 << 2),
    ("SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV", 1 << 5),
];
/// `enum scmp_compare` of libseccomp's `seccomp.h`.
const OPERATORS: [(&str, i32); 7] = [
    ("SCMP_CMP_NE", 1),
    ("SCMP_CMP_LT", 2),
    ("SCMP_CMP_LE", 3),
    ("SCMP_CMP_EQ", 4),
    ("SCMP_CMP_GE", 5),
    ("SCMP_CMP_GT", 6),
    ("SCMP_CMP_MASKED_EQ", 7),
];
/// Architectures, and what libseccomp calls them.
const ARCHITECTURES: [(&str, &str); 20] = [
    ("SCMP_ARCH_X86", "x86"),
    ("SCMP_ARCH_X86_64", "x86_64"),
    ("SCMP_ARCH_X32", "x32"),
    ("SCMP_ARCH_ARM", "arm"),
    ("SCMP_ARCH_AARCH64", "aarch64"),
    ("SCMP_ARCH_MIPS", "mips"),
    ("SCMP_ARCH_MIPS64", "mips64"),
    ("SCMP_ARCH_MIPS64N32", "mips64n32"),
    ("SCMP_ARCH_MIPSEL", "mipsel"),
    ("SCMP_ARCH_MIPSEL64", "mipsel64"),
    ("SCMP_ARCH_MIPSEL64N32", "mipsel64n32"),
    ("SCMP_ARCH_PPC", "ppc"),
    ("SCMP_ARCH_PPC64", "ppc64"),
    ("SCMP_ARCH_PPC64LE", "ppc64le"),
    ("SCMP_ARCH_S390", "s390"),
    ("SCMP_ARCH_S390X", "s390x"),
    ("SCMP_ARCH_PARISC", "parisc"),
    ("SCMP_ARCH_PARISC64", "parisc64"),
    ("SCMP_ARCH_RISCV64", "riscv64"),
    ("SCMP_ARCH_LOONGARCH64", "loongarch64"),
];

/// `EPERM`, what a denied call answers if nothing else is said.
const EPERM: u32 = 1;
/// `SECCOMP_FILTER_FLAG_NEW_LISTENER`.
const NEW_LISTENER: u64 = 1 << 3;

/// Names of actions, flags, operators and architectures, as `features` prints them.
pub fn names() -> [Vec<&'static str>; 4] {
    fn names<T>(table: &[(&'static str, T)]) -> Vec<&'static str> {
        table.iter().map(|(name, _)| *name).collect()
    }
    [names(&ACTIONS), names(&FLAGS), names(&OPERATORS), names(&ARCHITECTURES)]
}

/// Flags of seccomp(2) for a filter.
///
/// # Errors
/// If a flag is unknown.
pub fn flags(seccomp: &Seccomp) -> Result<u64> {
    let mut flags = 0;
    for name in &seccomp.flags {
        flags |= lookup(&FLAGS, name, "linux.seccomp.flags")?;
    }
    Ok(if seccomp.listener_path.is_empty() { flags } else { flags | NEW_LISTENER })
}

fn lookup<T: Copy>(table: &[(&str, T)], name: &str, field: &str) -> Result<T> {
    let found = table.iter().find(|(other, _)| *other == name);
    found.map(|(_, value)| *value).ok_or_else(|| Error::field(field, format!("{name:?} is unknown")))
}

fn action(name: &str, number: Option<u32>, field: &str) -> Result<u32> {
    let action = lookup(&ACTIONS, name, field)?;
    let data = match name {
        "SCMP_ACT_ERRNO" | "SCMP_ACT_TRACE" => number.unwrap_or(EPERM),
        _ if number.is_some() => return Err(Error::field(field, format!("{name} has no error number"))),
        _ => 0,
    };
    Ok(action | (data & 0xffff))
}

/// The filter's program.
///
/// # Errors
/// If a name is unknown, or libseccomp is missing or refuses a rule.
pub fn compile(seccomp: &Seccomp) -> Result<Vec<u8>> {
    let refused = |error: stoke_lxc_sys::filter::FilterError| {
        let cause = std::error::Error::source(&error).map(|cause| format!(": {cause}")).unwrap_or_default();
        Error::Seccomp(format!("{error}{cause}"))
    };
    if seccomp.default_action == "SCMP_ACT_NOTIFY" {
        return Err(Error::field("linux.seccomp.defaultAction", "SCMP_ACT_NOTIFY cannot be the default"));
    }
    let default = action(&seccomp.default_action, seccomp.default_errno_ret, "linux.seccomp.defaultAction")?;
    let mut filter = Filter::new(default).map_err(refused)?;
    for name in &seccomp.architectures {
        let name = lookup(&ARCHITECTURES, name, "linux.seccomp.architectures")?;
        filter.add_architecture(name).map_err(refused)?;
    }
    for (index, rule) in seccomp.syscalls.iter().enumerate() {
        let field = format!("linux.seccomp.syscalls[{index}]");
        let action = action(&rule.action, rule.errno_ret, &format!("{field}.action"))?;
        if rule.action == "SCMP_ACT_NOTIFY" && seccomp.listener_path.is_empty() {
            return Err(Error::field("linux.seccomp.listenerPath", "is needed for SCMP_ACT_NOTIFY"));
        }
        let groups = comparisons(&rule.args, &field)?;
        // libseccomp refuses a rule that only says what the default does.
        for name in rule.names.iter().filter(|_| action != default) {
            for group in &groups {
                // Names that this libseccomp does not know are of calls that this host's programs do not make.
                filter.add_rule(action, name, group).map_err(refused)?;
            }
        }
    }
    filter.optimize();
    filter.program().map_err(refused)
}

/// All comparisons of a rule must hold; but libseccomp takes one per argument, and several for the same argument mean, for
/// every runtime, that one of them is enough.
fn comparisons(arguments: &[SyscallArgument], field: &str) -> Result<Vec<Vec<Comparison>>> {
    let mut all = Vec::new();
    for argument in arguments {
        if argument.index > 5 {
            return Err(Error::field(format!("{field}.args"), format!("a call has no argument {}", argument.index)));
        }
        let operator = lookup(&OPERATORS, &argument.op, &format!("{field}.args"))?;
        let (first, second) = (argument.value, argument.value_two);
        all.push(Comparison { argument: argument.index, operator, first, second });
    }
    let is_repeated =
        |comparison: &Comparison| all.iter().filter(|other| other.argument == comparison.argument).count() > 1;
    if all.iter().any(is_repeated) {
        return Ok(all.into_iter().map(|comparison| vec![comparison]).collect());
    }
    Ok(vec![all])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn compiled(seccomp: &str) -> Result<Vec<u8>> {
        compile(&serde_json::from_str(seccomp).unwrap())
    }

    #[test]
    fn a_usual_profile_compiles() {
        let program = compiled(
            r#"{"defaultAction": "SCMP_ACT_ERRNO", "defaultErrnoRet": 38, "architectures": ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86"],
                "syscalls": [{"names": ["read", "write", "not_yet_invented"], "action": "SCMP_ACT_ALLOW"},
                             {"names": ["personality"], "action": "SCMP_ACT_ALLOW", "args": [{"index": 0, "value": 8, "op": "SCMP_CMP_EQ"}]},
                             {"names": ["clone"], "action": "SCMP_ACT_ERRNO", "errnoRet": 38}]}"#,
        );
        assert!(program.unwrap().len() > 80);
    }

    #[test]
    fn unknown_words_are_named() {
        let line = |seccomp: &str| compiled(seccomp).unwrap_err().line();
        assert!(line(r#"{"defaultAction": "X"}"#).starts_with("linux.seccomp.defaultAction: "));
        assert!(
            line(r#"{"defaultAction": "SCMP_ACT_ALLOW", "architectures": ["X"]}"#)
                .starts_with("linux.seccomp.architectures: ")
        );
        let rule =
            r#"{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["read"], "action": "SCMP_ACT_NOTIFY"}]}"#;
        assert!(line(rule).starts_with("linux.seccomp.listenerPath: "));
    }

    #[test]
    fn comparisons_of_one_argument_are_alternatives() {
        let argument = |index| SyscallArgument { index, op: "SCMP_CMP_EQ".to_owned(), ..SyscallArgument::default() };
        assert_eq!(comparisons(&[argument(0), argument(1)], "x").unwrap().len(), 1);
        assert_eq!(comparisons(&[argument(0), argument(0)], "x").unwrap().len(), 2);
        assert_eq!(comparisons(&[], "x").unwrap().len(), 1);
    }
}

//! Secure Boot: programs that are signed, and the flash of virtual machines.

use stoke_secureboot::variables::Variable;
use stoke_secureboot::{authenticode, store};

/// A PE program as its signature sees it: the same each time, and another one when something is put behind it.
pub fn authenticode(input: &[u8]) {
    let Some(hash) = authenticode::hash(input) else { return };
    assert_eq!(authenticode::hash(input), Some(hash));
    let longer = authenticode::hash(&[input, b"behind it"].concat());
    assert!(longer.is_some(), "what is behind a program decides whether it is one");
}

/// The flash of a virtual machine: keys that were put in are there, whatever else is.
pub fn variables(input: &[u8]) {
    let mut flash = input.to_vec();
    let lists = [(Variable::Db, vec![1; 40]), (Variable::Pk, vec![2; 7])];
    let at = jiff::civil::date(2026, 1, 1).at(0, 0, 0, 0);
    let enrolled = store::enroll(&mut flash, &lists, at);
    assert_eq!(flash.len(), input.len());
    if enrolled.is_ok() {
        for (variable, list) in lists {
            assert_eq!(store::get(&flash, variable.name(), variable.vendor()), Ok(Some(list)));
        }
    }
}

//! The order of numbered keys: `FSTAB_2` before `FSTAB_10`.

use std::cmp::Ordering;

/// Compares as `sort -V` does: runs of digits by their value, the rest by character.
pub fn by_version(one: &str, other: &str) -> Ordering {
    let (mut one, mut other) = (one, other);
    loop {
        let (text_one, text_other) = (text(one), text(other));
        match text_one.cmp(text_other) {
            Ordering::Equal => {}
            unequal => return unequal,
        }
        (one, other) = (rest(one, text_one), rest(other, text_other));
        let (digits_one, digits_other) = (digits(one), digits(other));
        match by_value(digits_one, digits_other) {
            Ordering::Equal => {}
            unequal => return unequal,
        }
        (one, other) = (rest(one, digits_one), rest(other, digits_other));
        if one.is_empty() || other.is_empty() {
            return one.len().cmp(&other.len());
        }
    }
}

fn text(of: &str) -> &str {
    of.split(|c: char| c.is_ascii_digit()).next().unwrap_or_default()
}

fn digits(of: &str) -> &str {
    of.split(|c: char| !c.is_ascii_digit()).next().unwrap_or_default()
}

fn rest<'a>(of: &'a str, beginning: &str) -> &'a str {
    of.strip_prefix(beginning).unwrap_or_default()
}

/// Numbers of any length; of equal ones the one with fewer leading zeros comes last.
fn by_value(one: &str, other: &str) -> Ordering {
    let (bare_one, bare_other) = (one.trim_start_matches('0'), other.trim_start_matches('0'));
    let value = bare_one.len().cmp(&bare_other.len()).then_with(|| bare_one.cmp(bare_other));
    value.then_with(|| other.len().cmp(&one.len()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_count_by_value() {
        let mut keys = ["FSTAB_10", "FSTAB_2", "FSTAB_1", "FSTAB_01", "FSTAB_A", "FSTAB_", "FSTAB_2_B", "FSTAB_2_A"];
        keys.sort_by(|one, other| by_version(one, other));
        let order = ["FSTAB_", "FSTAB_01", "FSTAB_1", "FSTAB_2", "FSTAB_2_A", "FSTAB_2_B", "FSTAB_10", "FSTAB_A"];
        assert_eq!(keys, order);
    }

    #[test]
    fn numbers_longer_than_any_integer() {
        let long = "9".repeat(60);
        assert_eq!(by_version(&format!("A_{long}"), "A_1"), Ordering::Greater);
        assert_eq!(by_version("", ""), Ordering::Equal);
    }
}

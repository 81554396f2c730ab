//! Names of sections that stand for many machines: `*` for anything, `?` for one character.

/// Whether the pattern has a wildcard.
pub fn is_pattern(name: &str) -> bool {
    name.contains(['*', '?'])
}

/// Whether the whole text matches. Linear in space, at most quadratic in time.
pub fn matches(pattern: &str, text: &str) -> bool {
    let pattern: Vec<_> = pattern.chars().collect();
    let text: Vec<_> = text.chars().collect();
    let (mut p, mut t) = (0, 0);
    // Where the last star was, and how much of the text it stands for.
    let mut star = None;
    while t < text.len() {
        match pattern.get(p) {
            Some('*') => {
                star = Some((p, t));
                p += 1;
            }
            Some(c) if *c == '?' || Some(c) == text.get(t) => {
                p += 1;
                t += 1;
            }
            _ => {
                let Some((at, covered)) = star else { return false };
                star = Some((at, covered + 1));
                p = at + 1;
                t = covered + 1;
            }
        }
    }
    pattern.iter().skip(p).all(|c| *c == '*')
}

/// Whether one of the alternatives matches, as in a shell's `case`: `pc01|pc02|lab-*`.
pub fn matches_any(alternatives: &str, text: &str) -> bool {
    alternatives.split('|').any(|pattern| matches(pattern.trim(), text))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wildcards() {
        for (pattern, text, expected) in [
            ("pc*", "pc01", true),
            ("pc*", "pc", true),
            ("pc?", "pc", false),
            ("192.168.67.*", "192.168.67.20", true),
            ("192.168.67.*", "192.168.6.20", false),
            ("*a*b", "xaxxbxb", true),
            ("*a*b", "xaxxbxc", false),
            ("", "", true),
            ("", "x", false),
            ("52:54:*:01", "52:54:00:00:00:01", true),
        ] {
            assert_eq!(matches(pattern, text), expected, "{pattern} {text}");
        }
        assert!(matches_any("pc01 | lab-*", "lab-7"));
        assert!(!matches_any("pc01|lab-*", "pc02"));
    }

    #[test]
    fn a_hostile_pattern_ends() {
        assert!(!matches(&"*a".repeat(200), &"a".repeat(199)));
    }
}

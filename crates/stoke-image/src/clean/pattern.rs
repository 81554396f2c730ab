//! Paths with wildcards, as people write them in `exclude` and `keep`.

/// A path with wildcards, from the top of the tree: `*` is anything within a name, `?` one character, `**` any number of
/// names. It covers what it matches and all that lies below.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pattern(Vec<String>);

impl Pattern {
    /// Reads `/usr/share/**/*.gz`.
    pub fn parse(text: &str) -> Self {
        Self(text.split('/').filter(|part| !part.is_empty()).map(str::to_owned).collect())
    }

    /// Whether it matches `path` or a folder above it.
    pub fn covers(&self, path: &str) -> bool {
        covers(&self.0, &names(path))
    }

    /// Whether something below `path` could match.
    pub fn leads_below(&self, path: &str) -> bool {
        leads_below(&self.0, &names(path))
    }
}

fn names(path: &str) -> Vec<&str> {
    path.split('/').filter(|part| !part.is_empty()).collect()
}

fn covers(pattern: &[String], path: &[&str]) -> bool {
    match (pattern.split_first(), path.split_first()) {
        // All of the pattern is met: what remains of the path lies below.
        (None, _) => true,
        (Some((name, rest)), Some((_, below))) if name == "**" => {
            rest.is_empty() || covers(rest, path) || covers(pattern, below)
        }
        (Some(_), None) => false,
        (Some((name, rest)), Some((first, below))) => matches(name, first) && covers(rest, below),
    }
}

fn leads_below(pattern: &[String], path: &[&str]) -> bool {
    match (pattern.split_first(), path.split_first()) {
        (None, _) => false,
        (Some(_), None) => true,
        (Some((name, _)), _) if name == "**" => true,
        (Some((name, rest)), Some((first, below))) => matches(name, first) && leads_below(rest, below),
    }
}

/// Whether a name is what its pattern says. Goes back to the last `*` only: an earlier one could take no more of the name
/// than the last can.
fn matches(pattern: &str, name: &str) -> bool {
    let (pattern, name): (Vec<char>, Vec<char>) = (pattern.chars().collect(), name.chars().collect());
    let (mut at, mut here, mut star) = (0, 0, None);
    while here < name.len() {
        match pattern.get(at) {
            Some('*') => {
                star = Some((at, here));
                at += 1;
            }
            Some(c) if *c == '?' || name.get(here) == Some(c) => {
                at += 1;
                here += 1;
            }
            _ => {
                let Some((back, taken)) = star else { return false };
                star = Some((back, taken + 1));
                at = back + 1;
                here = taken + 1;
            }
        }
    }
    pattern.get(at..).unwrap_or_default().iter().all(|c| *c == '*')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn covers(pattern: &str, path: &str) -> bool {
        Pattern::parse(pattern).covers(path)
    }

    #[test]
    fn what_lies_below_goes_along() {
        assert!(covers("/usr/share/doc", "usr/share/doc") && covers("/usr/share/doc/", "usr/share/doc/a/b"));
        assert!(!covers("/usr/share/doc", "usr/share") && !covers("/usr/share/doc", "usr/share/documents"));
    }

    #[test]
    fn stars_stay_within_names_and_two_do_not() {
        assert!(covers("/boot/vmlinuz-*", "boot/vmlinuz-6.1") && !covers("/boot/*-6.1", "boot/a/b-6.1"));
        assert!(covers("/usr/**/*.pyc", "usr/lib/python3/x.pyc") && covers("/usr/**/*.pyc", "usr/x.pyc"));
        assert!(covers("/var/**", "var/lib") && !covers("/var/**", "var"));
        assert!(covers("/a?c*e", "abcdde") && !covers("/a?c*e", "ace"));
    }

    #[test]
    fn the_way_to_a_pattern_is_known() {
        let pattern = Pattern::parse("/srv/www/*/data");
        for way in ["srv", "srv/www", "srv/www/site"] {
            assert!(pattern.leads_below(way), "{way}");
        }
        assert!(!pattern.leads_below("srv/www/site/data") && !pattern.leads_below("srv/ftp"));
    }
}

//! Something wrong in a file, and where.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;

/// A place in a text; both count from one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Position {
    /// The line.
    pub line: usize,
    /// The column, in characters.
    pub column: usize,
}

/// Something wrong in a file. Prints as one line, `examples/lab.yaml:14:7: spec.subnets[0].cidr: …`, which editors and
/// terminals make clickable.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// The file, as it was named.
    pub path: PathBuf,
    /// Where in it; `None` if it is about the whole file.
    pub at: Option<Position>,
    /// Path of the field from the object's root; empty if it is about no field.
    pub field: String,
    /// What is wrong: lower case, no full stop.
    pub message: String,
    /// What would be right, where that is known.
    pub hint: Option<String>,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.path.display())?;
        if let Some(Position { line, column }) = self.at {
            write!(f, ":{line}:{column}")?;
        }
        if !self.field.is_empty() {
            write!(f, ": {}", self.field)?;
        }
        write!(f, ": {}", self.message)?;
        self.hint.iter().try_for_each(|hint| write!(f, "; {hint}"))
    }
}

/// Where the fields of one object are in its file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Positions(BTreeMap<String, Position>);

impl Positions {
    pub(super) fn insert(&mut self, field: &str, at: Position) {
        self.0.insert(field.to_owned(), at);
    }

    /// Whether a field is not written there.
    pub(super) fn lacks(&self, field: &str) -> bool {
        !self.0.contains_key(field)
    }

    /// Where a field is; if it is not written there, where the nearest field around it is.
    pub fn find(&self, field: &str) -> Option<Position> {
        let mut field = field;
        loop {
            if let Some(at) = self.0.get(field) {
                return Some(*at);
            }
            let (outer, _) = field.rsplit_once(['.', '[']).or_else(|| (!field.is_empty()).then_some(("", "")))?;
            field = outer;
        }
    }
}

/// A field of `outer`: `spec.vm`.
pub(super) fn field_of(outer: &str, name: &str) -> String {
    if outer.is_empty() { name.to_owned() } else { format!("{outer}.{name}") }
}

/// The word among `known` that was probably meant: equal but for case, or a slip of the finger away.
pub fn nearest<'a>(text: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let lower = text.to_lowercase();
    let allowed = (lower.chars().count() / 3).max(1);
    let distance = |word: &'a str| (strsim::damerau_levenshtein(&lower, &word.to_lowercase()), word);
    known.into_iter().map(distance).filter(|(far, _)| *far <= allowed).min().map(|(_, word)| word)
}

/// `did you mean "subnets"?`, or else what there is to choose from.
pub(super) fn suggest(text: &str, known: &[&str], what: &str) -> Option<String> {
    match nearest(text, known.iter().copied()) {
        Some(word) => Some(format!("did you mean {word:?}?")),
        None if known.is_empty() => None,
        None => Some(format!("{what} {}", known.join(", "))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slip_is_found_and_a_stranger_is_not() {
        let known = ["subnets", "dhcp", "dns", "egress"];
        let found = ["subnet", "Subnets", "dchp", "egres", "routes", "d"].map(|text| nearest(text, known));
        assert_eq!(found, [Some("subnets"), Some("subnets"), Some("dhcp"), Some("egress"), None, None]);
    }

    #[test]
    fn a_missing_field_is_at_what_is_around_it() {
        let mut positions = Positions::default();
        let at = |line| Position { line, column: 1 };
        for (field, line) in [("", 1), ("spec", 2), ("spec.nics[0]", 4)] {
            positions.insert(field, at(line));
        }
        let lines = ["spec.nics[0].mac", "spec.nics[1]", "metadata.name", ""].map(|f| positions.find(f).unwrap().line);
        assert_eq!(lines, [4, 2, 1, 1]);
    }
}

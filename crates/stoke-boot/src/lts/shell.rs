//! The part of a shell's language that can be told without running it: assignments, and where other statements end.

use std::collections::BTreeMap;

use super::expand::{expand, is_name};

/// A statement of a section.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Statement {
    /// `NAME=word`, alone on its line or before others of its kind.
    Set {
        /// The variable.
        name: String,
        /// The word as it is written.
        word: String,
        /// Its line, from 1.
        line: usize,
    },
    /// Anything else.
    Code {
        /// As it is written.
        text: String,
        /// Its first line.
        line: usize,
        /// Variables that it may set.
        sets: Vec<String>,
    },
}

/// The statements of a text. One whose quotes or braces do not end goes to the end of the text.
pub(crate) fn statements(text: &str) -> Vec<Statement> {
    let mut reader = Reader { rest: text, line: 1, found: Vec::new() };
    while reader.statement() {}
    reader.found
}

/// What a word stands for; `None` if only a shell can tell.
pub(crate) fn value_of(word: &str, variables: &BTreeMap<String, String>) -> Option<String> {
    let (mut value, mut rest) = (String::new(), word);
    while let Some(first) = rest.chars().next() {
        let inside = rest.get(first.len_utf8()..)?;
        match first {
            '\'' => {
                let (literal, after) = inside.split_once('\'')?;
                value.push_str(literal);
                rest = after;
            }
            '"' => {
                let end = end_of_double(inside)?;
                value.push_str(&expand(inside.get(..end)?, variables)?);
                rest = inside.get(end + 1..)?;
            }
            _ => {
                let end = rest.find(['\'', '"']).unwrap_or(rest.len());
                let bare = rest.get(..end)?;
                // A bare backslash quotes any character: rare, and a shell's business; so are home folders.
                if bare.contains('\\') || (value.is_empty() && bare.starts_with('~')) {
                    return None;
                }
                value.push_str(&expand(bare, variables)?);
                rest = rest.get(end..)?;
            }
        }
    }
    Some(value)
}

struct Reader<'a> {
    rest: &'a str,
    line: usize,
    found: Vec<Statement>,
}

impl<'a> Reader<'a> {
    /// Takes one statement; false at the end of the text.
    fn statement(&mut self) -> bool {
        loop {
            let trimmed = self.rest.trim_start_matches([' ', '\t', ';', '\n', '\r']);
            self.take(self.rest.len() - trimmed.len());
            if !self.rest.starts_with('#') {
                break;
            }
            self.take(self.rest.find('\n').unwrap_or(self.rest.len()));
        }
        if self.rest.is_empty() {
            return false;
        }
        if !self.assignments() {
            self.code();
        }
        true
    }

    fn take(&mut self, length: usize) -> &'a str {
        let (taken, rest) = self.rest.split_at_checked(length).unwrap_or((self.rest, ""));
        self.line += taken.matches('\n').count();
        self.rest = rest;
        taken
    }

    /// One or more assignments up to the end of the statement; takes nothing if there is something else, too.
    fn assignments(&mut self) -> bool {
        let (mut at, mut found, mut line) = (0, Vec::new(), self.line);
        let is_export = self.rest.starts_with("export ");
        if is_export {
            at += "export ".len();
        }
        loop {
            let here = self.rest.get(at..).unwrap_or_default();
            let blank = here.len() - here.trim_start_matches([' ', '\t']).len();
            let here = here.get(blank..).unwrap_or_default();
            at += blank;
            if here.is_empty() || here.starts_with(['\n', ';', '#', '\r']) {
                break;
            }
            let Some((name, word, length)) = assignment(here, at == 0) else { return false };
            found.push(Statement::Set { name, word, line });
            line += here.get(..length).unwrap_or_default().matches('\n').count();
            at += length;
        }
        if found.is_empty() {
            return false;
        }
        self.take(at);
        self.found.extend(found);
        true
    }

    /// Everything up to the line on which all quotes, braces and blocks have ended.
    fn code(&mut self) {
        let (begin, first) = (self.rest, self.line);
        let (mut length, mut depth, mut ends) = (0, Depth::default(), Vec::new());
        loop {
            let here = begin.get(length..).unwrap_or_default();
            if here.is_empty() {
                break;
            }
            let end = line_end(here);
            let line = here.get(..end).unwrap_or(here);
            length += end;
            let heredoc = ends.first().cloned();
            match heredoc {
                Some(delimiter) if line.trim() == delimiter => drop(ends.remove(0)),
                Some(_) => {}
                None => {
                    depth.count(line);
                    ends.extend(heredocs(line));
                }
            }
            if depth.open <= 0 && ends.is_empty() && !line.trim_end().ends_with(['\\', '|', '&']) {
                break;
            }
        }
        let text = self.take(length).trim_end().to_owned();
        let sets = sets(&text);
        self.found.push(Statement::Code { text, line: first, sets });
    }
}

/// `NAME=word` at the beginning: the name, the word, and how much that is. At the beginning of a line LTSP allows spaces
/// around the sign.
fn assignment(text: &str, is_first: bool) -> Option<(String, String, usize)> {
    let end = text.find(|c: char| !c.is_ascii_alphanumeric() && c != '_')?;
    let (name, rest) = text.split_at(end);
    if !is_name(name) {
        return None;
    }
    let spaced = rest.trim_start_matches(' ');
    let after = if is_first { spaced } else { rest }.strip_prefix('=')?;
    let after = if is_first { after.trim_start_matches(' ') } else { after };
    let length = end_of_word(after)?;
    let word = after.get(..length)?;
    Some((name.to_owned(), word.to_owned(), text.len() - after.len() + length))
}

/// Where a word ends; `None` if a quote does not, or it is no word.
fn end_of_word(text: &str) -> Option<usize> {
    let mut at = 0;
    loop {
        let rest = text.get(at..)?;
        let Some(first) = rest.chars().next() else { return Some(at) };
        let inside = rest.get(first.len_utf8()..)?;
        at += match first {
            ' ' | '\t' | '\n' | '\r' | ';' => return Some(at),
            '(' | ')' | '&' | '|' | '<' | '>' => return None,
            '\'' => inside.find('\'')? + 2,
            '"' => end_of_double(inside)? + 2,
            '\\' => 1 + inside.chars().next().map_or(0, char::len_utf8),
            '$' if inside.starts_with('(') => end_of_command(inside)? + 1,
            '`' => inside.find('`')? + 2,
            other => other.len_utf8(),
        };
    }
}

/// Where a double quote ends, from the character after its beginning; commands in it may have quotes of their own.
fn end_of_double(text: &str) -> Option<usize> {
    let mut at = 0;
    loop {
        let rest = text.get(at..)?;
        let first = rest.chars().next()?;
        let inside = rest.get(first.len_utf8()..)?;
        at += match first {
            '"' => return Some(at),
            '\\' => 1 + inside.chars().next().map_or(0, char::len_utf8),
            '$' if inside.starts_with('(') => end_of_command(inside)? + 1,
            other => other.len_utf8(),
        };
    }
}

/// The length of `(…)`, at whose beginning the text is.
fn end_of_command(text: &str) -> Option<usize> {
    let (mut at, mut open) = (0, 0);
    loop {
        let rest = text.get(at..)?;
        let first = rest.chars().next()?;
        let inside = rest.get(first.len_utf8()..)?;
        at += match first {
            '(' => {
                open += 1;
                1
            }
            ')' => {
                open -= 1;
                if open == 0 {
                    return Some(at + 1);
                }
                1
            }
            '\'' => inside.find('\'')? + 2,
            '"' => end_of_double(inside)? + 2,
            '\\' => 1 + inside.chars().next().map_or(0, char::len_utf8),
            other => other.len_utf8(),
        };
    }
}

/// Where a line ends that goes on while a quote does; the whole text if that never ends.
fn line_end(text: &str) -> usize {
    let mut at = 0;
    let mut after_space = true;
    while let Some(first) = text.get(at..).and_then(|rest| rest.chars().next()) {
        let inside = text.get(at + first.len_utf8()..).unwrap_or_default();
        let length = match first {
            '\n' => return at + 1,
            '#' if after_space => Some(inside.find('\n').map_or(inside.len() + 1, |end| end + 1)),
            '\'' => inside.find('\'').map(|end| end + 2),
            '"' => end_of_double(inside).map(|end| end + 2),
            '\\' => Some(1 + inside.chars().next().map_or(0, char::len_utf8)),
            other => Some(other.len_utf8()),
        };
        let Some(length) = length else { return text.len() };
        after_space = first.is_whitespace() || first == ';';
        at += length;
    }
    text.len()
}

/// How many blocks are open.
#[derive(Default)]
struct Depth {
    open: i32,
}

impl Depth {
    fn count(&mut self, line: &str) {
        let bare = without_quotes(line);
        let mut is_command = true;
        for word in bare.split_inclusive(|c: char| c.is_whitespace() || ";()".contains(c)) {
            let ends_command = word.ends_with([';', '(', ')', '\n']);
            let word = word.trim_end_matches(|c: char| c.is_whitespace() || ";()".contains(c));
            if is_command {
                match word {
                    "if" | "case" | "for" | "while" | "until" | "{" => self.open += 1,
                    "fi" | "esac" | "done" | "}" => self.open -= 1,
                    _ => {}
                }
            }
            let goes_on = ["then", "do", "else", "{", "!", "&&", "||", "|", "elif", ""].contains(&word);
            is_command = ends_command || goes_on;
        }
    }
}

fn without_quotes(line: &str) -> String {
    let (mut bare, mut at) = (String::new(), 0);
    let mut after_space = true;
    while let Some(first) = line.get(at..).and_then(|rest| rest.chars().next()) {
        let inside = line.get(at + first.len_utf8()..).unwrap_or_default();
        let skipped = match first {
            '#' if after_space => break,
            '\'' => inside.find('\'').map(|end| end + 2),
            '"' => end_of_double(inside).map(|end| end + 2),
            '\\' => Some(1 + inside.chars().next().map_or(0, char::len_utf8)),
            _ => None,
        };
        after_space = first.is_whitespace() || first == ';';
        if skipped.is_none() {
            bare.push(first);
        } else {
            bare.push('_');
        }
        at += skipped.unwrap_or(first.len_utf8());
    }
    bare
}

/// The delimiters of here-documents that begin on the line.
fn heredocs(line: &str) -> Vec<String> {
    let bare = line.split("<<<").next().unwrap_or_default();
    let behind = bare.split("<<").skip(1);
    let word = |text: &str| {
        let text = text.trim_start_matches(['-', ' ']);
        let text = text.split(|c: char| c.is_whitespace() || ";)|&>".contains(c)).next().unwrap_or_default();
        text.trim_matches(['"', '\'', '\\']).to_owned()
    };
    behind.map(word).filter(|word| !word.is_empty() && !word.starts_with(|c: char| c.is_ascii_digit())).collect()
}

/// Names that are followed by `=` at a place where that sets a variable.
fn sets(code: &str) -> Vec<String> {
    let mut names: Vec<String> = Vec::new();
    for word in code.split(|c: char| c.is_whitespace() || ";({".contains(c)) {
        if let Some((name, _)) = word.split_once('=')
            && is_name(name)
            && !names.iter().any(|known| known == name)
        {
            names.push(name.to_owned());
        }
    }
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(text: &str) -> Vec<String> {
        let one = |statement| match statement {
            Statement::Set { name, word, line } => format!("{line} {name} := {word}"),
            Statement::Code { text, line, sets } => format!("{line} code {text:?} {}", sets.join(",")),
        };
        statements(text).into_iter().map(one).collect()
    }

    #[test]
    fn assignments_in_all_their_forms() {
        let text = "A=1\n  B = 'x y' # c\nexport C=\"a\nb\" D=2;E=$(date +%s)\nF=a\\ b\"c\"'d'\nG=\n# H=1\n";
        let expected = [
            "1 A := 1",
            "2 B := 'x y'",
            "3 C := \"a\nb\"",
            "4 D := 2",
            "4 E := $(date +%s)",
            "5 F := a\\ b\"c\"'d'",
            "6 G := ",
        ];
        assert_eq!(seen(text), expected);
    }

    #[test]
    fn other_statements_end_where_their_blocks_do() {
        let text = "if [ \"$X\" = 1 ]; then\n  A=1\n  for i in a b; do echo $i; done\nfi\nB=2\ncat >/x <<EOF\nC=3\nfi\nEOF\nD=4\n\
                    f() {\n  E=5\n}\ncase $x in\n a) F=6 ;;\nesac\nX=1 run\necho 'a\nb'\nG=7\n";
        let statements = seen(text);
        let heads: Vec<_> = statements.iter().map(|one| one.split("\\n").next().unwrap_or_default()).collect();
        let expected = [
            "1 code \"if [ \\\"$X\\\" = 1 ]; then",
            "5 B := 2",
            "6 code \"cat >/x <<EOF",
            "10 D := 4",
            "11 code \"f() {",
            "14 code \"case $x in",
            "17 code \"X=1 run\" X",
            "18 code \"echo 'a",
            "20 G := 7",
        ];
        assert_eq!(heads, expected);
        assert!(statements[0].ends_with(" A"));
        assert!(statements[5].ends_with(" F"));
    }

    #[test]
    fn what_never_ends_is_code_to_the_end() {
        assert_eq!(seen("A=1\nB=\"open\nC=2\n").len(), 2);
        assert_eq!(seen("if true; then\nA=1\n").len(), 1);
        assert_eq!(seen("$(((((").len(), 1);
    }

    #[test]
    fn words() {
        let variables = [("A".to_owned(), "one".to_owned())].into();
        for (word, expected) in [
            ("x", Some("x")),
            ("$A/b", Some("one/b")),
            ("'$A'", Some("$A")),
            ("\"$A b\"c'd'", Some("one bcd")),
            ("\"a\nb\"", Some("a\nb")),
            ("a\\ b", None),
            ("~/x", None),
            ("\"$(date)\"", None),
            ("$B", None),
        ] {
            assert_eq!(value_of(word, &variables).as_deref(), expected, "{word}");
        }
    }
}

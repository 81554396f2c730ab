//! What a shell makes of a value in double quotes, as far as that can be told here.

use std::collections::BTreeMap;

/// The value with `$NAME`, `${NAME}` and `${NAME:-default}` replaced and `\$`, `\"`, `\\`, `` \` `` unescaped; `None` if
/// only a shell can tell: it runs a command, or names a variable that is not known here.
pub fn expand(value: &str, variables: &BTreeMap<String, String>) -> Option<String> {
    let mut expanded = String::with_capacity(value.len());
    let mut rest = value;
    while let Some(at) = rest.find(['$', '`', '\\']) {
        let (before, special) = rest.split_at(at);
        expanded.push_str(before);
        let mut after = special.chars();
        match after.next() {
            Some('`') => return None,
            Some('\\') => {
                let text = after.as_str();
                if let Some(escaped @ ('$' | '`' | '"' | '\\')) = text.chars().next() {
                    expanded.push(escaped);
                    rest = text.get(1..).unwrap_or_default();
                } else {
                    expanded.push('\\');
                    rest = text;
                }
            }
            _ => rest = variable(after.as_str(), variables, &mut expanded)?,
        }
    }
    expanded.push_str(rest);
    Some(expanded)
}

/// What stands behind a dollar; gives what follows it.
fn variable<'a>(text: &'a str, variables: &BTreeMap<String, String>, expanded: &mut String) -> Option<&'a str> {
    if let Some(inside) = text.strip_prefix('{') {
        let (inside, rest) = inside.split_once('}')?;
        let (name, default) = match inside.split_once(":-") {
            Some((name, default)) => (name, Some(default)),
            None => (inside, None),
        };
        if !is_name(name) || default.is_some_and(|default| default.contains(['$', '`', '\\', '{'])) {
            return None;
        }
        let value = variables.get(name).map(String::as_str).filter(|value| default.is_none() || !value.is_empty());
        expanded.push_str(value.or(default)?);
        return Some(rest);
    }
    let end = text.find(|c: char| !is_name_part(c)).unwrap_or(text.len());
    let (name, rest) = text.split_at(end);
    if name.is_empty() {
        // `$(…)`, `$1`, `$?` and the like are a shell's; a lone dollar stands for itself.
        return match rest.chars().next() {
            None | Some(' ' | '/' | ':' | '.' | ',' | '"' | '|') => {
                expanded.push('$');
                Some(rest)
            }
            Some(_) => None,
        };
    }
    if !is_name(name) {
        return None;
    }
    expanded.push_str(variables.get(name)?);
    Some(rest)
}

/// Whether this names a variable of a shell.
pub(crate) fn is_name(text: &str) -> bool {
    text.chars().all(is_name_part) && !text.is_empty() && !text.starts_with(|c: char| c.is_ascii_digit())
}

fn is_name_part(c: char) -> bool {
    c.is_ascii_alphanumeric() || c == '_'
}

/// The text between single quotes, as a shell reads it back.
pub(crate) fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn expanded(value: &str) -> Option<String> {
        let pairs = [("SERVER", "10.0.0.1"), ("EMPTY", "")];
        let variables = pairs.map(|(name, value)| (name.to_owned(), value.to_owned())).into();
        expand(value, &variables)
    }

    #[test]
    fn what_can_be_told_here() {
        for (value, expected) in [
            ("plain", "plain"),
            ("$SERVER:/home /home nfs", "10.0.0.1:/home /home nfs"),
            ("${SERVER}x", "10.0.0.1x"),
            ("${MISSING:-none} ${EMPTY:-none} ${SERVER:-none}", "none none 10.0.0.1"),
            (r"\$6\$salt\\ \n", r"$6$salt\ \n"),
            ("5 $ a", "5 $ a"),
            ("ends in $", "ends in $"),
        ] {
            assert_eq!(expanded(value).as_deref(), Some(expected), "{value}");
        }
    }

    #[test]
    fn what_only_a_shell_can_tell() {
        for value in ["$(date)", "`date`", "$MISSING", "${SERVER#10.}", "${SERVER", "$1", "$?", "${MISSING:-$SERVER}"] {
            assert_eq!(expanded(value), None, "{value}");
        }
    }

    #[test]
    fn quotes_are_read_back() {
        assert_eq!(quoted("it's"), r"'it'\''s'");
    }
}

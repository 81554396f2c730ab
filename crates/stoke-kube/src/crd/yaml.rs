//! A definition as YAML that people can read and that every parser reads the same, those of YAML 1.1 too, to whom `On` is
//! a boolean: a text is written bare only if nobody could take it for anything else.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use serde_json::Value;

/// Words that a parser may take for a boolean or for nothing.
const OTHER_THAN_TEXT: [&str; 11] = ["true", "false", "null", "yes", "no", "on", "off", "y", "n", "nan", "inf"];

/// A document.
pub(super) fn document(value: &Value) -> String {
    let mut text = String::new();
    block(value, 0, &mut text);
    text
}

/// The fields of a map or the items of a list, each on a line of its own that begins at `indent`.
fn block(value: &Value, indent: usize, out: &mut String) {
    match value {
        // In one order, however the JSON library was built.
        Value::Object(fields) => {
            let sorted: BTreeMap<_, _> = fields.iter().collect();
            for (name, value) in sorted {
                field(name, value, indent, out);
            }
        }
        Value::Array(items) => items.iter().for_each(|value| item(value, indent, out)),
        scalar => line(indent, &self::scalar(scalar), out),
    }
}

fn field(name: &str, value: &Value, indent: usize, out: &mut String) {
    let name = text(name);
    match value {
        Value::Object(fields) if !fields.is_empty() => {
            line(indent, &format!("{name}:"), out);
            block(value, indent + 2, out);
        }
        Value::Array(items) if !items.is_empty() => {
            line(indent, &format!("{name}:"), out);
            block(value, indent, out);
        }
        other => line(indent, &format!("{name}: {}", scalar(other)), out),
    }
}

fn item(value: &Value, indent: usize, out: &mut String) {
    let mut inner = String::new();
    block(value, indent + 2, &mut inner);
    // The first line of what is inside begins behind the dash.
    let rest = inner.get(indent + 2..).unwrap_or_default();
    // Writing to a String cannot fail.
    let _ = write!(out, "{:indent$}- {rest}", "");
}

fn line(indent: usize, content: &str, out: &mut String) {
    let _ = writeln!(out, "{:indent$}{content}", "");
}

fn scalar(value: &Value) -> String {
    match value {
        Value::String(string) => text(string),
        Value::Object(_) => "{}".to_owned(),
        Value::Array(_) => "[]".to_owned(),
        other => other.to_string(),
    }
}

/// What is not bare is written as JSON writes it, which every YAML parser reads.
fn text(string: &str) -> String {
    let inner = |c: char| c.is_ascii_alphanumeric() || " ._/-".contains(c);
    let bare = string.starts_with(|c: char| c.is_ascii_alphabetic())
        && string.chars().all(inner)
        && !string.ends_with(' ')
        && !OTHER_THAN_TEXT.contains(&string.to_lowercase().as_str());
    if bare { string.to_owned() } else { Value::from(string).to_string() }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn text_stays_text_for_every_parser() {
        let value = json!({
            "a": ["On", "True", "x", "1", "a: b", "", "~"], "b": {}, "c": [],
            "d": [{ "x-y": 1, "z": ["q"] }, [true]], "e": "two\nlines",
        });
        let expected = "a:\n- \"On\"\n- \"True\"\n- x\n- \"1\"\n- \"a: b\"\n- \"\"\n- \"~\"\nb: {}\nc: []\n\
                        d:\n- x-y: 1\n  z:\n  - q\n- - true\ne: \"two\\nlines\"\n";
        assert_eq!(document(&value), expected);
    }
}

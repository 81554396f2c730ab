//! Documents that are none of our objects: other systems' files, read by the same bounded parser.

use std::path::Path;

use serde_json::{Map, Number, Value};

use super::finding::Finding;
use super::tree::{self, Content, Node, Scalar};

/// The documents of a YAML or JSON text as they are, by the core schema of YAML 1.2; `path` is only named in findings.
///
/// # Errors
/// With everything that makes it no YAML.
pub fn load_documents(path: &Path, text: &str) -> Result<Vec<Value>, Vec<Finding>> {
    let (documents, malformed) = tree::parse(text);
    if malformed.is_empty() {
        return Ok(documents.iter().map(value).filter(|value| !value.is_null()).collect());
    }
    let finding = |malformed: tree::Malformed| {
        let (path, at, message) = (path.to_owned(), Some(malformed.at), malformed.message);
        Finding { path, at, field: String::new(), message, hint: None }
    };
    Err(malformed.into_iter().map(finding).collect())
}

fn value(node: &Node) -> Value {
    match &node.content {
        Content::Scalar(scalar) => of_scalar(scalar),
        Content::List(items) => Value::Array(items.iter().map(value).collect()),
        Content::Map(entries) => {
            Value::Object(entries.iter().map(|(key, node)| (key.text.clone(), value(node))).collect::<Map<_, _>>())
        }
    }
}

fn of_scalar(scalar: &Scalar) -> Value {
    let text = scalar.text.as_str();
    if !scalar.plain {
        return text.into();
    }
    match text {
        "" | "~" | "null" | "Null" | "NULL" => Value::Null,
        "true" | "True" | "TRUE" => Value::Bool(true),
        "false" | "False" | "FALSE" => Value::Bool(false),
        _ => number(text).map_or_else(|| text.into(), Value::Number),
    }
}

fn number(text: &str) -> Option<Number> {
    if !text.starts_with(|c: char| c.is_ascii_digit() || "+-.".contains(c)) {
        return None;
    }
    let integer = text.parse::<i64>().ok().map(Number::from);
    integer.or_else(|| text.parse::<f64>().ok().and_then(Number::from_f64))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn scalars_are_what_yaml_says() {
        let text = "a: 1\nb: '1'\nc: yes\nd: true\ne: ~\nf: [1.5, -2, 52:54:00:00:00:01]\n---\n# nothing\n---\nx: {}\n";
        let documents = load_documents(Path::new("x"), text).unwrap();
        let first = json!({"a": 1, "b": "1", "c": "yes", "d": true, "e": null, "f": [1.5, -2, "52:54:00:00:00:01"]});
        assert_eq!(documents, [first, json!({"x": {}})]);
        assert_eq!(load_documents(Path::new("x"), "a: [").unwrap_err().len(), 1);
    }
}

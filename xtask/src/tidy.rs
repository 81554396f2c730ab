//! What compilers do not check: crate edges, stale generated files (both are failures), and sizes (a report).

use std::path::{Path, PathBuf};

use anyhow::{Result, bail};

use crate::run::root;
use crate::{docs, graph};

/// Lines before the first test module that a file should stay under.
const FILE_LIMIT: usize = 400;
/// Lines that a function should stay under.
const FUNCTION_LIMIT: usize = 60;

/// Checks everything; prints what is large, fails on what is wrong.
pub(crate) fn run() -> Result<()> {
    for line in sizes()? {
        println!("large: {line}");
    }
    let mut wrong = graph::violations()?;
    wrong.extend(docs::stale()?);
    if wrong.is_empty() {
        return Ok(());
    }
    for line in &wrong {
        eprintln!("tidy: {line}");
    }
    bail!("{} things are untidy", wrong.len());
}

fn sizes() -> Result<Vec<String>> {
    let mut large = Vec::new();
    for folder in ["bin", "crates", "test", "xtask"] {
        for file in rust_files(&root().join(folder))? {
            let text = fs_err::read_to_string(&file)?;
            if is_generated(&text) {
                continue;
            }
            let before_tests = text.split("\n#[cfg(test)]").next().unwrap_or_default();
            let name = file.strip_prefix(root()).unwrap_or(&file).display().to_string();
            let lines = before_tests.lines().count();
            if lines > FILE_LIMIT {
                large.push(format!("{name}: {lines} lines before its tests"));
            }
            large.extend(
                long_functions(before_tests).map(|(function, lines)| format!("{name}: {function}: {lines} lines")),
            );
        }
    }
    Ok(large)
}

/// Whether another program wrote it, by the mark that such programs leave and rustfmt looks for: nobody reads it from end to
/// end, and its length is its source's.
fn is_generated(text: &str) -> bool {
    text.lines().take(5).any(|line| line.starts_with("//") && line.contains("@generated"))
}

/// Functions over the limit. By indentation, as rustfmt leaves it: a function ends at the first `}` as deep as its `fn`.
fn long_functions(text: &str) -> impl Iterator<Item = (String, usize)> {
    let lines: Vec<_> = text.lines().collect();
    let starts = lines.iter().enumerate().filter_map(|(at, line)| function_name(line).map(|name| (at, name)));
    let measured: Vec<_> = starts
        .filter_map(|(at, name)| {
            let depth = lines.get(at)?.len() - lines.get(at)?.trim_start().len();
            let end = format!("{}}}", " ".repeat(depth));
            let length = lines.iter().skip(at).position(|line| **line == end)? + 1;
            (length > FUNCTION_LIMIT).then_some((name, length))
        })
        .collect();
    measured.into_iter()
}

fn function_name(line: &str) -> Option<String> {
    let trimmed = line.trim_start();
    let (before, after) = trimmed.split_once("fn ")?;
    let words = ["pub", "pub(crate)", "pub(super)", "async", "const", "unsafe", "extern", "\"C\""];
    let is_item = before.split_whitespace().all(|word| words.contains(&word));
    is_item.then(|| after.split(['(', '<']).next().unwrap_or_default().to_owned())
}

fn rust_files(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    if !folder.is_dir() {
        return Ok(found);
    }
    for entry in fs_err::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() {
            found.extend(rust_files(&path)?);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
    found.sort();
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_function_is_measured_to_its_own_brace() {
        let body = "        x();\n".repeat(70);
        let text = format!("impl T {{\n    pub fn long(&self) {{\n{body}    }}\n    fn short() {{\n    }}\n}}\n");
        assert_eq!(long_functions(&text).collect::<Vec<_>>(), [("long".to_owned(), 72)]);
    }
}

//! Files that objects refer to and that are part of them: read when the object is.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use super::files;
use super::walk::Walk;
use crate::objects::{AnyObject, LtspFile};

/// How many files one file may include.
const MAX_INCLUDED: usize = 10;

/// Reads the files that an object names into it, from the folder of the file that has the object. Gives their paths, of
/// those that are not there, too.
pub(super) fn read(object: &mut AnyObject, from: &Path, walk: &mut Walk<'_>) -> Vec<PathBuf> {
    let AnyObject::Farm(farm) = object else { return Vec::new() };
    let folder = from.parent().unwrap_or(Path::new(""));
    let mut paths = Vec::new();
    for (field, file) in [("spec.ltsConf", &mut farm.spec.lts_conf), ("spec.ltspConf", &mut farm.spec.ltsp_conf)] {
        if let Some(file) = file.as_mut() {
            read_one(file, folder, field, walk, &mut paths);
        }
    }
    paths
}

fn read_one(file: &mut LtspFile, folder: &Path, field: &str, walk: &mut Walk<'_>, paths: &mut Vec<PathBuf>) {
    let Some(name) = &file.file else { return };
    let field = format!("{field}.file");
    let at = walk.positions.find(&field).unwrap_or(super::Position { line: 1, column: 1 });
    if file.content.is_some() || !file.included.is_empty() {
        return walk.wrong(at, &field, "say where it is, or what is in it, not both", None);
    }
    let path = folder.join(name);
    paths.push(path.clone());
    let text = match files::read(&path) {
        Ok(text) => text,
        Err(finding) => return walk.wrong(at, &field, format!("{}: {}", path.display(), finding.message), None),
    };
    let beside = path.parent().unwrap_or(folder).to_owned();
    let mut wanted = included(&text);
    let mut seen = BTreeSet::from([name.file_name().unwrap_or_default().to_string_lossy().into_owned()]);
    while let Some(name) = wanted.pop() {
        if file.included.len() == MAX_INCLUDED || !seen.insert(name.clone()) {
            continue;
        }
        let path = beside.join(&name);
        paths.push(path.clone());
        // One that is not there is found by whoever reads the text, with its line.
        if let Ok(text) = files::read(&path) {
            wanted.extend(included(&text));
            file.included.insert(name, text);
        }
    }
    file.content = Some(text);
}

/// The files that an `lts.conf` includes; `ltsp.conf` includes sections, which have no dot and are none.
fn included(text: &str) -> Vec<String> {
    let name = |line: &str| {
        let (word, rest) = line.trim().split_at_checked("include".len())?;
        let rest = rest.trim_start_matches(|c: char| c == '=' || c.is_whitespace()).trim_matches(['"', '\'']).trim();
        (word.eq_ignore_ascii_case("include") && rest.contains(['.', '/'])).then(|| rest.to_owned())
    };
    text.lines().filter_map(name).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::load::load;

    const FARM: &str =
        "apiVersion: stokehold.dev/v1alpha1\nkind: Farm\nmetadata: {name: lab}\nspec:\n  lan: lab\n  image: node\n";

    fn loaded(spec: &str, files: &[(&str, &str)]) -> Result<(LtspFile, usize), Vec<String>> {
        let folder = tempfile::tempdir().unwrap();
        let farm = folder.path().join("farm.yaml");
        std::fs::write(&farm, format!("{FARM}{spec}")).unwrap();
        for (name, text) in files {
            std::fs::write(folder.path().join(name), text).unwrap();
        }
        match load(&[farm]) {
            Ok(loaded) => match &loaded[0].objects[0].0 {
                AnyObject::Farm(farm) => {
                    Ok((farm.spec.lts_conf.clone().unwrap_or_default(), loaded[0].referenced.len()))
                }
                _ => unreachable!("a farm was written"),
            },
            Err(findings) => {
                Err(findings.into_iter().map(|finding| format!("{}: {}", finding.field, finding.message)).collect())
            }
        }
    }

    #[test]
    fn a_file_is_read_with_those_that_it_includes() {
        let files = [
            ("lts.conf", "[default]\ninclude more.conf\ninclude gone.conf\n"),
            ("more.conf", "include lts.conf\nA=1\n"),
        ];
        let (file, read) = loaded("  ltsConf: {file: lts.conf}\n", &files).unwrap();
        assert_eq!(file.content.as_deref(), Some(files[0].1));
        assert_eq!(file.included["more.conf"], files[1].1);
        assert_eq!(file.name("x"), "lts.conf");
        // With the one that is not there: it may come.
        assert_eq!(read, 3);
    }

    #[test]
    fn what_cannot_be_read_is_found_where_it_is_named() {
        let problems = loaded("  ltsConf: {file: gone.conf}\n", &[]).unwrap_err();
        assert!(problems[0].starts_with("spec.ltsConf.file: "), "{problems:?}");
        assert!(
            problems[0].ends_with("gone.conf: there is no such file or folder")
                || problems[0].contains("cannot be read")
        );
        assert!(loaded("  ltsConf: {file: a, content: b}\n", &[]).unwrap_err()[0].contains("not both"));
        assert!(loaded("  ltsConf: {}\n", &[]).unwrap_err()[0].starts_with("spec.ltsConf: say where it is"));
        let two = "  ltsConf: {content: a}\n  ltspConf: {content: b}\n";
        assert!(loaded(two, &[]).unwrap_err()[0].starts_with("spec.ltspConf: a farm has"));
    }

    #[test]
    fn a_text_from_elsewhere_reads_no_file() {
        let text = format!("{FARM}  ltsConf: {{file: /etc/passwd}}\n");
        let findings = crate::load::load_text(Path::new("x.yaml"), &text).unwrap_err();
        assert_eq!(findings[0].field, "spec.ltsConf.file");
    }
}

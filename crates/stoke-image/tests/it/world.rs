//! What the tests share: programs that must be there, and specs.

use std::path::Path;
use std::process::{Command, Stdio};

use stoke_api::objects::{Access, DebianSource, Forms, Hooks, ImageSource, ImageSpec, NetbootForm};

/// Runs a program and returns what it wrote; a failure is the test's.
pub(crate) fn run(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).stdin(Stdio::null()).output();
    let output = output.unwrap_or_else(|error| panic!("{program} must be installed for this test: {error}"));
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{program} {arguments:?}: {said}{}", String::from_utf8_lossy(&output.stderr));
    said
}

pub(crate) fn text(path: &Path) -> &str {
    path.to_str().expect("test paths are UTF-8")
}

/// A recipe in the short form.
pub(crate) fn spec(packages: &[&str]) -> ImageSpec {
    ImageSpec {
        source: ImageSource { debian: Some(recipe(packages)), ..ImageSource::default() },
        architectures: vec![stoke_api::objects::Architecture::Amd64],
        forms: Forms { netboot: Some(NetbootForm::default()) },
        revision_history_limit: 3,
        publish: Vec::new(),
        access: Access::default(),
    }
}

fn recipe(packages: &[&str]) -> DebianSource {
    DebianSource {
        suite: "bookworm".to_owned(),
        mirror: None,
        components: vec!["main".to_owned()],
        keyring: None,
        packages: packages.iter().map(|&name| name.to_owned()).collect(),
        lock: None,
        files: Vec::new(),
        hooks: Hooks::default(),
    }
}

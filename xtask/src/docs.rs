//! The generated reference: written by `docs`, compared by `tidy`.

use std::path::PathBuf;
use std::process::Command;

use anyhow::Result;

use crate::build::{Profile, build};
use crate::run::{self, cargo, has_program, output, root};

/// Generated pages: what `stoke reference` is asked for, and where it goes.
const PAGES: &[(&str, &str)] =
    &[("objects", "docs/src/reference/objects.md"), ("commands", "docs/src/reference/commands.md")];

/// Writes the generated pages, and the book if mdbook is there.
pub(crate) fn run() -> Result<()> {
    for (path, text) in pages()? {
        fs_err::write(&path, text)?;
        println!("{}", path.display());
    }
    if has_program("mdbook") {
        return run_mdbook();
    }
    println!("mdbook is not installed (cargo install mdbook): the pages in docs/src are readable as they are");
    Ok(())
}

fn run_mdbook() -> Result<()> {
    run::run("mdbook", Command::new("mdbook").args(["build", "docs"]).current_dir(root()))
}

/// Generated pages that are not what would be written now.
pub(crate) fn stale() -> Result<Vec<String>> {
    let is_stale = |(path, text): &(PathBuf, String)| fs_err::read_to_string(path).ok().as_ref() != Some(text);
    let stale = pages()?.into_iter().filter(is_stale);
    Ok(stale.map(|(path, _)| format!("{} is stale: run cargo xtask docs", path.display())).collect())
}

/// Documentation of the crates builds without a warning.
pub(crate) fn check() -> Result<()> {
    let mut doc = cargo(&["doc", "--workspace", "--no-deps", "--quiet"]);
    run::run("docs", doc.env("RUSTDOCFLAGS", "--deny warnings"))
}

fn pages() -> Result<Vec<(PathBuf, String)>> {
    let stoke = build(Profile::Dev)?.join("stoke");
    let page = |(what, path): &(&str, &str)| {
        Ok((root().join(path), output(Command::new(&stoke).args(["reference", what]).env("COLUMNS", "100"))?))
    };
    PAGES.iter().map(page).collect()
}

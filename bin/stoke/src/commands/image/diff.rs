//! `stoke image diff`.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::process::ExitCode;

use serde::Serialize;
use stoke_image::store::{Content, Package, Version};

use super::named::ImageName;
use super::shelf;
use crate::cli::{DiffImages, Format};
use crate::failure::Failure;
use crate::folders::Folders;
use crate::output;

/// A value on both sides.
#[derive(Debug, PartialEq, Eq, Serialize)]
struct Change<T> {
    name: String,
    from: Option<T>,
    to: Option<T>,
}

/// How two versions differ.
#[derive(Debug, Serialize)]
struct Difference {
    from: String,
    to: String,
    kernel: Change<String>,
    arguments: Change<String>,
    parts: Vec<Change<u64>>,
    packages: Vec<Change<String>>,
}

pub(super) fn run(folders: &Folders, diff: &DiffImages) -> anyhow::Result<ExitCode> {
    let store = shelf::open(folders)?;
    let from = diff.from.find(&store)?;
    let to = match &diff.to {
        Some(to) => to.find(&store)?,
        None => newest(&store, &diff.from)?,
    };
    let side = |version: &Version| -> anyhow::Result<_> {
        Ok((store.contents(&version.image.digest)?, store.packages(&version.image)?))
    };
    let ((from_parts, from_packages), (to_parts, to_packages)) = (side(&from)?, side(&to)?);
    let change =
        |name: &str, from: String, to: String| Change { name: name.to_owned(), from: Some(from), to: Some(to) };
    let (old, new) = (&from.image, &to.image);
    let difference = Difference {
        from: format!("{}:{}", diff.from.key(), old.digest.short()),
        to: format!("{}:{}", diff.to.as_ref().unwrap_or(&diff.from).key(), new.digest.short()),
        kernel: change("kernel", old.kernel_version.clone(), new.kernel_version.clone()),
        arguments: change("arguments", old.kernel_arguments.join(" "), new.kernel_arguments.join(" ")),
        parts: changes(sizes(&from_parts), sizes(&to_parts)),
        packages: changes(versions(&from_packages), versions(&to_packages)),
    };
    output::print(&match diff.output {
        Format::Json => format!("{}\n", serde_json::to_string_pretty(&difference)?),
        Format::Yaml => output::yaml(&serde_json::to_value(&difference)?)?,
        Format::Table | Format::Wide | Format::Name => text(&difference),
    })?;
    Ok(ExitCode::SUCCESS)
}

/// The newest version of the same image, if another one was named.
fn newest(store: &stoke_image::Store, image: &ImageName) -> anyhow::Result<Version> {
    let newest = store.versions(&image.key())?.into_iter().next();
    newest.filter(|_| image.has_version()).ok_or_else(|| {
        Failure::usage("name two versions, or an older one", "stoke image diff NAME:VERSION NAME:VERSION")
    })
}

fn sizes(parts: &[Content]) -> BTreeMap<String, u64> {
    let sized = parts.iter().filter(|part| !["manifest", "configuration"].contains(&part.name.as_str()));
    sized.map(|part| (part.name.clone(), part.size)).collect()
}

/// By name; packages of several architectures may share one.
fn versions(packages: &[Package]) -> BTreeMap<String, String> {
    let mut found = BTreeMap::<String, Vec<&str>>::new();
    for package in packages {
        found.entry(package.name.clone()).or_default().push(&package.version);
    }
    found.into_iter().map(|(name, versions)| (name, versions.join(", "))).collect()
}

/// What is not the same on both sides.
fn changes<T: PartialEq>(mut from: BTreeMap<String, T>, to: BTreeMap<String, T>) -> Vec<Change<T>> {
    let mut found: Vec<_> =
        to.into_iter().map(|(name, to)| Change { from: from.remove(&name), to: Some(to), name }).collect();
    found.extend(from.into_iter().map(|(name, from)| Change { name, from: Some(from), to: None }));
    found.retain(|change| change.from != change.to);
    found.sort_by(|a, b| a.name.cmp(&b.name));
    found
}

fn text(difference: &Difference) -> String {
    let mut text = format!("--- {}\n+++ {}\n", difference.from, difference.to);
    for change in [&difference.kernel, &difference.arguments].into_iter().filter(|change| change.from != change.to) {
        text.push_str(&line(change, Clone::clone));
    }
    difference.parts.iter().for_each(|change| text.push_str(&line(change, |size| output::size(*size))));
    difference.packages.iter().for_each(|change| text.push_str(&line(change, Clone::clone)));
    let count =
        |wanted: fn(&Change<String>) -> bool| difference.packages.iter().filter(|change| wanted(change)).count();
    // Writing to a String cannot fail.
    let _ = writeln!(
        text,
        "packages: {} changed, {} added, {} removed",
        count(|change| change.from.is_some() && change.to.is_some()),
        count(|change| change.from.is_none()),
        count(|change| change.to.is_none()),
    );
    text
}

fn line<T>(change: &Change<T>, show: impl Fn(&T) -> String) -> String {
    match (&change.from, &change.to) {
        (Some(from), Some(to)) => format!("~ {} {} -> {}\n", change.name, show(from), show(to)),
        (None, Some(to)) => format!("+ {} {}\n", change.name, show(to)),
        (Some(from), None) => format!("- {} {}\n", change.name, show(from)),
        (None, None) => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packages_that_came_went_or_changed() {
        let side = |pairs: &[(&str, &str)]| pairs.iter().map(|(a, b)| ((*a).to_owned(), (*b).to_owned())).collect();
        let from = side(&[("bash", "1"), ("gone", "2"), ("same", "3")]);
        let to = side(&[("bash", "2"), ("new", "1"), ("same", "3")]);
        let found: String = changes(from, to).iter().map(|change| line(change, Clone::clone)).collect();
        assert_eq!(found, "~ bash 1 -> 2\n- gone 2\n+ new 1\n");
    }
}

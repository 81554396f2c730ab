//! `stoke image show`.

use std::fmt::Write as _;
use std::process::ExitCode;

use serde_json::json;
use stoke_image::Store;
use stoke_image::store::{Content, Package, Version};

use super::shelf::{self, Known, Row};
use crate::cli::{Format, ShowImage};
use crate::failure::Failure;
use crate::folders::Folders;
use crate::output::{self, Table};

pub(super) fn run(folders: &Folders, show: &ShowImage) -> anyhow::Result<ExitCode> {
    let store = shelf::open(folders)?;
    let version = show.image.find(&store)?;
    if show.sbom {
        return sbom(&store, &version);
    }
    let known = Known::of(folders, &store, &[version.image.digest])?;
    let row = known.row(&show.image.key(), &version);
    let contents = store.contents(&version.image.digest)?;
    let packages = store.packages(&version.image)?;
    let text = match show.output {
        Format::Name => format!("{}@{}\n", row.name, row.digest),
        Format::Json => format!("{}\n", serde_json::to_string_pretty(&value(&row, &version, &contents, &packages)?)?),
        Format::Yaml => output::yaml(&value(&row, &version, &contents, &packages)?)?,
        Format::Table | Format::Wide => {
            let signatures = store.signatures(&version.image.digest)?.len();
            let mut text = text(&row, &version, &contents, signatures);
            // Writing to a String cannot fail.
            let _ = writeln!(text, "packages    {}", packages.len());
            if show.packages || show.output == Format::Wide {
                text.push_str(&table(&packages));
            }
            text
        }
    };
    output::print(&text)?;
    Ok(ExitCode::SUCCESS)
}

fn sbom(store: &Store, version: &Version) -> anyhow::Result<ExitCode> {
    let bill = store.sbom(&version.image)?;
    let bill = bill.ok_or_else(|| Failure::hinted("this version has no bill of materials", "build the image again"))?;
    output::print(&format!("{}\n", String::from_utf8_lossy(&bill)))?;
    Ok(ExitCode::SUCCESS)
}

fn value(
    row: &Row,
    version: &Version,
    contents: &[Content],
    packages: &[Package],
) -> anyhow::Result<serde_json::Value> {
    let mut value = serde_json::to_value(row)?;
    let part = |part: &Content| json!({"name": part.name, "mediaType": part.media_type, "digest": part.digest, "size": part.size});
    let more = json!({
        "architecture": version.image.architecture,
        "kernelArguments": version.image.kernel_arguments,
        "root": version.image.root,
        "parts": contents.iter().map(part).collect::<Vec<_>>(),
        "packages": packages,
    });
    if let (Some(map), serde_json::Value::Object(more)) = (value.as_object_mut(), more) {
        map.extend(more);
    }
    Ok(value)
}

fn text(row: &Row, version: &Version, contents: &[Content], signatures: usize) -> String {
    let image = &version.image;
    let state = match (row.handed_out, row.kept) {
        (true, true) => "handed out, kept",
        (true, false) => "handed out",
        (false, true) => "kept",
        (false, false) => "older, or not chosen",
    };
    let signed = match (row.signed_by.as_slice(), signatures) {
        ([], 0) => "by nobody".to_owned(),
        ([], some) => format!("by {some} that no key here knows"),
        (known, _) => format!("by {}", known.join(", ")),
    };
    let lines = [
        ("name", row.name.clone()),
        ("digest", row.digest.to_string()),
        ("state", state.to_owned()),
        ("built", row.built_at.clone()),
        ("kernel", row.kernel.clone()),
        ("arguments", image.kernel_arguments.join(" ")),
        ("root", format!("{:?}, {}", image.root.format, output::size(image.root.size))),
        ("root hash", image.root.verity.root_hash.clone()),
        ("signed", signed),
        ("used by", if row.used_by.is_empty() { "nobody".to_owned() } else { row.used_by.join(", ") }),
    ];
    let mut text = String::new();
    for (word, value) in lines {
        // Writing to a String cannot fail.
        let _ = writeln!(text, "{word:<11} {value}");
    }
    let mut table = Table::new(&["PART", "SIZE", "DIGEST"]);
    for part in contents {
        table.row(vec![part.name.clone(), output::size(part.size), part.digest.to_string()]);
    }
    format!("{text}\n{}\n", table.render(""))
}

fn table(packages: &[Package]) -> String {
    let mut table = Table::new(&["PACKAGE", "VERSION", "ARCHITECTURE"]);
    for package in packages {
        table.row(vec![package.name.clone(), package.version.clone(), package.architecture.clone()]);
    }
    format!("\n{}", table.render(""))
}

//! `stoke image list`.

use std::process::ExitCode;

use stoke_image::store::Version;

use super::shelf::{self, Known, Row};
use crate::cli::{Format, ListImages};
use crate::folders::Folders;
use crate::output::{self, Table};

pub(super) fn run(folders: &Folders, list: &ListImages) -> anyhow::Result<ExitCode> {
    let store = shelf::open(folders)?;
    let mut versions: Vec<(String, Version)> = Vec::new();
    for name in store.names()? {
        if list.name.as_ref().is_none_or(|wanted| wanted.key() == name) {
            versions.extend(store.versions(&name)?.into_iter().map(|version| (name.clone(), version)));
        }
    }
    if let (Some(name), true) = (&list.name, versions.is_empty()) {
        // It says that there is none, and what there is.
        name.find(&store)?;
    }
    let digests: Vec<_> = versions.iter().map(|(_, version)| version.image.digest).collect();
    let known = Known::of(folders, &store, &digests)?;
    let rows: Vec<_> = versions.iter().map(|(name, version)| known.row(name, version)).collect();
    output::print(&match list.output {
        Format::Json => format!("{}\n", serde_json::to_string_pretty(&rows)?),
        Format::Yaml => output::yaml(&serde_json::to_value(&rows)?)?,
        Format::Name => rows.iter().map(|row| format!("{}@{}\n", row.name, row.digest)).collect::<Vec<_>>().concat(),
        Format::Table => table(&rows, false),
        Format::Wide => table(&rows, true),
    })?;
    Ok(ExitCode::SUCCESS)
}

fn table(rows: &[Row], wide: bool) -> String {
    let now = jiff::Timestamp::now();
    let mut header = vec!["NAME", "VERSION", "AGE", "SIZE", "KERNEL", "SIGNED BY", "STATE"];
    header.extend(wide.then_some("USED BY"));
    let mut table = Table::new(&header);
    for row in rows {
        let newest = rows.iter().find(|other| other.name == row.name).is_some_and(|first| first.digest == row.digest);
        let mut cells = vec![
            row.name.clone(),
            row.digest.short(),
            output::age(&row.built_at, now),
            output::size(row.size),
            row.kernel.clone(),
            row.signed_by.join(","),
            state(row, newest),
        ];
        cells.extend(wide.then(|| row.used_by.join(",")));
        table.row(cells);
    }
    table.render("")
}

fn state(row: &Row, newest: bool) -> String {
    let handed_out = match (row.handed_out, newest) {
        (true, true) => Some("handed out"),
        (true, false) => Some("handed out (rolled back)"),
        (false, _) => None,
    };
    [handed_out, row.kept.then_some("kept")].into_iter().flatten().collect::<Vec<_>>().join(", ")
}

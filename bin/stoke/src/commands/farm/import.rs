//! `stoke farm import FILE…`: the objects that other systems' files mean, and what became of each of their keys.

use std::path::Path;
use std::process::ExitCode;

use stoke_api::load;
use stoke_boot::import::{Became, Draft, Format, Names, Row};

use crate::cli::FarmImport;
use crate::failure::{BadFiles, Failure};
use crate::output::{self, Table};

pub(crate) fn run(import: &FarmImport) -> anyhow::Result<ExitCode> {
    let names = Names { farm: import.farm.to_string(), lan: import.lan.to_string(), image: import.image.to_string() };
    let mut draft = Draft::new(names);
    for file in &import.files {
        add(&mut draft, file)?;
    }
    if import.report {
        output::print(&report(draft.rows()))?;
        return Ok(ExitCode::SUCCESS);
    }
    for object in draft.objects() {
        output::print(&format!("---\n{}", output::yaml(&object)?))?;
    }
    eprint!("{}", summary(draft.rows()));
    Ok(ExitCode::SUCCESS)
}

fn add(draft: &mut Draft, file: &Path) -> anyhow::Result<()> {
    let (text, name) = (fs_err::read_to_string(file)?, file.display().to_string());
    let format = Format::guess(&name, &text);
    if format != Format::Documents {
        draft.add_ltsp(format, &name, &text);
        return Ok(());
    }
    for document in load::load_documents(file, &text).map_err(BadFiles)? {
        draft.add_document(&name, document).map_err(|unknown| {
            Failure::hinted(
                format!("{name}: {}", unknown.message),
                "stoke farm import --help says what can be imported",
            )
        })?;
    }
    Ok(())
}

/// A table of all keys.
fn report(rows: &[Row]) -> String {
    let mut table = Table::new(&["WHERE", "KEY", "BECAME"]);
    for row in rows {
        let became = match &row.became {
            Became::Field(field) => field.clone(),
            Became::Nothing(why) => format!("- nothing: {why}"),
        };
        table.row(vec![row.file.clone(), row.key.clone(), became]);
    }
    table.render("")
}

/// How much of it is in the objects, for people who look at these.
fn summary(rows: &[Row]) -> String {
    let unused = rows.iter().filter(|row| matches!(row.became, Became::Nothing(_))).count();
    match unused {
        0 => format!("all {} keys are in the objects\n", rows.len()),
        unused => format!("{unused} of {} keys are not in the objects: see --report\n", rows.len()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_key_has_a_line() {
        let row = |key: &str, became| Row { file: "lts.conf:2".to_owned(), key: key.to_owned(), became };
        let rows = [
            row("[default] TIMEZONE", Became::Field("Farm: spec.config.timezone".to_owned())),
            row("[default] SCREEN_07", Became::Nothing("it is about desktops".to_owned())),
        ];
        let expected = "WHERE       KEY                  BECAME\n\
                        lts.conf:2  [default] TIMEZONE   Farm: spec.config.timezone\n\
                        lts.conf:2  [default] SCREEN_07  - nothing: it is about desktops\n";
        assert_eq!(report(&rows), expected);
        assert_eq!(summary(&rows), "1 of 2 keys are not in the objects: see --report\n");
        assert_eq!(summary(&rows[..1]), "all 1 keys are in the objects\n");
    }
}

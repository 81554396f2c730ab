//! What commands print: tables, JSON, YAML, colors. Data goes to standard output, all of it through [`print()`].

use std::fmt::Write as _;
use std::io::{self, IsTerminal as _, Write as _};
use std::sync::OnceLock;

use stoke_api::{API_VERSION, AnyObject};
use unicode_width::UnicodeWidthStr as _;

use crate::cli::ColorChoice;

static COLOR: OnceLock<ColorChoice> = OnceLock::new();

/// A color; never the only bearer of a meaning.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Color {
    Red,
    Green,
    Yellow,
    Cyan,
    Bold,
}

/// Takes note of `--color`. The first call counts.
pub(crate) fn choose_color(choice: ColorChoice) {
    let _ = COLOR.set(choice);
}

fn colored(terminal: bool) -> bool {
    match COLOR.get() {
        Some(ColorChoice::Always) => true,
        Some(ColorChoice::Never) => false,
        // <https://no-color.org>: any value but the empty one.
        _ => terminal && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty()),
    }
}

fn paint_if(on: bool, color: Color, text: &str) -> String {
    let code = match color {
        Color::Red => "31",
        Color::Green => "32",
        Color::Yellow => "33",
        Color::Cyan => "36",
        Color::Bold => "1",
    };
    if on { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
}

/// The text in a color, if standard output shows colors.
pub(crate) fn paint(color: Color, text: &str) -> String {
    paint_if(colored(io::stdout().is_terminal()), color, text)
}

/// The text in a color, if standard error shows colors.
pub(crate) fn paint_stderr(color: Color, text: &str) -> String {
    paint_if(colored(io::stderr().is_terminal()), color, text)
}

/// Prints to standard output, at once.
pub(crate) fn print(text: &str) -> io::Result<()> {
    let mut stdout = io::stdout().lock();
    stdout.write_all(text.as_bytes())?;
    stdout.flush()
}

/// Columns for people: as wide as what is in them, two spaces apart, the last one as long as it likes.
#[derive(Debug)]
pub(crate) struct Table {
    widths: Vec<usize>,
    rows: Vec<Vec<String>>,
}

impl Table {
    /// A table with a header.
    pub(crate) fn new(header: &[&str]) -> Self {
        let mut table = Self { widths: Vec::new(), rows: Vec::new() };
        table.row(header.iter().map(ToString::to_string).collect());
        table
    }

    /// Adds a row. An empty cell is shown as `-`.
    pub(crate) fn row(&mut self, cells: Vec<String>) {
        let cells: Vec<_> = cells.into_iter().map(|cell| if cell.is_empty() { "-".to_owned() } else { cell }).collect();
        self.widths.resize(self.widths.len().max(cells.len()), 0);
        for (width, cell) in self.widths.iter_mut().zip(&cells) {
            *width = (*width).max(cell.width());
        }
        self.rows.push(cells);
    }

    /// All rows, each line beginning with `indent`.
    pub(crate) fn render(&self, indent: &str) -> String {
        let lines: Vec<_> = self.rows.iter().map(|row| self.line(row, indent)).collect();
        lines.concat()
    }

    /// One more row in the columns of this table, which are not changed.
    pub(crate) fn line(&self, cells: &[String], indent: &str) -> String {
        let mut line = indent.to_owned();
        for (cell, width) in cells.iter().zip(self.widths.iter().copied().chain(std::iter::repeat(0))) {
            let padding = width.saturating_sub(cell.width()) + 2;
            line.push_str(cell);
            line.extend(std::iter::repeat_n(' ', padding));
        }
        line.truncate(line.trim_end().len());
        line.push('\n');
        line
    }
}

/// An object as people write it, with its API version.
pub(crate) fn json(object: &AnyObject) -> anyhow::Result<serde_json::Value> {
    let mut value = serde_json::to_value(object)?;
    if let Some(map) = value.as_object_mut() {
        map.insert("apiVersion".to_owned(), API_VERSION.into());
    }
    Ok(value)
}

/// A value as YAML.
pub(crate) fn yaml(value: &serde_json::Value) -> anyhow::Result<String> {
    let mut text = serde_saphyr::to_string(value)?;
    if !text.ends_with('\n') {
        text.push('\n');
    }
    Ok(text)
}

/// Each line behind some spaces.
pub(crate) fn indented(text: &str, indent: &str) -> String {
    text.lines().fold(String::new(), |mut all, line| {
        // Writing to a String cannot fail.
        let _ = if line.is_empty() { writeln!(all) } else { writeln!(all, "{indent}{line}") };
        all
    })
}

/// How long ago, as kubectl writes it: `12s`, `5m`, `3h20m`, `2d`.
pub(crate) fn age(timestamp: &str, now: jiff::Timestamp) -> String {
    let Ok(then) = timestamp.parse::<jiff::Timestamp>() else { return String::new() };
    duration(now.as_second().saturating_sub(then.as_second()).max(0))
}

/// A length of time in two units at most.
pub(crate) fn duration(seconds: i64) -> String {
    let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86400);
    match seconds {
        ..120 => format!("{seconds}s"),
        120..600 => format!("{minutes}m{}s", seconds % 60),
        600..10_800 => format!("{minutes}m"),
        10_800..172_800 => format!("{hours}h"),
        172_800.. => format!("{days}d"),
    }
}

/// An amount of bytes with three digits: `1.2 GiB`.
pub(crate) fn size(bytes: u64) -> String {
    let units = [("GiB", 30), ("MiB", 20), ("KiB", 10)];
    let Some((unit, shift)) = units.into_iter().find(|(_, shift)| bytes >> shift > 0) else {
        return format!("{bytes} B");
    };
    let tenths = (u128::from(bytes) * 10) >> shift;
    if tenths < 1000 { format!("{}.{} {unit}", tenths / 10, tenths % 10) } else { format!("{} {unit}", tenths / 10) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_what_people_see() {
        let mut table = Table::new(&["NAME", "READY", "MESSAGE"]);
        table.row(vec!["node-1".into(), "True".into(), String::new()]);
        table.row(vec!["größe".into(), String::new(), "a b".into()]);
        assert_eq!(table.render(""), "NAME    READY  MESSAGE\nnode-1  True   -\ngröße   -      a b\n");
    }

    #[test]
    fn ages_and_sizes() {
        let ages = [0, 59, 119, 125, 3600, 11_000, 200_000].map(duration);
        assert_eq!(ages, ["0s", "59s", "119s", "2m5s", "60m", "3h", "2d"]);
        let sizes = [0, 1023, 1536, 5 << 20, 300 << 20, u64::MAX].map(size);
        assert_eq!(sizes, ["0 B", "1023 B", "1.5 KiB", "5.0 MiB", "300 MiB", "17179869183 GiB"]);
    }
}

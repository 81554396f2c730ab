//! What a console has printed, as text.

use std::path::Path;

/// What a console's log holds, without what moves a terminal's cursor: firmware puts that between any two letters, as the
/// clock has it.
pub(crate) fn read(path: &Path) -> String {
    plain(&String::from_utf8_lossy(&fs_err::read(path).unwrap_or_default()))
}

fn plain(text: &str) -> String {
    anstream::adapter::strip_str(text).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_moves_the_cursor_is_no_text() {
        assert_eq!(plain("\x1b[2J[1]\x1b[25;02HS\x1b[25;03Htoke\x1b[?7l!"), "[1]Stoke!");
        assert_eq!(plain("cut off \x1b[25;0"), "cut off ");
    }
}

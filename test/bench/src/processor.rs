//! Processor time of a process and of all that descend from it.

use std::collections::BTreeMap;

use anyhow::Result;

/// Seconds that a process and its living descendants spent, in user mode and in the kernel.
pub(crate) fn seconds(process: u32) -> Result<f64> {
    let mut ticks = BTreeMap::new();
    for entry in fs_err::read_dir("/proc")? {
        let name = entry?.file_name();
        let Some(id) = name.to_str().and_then(|name| name.parse::<u32>().ok()) else { continue };
        // One that has just ended is of no interest.
        let Ok(text) = fs_err::read_to_string(format!("/proc/{id}/stat")) else { continue };
        ticks.extend(parse(&text).map(|(parent, spent)| (id, (parent, spent))));
    }
    let descends = |mut id: u32| {
        while id != process {
            match ticks.get(&id) {
                Some((parent, _)) if *parent != id => id = *parent,
                _ => return false,
            }
        }
        true
    };
    let spent: u64 = ticks.iter().filter(|(id, _)| descends(**id)).map(|(_, (_, spent))| spent).sum();
    let spent = u32::try_from(spent).unwrap_or(u32::MAX);
    let a_second = u32::try_from(rustix::param::clock_ticks_per_second()).unwrap_or(100);
    Ok(f64::from(spent) / f64::from(a_second))
}

/// Parent and ticks of a process (proc_pid_stat(5)). Its name, in parentheses, may hold anything.
fn parse(text: &str) -> Option<(u32, u64)> {
    let fields: Vec<_> = text.rsplit_once(')')?.1.split_whitespace().collect();
    let ticks = |index: usize| fields.get(index)?.parse::<u64>().ok();
    Some((fields.get(1)?.parse().ok()?, ticks(11)? + ticks(12)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_the_kernel() {
        let line = "7 (a (b) c) S 3 7 7 0 -1 4194560 92 0 0 0 25 17 0 0 20 0 1 0 8 1 2 3";
        assert_eq!(parse(line), Some((3, 42)));
    }

    #[test]
    fn this_process_spends_time() {
        let me = std::process::id();
        let begin = std::time::Instant::now();
        while seconds(me).unwrap() <= 0.0 {
            assert!(begin.elapsed().as_secs() < 60, "no time was counted");
        }
    }
}

//! How much memory a machine can have here at most.

use std::path::Path;

use stoke_api::names::Bytes;

/// The smaller one of the host's memory and the limit of our control group (cgroup v2).
pub(crate) fn memory() -> Option<Bytes> {
    let host = fs_err::read_to_string("/proc/meminfo").ok().and_then(|text| host_memory(&text));
    let group = fs_err::read_to_string("/proc/self/cgroup").ok().and_then(|text| group_limit(&text));
    [host, group].into_iter().flatten().min()
}

fn host_memory(meminfo: &str) -> Option<Bytes> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    let kibibytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(Bytes(kibibytes * 1024))
}

fn group_limit(cgroup: &str) -> Option<Bytes> {
    let group = cgroup.lines().find_map(|line| line.strip_prefix("0::/"))?;
    let file = Path::new("/sys/fs/cgroup").join(group).join("memory.max");
    // "max" where there is no limit.
    fs_err::read_to_string(file).ok()?.trim().parse().ok().map(Bytes)
}

/// Says why a machine of this size cannot be; `None` if it can.
pub(crate) fn refusal(wanted: Bytes) -> Option<String> {
    let limit = memory().filter(|limit| wanted > *limit)?;
    let limit = Bytes(limit.0 >> 20 << 20);
    Some(format!("{wanted} of memory is more than the {limit} that there are here: lower the machine's memory"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_table_is_read() {
        assert_eq!(host_memory("MemTotal:       24685000 kB\nMemFree: 1 kB\n"), Some(Bytes(24_685_000 * 1024)));
        assert_eq!(host_memory("nonsense"), None);
    }

    #[test]
    fn only_what_cannot_be_is_refused() {
        assert_eq!(refusal(Bytes(1 << 20)), None);
        assert!(refusal(Bytes(1 << 60)).unwrap().contains("lower the machine's memory"));
    }
}

//! What a container uses, in the shape that `events --stats` has in runc and crun.

use std::path::Path;

use serde_json::{Value, json};

use super::{Group, Version};

/// Reads what there is; a controller that the host lacks is 0.
pub fn read(group: &Group) -> Value {
    json!({"cpu": cpu(group), "memory": memory(group), "pids": pids(group), "blkio": {}, "hugetlb": hugetlb(group)})
}

fn number(file: &Path) -> u64 {
    let text = std::fs::read_to_string(file).unwrap_or_default();
    text.trim().parse().unwrap_or(if text.trim() == "max" { u64::MAX } else { 0 })
}

/// A value of a file with a name and a value on each line.
fn keyed(file: &Path, key: &str) -> u64 {
    let text = std::fs::read_to_string(file).unwrap_or_default();
    let value = text.lines().find_map(|line| line.strip_prefix(key)?.trim().parse().ok());
    value.unwrap_or_default()
}

fn cpu(group: &Group) -> Value {
    let Some(hierarchy) = group.view().find("cpuacct").or_else(|| group.view().find("cpu")) else { return json!({}) };
    let folder = group.folder(hierarchy);
    let (total, user, kernel) = match hierarchy.version {
        Version::V1 => (
            number(&folder.join("cpuacct.usage")),
            number(&folder.join("cpuacct.usage_user")),
            number(&folder.join("cpuacct.usage_sys")),
        ),
        Version::V2 => {
            let nanoseconds = |key| keyed(&folder.join("cpu.stat"), key) * 1000;
            (nanoseconds("usage_usec"), nanoseconds("user_usec"), nanoseconds("system_usec"))
        }
    };
    let throttling = group.view().find("cpu").map(|hierarchy| group.folder(hierarchy).join("cpu.stat"));
    let throttled = |key| throttling.as_deref().map_or(0, |file| keyed(file, key));
    json!({
        "usage": {"total": total, "user": user, "kernel": kernel},
        "throttling": {"periods": throttled("nr_periods"), "throttledPeriods": throttled("nr_throttled")},
    })
}

/// Bytes of memory that are used.
pub fn memory_used(group: &Group) -> u64 {
    memory(group).pointer("/usage/usage").and_then(Value::as_u64).unwrap_or_default()
}

fn memory(group: &Group) -> Value {
    let Some(hierarchy) = group.view().find("memory") else { return json!({}) };
    let folder = group.folder(hierarchy);
    let (usage, limit, highest) = match hierarchy.version {
        Version::V1 => ("memory.usage_in_bytes", "memory.limit_in_bytes", "memory.max_usage_in_bytes"),
        Version::V2 => ("memory.current", "memory.max", "memory.peak"),
    };
    let number = |file| number(&folder.join(file));
    json!({"usage": {"usage": number(usage), "limit": number(limit), "max": number(highest)}})
}

fn pids(group: &Group) -> Value {
    let Some(hierarchy) = group.view().find("pids") else { return json!({}) };
    let folder = group.folder(hierarchy);
    json!({"current": number(&folder.join("pids.current")), "limit": number(&folder.join("pids.max"))})
}

fn hugetlb(group: &Group) -> Value {
    let Some(hierarchy) = group.view().find("hugetlb") else { return json!({}) };
    let folder = group.folder(hierarchy);
    let end = if hierarchy.version == Version::V1 { ".usage_in_bytes" } else { ".current" };
    let entries = std::fs::read_dir(&folder).into_iter().flatten().flatten();
    let names = entries.filter_map(|entry| entry.file_name().into_string().ok());
    let sizes = names.filter_map(|name| {
        let size = name.strip_prefix("hugetlb.")?.strip_suffix(end)?.to_owned();
        (!size.contains('.')).then(|| (size, json!({"usage": number(&folder.join(&name))})))
    });
    Value::Object(sizes.collect())
}

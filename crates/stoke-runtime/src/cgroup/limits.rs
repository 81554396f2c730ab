//! What is written into which file of a cgroup, so that limits are as the specification says. Pure.

use super::{Version, View};
use crate::error::{Error, Result};
use crate::spec::{BlockIo, Cpu, HugepageLimit, Memory, Network, Pids, Rdma, Resources, ThrottleDevice};

/// One limit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Write {
    /// Which controller it belongs to.
    pub controller: String,
    /// Names of the file; the first that exists is meant.
    pub files: Vec<String>,
    /// What is written.
    pub value: String,
    /// The field of the configuration that asks for it.
    pub field: String,
}

/// Collects the writes of one controller.
struct Plan<'a> {
    view: &'a View,
    writes: Vec<Write>,
}

/// The limits, without those of devices.
///
/// # Errors
/// If a field cannot be done with the hierarchies of this host.
pub fn plan(resources: &Resources, view: &View) -> Result<Vec<Write>> {
    let mut plan = Plan { view, writes: Vec::new() };
    resources.memory.iter().try_for_each(|memory| plan.memory(memory))?;
    resources.cpu.iter().try_for_each(|cpu| plan.cpu(cpu))?;
    resources.pids.iter().try_for_each(|pids| plan.pids(pids))?;
    resources.block_io.iter().try_for_each(|block| plan.block(block))?;
    resources.hugepage_limits.iter().try_for_each(|limit| plan.hugepages(limit))?;
    resources.network.iter().try_for_each(|network| plan.network(network))?;
    resources.rdma.iter().try_for_each(|(device, limit)| plan.rdma(device, limit))?;
    plan.unified(resources)?;
    Ok(plan.writes)
}

/// What the kernel of version 2 calls no limit.
fn or_max(value: i64) -> String {
    if value < 0 { "max".to_owned() } else { value.to_string() }
}

/// Shares of version 1 (2 to 262144) as weight of version 2 (1 to 10000), as all runtimes convert it.
fn weight(shares: u64) -> u64 {
    1 + (shares.clamp(2, 262_144) - 2) * 9_999 / 262_142
}

impl Plan<'_> {
    fn version(&self, controller: &str, field: &str) -> Result<Version> {
        let missing = || Error::field(field, format!("this host has no cgroup controller {controller}"));
        self.view.find(controller).map(|hierarchy| hierarchy.version).ok_or_else(missing)
    }

    fn add(&mut self, controller: &str, files: &[&str], value: impl std::fmt::Display, field: &str) {
        let files = files.iter().map(|file| (*file).to_owned()).collect();
        let (controller, field) = (controller.to_owned(), field.to_owned());
        self.writes.push(Write { controller, files, value: format!("{value}"), field });
    }

    fn memory(&mut self, memory: &Memory) -> Result<()> {
        let name = |field: &str| format!("linux.resources.memory.{field}");
        let is_empty =
            serde_json::to_value(memory).is_ok_and(|value| value.as_object().is_some_and(serde_json::Map::is_empty));
        if is_empty {
            return Ok(());
        }
        match self.version("memory", "linux.resources.memory")? {
            Version::V1 => self.memory_v1(memory),
            Version::V2 => return self.memory_v2(memory),
        }
        if memory.kernel.is_some_and(|limit| limit != 0) {
            let limit = memory.kernel.unwrap_or_default();
            self.add("memory", &["memory.kmem.limit_in_bytes"], limit, &name("kernel"));
        }
        Ok(())
    }

    fn memory_v1(&mut self, memory: &Memory) {
        let fields = [
            (memory.limit, "memory.limit_in_bytes", "limit"),
            (memory.swap, "memory.memsw.limit_in_bytes", "swap"),
            (memory.reservation, "memory.soft_limit_in_bytes", "reservation"),
            (memory.kernel_tcp, "memory.kmem.tcp.limit_in_bytes", "kernelTCP"),
        ];
        for (value, file, field) in fields {
            // 0 is what callers write who mean nothing.
            if let Some(value) = value.filter(|value| *value != 0) {
                self.add("memory", &[file], value, &format!("linux.resources.memory.{field}"));
            }
        }
        if let Some(swappiness) = memory.swappiness {
            self.add("memory", &["memory.swappiness"], swappiness, "linux.resources.memory.swappiness");
        }
        if memory.disable_oom_killer == Some(true) {
            self.add("memory", &["memory.oom_control"], 1, "linux.resources.memory.disableOOMKiller");
        }
    }

    fn memory_v2(&mut self, memory: &Memory) -> Result<()> {
        let refused = [
            (memory.kernel.is_some_and(|limit| limit > 0), "kernel"),
            (memory.kernel_tcp.is_some_and(|limit| limit > 0), "kernelTCP"),
            (memory.swappiness.is_some(), "swappiness"),
            (memory.disable_oom_killer == Some(true), "disableOOMKiller"),
        ];
        if let Some((_, field)) = refused.iter().find(|(is_set, _)| *is_set) {
            return Err(Error::field(
                format!("linux.resources.memory.{field}"),
                "cgroups of version 2 have no such limit",
            ));
        }
        if let Some(limit) = memory.limit.filter(|limit| *limit != 0) {
            self.add("memory", &["memory.max"], or_max(limit), "linux.resources.memory.limit");
        }
        if let Some(swap) = memory.swap.filter(|swap| *swap != 0) {
            // The specification counts memory and swap together; version 2 counts swap alone.
            let alone = match (swap, memory.limit) {
                (..0, _) => -1,
                (swap, Some(limit)) if limit > 0 && swap >= limit => swap - limit,
                _ => return Err(Error::field("linux.resources.memory.swap", "needs a limit that is not above it")),
            };
            self.add("memory", &["memory.swap.max"], or_max(alone), "linux.resources.memory.swap");
        }
        if let Some(reservation) = memory.reservation.filter(|value| *value != 0) {
            self.add("memory", &["memory.low"], or_max(reservation), "linux.resources.memory.reservation");
        }
        Ok(())
    }

    fn cpu(&mut self, cpu: &Cpu) -> Result<()> {
        for (value, file, field) in [(&cpu.cpus, "cpuset.cpus", "cpus"), (&cpu.mems, "cpuset.mems", "mems")] {
            if !value.is_empty() {
                self.version("cpuset", &format!("linux.resources.cpu.{field}"))?;
                self.add("cpuset", &[file], value, &format!("linux.resources.cpu.{field}"));
            }
        }
        let is_plain = Cpu { cpus: String::new(), mems: String::new(), ..cpu.clone() };
        if serde_json::to_value(&is_plain).is_ok_and(|value| value.as_object().is_some_and(serde_json::Map::is_empty)) {
            return Ok(());
        }
        match self.version("cpu", "linux.resources.cpu")? {
            Version::V1 => self.cpu_v1(cpu),
            Version::V2 => self.cpu_v2(cpu)?,
        }
        if let Some(idle) = cpu.idle {
            self.add("cpu", &["cpu.idle"], idle, "linux.resources.cpu.idle");
        }
        Ok(())
    }

    fn cpu_v1(&mut self, cpu: &Cpu) {
        let unsigned = |value: Option<u64>| value.filter(|value| *value != 0).map(|value| value.to_string());
        let signed = |value: Option<i64>| value.filter(|value| *value != 0).map(|value| value.to_string());
        let fields = [
            (unsigned(cpu.shares), "cpu.shares", "shares"),
            (unsigned(cpu.period), "cpu.cfs_period_us", "period"),
            (signed(cpu.quota), "cpu.cfs_quota_us", "quota"),
            (cpu.burst.map(|burst| burst.to_string()), "cpu.cfs_burst_us", "burst"),
            (unsigned(cpu.realtime_period), "cpu.rt_period_us", "realtimePeriod"),
            (signed(cpu.realtime_runtime), "cpu.rt_runtime_us", "realtimeRuntime"),
        ];
        for (value, file, field) in fields {
            if let Some(value) = value {
                self.add("cpu", &[file], value, &format!("linux.resources.cpu.{field}"));
            }
        }
    }

    fn cpu_v2(&mut self, cpu: &Cpu) -> Result<()> {
        if cpu.realtime_period.is_some_and(|value| value != 0) || cpu.realtime_runtime.is_some_and(|value| value != 0) {
            return Err(Error::field("linux.resources.cpu.realtimeRuntime", "cgroups of version 2 have no such limit"));
        }
        if let Some(shares) = cpu.shares.filter(|shares| *shares != 0) {
            self.add("cpu", &["cpu.weight"], weight(shares), "linux.resources.cpu.shares");
        }
        let (quota, period) = (cpu.quota.filter(|quota| *quota != 0), cpu.period.filter(|period| *period != 0));
        if quota.is_some() || period.is_some() {
            let quota = quota.map_or_else(|| "max".to_owned(), or_max);
            let value = period.map_or_else(|| quota.clone(), |period| format!("{quota} {period}"));
            self.add("cpu", &["cpu.max"], value, "linux.resources.cpu.quota");
        }
        if let Some(burst) = cpu.burst {
            self.add("cpu", &["cpu.max.burst"], burst, "linux.resources.cpu.burst");
        }
        Ok(())
    }

    fn pids(&mut self, pids: &Pids) -> Result<()> {
        let field = "linux.resources.pids.limit";
        if let Some(limit) = pids.limit.filter(|limit| *limit != 0) {
            self.version("pids", field)?;
            self.add("pids", &["pids.max"], or_max(limit), field);
        }
        Ok(())
    }

    fn block(&mut self, block: &BlockIo) -> Result<()> {
        let controller = if self.view.find("blkio").is_some() { "blkio" } else { "io" };
        let name = |field: &str| format!("linux.resources.blockIO.{field}");
        let version = self.version(controller, "linux.resources.blockIO")?;
        let v1 = version == Version::V1;
        if let Some(weight) = block.weight.filter(|weight| *weight != 0) {
            let files: &[&str] =
                if v1 { &["blkio.bfq.weight", "blkio.weight"] } else { &["io.bfq.weight", "io.weight"] };
            self.add(controller, files, weight, &name("weight"));
        }
        if let Some(weight) = block.leaf_weight.filter(|weight| *weight != 0) {
            self.add(controller, &["blkio.leaf_weight"], weight, &name("leafWeight"));
        }
        for device in &block.weight_device {
            let number = format!("{}:{}", device.major, device.minor);
            if let Some(weight) = device.weight {
                let files: &[&str] =
                    if v1 { &["blkio.bfq.weight_device", "blkio.weight_device"] } else { &["io.bfq.weight"] };
                self.add(controller, files, format!("{number} {weight}"), &name("weightDevice"));
            }
            if let Some(weight) = device.leaf_weight {
                self.add(
                    controller,
                    &["blkio.leaf_weight_device"],
                    format!("{number} {weight}"),
                    &name("weightDevice"),
                );
            }
        }
        let throttles: [(&[ThrottleDevice], &str, &str, &str); 4] = [
            (&block.throttle_read_bps_device, "blkio.throttle.read_bps_device", "rbps", "throttleReadBpsDevice"),
            (&block.throttle_write_bps_device, "blkio.throttle.write_bps_device", "wbps", "throttleWriteBpsDevice"),
            (&block.throttle_read_iops_device, "blkio.throttle.read_iops_device", "riops", "throttleReadIOPSDevice"),
            (&block.throttle_write_iops_device, "blkio.throttle.write_iops_device", "wiops", "throttleWriteIOPSDevice"),
        ];
        for (devices, file, key, field) in throttles {
            for ThrottleDevice { major, minor, rate } in devices {
                let (file, value) = if v1 {
                    (file, format!("{major}:{minor} {rate}"))
                } else {
                    ("io.max", format!("{major}:{minor} {key}={rate}"))
                };
                self.add(controller, &[file], value, &name(field));
            }
        }
        Ok(())
    }

    fn hugepages(&mut self, limit: &HugepageLimit) -> Result<()> {
        let field = "linux.resources.hugepageLimits";
        let end = if self.version("hugetlb", field)? == Version::V1 { "limit_in_bytes" } else { "max" };
        let size = &limit.page_size;
        self.add("hugetlb", &[&format!("hugetlb.{size}.{end}")], limit.limit, field);
        Ok(())
    }

    fn network(&mut self, network: &Network) -> Result<()> {
        if let Some(class) = network.class_id {
            let field = "linux.resources.network.classID";
            self.version("net_cls", field)?;
            self.add("net_cls", &["net_cls.classid"], class, field);
        }
        for interface in &network.priorities {
            let field = "linux.resources.network.priorities";
            self.version("net_prio", field)?;
            self.add("net_prio", &["net_prio.ifpriomap"], format!("{} {}", interface.name, interface.priority), field);
        }
        Ok(())
    }

    fn rdma(&mut self, device: &str, limit: &Rdma) -> Result<()> {
        let field = "linux.resources.rdma";
        self.version("rdma", field)?;
        let part = |name: &str, value: Option<u32>| value.map(|value| format!(" {name}={value}")).unwrap_or_default();
        let value =
            format!("{device}{}{}", part("hca_handle", limit.hca_handles), part("hca_object", limit.hca_objects));
        self.add("rdma", &["rdma.max"], value, field);
        Ok(())
    }

    fn unified(&mut self, resources: &Resources) -> Result<()> {
        for (file, value) in &resources.unified {
            let field = format!("linux.resources.unified.{file}");
            if file.contains('/') {
                return Err(Error::field(field, "is no file of a cgroup"));
            }
            let controller = file.split('.').next().unwrap_or_default();
            let has = self.view.unified().is_some_and(|unified| {
                controller == "cgroup" || unified.controllers.iter().any(|other| other == controller)
            });
            if !has {
                return Err(Error::field(field, format!("cgroups of version 2 have no controller {controller} here")));
            }
            self.add(controller, &[file], value, &field);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::Hierarchy;
    use super::*;

    fn view(version: Version, controllers: &[&str]) -> View {
        let controllers = controllers.iter().map(|name| (*name).to_owned()).collect();
        View { hierarchies: vec![Hierarchy { version, mountpoint: "/c".into(), controllers }] }
    }

    fn lines(resources: &str, view: &View) -> Vec<String> {
        let resources = serde_json::from_str(resources).unwrap();
        let line = |write: Write| format!("{} = {}", write.files.join("|"), write.value);
        plan(&resources, view).unwrap().into_iter().map(line).collect()
    }

    const ALL: &str = r#"{
        "memory": {"limit": 1000, "swap": 3000, "reservation": 500},
        "cpu": {"shares": 1024, "quota": 5000, "period": 10000, "cpus": "0-1", "idle": 1},
        "pids": {"limit": -1},
        "blockIO": {"weight": 100, "throttleReadBpsDevice": [{"major": 8, "minor": 0, "rate": 7}]},
        "hugepageLimits": [{"pageSize": "2MB", "limit": 9}]
    }"#;
    const CONTROLLERS: [&str; 8] = ["memory", "cpu", "cpuset", "pids", "blkio", "hugetlb", "net_cls", "net_prio"];

    #[test]
    fn version_1() {
        insta::assert_debug_snapshot!(lines(ALL, &view(Version::V1, &CONTROLLERS)), @r#"
        [
            "memory.limit_in_bytes = 1000",
            "memory.memsw.limit_in_bytes = 3000",
            "memory.soft_limit_in_bytes = 500",
            "cpuset.cpus = 0-1",
            "cpu.shares = 1024",
            "cpu.cfs_period_us = 10000",
            "cpu.cfs_quota_us = 5000",
            "cpu.idle = 1",
            "pids.max = max",
            "blkio.bfq.weight|blkio.weight = 100",
            "blkio.throttle.read_bps_device = 8:0 7",
            "hugetlb.2MB.limit_in_bytes = 9",
        ]
        "#);
    }

    #[test]
    fn version_2() {
        let controllers = ["memory", "cpu", "cpuset", "pids", "io", "hugetlb"];
        insta::assert_debug_snapshot!(lines(ALL, &view(Version::V2, &controllers)), @r#"
        [
            "memory.max = 1000",
            "memory.swap.max = 2000",
            "memory.low = 500",
            "cpuset.cpus = 0-1",
            "cpu.weight = 39",
            "cpu.max = 5000 10000",
            "cpu.idle = 1",
            "pids.max = max",
            "io.bfq.weight|io.weight = 100",
            "io.max = 8:0 rbps=7",
            "hugetlb.2MB.max = 9",
        ]
        "#);
    }

    #[test]
    fn what_this_host_cannot_limit_is_named() {
        let refused =
            |resources: &str, view: &View| plan(&serde_json::from_str(resources).unwrap(), view).unwrap_err().line();
        let nothing = view(Version::V2, &[]);
        for (resources, field) in [
            (r#"{"memory": {"limit": 1}}"#, "linux.resources.memory"),
            (r#"{"cpu": {"shares": 2}}"#, "linux.resources.cpu"),
            (r#"{"cpu": {"cpus": "0"}}"#, "linux.resources.cpu.cpus"),
            (r#"{"pids": {"limit": 1}}"#, "linux.resources.pids.limit"),
            (r#"{"network": {"classID": 1}}"#, "linux.resources.network.classID"),
            (r#"{"rdma": {"mlx": {"hcaHandles": 1}}}"#, "linux.resources.rdma"),
            (r#"{"unified": {"memory.max": "1"}}"#, "linux.resources.unified.memory.max"),
        ] {
            let message = refused(resources, &nothing);
            assert!(message.starts_with(&format!("{field}: ")), "{message}");
        }
        let memory = view(Version::V2, &["memory"]);
        let message = refused(r#"{"memory": {"limit": 1, "swappiness": 5}}"#, &memory);
        assert!(message.starts_with("linux.resources.memory.swappiness: "), "{message}");
    }

    #[test]
    fn empty_sections_ask_for_nothing() {
        assert_eq!(lines(r#"{"memory": {}, "cpu": {}, "pids": {}}"#, &view(Version::V1, &[])), [""; 0]);
    }
}

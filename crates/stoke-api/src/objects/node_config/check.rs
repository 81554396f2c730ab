//! What is well-formed and still wrong in one scope's configuration.

use super::NodeConfig;
use crate::names::ObjectName;
use crate::objects::Problem;

/// The place that is looked at, and what was found so far.
pub(super) struct At<'a> {
    field: String,
    problems: &'a mut Vec<Problem>,
}

impl At<'_> {
    /// The path of a field here; an empty one is the place itself.
    pub(super) fn field(&self, field: &str) -> String {
        if field.is_empty() { self.field.clone() } else { format!("{}.{field}", self.field) }
    }

    pub(super) fn inside(&mut self, field: impl AsRef<str>) -> At<'_> {
        At { field: self.field(field.as_ref()), problems: self.problems }
    }

    pub(super) fn problem(&mut self, field: impl AsRef<str>, message: impl Into<String>) {
        let field = self.field(field.as_ref());
        self.problems.push(Problem::new(field, message));
    }

    pub(super) fn extend(&mut self, problems: Vec<Problem>) {
        self.problems.extend(problems);
    }

    /// What is unique in each entry of a list. `key` is its field; empty if the entry is the word itself.
    pub(super) fn unique(&mut self, list: &str, key: &str, values: impl Iterator<Item = String>) {
        let mut seen = Vec::new();
        for (index, value) in values.enumerate() {
            if seen.contains(&value) {
                let entry = format!("{list}[{index}]");
                let field = if key.is_empty() { entry } else { format!("{entry}.{key}") };
                self.problem(field, format!("{value:?} is there twice"));
            } else {
                seen.push(value);
            }
        }
    }
}

impl NodeConfig {
    /// What is wrong in this configuration, whatever it goes over. `at` is its field.
    pub fn check(&self, at: &str) -> Vec<Problem> {
        let mut problems = Vec::new();
        let mut at = At { field: at.to_owned(), problems: &mut problems };
        self.check_names(&mut at);
        self.check_keys(&mut at);
        macro_rules! each {
            ($($list:literal: $field:ident),*) => {$(
                for (index, entry) in self.$field.iter().enumerate() {
                    entry.check(&mut at.inside(format!("{}[{index}]", $list)));
                }
            )*};
        }
        each!("users": users, "hosts": hosts, "interfaces": interfaces, "mounts": mounts, "swap": swap, "files": files);
        each!("modules": modules, "units": units, "hooks": hooks);
        self.dns.check(&mut at.inside("dns"));
        self.runtime.check(&mut at.inside("runtime"));
        self.kubelet.check(&mut at.inside("kubelet"));
        self.check_kernel(&mut at);
        problems
    }

    fn check_names(&self, at: &mut At<'_>) {
        if let Some(hostname) = self.hostname.as_deref().filter(|name| !host_name(name)) {
            at.problem("hostname", format!("{hostname:?} is no host name"));
        }
        let zone = |text: &str| !text.starts_with('/') && !text.split('/').any(|part| part.is_empty() || part == "..");
        if let Some(timezone) = self.timezone.as_deref().filter(|text| !zone(text) || !one_line(text)) {
            at.problem("timezone", format!("{timezone:?} is no time zone such as Europe/Berlin"));
        }
        let server = |text: &str| !text.is_empty() && !text.contains(|c: char| c.is_whitespace() || c.is_control());
        for (index, name) in self.ntp.iter().enumerate().filter(|(_, name)| !server(name)) {
            at.problem(format!("ntp[{index}]"), format!("{name:?} is neither a name nor an address"));
        }
    }

    fn check_keys(&self, at: &mut At<'_>) {
        at.unique("users", "name", self.users.iter().map(|user| user.name.clone()));
        at.unique("hosts", "address", self.hosts.iter().map(|host| host.address.to_string()));
        let unnamed = |key: &String| !key.is_empty();
        at.unique("interfaces", "", self.interfaces.iter().map(super::InterfaceSpec::key).filter(unnamed));
        at.unique("mounts", "path", self.mounts.iter().map(|mount| mount.path.clone()));
        at.unique("swap", "device", self.swap.iter().map(|swap| swap.device.clone()));
        at.unique("files", "path", self.files.iter().map(|file| file.path.clone()));
        at.unique("modules", "name", self.modules.iter().map(|module| module.name.clone()));
        at.unique("units", "name", self.units.iter().map(|unit| unit.name.clone()));
        at.unique("hooks", "name", self.hooks.iter().map(|hook| hook.name.clone()));
    }

    fn check_kernel(&self, at: &mut At<'_>) {
        let allowed = |c: char| c.is_ascii_alphanumeric() || "-_./*:".contains(c);
        for (name, value) in &self.sysctls {
            if name.is_empty() || name.starts_with(['/', '-']) || name.contains("..") || !name.chars().all(allowed) {
                at.problem(format!("sysctls.{name}"), format!("{name:?} is no setting such as net.ipv4.ip_forward"));
            } else if !one_line(value) {
                at.problem(format!("sysctls.{name}"), "a value is one line");
            }
        }
        for (index, argument) in self.kernel_arguments.iter().enumerate() {
            if argument.is_empty() || argument.contains(|c: char| c.is_whitespace() || c.is_control()) {
                at.problem(format!("kernelArguments[{index}]"), "one argument a line, without spaces");
            }
        }
    }
}

/// A host name, with or without domain.
pub(super) fn host_name(text: &str) -> bool {
    text.len() <= 253 && text.split('.').all(|label| label.parse::<ObjectName>().is_ok())
}

/// Whether a text is what it is on one line.
pub(super) fn one_line(text: &str) -> bool {
    !text.contains(char::is_control)
}

/// A name of a file or module: no folder, nothing that a shell or systemd reads otherwise.
pub(super) fn plain_name(text: &str) -> bool {
    let allowed = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    !text.is_empty() && text.len() <= 128 && !text.starts_with(['.', '-']) && text.chars().all(allowed)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problems(text: &str) -> Vec<String> {
        let config: NodeConfig = serde_json::from_str(text).unwrap();
        config
            .check("spec.config")
            .into_iter()
            .map(|problem| format!("{}: {}", problem.field, problem.message))
            .collect()
    }

    fn only(text: &str, field: &str) {
        let problems = problems(text);
        let [problem] = &problems[..] else { panic!("one problem in {text}: {problems:?}") };
        assert!(problem.starts_with(&format!("spec.config.{field}: ")), "{problem}");
    }

    #[test]
    fn a_whole_configuration_has_nothing_wrong() {
        let text = include_str!("whole.json");
        assert_eq!(problems(text), [""; 0]);
    }

    #[test]
    fn nothing_is_there_twice() {
        only(r#"{"mounts":[{"path":"/a","device":"LABEL=a"},{"path":"/a","device":"LABEL=b"}]}"#, "mounts[1].path");
        only(r#"{"interfaces":[{"interface":"a"},{"interface":"a"}]}"#, "interfaces[1]");
        only(
            r#"{"units":[{"name":"a.service","dropIns":[{"name":"x","content":""},{"name":"x","content":""}]}]}"#,
            "units[0].dropIns[1].name",
        );
        only(r#"{"interfaces":[{"interface":"b","bond":{"members":["x","x"]}}]}"#, "interfaces[0].bond.members[1]");
    }

    #[test]
    fn interfaces_that_cannot_be() {
        only(r#"{"interfaces":[{"mtu":1500}]}"#, "interfaces[0]");
        only(r#"{"interfaces":[{"mac":"52:54:00:00:00:01","bridge":{}}]}"#, "interfaces[0].interface");
        only(r#"{"interfaces":[{"interface":"a","vlan":{"id":4095,"parent":"b"}}]}"#, "interfaces[0].vlan.id");
        only(r#"{"interfaces":[{"interface":"a","bond":{"members":[]}}]}"#, "interfaces[0].bond.members");
        only(r#"{"interfaces":[{"interface":"a","bridge":{"members":["a"]}}]}"#, "interfaces[0].bridge.members");
        let gateway = r#"{"interfaces":[{"interface":"a","addresses":["10.0.0.2/24"],"gateway":"10.0.1.1"}]}"#;
        only(gateway, "interfaces[0].gateway");
    }

    #[test]
    fn paths_go_nowhere_else() {
        for path in ["srv", "/a/../b", "/a//b", "/a/", "/./a", "/proc", "/"] {
            only(&format!(r#"{{"mounts":[{{"path":"{path}","device":"LABEL=a"}}]}}"#), "mounts[0].path");
        }
        only(r#"{"files":[{"path":"/../etc/passwd","content":""}]}"#, "files[0].path");
        only(r#"{"files":[{"path":"/a"}]}"#, "files[0]");
        only(r#"{"files":[{"path":"/a","content":"","owner":"a:b:c"}]}"#, "files[0].owner");
        only(r#"{"files":[{"path":"/a","secret":{"file":"relative"}}]}"#, "files[0].secret.file");
    }

    #[test]
    fn what_would_break_the_file_that_it_goes_into() {
        only(r#"{"mounts":[{"path":"/a","device":"LABEL=a","options":["a,b"]}]}"#, "mounts[0].options[0]");
        only(r#"{"sysctls":{"kernel.x":"1\nkernel.y=2"}}"#, "sysctls.kernel.x");
        only(r#"{"kernelArguments":["a b"]}"#, "kernelArguments[0]");
        only(r#"{"modules":[{"name":"a b"}]}"#, "modules[0].name");
        only(r#"{"units":[{"name":"../x.service"}]}"#, "units[0].name");
        only(r#"{"units":[{"name":"ssh"}]}"#, "units[0].name");
        only(r#"{"units":[{"name":"x.service","masked":true,"enabled":true}]}"#, "units[0].masked");
        only(r#"{"hooks":[{"name":"a/b","script":"true"}]}"#, "hooks[0].name");
        only(r#"{"hosts":[{"address":"10.0.0.1","names":["a b"]}]}"#, "hosts[0].names[0]");
        only(r#"{"users":[{"name":"a","shell":"/bin/x:y"}]}"#, "users[0].shell");
    }

    #[test]
    fn kubernetes_words_have_their_form() {
        only(r#"{"kubelet":{"taints":["a=b"]}}"#, "kubelet.taints[0]");
        only(r#"{"kubelet":{"labels":{"a/b/c":"x y"}}}"#, "kubelet.labels.a/b/c");
        only(r#"{"kubelet":{"extraArgs":{"node-labels":"a=b"}}}"#, "kubelet.extraArgs.node-labels");
        only(r#"{"kubelet":{"extraArgs":{"--v":"1"}}}"#, "kubelet.extraArgs.--v");
        only(
            r#"{"runtime":{"registryMirrors":[{"registry":"docker.io","endpoints":["docker.io"]}]}}"#,
            "runtime.registryMirrors[0].endpoints[0]",
        );
    }
}

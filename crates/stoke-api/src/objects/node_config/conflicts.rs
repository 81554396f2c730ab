//! What cannot be together in one node's configuration, whichever scopes it came from. An order of scopes decides what one
//! value is; it cannot decide between two that are not the same value and exclude each other.

use std::collections::BTreeMap;

use super::{InterfaceSpec, MountEntry, NodeConfig};

/// Two values that exclude each other.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Conflict {
    /// The two, by the paths that origins have: `mounts[/srv]`. The second one is at fault if nothing else tells.
    pub between: [String; 2],
    /// What is wrong: lower case, no full stop.
    pub message: String,
}

impl Conflict {
    fn new(one: String, other: String, message: String) -> Self {
        Self { between: [one, other], message }
    }
}

impl NodeConfig {
    /// All values that exclude each other.
    pub fn conflicts(&self) -> Vec<Conflict> {
        let mut conflicts = Vec::new();
        self.of_devices(&mut conflicts);
        self.of_members(&mut conflicts);
        self.of_addresses(&mut conflicts);
        self.of_files(&mut conflicts);
        self.of_accounts(&mut conflicts);
        conflicts
    }

    /// A device that is mounted twice, or mounted and swapped to. Parts of one file system may be mounted apart.
    fn of_devices(&self, conflicts: &mut Vec<Conflict>) {
        let mut taken: BTreeMap<&str, (String, String)> = BTreeMap::new();
        for mount in self.mounts.iter().filter(|mount| is_whole_device(mount)) {
            let place = format!("mounts[{}]", mount.path);
            if let Some((other, what)) = taken.get(mount.device.as_str()) {
                let message = format!("{} is mounted at {} and {what}", mount.device, mount.path);
                conflicts.push(Conflict::new(other.clone(), place, message));
            } else {
                taken.insert(&mount.device, (place, format!("at {}", mount.path)));
            }
        }
        for swap in &self.swap {
            if let Some((other, what)) = taken.get(swap.device.as_str()) {
                let message = format!("{} is swap space, and mounted {what}", swap.device);
                conflicts.push(Conflict::new(other.clone(), format!("swap[{}]", swap.device), message));
            }
        }
    }

    /// An interface in two bonds or bridges, one with addresses of its own in one, two VLANs that are the same one.
    fn of_members(&self, conflicts: &mut Vec<Conflict>) {
        let mut owners: BTreeMap<&str, &InterfaceSpec> = BTreeMap::new();
        let mut vlans: BTreeMap<(&str, u16), &InterfaceSpec> = BTreeMap::new();
        for spec in &self.interfaces {
            for member in spec.members() {
                if let Some(other) = owners.insert(member.as_str(), spec) {
                    let message = format!("{member} is a part of {} and of {}", other.key(), spec.key());
                    conflicts.push(Conflict::new(path_of(other), path_of(spec), message));
                }
            }
            let Some(vlan) = &spec.vlan else { continue };
            if let Some(other) = vlans.insert((vlan.parent.as_str(), vlan.id), spec) {
                let message =
                    format!("{} and {} are both VLAN {} of {}", other.key(), spec.key(), vlan.id, vlan.parent);
                conflicts.push(Conflict::new(path_of(other), path_of(spec), message));
            }
        }
        for spec in self.interfaces.iter().filter(|spec| spec.dhcp || !spec.addresses.is_empty()) {
            let name = spec.key();
            if let Some(owner) = owners.get(name.as_str()) {
                let message = format!("{name} is a part of {} and has addresses of its own", owner.key());
                conflicts.push(Conflict::new(path_of(owner), path_of(spec), message));
            }
        }
    }

    /// An address on two interfaces; two ways to everywhere else.
    fn of_addresses(&self, conflicts: &mut Vec<Conflict>) {
        let mut addresses = BTreeMap::new();
        let mut gateways = BTreeMap::new();
        for spec in &self.interfaces {
            for address in &spec.addresses {
                if let Some(other) = addresses.insert(address.addr(), spec).filter(|other| *other != spec) {
                    let message = format!("{} is an address of {} and of {}", address.addr(), other.key(), spec.key());
                    conflicts.push(Conflict::new(path_of(other), path_of(spec), message));
                }
            }
            let Some(gateway) = spec.gateway else { continue };
            if let Some(other) = gateways.insert(gateway.is_ipv6(), spec) {
                let message = format!("{} and {} both have a gateway; a node has one way out", other.key(), spec.key());
                conflicts.push(Conflict::new(path_of(other), path_of(spec), message));
            }
        }
    }

    /// A file that a mount hides, and one in whose place another one needs a folder.
    fn of_files(&self, conflicts: &mut Vec<Conflict>) {
        let is_below = |path: &str, folder: &str| path.strip_prefix(folder).is_some_and(|rest| rest.starts_with('/'));
        for file in &self.files {
            let place = format!("files[{}]", file.path);
            if let Some(mount) = self.mounts.iter().find(|m| is_below(&file.path, &m.path) || file.path == m.path) {
                let message = format!("{} is hidden by what is mounted at {}", file.path, mount.path);
                conflicts.push(Conflict::new(format!("mounts[{}]", mount.path), place.clone(), message));
            }
            if let Some(other) = self.files.iter().find(|other| is_below(&file.path, &other.path)) {
                let message = format!("{} is a file, and {} is in it", other.path, file.path);
                conflicts.push(Conflict::new(format!("files[{}]", other.path), place, message));
            }
        }
    }

    /// Two accounts with one number.
    fn of_accounts(&self, conflicts: &mut Vec<Conflict>) {
        let mut numbers = BTreeMap::new();
        for user in &self.users {
            let Some(other) = user.uid.and_then(|uid| numbers.insert(uid, user)) else { continue };
            let message = format!("{} and {} have the same number", other.name, user.name);
            conflicts.push(Conflict::new(format!("users[{}]", other.name), format!("users[{}]", user.name), message));
        }
    }
}

fn path_of(spec: &InterfaceSpec) -> String {
    format!("interfaces[{}]", spec.key())
}

/// Whether a mount is of a device of its own, all of it.
fn is_whole_device(mount: &MountEntry) -> bool {
    let local =
        ["LABEL=", "UUID=", "PARTLABEL=", "PARTUUID=", "/dev/"].iter().any(|word| mount.device.starts_with(word));
    let shared = |option: &String| option == "bind" || option == "rbind" || option.starts_with("subvol");
    local && !mount.options.iter().any(shared)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn conflicts(text: &str) -> Vec<String> {
        let config: NodeConfig = serde_json::from_str(text).unwrap();
        config
            .conflicts()
            .into_iter()
            .map(|conflict| format!("{}: {}", conflict.between.join(" "), conflict.message))
            .collect()
    }

    #[test]
    fn the_whole_configuration_agrees_with_itself() {
        assert_eq!(conflicts(include_str!("whole.json")), [""; 0]);
    }

    #[test]
    fn devices_are_used_once() {
        let mounts = r#""mounts":[{"path":"/a","device":"LABEL=x"},{"path":"/b","device":"LABEL=x"}]"#;
        let found = conflicts(&format!(r#"{{{mounts},"swap":[{{"device":"LABEL=x"}}]}}"#));
        assert_eq!(found.len(), 2);
        assert_eq!(found[0], "mounts[/a] mounts[/b]: LABEL=x is mounted at /b and at /a");
        let apart = r#"{"mounts":[{"path":"/a","device":"LABEL=x","options":["subvol=a"]},
            {"path":"/b","device":"LABEL=x","options":["subvol=b"]},
            {"path":"/c","device":"10.0.0.1:/srv"},{"path":"/d","device":"10.0.0.1:/srv"},
            {"path":"/e","device":"tmpfs"},{"path":"/f","device":"tmpfs"}]}"#;
        assert_eq!(conflicts(apart), [""; 0]);
    }

    #[test]
    fn interfaces_are_in_one_place() {
        let found = conflicts(
            r#"{"interfaces":[
                {"interface":"bond0","bond":{"members":["eth1","eth2"]}},
                {"interface":"br0","bridge":{"members":["eth2"]}},
                {"interface":"eth1","dhcp":true},
                {"interface":"v1","vlan":{"id":5,"parent":"bond0"}},
                {"interface":"v2","vlan":{"id":5,"parent":"bond0"}}]}"#,
        );
        let wanted = [
            "interfaces[bond0] interfaces[br0]: eth2 is a part of bond0 and of br0",
            "interfaces[v1] interfaces[v2]: v1 and v2 are both VLAN 5 of bond0",
            "interfaces[bond0] interfaces[eth1]: eth1 is a part of bond0 and has addresses of its own",
        ];
        assert_eq!(found, wanted);
    }

    #[test]
    fn addresses_gateways_files_and_numbers() {
        let found = conflicts(
            r#"{"interfaces":[
                {"interface":"a","addresses":["10.0.0.2/24"],"gateway":"10.0.0.1"},
                {"interface":"b","addresses":["10.0.0.2/16"],"gateway":"10.0.0.1"}],
              "mounts":[{"path":"/srv","device":"LABEL=x"}],
              "files":[{"path":"/srv/a","content":""},{"path":"/etc/x","content":""},{"path":"/etc/x/y","content":""}],
              "users":[{"name":"a","uid":7},{"name":"b","uid":7}]}"#,
        );
        assert_eq!(found.len(), 5, "{found:?}");
    }
}

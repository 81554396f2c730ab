//! Nodes of images that were built by older versions, which can apply less.

use super::{NodeConfig, User};

impl NodeConfig {
    /// How much of a configuration the programs of this version can apply. It grows when there are fields of a new sort;
    /// nodes say theirs when they boot, and nothing in the first version.
    pub const GENERATION: u32 = 1;

    /// The configuration as far as a node of this generation can read it, and the fields that it lacks. The first one
    /// refuses fields that it does not know.
    #[must_use]
    pub fn for_generation(self, generation: u32) -> (Self, Vec<String>) {
        if generation >= 1 {
            return (self, Vec::new());
        }
        let users = self.users.iter().map(|user| User {
            name: user.name.clone(),
            ssh_authorized_keys: user.ssh_authorized_keys.clone(),
            ..User::default()
        });
        let kept = Self {
            hostname: self.hostname.clone(),
            timezone: self.timezone.clone(),
            users: users.collect(),
            overlay_size: self.overlay_size,
            ..Self::default()
        };
        let fields = |config: &Self| match serde_json::to_value(config) {
            Ok(serde_json::Value::Object(fields)) => fields,
            _ => serde_json::Map::new(),
        };
        let read = fields(&kept);
        let lacks = fields(&self).into_iter().filter(|(name, value)| read.get(name) != Some(value));
        let lacks = lacks.map(|(name, _)| name).collect();
        (kept, lacks)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_nodes_get_what_they_know() {
        let whole: NodeConfig = serde_json::from_str(include_str!("whole.json")).unwrap();
        let (same, lacks) = whole.clone().for_generation(NodeConfig::GENERATION);
        assert_eq!((same, lacks), (whole.clone(), Vec::new()));
        let (first, lacks) = whole.for_generation(0);
        let text = serde_json::to_value(&first).unwrap();
        let fields: Vec<_> = text.as_object().unwrap().keys().map(String::as_str).collect();
        assert_eq!(fields, ["hostname", "overlaySize", "timezone", "users"]);
        assert_eq!(text["users"][1].as_object().unwrap().len(), 2);
        assert!(lacks.contains(&"mounts".to_owned()) && lacks.contains(&"users".to_owned()), "{lacks:?}");
        assert!(!lacks.contains(&"hostname".to_owned()));
    }
}

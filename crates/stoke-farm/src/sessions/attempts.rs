//! Boots of one node, counted by version: what tells a version that does not work from a node that is off.

use serde::{Deserialize, Serialize};
use stoke_api::Digest;

use super::Node;

/// Boots of one node, by version. A boot that is over without the system having come up has failed, whether anything was
/// heard of it or not.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Attempts {
    /// The version of the last boot.
    #[serde(default)]
    pub image: Option<Digest>,
    /// Whether the system came up in it.
    #[serde(default)]
    pub is_up: bool,
    /// Boots in a row, before that one, that failed with the same version.
    #[serde(default)]
    pub failed: u32,
    /// The last version that came up.
    #[serde(default)]
    pub good: Option<Digest>,
}

impl Attempts {
    /// A boot begins.
    pub(super) fn begin(&mut self, image: Digest) {
        let same = self.image == Some(image);
        self.failed = if same && !self.is_up { self.failed.saturating_add(1) } else { 0 };
        (self.image, self.is_up) = (Some(image), false);
    }

    /// The system is up.
    pub(super) fn came_up(&mut self) {
        (self.is_up, self.failed) = (true, 0);
        self.good = self.image.or(self.good);
    }

    /// What is known when a node says hello with this version: of a boot whose loading was noticed, of one that was not, or
    /// of a node that runs already and lost its session.
    pub(super) fn after_hello(before: Option<&Node>, image: Digest, runs: bool) -> Self {
        let mut attempts = before.map(|node| node.attempts).unwrap_or_default();
        let noticed = before.is_some_and(|node| node.loading_ms.is_some()) && attempts.image == Some(image);
        if runs {
            attempts.image = Some(image);
        } else if !noticed {
            attempts.begin(image);
        }
        attempts
    }
}

//! What is known of nodes' TPMs, and who was given secrets.

use stoke_api::objects::NodeTpm;

use super::{Node, SessionOver, Sessions};

/// How long after its session began a node may ask for its secrets. Loading modules and waiting for a slow TPM take seconds.
const WINDOW_MS: u64 = 5 * 60_000;

impl Sessions {
    /// A node shows its TPM, or is told what came of that.
    ///
    /// # Errors
    /// If the session is over.
    pub fn tpm(&mut self, session: &str, tpm: NodeTpm, now_ms: u64) -> Result<Node, SessionOver> {
        let node = self.heard(session, now_ms)?;
        node.tpm = Some(tpm);
        Ok(node.clone())
    }

    /// A node is given its secrets, if it has `any`, which happens once in a session.
    ///
    /// # Errors
    /// If the session is over, or it is too late: [`Node::may_have_secrets`].
    pub fn secrets_given(
        &mut self,
        session: &str,
        any: bool,
        tpm: Option<NodeTpm>,
        now_ms: u64,
    ) -> Result<Node, SessionOver> {
        let node = self.heard(session, now_ms)?;
        if !node.may_have_secrets(now_ms) {
            return Err(SessionOver);
        }
        node.secrets_given_ms = if any { now_ms } else { 0 };
        node.tpm = tpm.or_else(|| node.tpm.take());
        Ok(node.clone())
    }
}

impl Node {
    /// Whether it may be given secrets: it is in the beginning of a boot, and has not got them yet.
    pub fn may_have_secrets(&self, now_ms: u64) -> bool {
        let late = now_ms.saturating_sub(self.began_ms) > WINDOW_MS;
        self.secrets_given_ms == 0 && !self.runs_already && !late
    }
}

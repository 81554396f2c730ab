//! How full the writable layer of the root is.
//!
//! It is in memory and bounded, so what fills it gets "No space left on device" and the node goes on. The farm is told when
//! that begins and when it is over.

use stoke_api::node::LayerUse;

/// Of a hundred parts: the layer counts as full from here on, and no longer below the second one.
const FULL: u64 = 97;
const FREE_AGAIN: u64 = 90;

/// Remembers what was told.
#[derive(Debug, Default)]
pub(crate) struct Watch {
    full: bool,
}

impl Watch {
    /// Looks; the answer is what is to be told, if that has changed.
    pub(crate) fn look(&mut self) -> Option<LayerUse> {
        // An overlay answers for its upper layer (`ovl_statfs` in Linux' fs/overlayfs/super.c).
        let about = rustix::fs::statvfs("/").ok()?;
        let blocks = (about.f_blocks, about.f_bavail);
        // Where there are no inodes to speak of, none can run out.
        let inodes = (about.f_files, about.f_ffree);
        let percent = percent(blocks).max(percent(inodes));
        self.changed(percent).then(|| LayerUse {
            size: about.f_blocks.saturating_mul(about.f_frsize),
            free: about.f_bavail.saturating_mul(about.f_frsize),
            full: self.full,
        })
    }

    fn changed(&mut self, percent: u64) -> bool {
        let full = if self.full { percent >= FREE_AGAIN } else { percent >= FULL };
        std::mem::replace(&mut self.full, full) != full
    }
}

fn percent((all, free): (u64, u64)) -> u64 {
    all.saturating_sub(free).saturating_mul(100).checked_div(all).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_change_is_told_once_and_a_little_room_is_no_change() {
        let mut watch = Watch::default();
        let told = [50, 96, 97, 100, 95, 89, 96].map(|percent| watch.changed(percent));
        assert_eq!(told, [false, false, true, false, false, true, false]);
    }

    #[test]
    fn nothing_of_nothing_is_not_full() {
        assert_eq!((percent((0, 0)), percent((200, 5)), percent((10, 20))), (0, 97, 0));
    }
}

//! The lease of a node that runs: renewed for as long as that works, and asked for news when the farm is away.
//!
//! What DHCP says of the farm is how a node finds one that has moved to another address: no server is left at the old one to
//! tell. So while the farm does not answer, the lease is renewed again and again, long before it would be due.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Result;

use crate::dhcp::Lease;
use crate::farm::{Farm, urls};
use crate::handoff::Handoff;
use crate::journal::Journal;
use crate::netlink::Socket as Netlink;
use crate::network::{self, Step, Talk};

const PAUSE: Duration = Duration::from_secs(5);
/// How often the farm's absence is looked for.
const LOOK: Duration = Duration::from_secs(5);
/// How long a farm may be away before DHCP is asked, and how often.
const AWAY: Duration = Duration::from_secs(15);

/// Keeps the lease in a thread of its own.
pub(crate) fn keep(handoff: &Handoff, farm: Option<Farm>, journal: &Arc<Journal>) {
    let (mut kept, journal) = (Kept::new(handoff, farm), Arc::clone(journal));
    std::thread::spawn(move || {
        loop {
            if let Err(error) = kept.renew(&journal) {
                journal.say(&format!("the lease of {}: {error:#}", kept.lease.address));
            }
            std::thread::sleep(PAUSE);
        }
    });
}

struct Kept {
    handoff: Handoff,
    farm: Option<Farm>,
    lease: Lease,
    since: Instant,
    asked: Instant,
}

impl Kept {
    fn new(handoff: &Handoff, farm: Option<Farm>) -> Self {
        let age = Duration::from_millis(handoff.lease_age_ms);
        let since = Instant::now().checked_sub(age).unwrap_or_else(Instant::now);
        Self { handoff: handoff.clone(), farm, lease: handoff.lease.clone(), since, asked: Instant::now() }
    }

    fn talk(&self, since: Instant) -> Result<Talk> {
        Talk::keep(self.handoff.interface.clone(), self.handoff.uuid, self.lease.clone(), since)
    }

    /// Renews for as long as that works. An address whose lease is over stays until there is another: losing it would lose
    /// the root.
    fn renew(&mut self, journal: &Journal) -> Result<()> {
        let mut talk = self.talk(self.since)?;
        let mut netlink = Netlink::route()?;
        loop {
            match talk.advance() {
                Ok(Step::Wait(until)) => talk.wait(until.min(Instant::now() + LOOK)),
                Ok(Step::Lost) => journal.say(&format!("the lease of {} is over", self.lease.address)),
                Ok(Step::Bound(lease)) => self.bound(*lease, &mut netlink, journal)?,
                Err(error) => {
                    journal.say(&format!("{}: {error:#}", self.handoff.interface.name));
                    std::thread::sleep(PAUSE);
                }
            }
            if self.farm_is_away() && self.asked.elapsed() > AWAY {
                self.asked = Instant::now();
                talk = self.talk(self.due())?;
            }
        }
    }

    fn farm_is_away(&self) -> bool {
        self.farm.as_ref().and_then(Farm::away).is_some_and(|away| away > AWAY)
    }

    /// When the lease would have begun if it had to be renewed now.
    fn due(&self) -> Instant {
        let renew = Duration::from_secs(self.lease.renew.into());
        let early = Instant::now().checked_sub(renew);
        early.map_or(self.since, |early| early.min(self.since))
    }

    fn bound(&mut self, lease: Lease, netlink: &mut Netlink, journal: &Journal) -> Result<()> {
        network::configure(netlink, &self.handoff.interface, &lease)?;
        if lease.address != self.lease.address {
            journal.say(&format!("the address is now {}", lease.address));
            network::remove(netlink, &self.handoff.interface, &self.lease)?;
        }
        if let (Some(farm), Some(list)) = (&self.farm, &lease.farm)
            && farm.learn(urls(list))
        {
            journal.say(&format!("the farm is now at {list}"));
        }
        (self.lease, self.since) = (lease, Instant::now());
        Ok(())
    }
}

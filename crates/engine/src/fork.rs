//! The fork of a process with an engine. Covers holding everything still, the one message that shares remote pages with the child, and waking up
//! again on both sides. The store itself is copied on write by the kernel, which is a snapshot for free.
//!
//! The child has the parent's pages: local ones and those on their way in its copy of the store, remote ones as a share under its own name, spilled
//! ones in files that neither side writes to again. It has none of the threads, links or lanes.

use ramster_core::handle::{HolderId, OwnerId};
use ramster_core::localify::Localify;
use ramster_core::wire::message::RefuseReason;
use ramster_peer::client::{Link, LinkError};
use ramster_sys::say::say;

use crate::engine::Engine;
use crate::holders::Holder;
use crate::links::{self, OpenLink};
use crate::random::random_u64s;

/// A fork waits this long for each holder at most; one that does not answer loses the child its pages, not the parent.
const SHARE_MS: u64 = 2000;

/// What forks leave with an engine.
#[derive(Default)]
pub struct Forks {
    /// From `before_fork`, for `after_fork_*`.
    prepared: Option<Prepared>,
    /// In a child: its links to holders that have a share of its parent's pages, until the remotifier takes care of them.
    adopted: Vec<(HolderId, OpenLink)>,
}

struct Prepared {
    child: OwnerId,
    /// Each with its share seen to. The parent drops its copies: the child has them, or does not exist.
    links: Vec<(HolderId, Link)>,
    /// Holders that did not share: the child has lost what they hold.
    unshared: Vec<HolderId>,
}

impl Engine {
    /// Before fork(2), in the thread that forks: everything is whole and held until `after_fork_*`. The caller MUST have stopped its own lanes and
    /// putters (none is inside a call).
    pub fn before_fork(&self) {
        self.flights.freeze();
        let guarded = self.tmem_lock().lock();
        let mut holders = Vec::new();
        if self.pages_away() > 0 {
            let mut table = Vec::new();
            self.holders().copy_into(&mut table);
            table.retain(|(holder, _)| guarded.tmem.holds_any(*holder));
            holders = table;
        }
        // From here on nothing becomes remote or stops to be, so what holders share is what the child's tmem says.
        guarded.freeze();
        let child = child_owner(&self.owner());
        let mut prepared = Prepared { child, links: Vec::new(), unshared: Vec::new() };
        for (holder, entry) in holders {
            match share_with(self, &entry, &child) {
                Ok(link) => prepared.links.push((holder, link)),
                Err(error) => {
                    say(format_args!(
                        "fork: node {} at {}: {error}; the child has lost the pages there",
                        entry.node, entry.address
                    ));
                    prepared.unshared.push(holder);
                }
            }
        }
        self.forks.lock().prepared = Some(prepared);
        self.freeze();
    }

    pub fn after_fork_parent(&self) {
        self.thaw();
        let prepared = self.forks.lock().prepared.take();
        drop(prepared);
    }

    /// In the child: lanes and putters of the parent are dead, make new ones. Starts no thread until something needs one.
    pub fn after_fork_child(&self) {
        self.thaw();
        self.inherited().close_in_child();
        self.threads.forget_in_child();
        // Their descriptors were closed by number just now, and what they point to belongs to nobody.
        std::mem::forget(std::mem::take(&mut *self.lanes.lock()));
        let Forks { prepared, adopted } = std::mem::take(&mut *self.forks.lock());
        std::mem::forget(adopted);
        *self.flights.lock() = Localify::default();
        self.stats().after_fork_child();
        self.holders().forget_accounts();
        if let Some(spill) = self.spill() {
            spill.after_fork_child();
        }
        if let Some(Prepared { child, links, unshared }) = prepared {
            self.set_owner(child);
            self.seals().go_on_as(child, self.pages_away() > 0);
            for holder in unshared {
                self.holder_died(holder);
            }
            let adopted = links.into_iter().map(|(holder, link)| (holder, links::adopt(self, holder, link))).collect();
            self.forks.lock().adopted = adopted;
        }
        self.with_tmem(|tmem| tmem.reset_in_transit());
    }

    /// For the remotifier, which looks after them from now on.
    pub(crate) fn take_adopted_links(&self) -> Vec<(HolderId, OpenLink)> {
        std::mem::take(&mut self.forks.lock().adopted)
    }

    fn freeze(&self) {
        if let Some(spill) = self.spill() {
            spill.freeze();
        }
        self.threads.freeze();
        self.holders().freeze();
        self.lanes.freeze();
        self.packers.freeze();
        self.identity().freeze();
        self.seals().freeze();
        self.inherited().freeze();
        self.forks.freeze();
    }

    fn thaw(&self) {
        self.forks.thaw();
        self.inherited().thaw();
        self.seals().thaw();
        self.identity().thaw();
        self.packers.thaw();
        self.lanes.thaw();
        self.holders().thaw();
        self.threads.thaw();
        if let Some(spill) = self.spill() {
            spill.thaw();
        }
        self.tmem_lock().thaw();
        self.flights.thaw();
    }
}

fn share_with(engine: &Engine, entry: &Holder, child: &OwnerId) -> Result<Link, LinkError> {
    let passport = engine.passport();
    if !passport.may_reach(&entry.address) {
        return Err(LinkError::Refused(RefuseReason::Auth));
    }
    Link::connect_for_child(passport.secured(entry.node), &entry.address, &passport.me, child, SHARE_MS)
}

/// The child is another client of the same family to every holder: what proves the parent's name proves the child's.
fn child_owner(parent: &OwnerId) -> OwnerId {
    let low = match random_u64s() {
        Ok([low]) => low,
        // Cannot happen after the kernel has once had random numbers. Still another name than the parent's, and than its other children's.
        Err(_) => (parent.client as u64).rotate_left(1) ^ crate::now_ms(),
    };
    let family = parent.client >> 64 << 64;
    OwnerId { client: family | u128::from(low), incarnation: 1, ..*parent }
}

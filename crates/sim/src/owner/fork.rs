//! The fork of an owner: everything held still while each holder shares the parent's pages with the child, then two owners. Mirrors engine/fork.rs.

use ramster_core::handle::{HolderId, OwnerId};
use ramster_core::wire::frame::Side;
use ramster_core::wire::message::{DoneStatus, Role};

use super::link::{Link, Said};
use super::table::{holder_at, place_of};
use super::{Owner, Pages};
use crate::clock::{Event, MS, Who};
use crate::ctx::{Ctx, name};
use crate::net::WireId;

/// A fork waits this long for each holder at most.
const SHARE_US: u64 = 2000 * MS;

pub struct Fork {
    child: OwnerId,
    seed: u64,
    /// Still to be asked, last first.
    left: Vec<HolderId>,
    asking: Option<Asking>,
    shared: Vec<(HolderId, Link)>,
    unshared: Vec<HolderId>,
}

struct Asking {
    holder: HolderId,
    child_link: Link,
    own_link: Option<Link>,
    asked: bool,
    deadline_us: u64,
}

impl Fork {
    pub fn has(&self, wire: WireId) -> bool {
        let asking = self.asking.iter().flat_map(|asking| std::iter::once(&asking.child_link).chain(&asking.own_link));
        asking.chain(self.shared.iter().map(|(_, link)| link)).any(|link| link.wire == wire)
    }

    pub fn links(&mut self) -> impl Iterator<Item = &mut Link> {
        let asking =
            self.asking.iter_mut().flat_map(|asking| std::iter::once(&mut asking.child_link).chain(&mut asking.own_link));
        asking.chain(self.shared.iter_mut().map(|(_, link)| link))
    }
}

impl Owner {
    pub fn is_forking(&self) -> bool {
        self.fork.is_some()
    }

    /// Everything of this owner stands still from here to the end of the fork. A batch that is being written keeps the fork waiting.
    pub fn begin_fork(&mut self, ctx: &mut Ctx) -> bool {
        // The fork takes locks that the remotifier holds while it packs and writes; openings hold none, and are given up with the parent's lanes.
        if self.fork.is_some() || self.packed.is_some() || !self.gets.is_empty() || !self.puts.is_empty() {
            return false;
        }
        ctx.last_client += 1;
        let family = self.id.client >> 64 << 64;
        let child = OwnerId { client: family | u128::from(ctx.last_client), incarnation: 1, ..self.id };
        let holders = (0..self.table.0.len()).map(holder_at);
        let left: Vec<HolderId> = holders.filter(|holder| self.tmem.holds_any(*holder)).collect();
        ctx.tell(|| format!("owner {}: forks {}, and asks {left:?} to share", self.who.place, name(&child)));
        let seed = ctx.random.word();
        self.fork = Some(Fork { child, seed, left, asking: None, shared: Vec::new(), unshared: Vec::new() });
        ctx.clock.after(1, Event::Fork(self.who));
        true
    }

    /// The next step of a fork. Returns the child when it is done.
    pub fn go_on_forking(&mut self, ctx: &mut Ctx, child_who: Who) -> Option<Owner> {
        let mut fork = self.fork.take()?;
        if let Some(asking) = fork.asking.take() {
            let holder = asking.holder;
            match self.share_step(ctx, &fork.child, asking) {
                Step::Waits(asking) => {
                    fork.asking = Some(asking);
                    self.fork = Some(fork);
                    return None;
                }
                Step::Shared(link) => fork.shared.push((holder, link)),
                Step::Refused => fork.unshared.push(holder),
            }
        }
        let Some(holder) = fork.left.pop() else { return Some(self.split(ctx, fork, child_who)) };
        let (wire, _) = ctx.connect(self.who, place_of(holder));
        let child_link = Link::greet(ctx, wire, &fork.child, Role::Bulk);
        let deadline_us = ctx.clock.now_us + SHARE_US;
        ctx.clock.at(deadline_us, Event::Fork(self.who));
        fork.asking = Some(Asking { holder, child_link, own_link: None, asked: false, deadline_us });
        self.fork = Some(fork);
        None
    }

    fn share_step(&mut self, ctx: &mut Ctx, child: &OwnerId, mut asking: Asking) -> Step {
        let mut done = None;
        let mut failed = asking.child_link.receive(ctx, &mut |_| {}).is_err() || asking.deadline_us <= ctx.clock.now_us;
        if !failed && asking.child_link.is_open() && asking.own_link.is_none() {
            let (wire, _) = ctx.connect(self.who, place_of(asking.holder));
            asking.own_link = Some(Link::greet(ctx, wire, &self.id, Role::Get));
        }
        if let Some(own) = &mut asking.own_link {
            failed |= own
                .receive(ctx, &mut |said| {
                    if let Said::Done { status, .. } = said {
                        done = Some(status);
                    }
                })
                .is_err();
            if !failed && own.is_open() && !asking.asked {
                asking.asked = true;
                failed = own.share(ctx, 0, child).is_err();
            }
        }
        if done.is_none() && !failed {
            return Step::Waits(asking);
        }
        if let Some(own) = asking.own_link {
            ctx.close(own.wire, Side::Client, false);
        }
        if done == Some(DoneStatus::Done) && !failed {
            return Step::Shared(asking.child_link);
        }
        ctx.close(asking.child_link.wire, Side::Client, false);
        Step::Refused
    }

    /// Parent and child go their ways.
    fn split(&mut self, ctx: &mut Ctx, fork: Fork, child_who: Who) -> Owner {
        let Fork { child: id, seed, shared, unshared, .. } = fork;
        if let Some(spill) = self.spill.as_mut().filter(|spill| spill.len() > 0) {
            spill.part_with_fork();
        }
        let mut seals = self.seals.clone();
        seals.go_on_as(id);
        let mut table = self.table.clone();
        table.forget_accounts();
        let mut spill = self.spill.clone();
        spill.iter_mut().for_each(|spill| spill.part_with_fork());
        let (tmem, model) = (self.tmem.clone(), self.model.clone());
        let pages = Pages { tmem, table, spill, model, seals, seed: self.seed };
        let mut child = Owner::with(pages, (child_who, id), self.settings, (seed as u32) | 1 << 31);
        child.remotify = self.remotify;
        for holder in &unshared {
            ctx.faults.note(child_who.place, place_of(*holder), ctx.clock.now_us);
            child.forget(ctx, *holder, "it did not share");
        }
        for (holder, link) in shared {
            ctx.net.pass_on(link.wire, child_who);
            child.adopt(ctx, holder, link);
        }
        child.tmem.reset_in_transit();
        ctx.tell(|| format!("owner {}: goes on as {} and its child {}", self.who.place, name(&self.id), name(&id)));
        child
    }
}

enum Step {
    Waits(Asking),
    Shared(Link),
    Refused,
}

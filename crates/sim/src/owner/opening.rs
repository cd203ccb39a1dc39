//! Opening links to holders, and the verdict that a holder died. Mirrors engine/links.rs; where the engine's thread waits for the welcome, this owner's waits
//! for an event.

use ramster_core::handle::HolderId;
use ramster_core::wire::frame::Side;
use ramster_core::wire::message::{RefuseReason, Role};

use super::bulk::Bulk;
use super::link::{Link, LinkError};
use super::table::place_of;
use super::{Owner, Who};
use crate::clock::{Event, MS};
use crate::ctx::Ctx;

/// As in engine/links.rs.
pub const CONNECT_US: u64 = 1000 * MS;
const SILENCE_MS: u64 = 90_000;
const FAREWELL_US: u64 = 200 * MS;

pub struct Opening {
    pub link: Link,
    holder: HolderId,
    role: Role,
    ticket: u64,
    deadline_us: u64,
    /// Nobody listens there.
    refused: bool,
    /// It was welcomed in a stay that is given up, has said goodbye, and waits for the farewell.
    parts: bool,
}

/// Why there is no link now.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum NoLink {
    Died,
    NotNow,
    /// Asked, and not welcomed yet.
    Opening,
}

impl Owner {
    pub(super) fn open(&mut self, ctx: &mut Ctx, holder: HolderId, role: Role) -> NoLink {
        if self.openings.iter().any(|opening| (opening.holder, opening.role) == (holder, role)) {
            return NoLink::Opening;
        }
        let Some(known) = self.table.get(holder) else { return NoLink::Died };
        if known.down_until_ms > ctx.now_ms() {
            return NoLink::NotNow;
        }
        self.last_ticket += 1;
        let (wire, refused) = ctx.connect(self.who, place_of(holder));
        let mut link = Link::greet(ctx, wire, &self.id, role);
        link.deaths = self.table.deaths(holder);
        let deadline_us = ctx.clock.now_us + CONNECT_US;
        ctx.clock.at(deadline_us, Event::Opening(self.who));
        self.openings.push(Opening { link, holder, role, ticket: self.last_ticket, deadline_us, refused, parts: false });
        NoLink::Opening
    }

    /// The remotifier's thread waits for a welcome, and does nothing else.
    pub(super) fn is_opening_bulk(&self) -> bool {
        self.openings.iter().any(|opening| opening.role == Role::Bulk)
    }

    pub fn look_at_openings(&mut self, ctx: &mut Ctx) {
        let mut index = 0;
        while index < self.openings.len() {
            let opening = &mut self.openings[index];
            let received = opening.link.receive(ctx, &mut |_| {});
            let result = match received {
                _ if opening.parts && (received.is_err() || opening.link.is_closed()) => Err(None),
                Ok(()) if opening.link.is_open() => Ok(()),
                Ok(()) if opening.deadline_us <= ctx.clock.now_us => Err(None),
                Ok(()) => {
                    index += 1;
                    continue;
                }
                Err(error) => Err(Some(error)),
            };
            let opening = self.openings.swap_remove(index);
            if opening.parts {
                ctx.close(opening.link.wire, Side::Client, false);
                self.not_opened(ctx, opening.holder, opening.role, NoLink::NotNow);
            } else if result.is_ok() && self.is_abandoned(&opening) {
                self.part(ctx, opening);
            } else {
                self.opened(ctx, opening, result);
            }
        }
    }

    fn is_abandoned(&self, opening: &Opening) -> bool {
        let (_, incarnation, account) = opening.link.facts;
        self.table.get(opening.holder).is_some_and(|known| known.abandoned == Some((incarnation, account)))
    }

    /// It lives after all, and holds pages that tmem has given up: they go with our stay there. The next link begins a new one.
    fn part(&mut self, ctx: &mut Ctx, mut opening: Opening) {
        ctx.tell(|| format!("owner {}: parts from holder {}", self.who.place, place_of(opening.holder)));
        if opening.link.goodbye(ctx, u64::MAX).is_err() {
            ctx.close(opening.link.wire, Side::Client, true);
            return self.not_opened(ctx, opening.holder, opening.role, NoLink::NotNow);
        }
        (opening.parts, opening.deadline_us) = (true, ctx.clock.now_us + FAREWELL_US);
        ctx.clock.at(opening.deadline_us, Event::Opening(self.who));
        self.openings.push(opening);
    }

    /// `Err(None)`: not in time.
    fn opened(&mut self, ctx: &mut Ctx, opening: Opening, result: Result<(), Option<LinkError>>) {
        let (holder, role) = (opening.holder, opening.role);
        let wire = opening.link.wire;
        let verdict = match result {
            Ok(()) => match self.compare_account(ctx, holder, &opening.link, opening.ticket) {
                Ok(()) => {
                    return match role {
                        Role::Bulk => {
                            self.bulks.push(Bulk::new(holder, opening.link));
                            self.wake_remotifier(ctx);
                        }
                        Role::Get => {
                            self.fetches.opened(holder, opening.link);
                            self.wake_lane(ctx, 0);
                        }
                    };
                }
                Err(no_link) => no_link,
            },
            Err(Some(LinkError::Refused(RefuseReason::TooManyLinks))) => NoLink::NotNow,
            Err(None | Some(LinkError::Closed)) if !opening.refused && self.may_be_silent(ctx, holder) => {
                self.table.silent(holder, ctx.now_ms());
                NoLink::NotNow
            }
            Err(error) => {
                self.table.failed(holder, ctx.now_ms());
                let why = if opening.refused { "refused".to_owned() } else { format!("{error:?}") };
                self.forget(ctx, holder, &why);
                NoLink::Died
            }
        };
        ctx.close(wire, Side::Client, true);
        self.not_opened(ctx, holder, role, verdict);
    }

    fn not_opened(&mut self, ctx: &mut Ctx, holder: HolderId, role: Role, verdict: NoLink) {
        match role {
            Role::Bulk => {
                if verdict == NoLink::Died {
                    self.unreached.remove(&holder);
                    self.orders.retain(|order| order.holder != holder);
                }
                self.table.update(holder, |known| known.full_until_ms = ctx.now_ms() + 2000);
                self.wake_remotifier(ctx);
            }
            Role::Get => {
                self.fetches.not_opened(holder, verdict, ctx.now_ms());
                self.wake_lane(ctx, 0);
            }
        }
    }

    fn may_be_silent(&self, ctx: &Ctx, holder: HolderId) -> bool {
        let since = self.table.get(holder).and_then(|known| known.silent_since_ms);
        since.is_none_or(|since_ms| ctx.now_ms() < since_ms + SILENCE_MS)
    }

    /// The account names our stay at the holder: another one than before, and our pages there are gone.
    pub(super) fn compare_account(&mut self, ctx: &mut Ctx, holder: HolderId, link: &Link, ticket: u64) -> Result<(), NoLink> {
        let (node, incarnation, account) = link.facts;
        let account = (incarnation, account);
        let (mut forgotten, mut outdated) = (false, false);
        self.table.update(holder, |known| {
            match known.account {
                Some((before, asked)) if before != account => (forgotten, outdated) = (ticket > asked, ticket < asked),
                _ => {}
            }
            // Given up for dead while this link was being opened.
            outdated |= known.deaths != link.deaths;
            if !outdated {
                known.account = Some((account, ticket));
                known.free_bytes = Some(link.free_bytes);
                (known.down_until_ms, known.failures, known.silent_since_ms) = (0, 0, None);
                known.node = node;
            }
        });
        if forgotten && !outdated {
            self.forget(ctx, holder, "it has forgotten this owner");
        }
        if outdated { Err(NoLink::NotNow) } else { Ok(()) }
    }

    pub(super) fn forget(&mut self, ctx: &mut Ctx, holder: HolderId, why: &str) {
        let before = self.tmem.counters().copies_lost;
        let lost = self.tmem.holder_died(holder);
        let thinned = self.tmem.counters().copies_lost - before;
        let (who, place) = (self.who, place_of(holder));
        ctx.tell(|| {
            format!("owner {}: holder {place} died ({why}): {lost} pages lost, {thinned} have another copy", place_name(who))
        });
        if thinned > 0 {
            self.note_thinned(ctx);
        }
    }

    /// A link that was opened for a forked child.
    pub(super) fn adopt(&mut self, ctx: &mut Ctx, holder: HolderId, mut link: Link) {
        link.deaths = self.table.deaths(holder);
        self.last_ticket += 1;
        let (_, incarnation, account) = link.facts;
        let ticket = self.last_ticket;
        self.table.update(holder, |known| known.account = Some(((incarnation, account), ticket)));
        self.bulks.push(Bulk::new(holder, link));
        self.wake_remotifier(ctx);
    }
}

fn place_name(who: Who) -> String {
    format!("{}", who.place)
}

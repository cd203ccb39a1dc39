//! Links to holders as the engine uses them: opened by number, known to the fork, compared with what the holder said before. Covers opening and the
//! verdict that a holder died; what travels is `lane.rs` and `remotifier.rs`.

use std::ops::{Deref, DerefMut};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use ramster_core::handle::HolderId;
use ramster_core::wire::message::{RefuseReason, Role};
use ramster_peer::client::{Link, LinkError};
use ramster_sys::quiet::Inherited;
use ramster_sys::say::say;
use rustix::io::Errno;

use crate::clock::now_ms;
use crate::engine::Engine;
use crate::holders::Holder;

/// A holder in the same network answers in a millisecond, and other faults of the lane wait meanwhile.
const CONNECT_MS: u64 = 1000;
/// A holder that lets connects time out for this long counts as dead. A machine may be stopped for a minute and lose nothing; a fault that waits for it has
/// its own deadline.
const SILENCE_MS: u64 = 90_000;
/// For a holder that has been given up to let go of what it still has.
const FAREWELL_MS: u64 = 200;

/// A link whose descriptor a forked child closes.
pub struct OpenLink {
    link: Link,
    inherited: Arc<Inherited>,
    /// Of its holder, when it was opened.
    deaths: u64,
}

impl OpenLink {
    /// Its holder was not given up for dead since it was opened. If it was, the link belongs to a stay there that has ended or is about to: it knows
    /// nothing of pages that are there by now.
    pub fn is_current(&self, engine: &Engine, holder: HolderId) -> bool {
        engine.holders().deaths(holder) == self.deaths
    }

    pub fn deaths(&self) -> u64 {
        self.deaths
    }
}

impl Deref for OpenLink {
    type Target = Link;
    fn deref(&self) -> &Link {
        &self.link
    }
}

impl DerefMut for OpenLink {
    fn deref_mut(&mut self) -> &mut Link {
        &mut self.link
    }
}

impl Drop for OpenLink {
    fn drop(&mut self) {
        self.inherited.forget(self.link.fd());
    }
}

/// Why there is no link now.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum NoLink {
    /// The holder is dead, and tmem knows: its pages are lost, those in transit are local again.
    Died,
    /// Something on this side, or the holder has enough links: try again later.
    NotNow,
}

/// Opens a link, at most [`CONNECT_MS`]. A holder that cannot be reached, or that has forgotten us, MUST be known to tmem before this returns.
pub fn open(engine: &Engine, holder: HolderId, role: Role) -> Result<OpenLink, NoLink> {
    let Some(entry) = engine.holders().get(holder) else { return Err(NoLink::Died) };
    if entry.down_until_ms > now_ms() {
        return Err(NoLink::NotNow);
    }
    let ticket = engine.next_ticket();
    let passport = engine.passport();
    if !passport.may_reach(&entry.address) {
        refuse_plain(engine, holder, &entry);
        return Err(NoLink::NotNow);
    }
    match Link::connect_by(passport.secured(entry.node), &entry.address, &passport.me, role, CONNECT_MS) {
        Ok(_) if !engine.is_still(&passport) => Err(NoLink::NotNow),
        Ok(link) => {
            let inherited = Arc::clone(engine.inherited());
            inherited.note(link.fd());
            let link = OpenLink { link, inherited, deaths: entry.deaths };
            if entry.abandoned == Some((link.holder().incarnation, link.holder().account)) {
                return Err(part(link));
            }
            compare_account(engine, holder, &link, ticket)?;
            Ok(link)
        }
        Err(LinkError::Io(Errno::MFILE | Errno::NFILE | Errno::NOBUFS | Errno::NOMEM | Errno::ADDRNOTAVAIL)) => {
            Err(NoLink::NotNow)
        }
        Err(LinkError::Refused(RefuseReason::TooManyLinks)) => Err(NoLink::NotNow),
        Err(error) if may_pass(&error) && entry.silent_since_ms.is_none_or(|since_ms| now_ms() < since_ms + SILENCE_MS) => {
            // Once, until a link to it was open: this is somebody else's standard error. A holder that closes at once is stopping, as a rule after
            // it has given everything back.
            let is_news = !matches!(error, LinkError::Deadline | LinkError::Closed);
            if is_news && entry.silent_since_ms.is_none() && entry.failures == 0 {
                say(format_args!("node {} at {}: {error}; trying again", entry.node, entry.address));
            }
            engine.holders().silent(holder, now_ms());
            Err(NoLink::NotNow)
        }
        Err(error) => {
            engine.holders().failed(holder, now_ms());
            forget(engine, holder, &error.to_string());
            Err(NoLink::Died)
        }
    }
}

/// Stopped, overloaded or out of reach, or it is others' certificates' turn: not at once the end of all its pages. Of the errors of a connect a refusal alone
/// says that the machine is there and the node is not; most others are of this machine's own routes and filters.
fn may_pass(error: &LinkError) -> bool {
    match error {
        LinkError::Deadline | LinkError::Closed | LinkError::Tls(_) | LinkError::Refused(RefuseReason::Auth) => true,
        LinkError::Io(errno) => *errno != Errno::CONNREFUSED,
        _ => false,
    }
}

/// Whoever is between two machines can read and change what goes by in plain text, names and flushes at least.
fn refuse_plain(engine: &Engine, holder: HolderId, entry: &Holder) {
    static SAID: AtomicBool = AtomicBool::new(false);
    if !SAID.swap(true, Ordering::Relaxed) {
        let (node, address) = (entry.node, entry.address);
        say(format_args!(
            "node {node} at {address} is another machine, and this program has no credentials yet: no pages go there"
        ));
    }
    engine.holders().failed(holder, now_ms());
}

/// A link that the parent opened for this child.
pub fn adopt(engine: &Engine, holder: HolderId, link: Link) -> OpenLink {
    let inherited = Arc::clone(engine.inherited());
    inherited.note(link.fd());
    let account = (link.holder().incarnation, link.holder().account);
    let ticket = engine.next_ticket();
    engine.holders().update(holder, |entry| entry.account = Some((account, ticket)));
    OpenLink { link, inherited, deaths: engine.holders().deaths(holder) }
}

/// It lives after all, and holds pages that tmem has given up: they go with our stay there. The next link begins a new one.
fn part(mut link: OpenLink) -> NoLink {
    if link.send_goodbye(u64::MAX).is_ok() {
        let _ = link.wait(FAREWELL_MS, &mut |_| {});
    }
    NoLink::NotNow
}

/// The account names our stay at the holder. Another one than before: it was restarted, or had none of our links left, and our pages are gone.
fn compare_account(engine: &Engine, holder: HolderId, link: &OpenLink, ticket: u64) -> Result<(), NoLink> {
    let facts = link.holder();
    let account = (facts.incarnation, facts.account);
    let mut forgotten = false;
    let mut outdated = false;
    engine.holders().update(holder, |entry| {
        match entry.account {
            Some((before, asked)) if before != account => (forgotten, outdated) = (ticket > asked, ticket < asked),
            _ => {}
        }
        // Given up for dead while this link was being opened.
        outdated |= entry.deaths != link.deaths;
        if !outdated {
            entry.account = Some((account, ticket));
            entry.free_bytes = Some(link.holder_free_bytes());
            (entry.down_until_ms, entry.failures, entry.silent_since_ms) = (0, 0, None);
            entry.node = facts.node;
        }
    });
    if forgotten && !outdated {
        forget(engine, holder, "it has forgotten this program (restarted, or all links were cut)");
    }
    // Somebody opened a link to a later life of this holder meanwhile, or gave it up: this one leads nowhere.
    if outdated { Err(NoLink::NotNow) } else { Ok(()) }
}

fn forget(engine: &Engine, holder: HolderId, why: &str) {
    let (lost, thinned) = engine.holder_died(holder);
    if lost + thinned > 0 {
        let (node, address) =
            engine.holders().get(holder).map_or((0, String::new()), |entry| (entry.node, entry.address.to_string()));
        say(format_args!(
            "node {node} at {address}: {why}; of the pages that it held {lost} are lost and {thinned} have another copy"
        ));
    }
}

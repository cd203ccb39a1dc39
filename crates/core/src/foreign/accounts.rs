//! Whose pages are here: one account for a client, for as long as it has links and a grace time after the last one broke. Covers who is let in, incarnations
//! and the grace time; not the pages of an account (`foreign`).

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use super::{Entry, Key, Pages, key};
use crate::handle::{Handle, OwnerId};
use crate::wire::message::Role;

/// An owner's place, for one link. Stays harmless when the account has gone: everything then answers `Gone`, and so does what would change something when
/// a newer bulk link has come.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Seat {
    pub(super) slot: u32,
    pub(super) account: u64,
    /// Of a bulk link: which one. 0: the link may only ask.
    writer: u64,
}

impl Seat {
    /// Names the owner's stay here; never given twice.
    pub fn account(&self) -> u64 {
        self.account
    }
}

/// A later incarnation of this client has an account here.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct OlderIncarnation;

pub(super) struct Account {
    pub serial: u64,
    pub owner: OwnerId,
    pub links: u32,
    pub pages: u64,
    pub bytes: u64,
    /// Shared between a parent and a forked child until one of them changes the object.
    pub objects: BTreeMap<Key, Arc<Pages>>,
    /// Without a link, it lasts until then.
    keep_until_ms: u64,
    /// The newest bulk link, the only one that changes anything.
    writer: u64,
}

impl Account {
    pub fn entry(&self, handle: &Handle) -> Option<Entry> {
        self.objects.get(&key(handle))?.entries.get(&handle.index).copied()
    }
}

#[derive(Default)]
pub(super) struct Accounts {
    slots: Vec<Option<Account>>,
    vacant: Vec<u32>,
    /// The account of a client, whatever its incarnation: there is never more than one.
    by_client: HashMap<(u64, u128), u32>,
    /// Those without a link, by when they end.
    orphans: BTreeSet<(u64, u32)>,
    last_serial: u64,
    last_writer: u64,
}

/// What became of the one who came.
pub(super) struct Arrival {
    pub seat: Seat,
    /// It had no link left, and its pages are still here.
    pub returned: bool,
    /// An earlier incarnation's, which has ended now.
    pub superseded: Option<Account>,
}

impl Accounts {
    pub fn arrive(&mut self, owner: &OwnerId, role: Role) -> Result<Arrival, OlderIncarnation> {
        let mut superseded = None;
        let writer = match role {
            Role::Bulk => self.next_writer(),
            Role::Get => 0,
        };
        let client = (owner.node, owner.client);
        if let Some(slot) = self.by_client.get(&client).copied()
            && let Some(account) = self.slots[slot as usize].as_mut()
        {
            if account.owner.incarnation == owner.incarnation {
                let returned = account.links == 0;
                self.orphans.remove(&(account.keep_until_ms, slot));
                account.links += 1;
                account.writer = account.writer.max(writer);
                if returned {
                    account.keep_until_ms = 0;
                }
                return Ok(Arrival { seat: Seat { slot, account: account.serial, writer }, returned, superseded });
            }
            if account.owner.incarnation > owner.incarnation {
                return Err(OlderIncarnation);
            }
            superseded = self.close(slot);
        }
        let slot = self.vacant.pop().unwrap_or(self.slots.len() as u32);
        if slot as usize == self.slots.len() {
            self.slots.push(None);
        }
        self.last_serial += 1;
        let (serial, objects) = (self.last_serial, BTreeMap::new());
        self.slots[slot as usize] =
            Some(Account { serial, owner: *owner, links: 1, pages: 0, bytes: 0, objects, keep_until_ms: 0, writer });
        self.by_client.insert(client, slot);
        Ok(Arrival { seat: Seat { slot, account: serial, writer }, returned: false, superseded })
    }

    fn next_writer(&mut self) -> u64 {
        self.last_writer += 1;
        self.last_writer
    }

    /// A link closed. Of several, the one that wants to be waited for longest decides. Returns an account that ends with it: the owner has no other link,
    /// and no page.
    pub fn leave(&mut self, seat: Seat, keep_until_ms: u64) -> Option<Account> {
        let account = self.get_mut(seat)?;
        account.links -= 1;
        account.keep_until_ms = account.keep_until_ms.max(keep_until_ms);
        let (links, pages, until_ms) = (account.links, account.pages, account.keep_until_ms);
        match (links, pages) {
            (0, 0) => self.close(seat.slot),
            (0, _) => {
                self.orphans.insert((until_ms, seat.slot));
                None
            }
            _ => None,
        }
    }

    /// An account whose time is over.
    pub fn expired(&mut self, now_ms: u64) -> Option<Account> {
        let (_, slot) = self.orphans.first().copied().filter(|(until_ms, _)| *until_ms <= now_ms)?;
        self.close(slot)
    }

    pub fn next_expiry_ms(&self) -> Option<u64> {
        self.orphans.first().map(|(until_ms, _)| *until_ms)
    }

    pub fn close(&mut self, slot: u32) -> Option<Account> {
        let account = self.slots.get_mut(slot as usize)?.take()?;
        self.by_client.remove(&(account.owner.node, account.owner.client));
        self.orphans.remove(&(account.keep_until_ms, slot));
        self.vacant.push(slot);
        Some(account)
    }

    pub fn get(&self, seat: Seat) -> Option<&Account> {
        self.slots.get(seat.slot as usize)?.as_ref().filter(|account| account.serial == seat.account)
    }

    /// For whoever changes something: the newest bulk link alone. What an earlier one still brings was given up by its owner, which has gone on since.
    pub fn written_by(&self, seat: Seat) -> Option<&Account> {
        self.get(seat).filter(|account| seat.writer != 0 && seat.writer == account.writer)
    }

    pub fn get_mut(&mut self, seat: Seat) -> Option<&mut Account> {
        self.slots.get_mut(seat.slot as usize)?.as_mut().filter(|account| account.serial == seat.account)
    }

    /// Of this client, in this incarnation alone.
    pub fn of(&mut self, owner: &OwnerId) -> Option<&mut Account> {
        let slot = *self.by_client.get(&(owner.node, owner.client))?;
        self.slots.get_mut(slot as usize)?.as_mut().filter(|account| account.owner == *owner)
    }

    pub fn iter(&self) -> impl Iterator<Item = &Account> {
        self.slots.iter().flatten()
    }
}

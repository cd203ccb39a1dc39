//! Who has a page: sets of holders that have a copy each, or a shard each, with a number that fits a page's entry. Covers sets and numbers; which set is
//! chosen for a page is decided outside.

use std::collections::HashMap;
use std::fmt;

use super::hash::Keyed;
use crate::handle::HolderId;
use crate::shards::{Code, SHARDS_MAX};

/// More than three copies would cost more memory than they win safety.
pub const COPIES_MAX: usize = 3;
/// The number of no set. One less than this many sets can be in use: all pairs of 360 nodes.
const NO_SITE: u16 = u16::MAX;
/// An entry has three bits for the acknowledgements that are missing.
const _: () = assert!(SHARDS_MAX < 8 && COPIES_MAX <= SHARDS_MAX);

/// One to [`COPIES_MAX`] different holders with a copy each, in the order in which they are asked for a page; or, of a coded page, different holders with
/// a shard each, in the order of the shards.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Site {
    len: u8,
    /// None: whole copies.
    code: Option<Code>,
    holders: [HolderId; SHARDS_MAX],
    /// Which shard each of the holders has; 0 for whole copies.
    shards: [u8; SHARDS_MAX],
}

/// Index into a [`Sites`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SiteId(u16);

impl Site {
    const EMPTY: Site = Site { len: 0, code: None, holders: [HolderId(u16::MAX); SHARDS_MAX], shards: [0; SHARDS_MAX] };

    /// Of whole copies. What is there twice, and what is too many, is left out.
    pub fn of(holders: &[HolderId]) -> Site {
        holders.iter().fold(Site::EMPTY, |site, holder| site.with(*holder).unwrap_or(site))
    }

    /// Each has the shard of its number. None: they are not as many as the code has shards, or not all different.
    pub fn coded(code: Code, holders: &[HolderId]) -> Option<Site> {
        let empty = Site { code: Some(code), ..Site::EMPTY };
        let site = holders.iter().zip(0..).try_fold(empty, |site, (holder, shard)| site.with_shard(*holder, shard))?;
        (site.holders().len() == code.shards()).then_some(site)
    }

    /// One more with a whole copy. None: it is one of them already, or they are as many as can be, or they have shards.
    pub fn with(self, holder: HolderId) -> Option<Site> {
        (self.code.is_none() && usize::from(self.len) < COPIES_MAX).then(|| self.insert(holder, 0, usize::from(self.len)))?
    }

    /// One more with that shard. None: it has another, or somebody else has that one, or there is no such shard.
    pub fn with_shard(self, holder: HolderId, shard: u8) -> Option<Site> {
        let fits =
            self.code.is_some_and(|code| usize::from(shard) < code.shards()) && !self.shards().any(|(_, other)| other == shard);
        let at = self.shards().filter(|(_, other)| *other < shard).count();
        fits.then(|| self.insert(holder, shard, at))?
    }

    fn insert(mut self, holder: HolderId, shard: u8, at: usize) -> Option<Site> {
        let end = usize::from(self.len);
        if self.has(holder) || end >= SHARDS_MAX {
            return None;
        }
        self.holders.copy_within(at..end, at + 1);
        self.shards.copy_within(at..end, at + 1);
        (self.holders[at], self.shards[at]) = (holder, shard);
        self.len += 1;
        Some(self)
    }

    pub fn without(&self, holder: HolderId) -> Site {
        let mut rest = Site { code: self.code, ..Site::EMPTY };
        for (other, shard) in self.shards().filter(|(other, _)| *other != holder) {
            let at = usize::from(rest.len);
            (rest.holders[at], rest.shards[at]) = (other, shard);
            rest.len += 1;
        }
        rest
    }

    pub fn holders(&self) -> &[HolderId] {
        &self.holders[..usize::from(self.len)]
    }

    pub fn has(&self, holder: HolderId) -> bool {
        self.holders().contains(&holder)
    }

    /// None: its holders have whole copies.
    pub fn code(&self) -> Option<Code> {
        self.code
    }

    /// The holders and which shard each has.
    pub fn shards(&self) -> impl Iterator<Item = (HolderId, u8)> + '_ {
        self.holders().iter().copied().zip(self.shards)
    }

    pub fn shard_of(&self, holder: HolderId) -> Option<u8> {
        self.shards().find(|(other, _)| *other == holder).map(|(_, shard)| shard)
    }

    /// The first shard that nobody has. None: all are there, or these are whole copies.
    pub fn missing_shard(&self) -> Option<u8> {
        (0..self.code?.shards() as u8).find(|shard| !self.shards().any(|(_, other)| other == *shard))
    }

    /// How many of its holders make up the page.
    pub fn needed(&self) -> usize {
        self.code.map_or(1, Code::data)
    }

    /// Whether the page can be had of them.
    pub fn is_enough(&self) -> bool {
        self.holders().len() >= self.needed()
    }

    /// Whom to ask first. None: the empty set.
    pub fn first(&self) -> Option<HolderId> {
        self.holders().first().copied()
    }

    /// Whom to ask after `holder` did not answer: the next one round. None: there is no other.
    pub fn after(&self, holder: HolderId) -> Option<HolderId> {
        let holders = self.holders();
        let next = holders.iter().position(|other| *other == holder).map_or(0, |at| (at + 1) % holders.len());
        holders.get(next).copied().filter(|other| *other != holder)
    }
}

impl fmt::Debug for Site {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.code {
            None => f.debug_list().entries(self.holders()).finish(),
            Some(_) => f.debug_list().entries(self.shards()).finish(),
        }
    }
}

impl SiteId {
    pub const NONE: SiteId = SiteId(NO_SITE);
}

#[derive(Clone)]
pub struct Sites {
    sites: Vec<Site>,
    free: Vec<u16>,
    numbers: HashMap<Site, SiteId, Keyed>,
}

impl Sites {
    pub fn new(seed: u64) -> Self {
        Sites { sites: Vec::new(), free: Vec::new(), numbers: HashMap::with_hasher(Keyed(seed)) }
    }

    pub fn get(&self, id: SiteId) -> Site {
        self.sites.get(usize::from(id.0)).copied().unwrap_or(Site::EMPTY)
    }

    /// The number of this set, a new one if it has none. None: all numbers are in use; see [`Sites::keep_only`].
    pub fn number(&mut self, site: Site) -> Option<SiteId> {
        if let Some(id) = self.numbers.get(&site) {
            return Some(*id);
        }
        let id = match self.free.pop() {
            Some(id) => id,
            None if self.sites.len() < usize::from(NO_SITE) => {
                self.sites.push(Site::EMPTY);
                (self.sites.len() - 1) as u16
            }
            None => return None,
        };
        self.sites[usize::from(id)] = site;
        self.numbers.insert(site, SiteId(id));
        Some(SiteId(id))
    }

    /// Numbers that are not `used` are free again.
    pub fn keep_only(&mut self, used: impl Iterator<Item = SiteId>) {
        let mut kept = vec![false; self.sites.len()];
        used.filter(|id| *id != SiteId::NONE).for_each(|id| kept[usize::from(id.0)] = true);
        self.numbers.retain(|_, id| kept[usize::from(id.0)]);
        self.free = (0..self.sites.len() as u16).filter(|id| !kept[usize::from(*id)]).collect();
    }

    /// Of each number, whether its set has this holder.
    pub fn having(&self, holder: HolderId) -> Vec<bool> {
        self.sites.iter().map(|site| site.has(holder)).collect()
    }
}

/// Whether the number is among those that [`Sites::having`] marked.
pub fn is_marked(marked: &[bool], id: SiteId) -> bool {
    marked.get(usize::from(id.0)).copied().unwrap_or(false)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn site(holders: &[u16]) -> Site {
        let holders: Vec<_> = holders.iter().map(|holder| HolderId(*holder)).collect();
        Site::of(&holders)
    }

    #[test]
    fn a_site_has_different_holders_in_the_order_in_which_they_are_asked() {
        let three = site(&[4, 1, 4, 9, 7]);
        assert_eq!(three, site(&[4, 1, 9]));
        assert_eq!((three.first(), three.has(HolderId(9)), three.has(HolderId(7))), (Some(HolderId(4)), true, false));
        assert_eq!(three.without(HolderId(1)), site(&[4, 9]));
        assert_eq!(three.with(HolderId(2)), None);
        assert_eq!(site(&[4]).with(HolderId(4)), None);
        let asked = [4, 1, 9].map(|holder| three.after(HolderId(holder)));
        assert_eq!(asked, [1, 9, 4].map(|holder| Some(HolderId(holder))));
        assert_eq!(three.after(HolderId(5)), Some(HolderId(4)), "one that is gone from the set");
        assert_eq!((site(&[4]).after(HolderId(4)), site(&[]).after(HolderId(4))), (None, None));
    }

    #[test]
    fn a_coded_site_knows_which_shard_each_has_and_which_are_missing() {
        let code = Code::new(2, 1).expect("a code");
        let of = |holders: &[u16]| Site::coded(code, &holders.iter().map(|holder| HolderId(*holder)).collect::<Vec<_>>());
        let whole = of(&[4, 1, 9]).expect("a site");
        assert_eq!((of(&[4, 1]), of(&[4, 1, 4]), of(&[4, 1, 9, 3])), (None, None, None));
        assert_eq!((whole.shard_of(HolderId(1)), whole.shard_of(HolderId(2)), whole.missing_shard()), (Some(1), None, None));
        assert_eq!((whole.with(HolderId(2)), whole.with_shard(HolderId(2), 1)), (None, None));
        let two = whole.without(HolderId(4));
        assert!(two.is_enough() && !two.without(HolderId(9)).is_enough());
        assert_eq!((two.holders(), two.missing_shard()), (&[HolderId(1), HolderId(9)][..], Some(0)));
        assert_eq!(
            (two.with_shard(HolderId(9), 0), two.with_shard(HolderId(4), 3)),
            (None, None),
            "one shard a holder, and no fourth"
        );
        assert_eq!(two.with_shard(HolderId(4), 0), Some(whole), "whatever the order in which they came");
        assert_ne!(whole, site(&[4, 1, 9]));
    }

    #[test]
    fn numbers_end_and_those_that_no_page_uses_are_free_again() {
        let mut sites = Sites::new(1);
        let pair = |n: u32| site(&[(n / 1000) as u16, 2000 + (n % 1000) as u16]);
        for n in 0..u32::from(NO_SITE) {
            assert!(sites.number(pair(n)).is_some());
        }
        assert_eq!(sites.number(site(&[1])), None);
        let (first, second) = (sites.number(pair(0)), sites.number(pair(1)));
        assert_ne!(first, second);
        sites.keep_only([first, second].into_iter().flatten().chain([SiteId::NONE]));
        assert_eq!((sites.number(pair(0)), sites.number(pair(1))), (first, second));
        let fresh = sites.number(site(&[1])).expect("room");
        assert_eq!(sites.get(fresh), site(&[1]));
        assert_eq!(sites.get(SiteId::NONE), site(&[]));
        assert!(is_marked(&sites.having(HolderId(1)), fresh) && !is_marked(&sites.having(HolderId(1)), SiteId::NONE));
    }
}

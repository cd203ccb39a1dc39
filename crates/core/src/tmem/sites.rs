//! Who has the copies of a page: sets of holders, each with a number that fits a page's entry. Covers sets and numbers; which set is chosen for a page
//! is decided outside.

use std::collections::HashMap;
use std::fmt;

use super::hash::Keyed;
use crate::handle::HolderId;

/// More than three copies would cost more memory than they win safety; an entry has two bits for the acknowledgements that are missing.
pub const COPIES_MAX: usize = 3;
/// The number of no set. One less than this many sets can be in use: all pairs of 360 nodes.
const NO_SITE: u16 = u16::MAX;

/// One to [`COPIES_MAX`] different holders, in the order in which they are asked for a page.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Site {
    len: u8,
    holders: [HolderId; COPIES_MAX],
}

/// Index into a [`Sites`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SiteId(u16);

impl Site {
    const EMPTY: Site = Site { len: 0, holders: [HolderId(u16::MAX); COPIES_MAX] };

    /// What is there twice, and what is too many, is left out.
    pub fn of(holders: &[HolderId]) -> Site {
        holders.iter().fold(Site::EMPTY, |site, holder| site.with(*holder).unwrap_or(site))
    }

    /// None: it is one of them already, or they are as many as can be.
    pub fn with(mut self, holder: HolderId) -> Option<Site> {
        if self.has(holder) {
            return None;
        }
        *self.holders.get_mut(usize::from(self.len))? = holder;
        self.len += 1;
        Some(self)
    }

    pub fn without(&self, holder: HolderId) -> Site {
        let mut rest = Site::EMPTY;
        for other in self.holders().iter().filter(|other| **other != holder) {
            rest.holders[usize::from(rest.len)] = *other;
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
        f.debug_list().entries(self.holders()).finish()
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

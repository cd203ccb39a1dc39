//! What must hold, seen by somebody who sees everything. Covers the checks after each step, those of every page, and those at the end; promises are those of
//! docs/design.md.

use std::collections::BTreeMap;

use ramster_core::backend::Keep;
use ramster_core::handle::{Handle, HolderId, ObjectId, OwnerId, PoolId, PoolKind, Version};

use crate::ctx::{Gone, name};
use crate::owner::table::{SPILL, holder_at, place_of};
use crate::owner::{Durability, Owner};
use crate::world::World;

impl World {
    /// After each step: whoever acted, and whatever page's last local copy went.
    pub fn check_step(&mut self) {
        if let Some(place) = self.script.touched.take()
            && let Some(owner) = &mut self.owners[place]
        {
            owner.check(&self.ctx);
        }
        if let Some(place) = self.script.touched_holder.take()
            && let Some(holder) = &mut self.holders[place]
        {
            holder.check_accounts();
        }
        for gone in std::mem::take(&mut self.ctx.gone) {
            self.check_gone(&gone);
        }
        if self.steps.is_multiple_of(self.settings.look_steps) {
            self.check_everything();
        }
    }

    /// Promise 3: the last local copy has just gone, or a copy was counted, so all holders have it, on different nodes, as many as the durability asks for.
    fn check_gone(&mut self, gone: &Gone) {
        let Some(owner) = &mut self.owners[gone.owner] else { return };
        let Some(site) = owner.site_of(&gone.handle, gone.version) else { return };
        if let Durability::Copies(copies) = owner.settings.durability
            && owner.model.kind_of(&gone.handle) == PoolKind::Persistent
            && !gone.rebuilt
        {
            let enough = site.contains(&SPILL) || site.len() >= usize::from(copies);
            assert!(enough, "P3: {:?} left for {site:?}, and {copies} copies were asked for", gone.handle);
        }
        self.check_site(gone.owner, &gone.handle, gone.version, &site);
    }

    /// Each holder of the site has that copy, unless its account there is another one by now, which the owner has yet to hear.
    fn check_site(&mut self, place: usize, handle: &Handle, version: Version, site: &[HolderId]) {
        let Some(owner) = &self.owners[place] else { return };
        // A holder drops ephemeral pages as it likes.
        let stays = owner.model.kind_of(handle) == PoolKind::Persistent;
        let mut nodes: Vec<u64> = site.iter().filter_map(|holder| owner.table.get(*holder)).map(|known| known.node).collect();
        nodes.sort_unstable();
        assert!(nodes.windows(2).all(|pair| pair[0] != pair[1]), "P3: two copies of {handle:?} on one node, {site:?}");
        for holder in site {
            if *holder == SPILL {
                assert!(owner.has_on_disk(handle, version), "P3: version {version} of {handle:?} is not on disk");
                continue;
            }
            let Some((incarnation, account)) = owner.account_at(*holder) else { continue };
            let Some(there) = self.holders[place_of(*holder)].as_mut() else { continue };
            if there.incarnation != incarnation {
                continue;
            }
            let has = there.has(&owner.id, account, handle, version);
            assert!(
                has != Some(false) || !stays,
                "P3: owner {place} counts on version {version} of {handle:?} at holder {}, which does not have it",
                place_of(*holder)
            );
        }
    }

    /// Every page of every owner, and every holder's books.
    pub fn check_everything(&mut self) {
        self.holders.iter().flatten().for_each(|holder| holder.check_all());
        for place in 0..self.owners.len() {
            let Some(owner) = &self.owners[place] else { continue };
            let mut away = Vec::new();
            owner.tmem.pages_at(&|_| true, &mut 0, (usize::MAX, usize::MAX), &mut away);
            for page in &away {
                self.check_site(place, &page.handle, page.version, page.site.holders());
            }
        }
    }

    /// All persistent pages have the copies that they should have, really, and nobody is given up.
    pub fn is_well(&mut self) -> bool {
        for place in 0..self.owners.len() {
            let Some(owner) = &self.owners[place] else { continue };
            let known = |given_up: bool, silent: Option<u64>| !given_up && silent.is_none();
            let all_known = owner.table.0.iter().all(|holder| known(holder.given_up, holder.silent_since_ms));
            if owner.suspended || owner.is_forking() || !all_known {
                return false;
            }
            let mut away = Vec::new();
            owner.tmem.pages_at(&|_| true, &mut 0, (usize::MAX, usize::MAX), &mut away);
            for page in away {
                if !self.is_safe(place, &page.handle, page.version, page.site.holders()) {
                    return false;
                }
            }
        }
        true
    }

    fn is_safe(&mut self, place: usize, handle: &Handle, version: Version, site: &[HolderId]) -> bool {
        let Some(owner) = &self.owners[place] else { return true };
        owner.is_enough(site)
            && site.iter().filter(|holder| **holder != SPILL).all(|holder| {
                let Some((incarnation, account)) = owner.account_at(*holder) else { return false };
                let there = self.holders[place_of(*holder)].as_mut().filter(|there| there.incarnation == incarnation);
                there.is_some_and(|there| there.has(&owner.id, account, handle, version) == Some(true))
            })
    }

    /// Whether any owner has persistent pages there, or some on their way to anywhere.
    pub fn holds_persistent(&self, holder: usize) -> bool {
        self.owners.iter().flatten().any(|owner| {
            let mut away = Vec::new();
            owner.tmem.pages_at(&|site| site.has(holder_at(holder)), &mut 0, (usize::MAX, 1), &mut away);
            !away.is_empty() || owner.tmem.gauges().pages_in_transit > 0
        })
    }

    /// At rest: each holder has what its owners know of, and nothing else. Of a forked child it may have more: what its parent had flushed, and the holder had
    /// not yet heard, when it shared.
    pub fn check_leaks(&mut self) {
        let owners: BTreeMap<OwnerId, (usize, bool)> =
            self.owners.iter().flatten().map(|owner| (owner.id, (owner.who.place, self.children[owner.who.place]))).collect();
        for place in 0..self.holders.len() {
            let clients = self.holders[place].as_ref().map(|holder| holder.foreign.clients()).unwrap_or_default();
            for client in clients {
                let who = name(&client.owner);
                let Some((owner, is_child)) = owners.get(&client.owner) else {
                    panic!("P10: holder {place} keeps {} pages of {who}, which has gone", client.pages);
                };
                let mut known = Vec::new();
                let Some(there) = &self.owners[*owner] else { continue };
                there.tmem.remote_pages(holder_at(place), &mut 0, usize::MAX, &mut known);
                let count = known.len() as u64;
                // Ephemeral pages may have been dropped there.
                let stays = |(handle, _): &&(Handle, Version)| there.model.kind_of(handle) == PoolKind::Persistent;
                let least = known.iter().filter(stays).count() as u64;
                if (least..=count).contains(&client.pages) || (*is_child && count < client.pages) {
                    continue;
                }
                let unknown = self.pages_unknown(place, *owner, &known);
                panic!("P10: holder {place} keeps {} pages of {who}, which knows of {count}: not of {unknown:?}", client.pages);
            }
        }
        for owner in self.owners.iter().flatten() {
            let in_transit = owner.tmem.gauges().pages_in_transit;
            assert!(in_transit == 0, "P3: {in_transit} pages of owner {} are on their way for ever", owner.who.place);
        }
    }

    /// The first pages that a holder has of an owner that does not know of them.
    fn pages_unknown(&mut self, place: usize, owner: usize, known: &[(Handle, Version)]) -> Vec<Handle> {
        let (Some(there), Some(owner)) = (&mut self.holders[place], &self.owners[owner]) else { return Vec::new() };
        let pools = owner.model.pools.keys().map(|pool| pool.0).max().unwrap_or(0);
        let mut unknown = Vec::new();
        for pool in 0..=pools {
            for object in 0..owner.settings.objects {
                for index in (0..owner.settings.indexes + 16).chain(u32::MAX - 16..=u32::MAX) {
                    let handle = Handle { pool: PoolId(pool), object: ObjectId([object, !object, 7]), index };
                    if !known.iter().any(|(other, _)| *other == handle) && there.has_any(&owner.id, &handle) {
                        unknown.push(handle);
                    }
                }
            }
        }
        unknown.truncate(8);
        unknown
    }

    pub fn get_everything(&mut self) {
        for owner in self.owners.iter_mut().flatten() {
            let handles: Vec<Handle> = owner.model.pages.keys().copied().collect();
            handles.into_iter().for_each(|handle| owner.get(&mut self.ctx, handle, Keep::Keep));
        }
    }

    /// All owners have gone: nothing of them is left.
    pub fn check_empty(&mut self) {
        assert!(self.owners.iter().all(Option::is_none));
        for holder in self.holders.iter_mut().flatten() {
            let clients = holder.foreign.clients();
            assert!(clients.is_empty(), "P10: holder {}: accounts are left: {clients:?}", holder.who.place);
            holder.check_accounts();
        }
    }
}

impl Owner {
    pub fn what_is_open(&self) -> String {
        let gauges = self.tmem.gauges();
        format!("{} in transit, {} flushes, {}", gauges.pages_in_transit, gauges.flushes_waiting, self.what_waits())
    }
}

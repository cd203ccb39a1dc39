//! Races over pages that are on disk or on their way from there. What the disk answers cannot be held back as a peer can be, so these try often instead.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};

use ramster_core::page::PAGE_BYTES;
use ramster_engine::Stat;
use ramster_pager::seam::Hand;

use crate::stage::{Memory, begin, finish, race, start_on_disk, wait_until};

/// xorshift; the seed is the thread's number.
fn next(x: &mut u64) -> usize {
    *x ^= *x << 13;
    *x ^= *x >> 7;
    *x ^= *x << 17;
    (*x >> 20) as usize
}

/// Each thread writes, reads and discards pages of its own, neighbours of the others', while all of them leave for the disk over and over.
#[test]
fn threads_that_write_read_and_discard_pages_on_disk_always_see_their_own() {
    race("disk::threads_that_write_read_and_discard_pages_on_disk_always_see_their_own", || {
        const THREADS: usize = 4;
        let pager = start_on_disk();
        let memory = Memory::new(pager, 256);
        let mut hand = Hand::new(pager);
        memory.send_away(&mut hand);
        let over = Arc::new(AtomicBool::new(false));
        let threads: Vec<_> = (0..THREADS)
            .map(|thread| {
                let over = Arc::clone(&over);
                begin(move || {
                    let (mut x, mut versions) = (thread as u64 + 1, vec![Some(0); memory.pages]);
                    let mut turns = 0_u64;
                    while !over.load(SeqCst) {
                        let index = next(&mut x) % (memory.pages / THREADS) * THREADS + thread;
                        match next(&mut x) % 8 {
                            0 => {
                                let discarded = pager.advise(memory.addr(index), PAGE_BYTES, libc::MADV_DONTNEED);
                                assert_eq!(discarded, Ok(()));
                                versions[index] = None;
                            }
                            1 | 2 => {
                                turns += 1;
                                memory.write(index, turns);
                                versions[index] = Some(turns);
                            }
                            _ => match versions[index] {
                                Some(version) => memory.check(index, version),
                                None => memory.check_zero(index),
                            },
                        }
                    }
                })
            })
            .collect();
        let read = |at_least: u64| pager.engine().stats().get(Stat::PagesUnspilled) >= at_least;
        wait_until("pages come from the disk", || {
            hand.take_out(memory.start, memory.len());
            hand.put_all();
            read(3000)
        });
        over.store(true, SeqCst);
        threads.into_iter().for_each(finish);
        let stats = pager.engine().stats();
        assert_eq!((stats.get(Stat::PagesLost), stats.get(Stat::DiskUnreadable)), (0, 0));
        assert!(stats.get(Stat::FaultsDisk) > 0);
    });
}

#[test]
fn many_threads_fault_one_page_on_disk_and_all_of_them_get_it() {
    race("disk::many_threads_fault_one_page_on_disk_and_all_of_them_get_it", || {
        let pager = start_on_disk();
        let memory = Memory::new(pager, 32);
        let mut hand = Hand::new(pager);
        for round in 0..50 {
            memory.send_away(&mut hand);
            let threads: Vec<_> = (0..4).map(|_| std::thread::spawn(move || memory.check(round % 32, 0))).collect();
            threads.into_iter().for_each(finish);
        }
        memory.check_all(0);
    });
}

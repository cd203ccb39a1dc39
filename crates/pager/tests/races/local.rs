//! Races over pages that are here: resident, in the victim buffer, being packed, stored.

use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};

use ramster_core::page::PAGE_BYTES;
use ramster_pager::seam::{self, Hand, Point};
use ramster_sys::touch;
use rustix::fd::AsFd;

use crate::stage::{Memory, begin, finish, page, race, start, wait_until};

#[test]
fn many_threads_fault_one_page_and_all_read_it() {
    race("local::many_threads_fault_one_page_and_all_read_it", || {
        let pager = start(vec![]);
        let memory = Memory::new(pager, 16);
        memory.evict(&mut Hand::new(pager));
        let (all_wait, target) = (Arc::new(AtomicBool::new(false)), memory.addr(3));
        let seen = Arc::clone(&all_wait);
        seam::on(Point::BeforeFill, move |addr| {
            if addr == target {
                wait_until("all threads wait for the page", || seen.load(SeqCst));
            }
        });
        let threads: Vec<_> = (0..8).map(|_| begin(move || memory.check(3, 0))).collect();
        all_wait.store(true, SeqCst);
        threads.into_iter().for_each(finish);
        memory.check_all(0);
    });
}

#[test]
fn two_handlers_bring_one_page_and_it_comes_once() {
    race("local::two_handlers_bring_one_page_and_it_comes_once", || {
        let pager = start(vec![]);
        seam::call_second_handler(pager).expect("a second handler");
        let memory = Memory::new(pager, 16);
        let mut hand = Hand::new(pager);
        let (passed, target) = (Arc::new(AtomicUsize::new(0)), memory.addr(5));
        let count = Arc::clone(&passed);
        seam::on(Point::BeforeLocalify, move |addr| {
            if addr == target && count.fetch_add(1, SeqCst).is_multiple_of(2) {
                // Odd ones wait for the even ones.
                let mine = count.load(SeqCst) | 1;
                wait_until("the other handler is as far", || count.load(SeqCst) > mine);
            }
        });
        for round in 0..10 {
            let first = loop {
                memory.evict(&mut hand);
                let first = begin(move || memory.check(5, round));
                wait_until("one handler is as far", || passed.load(SeqCst) as u64 == round * 2 + 1 || first.is_finished());
                if !first.is_finished() {
                    break first;
                }
                // Read-ahead of the round before has brought the page back meanwhile.
                finish(first);
            };
            // One that found itself to be spare has gone off duty.
            seam::call_second_handler(pager).expect("a second handler");
            let second = begin(move || memory.check(5, round));
            finish(first);
            finish(second);
            memory.write_all(round + 1);
        }
        seam::off();
        memory.check_all(10);
    });
}

#[test]
fn what_is_written_while_the_page_leaves_is_kept() {
    race("local::what_is_written_while_the_page_leaves_is_kept", || {
        let pager = start(vec![]);
        let memory = Memory::new(pager, 16);
        let mut hand = Hand::new(pager);
        for round in 1..=30u64 {
            let (writer, at) = (Arc::new(Mutex::new(None)), memory.addr(7));
            let slot = Arc::clone(&writer);
            // The frame is gone and no state says so: the writer's fault must wait until one does.
            seam::on(Point::AfterMoveOut, move |_| {
                *slot.lock().expect("slot") = Some(begin(move || touch::store(at + 8, round)));
            });
            assert_eq!(hand.take_out(memory.start, memory.len()), 16);
            seam::off();
            finish(writer.lock().expect("slot").take().expect("a writer"));
            hand.put_all();
            let mut expected = page(7, 0);
            expected[8..16].copy_from_slice(&round.to_ne_bytes());
            assert!(touch::read_page(at) == expected, "round {round}");
            (0..16).filter(|index| *index != 7).for_each(|index| memory.check(index, 0));
        }
    });
}

#[test]
fn a_counter_loses_nothing_while_its_page_comes_and_goes() {
    race("local::a_counter_loses_nothing_while_its_page_comes_and_goes", || {
        let pager = start(vec![]);
        let memory = Memory::new(pager, 16);
        let mut hand = Hand::new(pager);
        let done = Arc::new(AtomicBool::new(false));
        let threads: Vec<_> = (0..3)
            .map(|who| {
                let (done, at) = (Arc::clone(&done), memory.addr(2) + who * 8);
                begin(move || {
                    touch::store(at, 0);
                    let mut count = 0;
                    while !done.load(SeqCst) {
                        assert_eq!(touch::load(at), count);
                        count += 1;
                        touch::store(at, count);
                    }
                    (at, count)
                })
            })
            .collect();
        for _ in 0..300 {
            hand.take_out(memory.start, memory.len());
            hand.put_all();
        }
        done.store(true, SeqCst);
        for thread in threads {
            let (at, count) = finish(thread);
            assert_eq!(touch::load(at), count);
        }
        (3..16).for_each(|index| memory.check(index, 0));
    });
}

#[test]
fn a_page_taken_back_and_written_while_it_is_packed_is_the_new_one() {
    race("local::a_page_taken_back_and_written_while_it_is_packed_is_the_new_one", || {
        let memory = Memory::new(start(vec![]), 16);
        let mut hand = Hand::new(memory.pager);
        for round in 1..=20 {
            let point = if round % 2 == 0 { Point::BeforePut } else { Point::AfterPut };
            seam::on(point, move |_| {
                finish(begin(move || memory.write(4, round)));
                assert_eq!(memory.place(4), "TakenBack");
            });
            hand.take_out(memory.start, memory.len());
            hand.put_all();
            seam::off();
            assert_eq!(memory.place(4), "Home");
            memory.check(4, round);
            memory.evict(&mut hand);
            memory.check(4, round);
            (0..16).filter(|index| *index != 4).for_each(|index| memory.check(index, 0));
        }
    });
}

#[test]
fn a_page_discarded_while_it_is_packed_is_empty() {
    race("local::a_page_discarded_while_it_is_packed_is_empty", || {
        let pager = start(vec![]);
        let memory = Memory::new(pager, 16);
        let discarder = Arc::new(Mutex::new(None));
        let slot = Arc::clone(&discarder);
        seam::on(Point::BeforePut, move |_| {
            let discard = move || pager.advise(memory.addr(4), 3 * PAGE_BYTES, libc::MADV_DONTNEED).expect("discard");
            *slot.lock().expect("slot") = Some(begin(discard));
        });
        let mut hand = Hand::new(pager);
        hand.take_out(memory.start, memory.len());
        hand.put_all();
        finish(discarder.lock().expect("slot").take().expect("a discarder"));
        (4..7).for_each(|index| memory.check_zero(index));
        (0..4).chain(7..16).for_each(|index| memory.check(index, 0));
    });
}

#[test]
fn a_fault_read_before_the_page_was_discarded_gets_an_empty_page() {
    race("local::a_fault_read_before_the_page_was_discarded_gets_an_empty_page", || {
        let pager = start(vec![]);
        let memory = Memory::new(pager, 16);
        memory.evict(&mut Hand::new(pager));
        let target = memory.addr(6);
        let once = AtomicBool::new(false);
        seam::on(Point::FaultRead, move |addr| {
            if addr == target && !once.swap(true, SeqCst) {
                finish(begin(move || pager.advise(target, PAGE_BYTES, libc::MADV_DONTNEED).expect("discard")));
            }
        });
        finish(begin(move || memory.check_zero(6)));
        (0..16).filter(|index| *index != 6).for_each(|index| memory.check(index, 0));
    });
}

#[test]
fn system_calls_read_into_and_write_from_evicted_memory() {
    race("local::system_calls_read_into_and_write_from_evicted_memory", || {
        let pager = start(vec![]);
        let memory = Memory::new(pager, 16);
        let mut hand = Hand::new(pager);
        for round in 1..=10 {
            memory.evict(&mut hand);
            let (out, into) = rustix::pipe::pipe().expect("pipe");
            assert_eq!(touch::write_from(into.as_fd(), memory.addr(3), PAGE_BYTES), Ok(PAGE_BYTES));
            // Into the middle of two pages, the second of which nobody has brought in.
            assert_eq!(touch::read_into(out.as_fd(), memory.addr(8) + 2048, PAGE_BYTES), Ok(PAGE_BYTES));
            let found: Vec<u8> = [8, 9].iter().flat_map(|index| touch::read_page(memory.addr(*index))).collect();
            let expected = [&page(8, round - 1)[..2048], &page(3, round - 1), &page(9, round - 1)[2048..]].concat();
            assert!(found == expected, "round {round}");
            memory.write_all(round);
        }
    });
}

#[test]
fn asking_for_pages_beforehand_brings_evicted_ones_back() {
    race("local::asking_for_pages_beforehand_brings_evicted_ones_back", || {
        let pager = start(vec![]);
        let memory = Memory::new(pager, 48);
        let mut hand = Hand::new(pager);
        for advice in [libc::MADV_POPULATE_READ, libc::MADV_POPULATE_WRITE] {
            memory.evict(&mut hand);
            finish(begin(move || pager.advise(memory.start, memory.len(), advice).expect("populate")));
            (0..48).for_each(|index| assert_eq!(memory.place(index), "Home"));
            memory.check_all(0);
        }
        pager.unmap(memory.addr(10), PAGE_BYTES).expect("unmap");
        assert!(pager.advise(memory.start, memory.len(), libc::MADV_POPULATE_READ).is_err(), "a hole is an error");
    });
}

#[test]
fn a_page_moved_while_it_waits_in_the_victim_buffer_is_where_it_moved_to() {
    race("local::a_page_moved_while_it_waits_in_the_victim_buffer_is_where_it_moved_to", || {
        let pager = start(vec![]);
        let memory = Memory::new(pager, 16);
        let mut hand = Hand::new(pager);
        hand.take_out(memory.start, memory.len());
        memory.check(2, 0); // one of them is home again
        let blocked = pager.map(16 * PAGE_BYTES, libc::PROT_READ, Some(memory.start + memory.len())).expect("map");
        let moved = pager.remap(memory.start, memory.len(), 2 * memory.len(), true, None).expect("remap");
        assert!(moved != memory.start && blocked != moved);
        let memory = Memory { start: moved, ..memory };
        memory.check_all(0);
        hand.take_out(memory.start, memory.len());
        hand.put_all();
        memory.check_all(0);
        assert!(touch::read_page(moved + memory.len()) == [0; PAGE_BYTES]);
    });
}

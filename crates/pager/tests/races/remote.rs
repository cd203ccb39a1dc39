//! Races over pages that are at a peer or on their way: the peer's answers are held back while something happens to the page.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};

use ramster_core::page::PAGE_BYTES;
use ramster_engine::{Directives, Stat};
use ramster_pager::Pager;
use ramster_pager::seam::{self, Hand, Point};
use ramster_sys::touch;
use rustix::fd::AsFd;
use rustix::io::Errno;

use crate::stage::{Memory, begin, finish, page, race, race_ending, start, start_waiting, wait_until};
use crate::wire::Peer;

/// Pages at a peer, over a link that is open already.
fn away(pages: usize) -> (Peer, Memory, Hand) {
    let peer = Peer::start();
    let pager = start(peer.list());
    let memory = Memory::new(pager, pages);
    let mut hand = Hand::new(pager);
    memory.send_away(&mut hand);
    memory.check(pages - 1, 0);
    (peer, memory, hand)
}

/// Nothing more goes to the peer.
fn stay_here(pager: &Pager) {
    pager.engine().set_directives(&Directives { remotify: Some(false), ..Directives::default() }).expect("directives");
}

#[test]
fn many_threads_fault_one_page_in_transit_and_it_is_fetched_once() {
    race("remote::many_threads_fault_one_page_in_transit_and_it_is_fetched_once", || {
        let (peer, memory, _) = away(32);
        let fetched = memory.pager.engine().stats().get(Stat::PagesLocalified);
        peer.hold();
        let threads: Vec<_> = (0..8).map(|_| begin(move || memory.check(3, 0))).collect();
        wait_until("the page is on its way", || memory.place(3) == "Fetching");
        peer.release();
        threads.into_iter().for_each(finish);
        assert_eq!(memory.pager.engine().stats().get(Stat::PagesLocalified), fetched + 1);
        memory.check_all(0);
    });
}

#[test]
fn a_page_on_its_way_out_is_answered_from_here() {
    race("remote::a_page_on_its_way_out_is_answered_from_here", || {
        let (peer, memory, mut hand) = away(32);
        memory.write_all(1);
        peer.hold();
        memory.evict(&mut hand);
        wait_until("pages are in transit", || memory.pager.engine().snapshot().pages_in_transit > 0);
        finish(begin(move || memory.check_all(1)));
        memory.write(9, 2);
        peer.release();
        memory.send_away(&mut hand);
        memory.check(9, 2);
        (0..32).filter(|index| *index != 9).for_each(|index| memory.check(index, 1));
    });
}

#[test]
fn a_reader_whose_page_is_discarded_during_its_fetch_goes_on_with_an_empty_one() {
    race("remote::a_reader_whose_page_is_discarded_during_its_fetch_goes_on_with_an_empty_one", || {
        let (peer, memory, _) = away(32);
        peer.hold();
        let reader = begin(move || memory.check_zero(3));
        wait_until("the page is on its way", || memory.place(3) == "Fetching");
        memory.pager.advise(memory.addr(3), PAGE_BYTES, libc::MADV_DONTNEED).expect("discard");
        // The answer is still held back: nobody but the discard can have woken it.
        finish(reader);
        peer.release();
        memory.check(4, 0);
        memory.check_zero(3);
    });
}

#[test]
fn a_late_answer_neither_overwrites_nor_uses_up_what_was_written_after_the_discard() {
    race("remote::a_late_answer_neither_overwrites_nor_uses_up_what_was_written_after_the_discard", || {
        let (peer, memory, mut hand) = away(32);
        stay_here(memory.pager);
        peer.hold();
        let reader = begin(move || memory.check_zero(3));
        wait_until("the page is on its way", || memory.place(3) == "Fetching");
        memory.pager.advise(memory.addr(3), PAGE_BYTES, libc::MADV_DONTNEED).expect("discard");
        finish(reader);
        memory.write(3, 7);
        hand.take_out(memory.addr(3), PAGE_BYTES);
        hand.put_all();
        assert_eq!(memory.place(3), "Stored");
        let arrived = Arc::new(AtomicBool::new(false));
        let seen = Arc::clone(&arrived);
        seam::on(Point::Arrival, move |_| seen.store(true, SeqCst));
        peer.release();
        wait_until("the late answer", || arrived.load(SeqCst));
        memory.check(3, 7);
        (0..32).filter(|index| *index != 3).for_each(|index| memory.check(index, 0));
        assert_eq!(memory.pager.engine().stats().get(Stat::PagesLost), 0);
    });
}

#[test]
fn an_address_unmapped_during_a_fetch_and_mapped_again_keeps_its_new_bytes() {
    race("remote::an_address_unmapped_during_a_fetch_and_mapped_again_keeps_its_new_bytes", || {
        let (peer, memory, mut hand) = away(32);
        let (_out, into) = rustix::pipe::pipe().expect("pipe");
        peer.hold();
        let writer = begin(move || touch::write_from(into.as_fd(), memory.addr(3), PAGE_BYTES));
        wait_until("the page is on its way", || memory.place(3) == "Fetching");
        memory.pager.unmap(memory.start, memory.len()).expect("unmap");
        assert_eq!(finish(writer), Err(Errno::FAULT), "as the kernel answers for memory that is gone");
        let rw = libc::PROT_READ | libc::PROT_WRITE;
        assert_eq!(memory.pager.map(memory.len(), rw, Some(memory.start)), Ok(memory.start));
        memory.write(2, 5);
        memory.write(3, 5);
        peer.release();
        memory.send_away(hand_for(&mut hand, &memory, 2..4));
        memory.check(2, 5);
        memory.check(3, 5);
        (4..32).for_each(|index| memory.check_zero(index));
    });
}

/// Pages outside of the range are made too, so that all of them can be sent away.
fn hand_for<'a>(hand: &'a mut Hand, memory: &Memory, written: std::ops::Range<usize>) -> &'a mut Hand {
    (0..memory.pages).filter(|index| !written.contains(index)).for_each(|index| memory.check_zero(index));
    hand
}

#[test]
fn a_page_that_nobody_gives_in_time_is_lost_to_that_access_and_counted_and_its_holder_forgets_it() {
    race("remote::a_page_that_nobody_gives_in_time_is_lost_to_that_access_and_counted_and_its_holder_forgets_it", || {
        let peer = Peer::start();
        let pager = start_waiting(peer.list(), 3000);
        let memory = Memory::new(pager, 32);
        memory.send_away(&mut Hand::new(pager));
        stay_here(pager);
        memory.check(31, 0);
        let (_out, into) = rustix::pipe::pipe().expect("pipe");
        peer.hold();
        let writer = begin(move || touch::write_from(into.as_fd(), memory.addr(3), PAGE_BYTES));
        wait_until("the page is on its way", || memory.place(3) == "Fetching");
        assert_eq!(finish(writer), Err(Errno::FAULT));
        assert_eq!(memory.place(3), "Lost");
        let stats = pager.engine().stats();
        assert_eq!((stats.get(Stat::PagesLost), stats.get(Stat::GetsDeadline)), (1, 1));
        peer.release();
        (0..32).filter(|index| *index != 3).for_each(|index| memory.check(index, 0));
        let held = || peer.server.stats().clients.iter().map(|client| client.pages).sum::<u64>();
        wait_until("the holder has forgotten it", || held() == 31);
        // Discarded, it is a page like any other.
        pager.advise(memory.addr(3), PAGE_BYTES, libc::MADV_DONTNEED).expect("discard");
        memory.check_zero(3);
    });
}

#[test]
fn a_mapping_moved_during_a_fetch_has_its_bytes_at_the_new_address() {
    race("remote::a_mapping_moved_during_a_fetch_has_its_bytes_at_the_new_address", || {
        let (peer, memory, _) = away(32);
        let (_out, into) = rustix::pipe::pipe().expect("pipe");
        peer.hold();
        let writer = begin(move || touch::write_from(into.as_fd(), memory.addr(3), PAGE_BYTES));
        wait_until("the page is on its way", || memory.place(3) == "Fetching");
        let room = memory.pager.map(memory.len(), libc::PROT_READ, None).expect("map");
        assert_eq!(memory.pager.remap(memory.start, memory.len(), memory.len(), true, Some(room)), Ok(room));
        assert_eq!(finish(writer), Err(Errno::FAULT));
        let memory = Memory { start: room, ..memory };
        let reader = begin(move || memory.check(3, 0));
        peer.release();
        finish(reader);
        memory.check_all(0);
        memory.write(3, 1);
        memory.send_away(&mut Hand::new(memory.pager));
        memory.check(3, 1);
        (0..32).filter(|index| *index != 3).for_each(|index| memory.check(index, 0));
    });
}

#[test]
fn memory_closed_during_a_fetch_opens_with_its_bytes() {
    race("remote::memory_closed_during_a_fetch_opens_with_its_bytes", || {
        let (peer, memory, _) = away(32);
        let (out, into) = rustix::pipe::pipe().expect("pipe");
        peer.hold();
        let writer = begin(move || (touch::write_from(into.as_fd(), memory.addr(3), PAGE_BYTES), into));
        wait_until("the page is on its way", || memory.place(3) == "Fetching");
        memory.pager.protect(memory.start, memory.len(), libc::PROT_NONE).expect("protect");
        peer.release();
        let (written, _into) = finish(writer);
        assert!(matches!(written, Err(Errno::FAULT) | Ok(PAGE_BYTES)), "{written:?}");
        wait_until("the page has come", || memory.place(3) == "Home");
        memory.pager.protect(memory.start, memory.len(), libc::PROT_READ | libc::PROT_WRITE).expect("protect");
        memory.check_all(0);
        drop(out);
    });
}

#[test]
fn read_ahead_under_way_does_not_keep_a_system_call_from_its_bytes() {
    race("remote::read_ahead_under_way_does_not_keep_a_system_call_from_its_bytes", || {
        let (peer, memory, _) = away(64);
        memory.check(0, 0);
        memory.check(1, 0); // a stream begins: the next pages are on their way
        let (out, into) = rustix::pipe::pipe().expect("pipe");
        peer.hold();
        let reader = begin(move || touch::read_into(out.as_fd(), memory.addr(7), 3 * PAGE_BYTES));
        assert_eq!(touch::write_from(into.as_fd(), memory.addr(1), PAGE_BYTES), Ok(PAGE_BYTES));
        let reader_got = begin(move || finish(reader));
        peer.release();
        assert_eq!(finish(reader_got), Ok(PAGE_BYTES));
        assert!(touch::read_page(memory.addr(7)) == page(1, 0));
        (0..64).filter(|index| *index != 7).for_each(|index| memory.check(index, 0));
    });
}

#[test]
fn nothing_is_left_at_the_peer_of_memory_that_came_home_and_was_unmapped() {
    race("remote::nothing_is_left_at_the_peer_of_memory_that_came_home_and_was_unmapped", || {
        let (peer, memory, _) = away(32);
        memory.check_all(0);
        assert!(peer.server.stats().pages() > 0, "copies were kept, in case they are put again unchanged");
        memory.pager.unmap(memory.start, memory.len()).expect("unmap");
        wait_until("the peer has none left", || peer.server.stats().pages() == 0);
    });
}

/// The peer dies with more pages on their way than fit in one line of anything: each reader gets its SIGBUS, none waits for ever.
#[test]
fn when_a_peer_dies_with_many_pages_on_their_way_the_reader_is_stopped() {
    race_ending("remote::when_a_peer_dies_with_many_pages_on_their_way_the_reader_is_stopped", libc::SIGBUS, || {
        let (peer, memory, _) = away(200);
        let next = (0..100).find(|index| {
            memory.check(*index, 0);
            // A stream has formed that brings many pages with the next fault.
            *index > 30 && memory.place(index + 1) == "Stored"
        });
        let next = next.expect("a page that has not been brought along") + 1;
        peer.hold();
        let reader = begin(move || memory.check(next, 0));
        wait_until("many pages are on their way", || (next..next + 16).all(|index| memory.place(index) == "Fetching"));
        peer.cut();
        finish(reader);
    });
}

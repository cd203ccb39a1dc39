//! Forks at any point: parent and child each have every byte as it was at the fork, and go their own ways from there.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex};

use ramster_core::page::PAGE_BYTES;
use ramster_pager::Pager;
use ramster_pager::seam::{self, Hand, Point};
use ramster_sys::{next, quiet};
use rustix::process::{Pid, Signal, WaitOptions, kill_process, waitpid};

use crate::stage::{Memory, begin, finish, race, start, start_after, wait_until};
use crate::wire::Peer;

/// A forked child; joining it is waiting until it has ended well.
struct Child(Pid);

fn fork(pager: &'static Pager, child: impl FnOnce()) -> Child {
    pager.before_fork();
    let pid = quiet::fork();
    if pid == 0 {
        let ran = catch_unwind(AssertUnwindSafe(|| {
            seam::off();
            pager.after_fork_child();
            child();
        }));
        next::exit_now(if ran.is_ok() { 0 } else { 1 });
    }
    pager.after_fork_parent();
    Child(Pid::from_raw(pid).expect("fork"))
}

impl Child {
    fn join(self) {
        wait_until("the child ends", || match waitpid(Some(self.0), WaitOptions::NOHANG).expect("waitpid") {
            Some((_, status)) => {
                assert_eq!(status.exit_status(), Some(0), "the child failed");
                true
            }
            None => false,
        });
    }
}

/// What a child does with its parent's memory: reads all, writes all, evicts all, reads all.
fn use_up(memory: &Memory, version: u64) {
    memory.check_all(version);
    memory.write_all(version + 100);
    let mut hand = Hand::new(memory.pager);
    hand.take_out(memory.start, memory.len());
    hand.put_all();
    memory.check_all(version + 100);
}

#[test]
fn a_fork_during_a_fetch_gives_both_sides_the_page() {
    race("forks::a_fork_during_a_fetch_gives_both_sides_the_page", || {
        let peer = Peer::start();
        let pager = start(peer.list());
        let memory = Memory::new(pager, 32);
        memory.send_away(&mut Hand::new(pager));
        memory.check(31, 0);
        peer.hold();
        let reader = begin(move || memory.check(3, 0));
        wait_until("the page is on its way", || memory.place(3) == "Fetching");
        let child = fork(pager, || use_up(&memory, 0));
        child.join();
        assert!(!reader.is_finished(), "the parent's answer is still held back");
        peer.release();
        finish(reader);
        memory.check_all(0);
    });
}

#[test]
fn a_fork_while_pages_are_in_the_victim_buffer_gives_both_sides_their_own() {
    race("forks::a_fork_while_pages_are_in_the_victim_buffer_gives_both_sides_their_own", || {
        let pager = start(vec![]);
        let memory = Memory::new(pager, 48);
        let mut hand = Hand::new(pager);
        for round in 0..5 {
            memory.write_all(round);
            // One third stored, one third in the buffer, one third home.
            hand.take_out(memory.start, 16 * PAGE_BYTES);
            hand.put_all();
            hand.take_out(memory.addr(16), 16 * PAGE_BYTES);
            assert_eq!([memory.place(0), memory.place(16), memory.place(32)], ["Stored", "Victim", "Home"]);
            let child = fork(pager, || use_up(&memory, round));
            memory.check_all(round);
            memory.write_all(round + 50);
            memory.evict(&mut hand);
            memory.check_all(round + 50);
            child.join();
        }
    });
}

#[test]
fn a_fork_asked_for_while_pages_are_packed_and_taken_back_waits_for_the_put() {
    race("forks::a_fork_asked_for_while_pages_are_packed_and_taken_back_waits_for_the_put", || {
        let pager = start(vec![]);
        let memory = Memory::new(pager, 16);
        let mut hand = Hand::new(pager);
        for (round, point) in (0..).zip([Point::BeforePut, Point::AfterPut]) {
            let child = Arc::new(Mutex::new(None));
            let slot = Arc::clone(&child);
            seam::on(point, move |_| {
                finish(begin(move || memory.check(4, round)));
                assert_eq!(memory.place(4), "TakenBack");
                *slot.lock().expect("slot") = Some(begin(move || fork(pager, || use_up(&memory, round))));
            });
            hand.take_out(memory.start, memory.len());
            hand.put_all();
            let forked = child.lock().expect("slot").take().expect("a fork");
            let child = finish(forked);
            seam::off();
            memory.write_all(round + 1);
            child.join();
            memory.check_all(round + 1);
        }
    });
}

#[test]
fn a_fork_while_a_fault_is_half_answered_waits_for_the_answer() {
    race("forks::a_fork_while_a_fault_is_half_answered_waits_for_the_answer", || {
        let pager = start(vec![]);
        let memory = Memory::new(pager, 16);
        memory.evict(&mut Hand::new(pager));
        let child = Arc::new(Mutex::new(None));
        let (slot, target) = (Arc::clone(&child), memory.addr(3));
        seam::on(Point::BeforeFill, move |addr| {
            let mut slot = slot.lock().expect("slot");
            if addr == target && slot.is_none() {
                *slot = Some(begin(move || fork(pager, || use_up(&memory, 0))));
            }
        });
        finish(begin(move || memory.check(3, 0)));
        let forked = child.lock().expect("slot").take().expect("a fork");
        let child = finish(forked);
        seam::off();
        memory.write_all(1);
        child.join();
        memory.check_all(1);
    });
}

#[test]
fn pages_shared_with_a_living_child_can_leave_whenever_it_was_forked() {
    race("forks::pages_shared_with_a_living_child_can_leave_whenever_it_was_forked", || {
        let before = Arc::new(Mutex::new(None));
        let slot = Arc::clone(&before);
        let pager = start_after(vec![], move |pager| {
            // The pager does not manage yet, and the child lives on.
            let memory = Memory::new(pager, 32);
            let child = fork(pager, || {
                loop {
                    std::thread::sleep(std::time::Duration::from_secs(1));
                }
            });
            *slot.lock().expect("slot") = Some((memory, child));
        });
        let (memory, Child(pid)) = before.lock().expect("slot").take().expect("a child");
        let mut hand = Hand::new(pager);
        memory.evict(&mut hand);
        memory.check_all(0);
        let second = fork(pager, || {
            loop {
                std::thread::sleep(std::time::Duration::from_secs(1));
            }
        });
        memory.evict(&mut hand);
        memory.check_all(0);
        memory.write_all(1);
        memory.evict(&mut hand);
        memory.check_all(1);
        for pid in [pid, second.0] {
            kill_process(pid, Signal::KILL).expect("kill");
            waitpid(Some(pid), WaitOptions::empty()).expect("waitpid");
        }
    });
}

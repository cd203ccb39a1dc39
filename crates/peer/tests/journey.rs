//! A page's way to a holder and back over real sockets: puts, gets, flushes, versions, owners, shares, goodbyes.

mod common;

use common::*;
use ramster_core::handle::{Handle, ObjectId, OwnerId, PoolId};
use ramster_core::wire::message::{DoneStatus, PutStatus, RefuseReason, Role};
use ramster_peer::client::{Link, LinkError};
use ramster_peer::server::{EndReason, Server, ServerConfig, Timeouts};

#[test]
fn a_page_put_is_the_page_got() {
    let server = start(PLENTY_BYTES);
    let mut link = connect(&server, 1);
    assert_eq!(put(&mut link, 1, 0..256, 1), vec![PutStatus::Stored; 256]);
    for index in [0, 17, 255] {
        assert_eq!(get(&mut link, index, 1), Ok((1, bytes_of(1, index, 1, 1000))));
    }
    assert_eq!(get(&mut link, 256, 1), Err("miss"));
    server.check().expect("counted right");
    drop(link);
    assert_nothing_leaks(server);
}

/// The kernel version's length limit forgot the header, so that pages of 3977-4000 bytes were always refused.
#[test]
fn a_page_of_any_length_up_to_the_limit_is_kept() {
    let server = start(PLENTY_BYTES);
    let mut link = connect(&server, 1);
    for length in [0, 1, 3976, 3977, 3990, 4000, 4001, 4095, 4096] {
        assert_eq!(put_sized(&mut link, 1, 0..1, 1, length), vec![PutStatus::Stored]);
        assert_eq!(get(&mut link, 0, 1), Ok((1, bytes_of(1, 0, 1, length))), "{length} bytes");
    }
    // And a batch of the longest pages, which no single frame can hold.
    assert_eq!(put_sized(&mut link, 1, 0..256, 1, 4096), vec![PutStatus::Stored; 256]);
    link.send_get(0, &handles(256)).expect("get");
    let outcome = one(&mut link);
    for (index, page) in outcome.pages.into_iter().enumerate() {
        assert_eq!(page, Ok((1, bytes_of(1, index as u32, 1, 4096))));
    }
    drop(link);
    assert_nothing_leaks(server);
}

/// The kernel version's replies could interleave with other frames on one socket.
#[test]
fn answers_of_many_requests_in_flight_never_interleave() {
    let server = start(PLENTY_BYTES);
    let mut link = connect(&server, 1);
    put_sized(&mut link, 1, 0..256, 1, 4096);
    for request in 0..60 {
        match request % 3 {
            0 => link.send_get(request, &handles(256)).expect("get"),
            1 => link.send_get(request, &[(handle(request as u32), 1)]).expect("get"),
            _ => link.send_ping(request).expect("ping"),
        }
    }
    for (request, outcome) in finish(&mut link, 60).expect("answers").into_iter().enumerate() {
        let expected = match request % 3 {
            0 => (0..256).collect(),
            1 => vec![request as u32],
            _ => vec![],
        };
        let expected: Vec<_> = expected.into_iter().map(|index| Ok((1, bytes_of(1, index, 1, 4096)))).collect();
        assert!(outcome.pages == expected, "request {request}");
    }
    drop(link);
    assert_nothing_leaks(server);
}

#[test]
fn miss_full_gone_stale_and_refused_are_told_apart() {
    let server = start(20 << 10);
    let mut link = connect(&server, 1);
    let mut other = Link::connect(&server.address(), &owner(1), Role::Get, DEADLINE_MS).expect("link");
    let statuses = put(&mut link, 1, 0..30, 5);
    assert_eq!(statuses[0], PutStatus::Stored);
    assert_eq!(statuses[29], PutStatus::RefusedFull);
    assert_eq!(put(&mut link, 1, 0..1, 4), vec![PutStatus::Stale]);
    assert_eq!(get(&mut link, 0, 4), Err("stale"));
    assert_eq!(get(&mut link, 0, 5), Ok((5, bytes_of(1, 0, 5, 1000))));
    assert_eq!(get(&mut link, 29, 5), Err("miss"));
    other.send_goodbye(0).expect("goodbye");
    assert_eq!(one(&mut other).done.map(|done| done.0), Some(DoneStatus::Done));
    assert_eq!(get(&mut link, 0, 5), Err("gone"));
    assert_eq!(put(&mut link, 1, 0..1, 6), vec![PutStatus::Gone]);
    link.send_flush(0, &handles(1)).expect("flush");
    assert_eq!(one(&mut link).done, Some((DoneStatus::Gone, 0)));
    let older = OwnerId { incarnation: 99, ..owner(2) };
    let newer = connect(&server, 2);
    let refused = Link::connect(&server.address(), &older, Role::Get, DEADLINE_MS);
    assert!(matches!(refused, Err(LinkError::Refused(RefuseReason::Incarnation))));
    let stats = server.stats().foreign;
    let counted = (stats.puts_stale, stats.puts_gone, stats.gets_miss, stats.gets_stale, stats.gets_gone);
    assert_eq!(counted, (1, 1, 1, 1, 1));
    assert!(stats.puts_refused_full > 0);
    assert_eq!(stats.accounts_refused_older, 1);
    drop((link, other, newer));
    wait_until(&server, "goodbye counted", |stats| stats.ended(EndReason::Goodbye) == 1);
    assert_nothing_leaks(server);
}

#[test]
fn a_put_that_is_refused_leaves_no_older_copy() {
    let server = start(8 << 10);
    let mut link = connect(&server, 1);
    assert_eq!(put_sized(&mut link, 1, 0..2, 1, 100), vec![PutStatus::Stored; 2]);
    // One frame is all there is room for, and the other page is in it.
    assert_eq!(put_sized(&mut link, 1, 0..1, 2, 4096), vec![PutStatus::RefusedFull]);
    assert_eq!(get(&mut link, 0, 1), Err("miss"));
    assert_eq!(get(&mut link, 0, 2), Err("miss"));
    assert_eq!(get(&mut link, 1, 1), Ok((1, bytes_of(1, 1, 1, 100))));
    drop(link);
    assert_nothing_leaks(server);
}

/// Owners flush at random, so what is left lies scattered: the holder moves it together and its memory goes back to the machine.
#[test]
fn memory_of_flushed_pages_goes_back_to_the_machine() {
    let server = start(PLENTY_BYTES);
    let mut link = connect(&server, 1);
    put_sized(&mut link, 1, 0..4096, 1, 2000);
    let full_bytes = server.stats().resident_bytes;
    assert!((4096 * 2000..4096 * 2000 * 11 / 10).contains(&full_bytes), "{full_bytes}");
    for start in (0..4096).step_by(256) {
        let scattered: Vec<_> = (start..start + 256).filter(|index| index % 8 != 3).map(|index| (handle(index), 1)).collect();
        link.send_flush(0, &scattered).expect("flush");
        one(&mut link);
    }
    let left_bytes = server.stats().resident_bytes;
    assert!(left_bytes < full_bytes / 8 * 3 / 2, "{left_bytes} of {full_bytes}");
    server.check().expect("counted right");
    for index in (3..4096).step_by(8) {
        assert_eq!(get(&mut link, index, 1), Ok((1, bytes_of(1, index, 1, 2000))));
    }
    drop(link);
    assert_nothing_leaks(server);
}

#[test]
fn flushes_free_what_they_name_and_nothing_else() {
    let server = start(PLENTY_BYTES);
    let mut link = connect(&server, 1);
    put(&mut link, 1, 0..5000, 3);
    link.send_flush(0, &[(handle(0), 3), (handle(1), 2), (handle(2), 4), (handle(9999), 3)]).expect("flush");
    link.send_flush_range(1, &handle(1000), 2500).expect("flush range");
    link.send_flush_range(2, &handle(4999), u32::MAX).expect("flush range");
    link.send_flush_range(3, &handle(10), 0).expect("flush range");
    let pages: Vec<_> = finish(&mut link, 4).expect("answers").into_iter().map(|outcome| outcome.done).collect();
    assert_eq!(pages, [2, 2500, 1, 0].map(|freed| Some((DoneStatus::Done, freed))));
    assert_eq!(get(&mut link, 1, 3).map(|page| page.0), Ok(3));
    for (index, is_there) in [(0, false), (2, false), (999, true), (1000, false), (3499, false), (3500, true), (4999, false)] {
        assert_eq!(get(&mut link, index, 3).is_ok(), is_there, "page {index}");
    }
    link.send_flush_object(0, PoolId(1), ObjectId([0, 0, 0])).expect("flush object");
    link.send_flush_object(1, PoolId(1), handle(0).object).expect("flush object");
    let pages: Vec<_> = finish(&mut link, 2).expect("answers").into_iter().map(|outcome| outcome.done).collect();
    assert_eq!(pages, [0, 2497].map(|freed| Some((DoneStatus::Done, freed))));
    put(&mut link, 1, 0..100, 4);
    link.send_destroy_pool(0, PoolId(2)).expect("destroy");
    link.send_destroy_pool(1, PoolId(1)).expect("destroy");
    let pages: Vec<_> = finish(&mut link, 2).expect("answers").into_iter().map(|outcome| outcome.done).collect();
    assert_eq!(pages, [0, 100].map(|freed| Some((DoneStatus::Done, freed))));
    assert_eq!(server.stats().used_bytes, 0);
    drop(link);
    assert_nothing_leaks(server);
}

#[test]
fn owners_with_the_same_handles_never_see_each_others_pages() {
    let server = start(PLENTY_BYTES);
    let mut links: Vec<Link> = (0..8).map(|client| connect(&server, client)).collect();
    for (client, link) in links.iter_mut().enumerate() {
        put(link, client as u128, 0..50, 1);
    }
    for (client, link) in links.iter_mut().enumerate() {
        assert_eq!(get(link, 33, 1), Ok((1, bytes_of(client as u128, 33, 1, 1000))));
    }
    let clients = server.stats().clients;
    assert_eq!(clients.len(), 8);
    assert!(clients.iter().all(|client| (client.links, client.pages, client.bytes) == (1, 50, 50 * 1000)));
    drop(links);
    assert_nothing_leaks(server);
}

/// In the kernel version a peer that came back after its death found the dead owner's pages kept for ever.
#[test]
fn a_later_incarnation_takes_over_and_the_earlier_ones_pages_go_at_once() {
    let server = start(PLENTY_BYTES);
    let mut earlier = connect(&server, 1);
    put(&mut earlier, 1, 0..100, 1);
    let reborn = OwnerId { incarnation: 101, ..owner(1) };
    let mut later = Link::connect(&server.address(), &reborn, Role::Bulk, DEADLINE_MS).expect("link");
    assert_ne!(later.holder().account, earlier.holder().account);
    assert_eq!(server.stats().used_bytes, 0);
    assert_eq!(get(&mut later, 5, 1), Err("miss"));
    assert_eq!(get(&mut earlier, 5, 1), Err("gone"));
    assert_eq!(put(&mut earlier, 1, 0..1, 2), vec![PutStatus::Gone]);
    put(&mut later, 1, 0..10, 1);
    drop(earlier);
    assert_eq!(get(&mut later, 5, 1).map(|page| page.0), Ok(1));
    drop(later);
    assert_nothing_leaks(server);
}

#[test]
fn an_owner_that_comes_back_within_the_grace_time_finds_its_pages() {
    let timeouts = Timeouts { closed_grace_ms: 60_000, ..timeouts() };
    let server = Server::start(ServerConfig { timeouts, ..config(PLENTY_BYTES) }).expect("server");
    let mut first = connect(&server, 1);
    let account = first.holder().account;
    put(&mut first, 1, 0..100, 1);
    drop(first);
    wait_until(&server, "the link has ended", |stats| stats.links == 0);
    let mut second = connect(&server, 1);
    assert_eq!(second.holder().account, account);
    assert_eq!(get(&mut second, 99, 1), Ok((1, bytes_of(1, 99, 1, 1000))));
    assert_eq!(server.stats().foreign.accounts_returned, 1);
    second.send_goodbye(0).expect("goodbye");
    assert_eq!(one(&mut second).done, Some((DoneStatus::Done, 100)));
    drop(second);
    assert_nothing_leaks(server);
}

#[test]
fn a_link_that_fell_silent_is_waited_for_longer_than_one_that_was_closed() {
    let timeouts = Timeouts { half_frame_ms: 100, silent_grace_ms: 60_000, ..timeouts() };
    let server = Server::start(ServerConfig { timeouts, ..config(PLENTY_BYTES) }).expect("server");
    let (mut silent, mut closed) = (connect(&server, 1), connect(&server, 2));
    put(&mut silent, 1, 0..10, 1);
    put(&mut closed, 2, 0..10, 1);
    drop(closed);
    rustix::net::send(silent.fd(), b"RAMs", rustix::net::SendFlags::empty()).expect("half a frame");
    wait_until(&server, "both have ended", |stats| stats.links == 0);
    let stats = wait_until(&server, "the dead one's pages are freed", |stats| stats.clients.len() == 1);
    assert_eq!((stats.clients[0].owner, stats.clients[0].links, stats.clients[0].pages), (owner(1), 0, 10));
    assert_eq!(stats.foreign.accounts_expired, 1);
}

#[test]
fn pages_last_as_long_as_their_owner_has_a_link_and_a_grace_time_after_it() {
    let server = start(PLENTY_BYTES);
    let mut first = connect(&server, 1);
    put(&mut first, 1, 0..100, 1);
    let mut second = Link::connect(&server.address(), &owner(1), Role::Get, DEADLINE_MS).expect("link");
    assert_eq!(first.holder(), second.holder());
    drop(first);
    wait_until(&server, "one link left", |stats| stats.links == 1);
    assert_eq!(get(&mut second, 99, 1), Ok((1, bytes_of(1, 99, 1, 1000))));
    let account = second.holder().account;
    drop(second);
    wait_until(&server, "pages freed", |stats| stats.used_bytes == 0 && stats.links == 0);
    let mut third = connect(&server, 1);
    assert_ne!(third.holder().account, account);
    assert_eq!(get(&mut third, 99, 1), Err("miss"));
    drop(third);
    assert_nothing_leaks(server);
}

#[test]
fn what_arrives_late_by_a_link_that_was_replaced_changes_nothing() {
    let server = start(PLENTY_BYTES);
    let mut broken = connect(&server, 1);
    put(&mut broken, 1, 0..10, 1);
    let mut link = connect(&server, 1);
    assert_eq!(broken.holder(), link.holder());
    put(&mut link, 1, 0..10, 2);
    broken.send_flush_range(0, &handle(0), 10).expect("flush");
    assert_eq!(one(&mut broken).done, Some((DoneStatus::Gone, 0)));
    assert_eq!(put(&mut broken, 1, 20..21, 1), vec![PutStatus::Gone]);
    assert_eq!(get(&mut link, 9, 2), Ok((2, bytes_of(1, 9, 2, 1000))));
    assert_eq!(get(&mut link, 20, 1), Err("miss"));
    drop((broken, link));
    assert_nothing_leaks(server);
}

#[test]
fn goodbye_answers_what_is_under_way_frees_everything_and_closes() {
    let server = start(PLENTY_BYTES);
    let mut link = connect(&server, 1);
    put(&mut link, 1, 0..3000, 1);
    link.send_get(0, &handles(256)).expect("get");
    link.send_goodbye(1).expect("goodbye");
    assert!(matches!(link.send_ping(2), Err(LinkError::Local(_))));
    let outcomes = finish(&mut link, 2).expect("answers");
    assert!(outcomes[0].pages.len() == 256 && outcomes[0].pages.iter().all(Result::is_ok));
    assert_eq!(outcomes[1].done, Some((DoneStatus::Done, 3000)));
    assert_nothing_leaks(server);
}

#[test]
fn a_forked_child_and_its_parent_each_see_the_pages_of_the_fork_and_only_their_own_changes() {
    let server = start(PLENTY_BYTES);
    let mut parent = connect(&server, 1);
    let mut parent_gets = Link::connect(&server.address(), &owner(1), Role::Get, DEADLINE_MS).expect("link");
    put(&mut parent, 1, 0..300, 1);
    let used_bytes = server.stats().used_bytes;
    let child_id = owner(2);
    let mut child = Link::connect_for_child(None, &server.address(), &owner(1), &child_id, DEADLINE_MS).expect("share");
    assert_eq!(server.stats().used_bytes, used_bytes, "nothing is copied before it changes");
    let mut child_gets = Link::connect(&server.address(), &child_id, Role::Get, DEADLINE_MS).expect("link");
    assert_eq!(get(&mut child_gets, 7, 1), Ok((1, bytes_of(1, 7, 1, 1000))));
    put(&mut child, 2, 7..8, 2);
    put(&mut parent, 1, 8..9, 2);
    child.send_flush(0, &[(handle(9), 1)]).expect("flush");
    one(&mut child);
    assert_eq!(get(&mut parent_gets, 7, 1), Ok((1, bytes_of(1, 7, 1, 1000))));
    assert_eq!(get(&mut parent_gets, 8, 2), Ok((2, bytes_of(1, 8, 2, 1000))));
    assert_eq!(get(&mut parent_gets, 9, 1), Ok((1, bytes_of(1, 9, 1, 1000))));
    assert_eq!(get(&mut child_gets, 7, 2), Ok((2, bytes_of(2, 7, 2, 1000))));
    assert_eq!(get(&mut child_gets, 8, 1), Ok((1, bytes_of(1, 8, 1, 1000))));
    assert_eq!(get(&mut child_gets, 9, 1), Err("miss"));
    server.check().expect("counted right");
    parent.send_goodbye(0).expect("goodbye");
    one(&mut parent);
    assert_eq!(get(&mut child_gets, 200, 1), Ok((1, bytes_of(1, 200, 1, 1000))), "the child's view outlives the parent");
    server.check().expect("counted right");
    drop((parent, parent_gets, child, child_gets));
    assert_nothing_leaks(server);
}

#[test]
fn a_share_to_nobody_to_a_stranger_or_over_pages_is_refused() {
    let server = start(PLENTY_BYTES);
    let mut parent = connect(&server, 1);
    put(&mut parent, 1, 0..3, 1);
    let stranger_id = OwnerId { node: 2, ..owner(3) };
    let stranger = Link::connect(&server.address(), &stranger_id, Role::Get, DEADLINE_MS).expect("link");
    let mut busy = connect(&server, 4);
    put(&mut busy, 4, 0..1, 1);
    let idle = connect(&server, 5);
    let wrong_life = OwnerId { incarnation: 7, ..owner(5) };
    for (request, child) in [owner(99), stranger_id, owner(4), owner(1), wrong_life, owner(5)].iter().enumerate() {
        parent.send_share(request as u64, child).expect("share");
    }
    let done: Vec<_> = finish(&mut parent, 6).expect("answers").into_iter().map(|outcome| outcome.done).collect();
    assert_eq!(done[..5], [Some((DoneStatus::Refused, 0)); 5]);
    assert_eq!(done[5], Some((DoneStatus::Done, 3)));
    assert_eq!(server.stats().foreign.shares_refused, 5);
    drop((parent, stranger, busy, idle));
    assert_nothing_leaks(server);
}

#[test]
fn a_changed_offer_is_told_and_obeyed_and_drops_nothing() {
    let server = start(PLENTY_BYTES);
    let mut link = connect(&server, 1);
    put(&mut link, 1, 0..10, 1);
    server.set_offer(0);
    while link.holder_offer_bytes() != 0 {
        link.wait(10, &mut |_| {}).expect("link");
    }
    assert_eq!(link.holder_free_bytes(), 0);
    assert_eq!(put(&mut link, 1, 10..11, 1), vec![PutStatus::RefusedFull]);
    assert_eq!(get(&mut link, 9, 1).map(|page| page.0), Ok(1));
    server.set_offer(PLENTY_BYTES);
    while link.holder_offer_bytes() != PLENTY_BYTES {
        link.wait(10, &mut |_| {}).expect("link");
    }
    assert_eq!(put(&mut link, 1, 10..11, 1), vec![PutStatus::Stored]);
    assert_eq!(link.holder_free_bytes(), PLENTY_BYTES - server.stats().used_bytes);
    drop(link);
    assert_nothing_leaks(server);
}

#[test]
fn a_put_of_another_pool_or_object_is_another_page() {
    let server = start(PLENTY_BYTES);
    let mut link = connect(&server, 1);
    put(&mut link, 1, 0..1, 1);
    for other in [
        Handle { pool: PoolId(0), ..handle(0) },
        Handle { object: ObjectId([7, 8, 10]), ..handle(0) },
        Handle { index: u32::MAX, ..handle(0) },
    ] {
        link.send_get(0, &[(other, 1)]).expect("get");
        assert_eq!(one(&mut link).pages, vec![Err("miss")]);
    }
    drop(link);
    assert_nothing_leaks(server);
}

//! What a bad client, or a bad network, can do to TLS links: nothing to the others. No TLS, random bytes, half a handshake, records cut anywhere, slow
//! readers on both sides.

mod common;
#[path = "common/pki.rs"]
mod pki;
#[path = "common/tls.rs"]
mod tls;

use std::io::{Read, Write};
use std::net::Shutdown;
use std::time::Duration;

use common::*;
use pki::{Cluster, client_number};
use ramster_core::handle::PoolKind;
use ramster_core::wire::encode;
use ramster_core::wire::message::{PutStatus, RefuseReason, Role};
use ramster_peer::client::{Event, Link, LinkError};
use ramster_peer::server::{EndReason, Server, ServerConfig, Timeouts};
use ramster_peer::tls::TlsError;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use tls::*;

/// What is between the two sees neither pages nor names.
#[test]
fn nothing_that_is_said_can_be_read_on_the_way() {
    let cluster = Cluster::new();
    let server = start_tls(&cluster);
    let (address, seen) = relay(&server, |bytes, to| drop(to.write_all(bytes)));
    let mut link = link_by(&address, &cluster, &of(NODE, client_number(FAMILY, 1)));
    put(&mut link, 1, 0..50, 1);
    drop(link);
    let seen = seen.join().expect("relay");
    let has = |needle: &[u8]| seen.windows(needle.len()).any(|window| window == needle);
    assert!(seen.len() > 50 * 1000);
    assert!(!has(b"RAMs") && !has(&bytes_of(1, 7, 1, 1000)[..16]) && !has(b"node-"));
    assert_nothing_leaks(server);
}

/// The end of a record comes late, and with it more plaintext than there was space for: no socket tells of the rest.
#[test]
fn plaintext_that_no_socket_tells_of_is_taken_on_both_sides() {
    let cluster = Cluster::new();
    let server = start_tls(&cluster);
    let (address, _) = relay(&server, |bytes, to| {
        let _ = to.write_all(&bytes[..bytes.len() - 1]);
        std::thread::sleep(Duration::from_millis(30));
        let _ = to.write_all(&bytes[bytes.len() - 1..]);
    });
    let mut link = link_by(&address, &cluster, &of(NODE, client_number(FAMILY, 1)));
    // Three pages are one record, and longer than a fresh receive buffer of either side.
    put_sized(&mut link, 1, 0..3, 1, 4096);
    link.send_get(7, &handles(3)).expect("get");
    let (mut pages, mut done) = (0, false);
    while !done {
        let mut ready = [PollFd::from_borrowed_fd(link.fd(), PollFlags::IN)];
        let timeout = Timespec { tv_sec: (DEADLINE_MS / 1000) as i64, tv_nsec: 0 };
        assert_eq!(poll(&mut ready, Some(&timeout)), Ok(1), "{pages} of 3 pages came");
        link.on_readable(&mut |event| match event {
            Event::Page { .. } => pages += 1,
            Event::Done { .. } => done = true,
            Event::Put { .. } => {}
        })
        .expect("link");
    }
    assert_eq!(pages, 3);
    drop(link);
    assert_nothing_leaks(server);
}

#[test]
fn who_speaks_no_tls_is_ended_and_counted_and_a_tls_client_notices_a_plain_holder() {
    let cluster = Cluster::new();
    let server = start_tls(&cluster);
    let other = bystander(&server, &cluster);
    let refused = Link::connect(&server.address(), &owner(1), Role::Bulk, DEADLINE_MS);
    assert!(matches!(refused, Err(LinkError::Remote(_) | LinkError::Closed)), "{:?}", refused.err());
    ended_alone(server, other, EndReason::TlsFailed);

    let plain = start(PLENTY_BYTES);
    let refused = try_link(&plain, &cluster.node(NODE), HOLDER, &of(NODE, 0)).err();
    assert!(matches!(refused, Some(LinkError::Tls(TlsError::NotTls) | LinkError::Closed)), "{refused:?}");
    assert_nothing_leaks(plain);
}

#[test]
fn random_bytes_at_a_tls_port_end_that_link_alone() {
    let cluster = Cluster::new();
    let server = start_tls(&cluster);
    let mut other = bystander(&server, &cluster);
    let seed = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("clock").as_nanos() as u64;
    println!("seed {seed}");
    let mut random = seed | 1;
    for _ in 0..40 {
        let mut stream = raw(&server);
        let bytes: Vec<u8> = (0..random % 40_000)
            .map(|_| {
                random ^= random << 13;
                random ^= random >> 7;
                random ^= random << 17;
                random as u8
            })
            .collect();
        // A record of a handshake, by its first bytes, every other time.
        if random & 1 == 0 {
            let _ = stream.write_all(&[22, 3, 1, (random >> 8) as u8 & 0x3f, (random >> 16) as u8]);
        }
        let _ = stream.write_all(&bytes);
        let _ = stream.shutdown(Shutdown::Write);
        drain(&mut stream);
        random = random.wrapping_mul(0x2545_f491_4f6c_dd1d) | 1;
    }
    wait_until(&server, "only the bystander is left", |stats| stats.links == 1);
    assert!(server.stats().ended(EndReason::TlsFailed) > 10);
    assert!(get(&mut other, 3, 1).is_ok());
    drop(other);
    assert_nothing_leaks(server);
}

#[test]
fn half_a_handshake_ends_at_the_hello_timeout_however_slowly_it_goes_on() {
    let cluster = Cluster::new();
    let timeouts = Timeouts { hello_ms: 400, ..timeouts() };
    let server = start_with(cluster.node(HOLDER), timeouts);
    let mut silent = raw(&server);
    silent.write_all(&[22, 3, 1, 2]).expect("write");
    // One that has come as far as the holder's answer, and one that has all of TLS and says no hello.
    let mut halfway = raw_tls(&server, client_config(&cluster, Some(&cluster.node(NODE)), &rustls::version::TLS13));
    halfway.conn.write_tls(&mut halfway.sock).expect("write");
    let mut mute = raw_tls(&server, client_config(&cluster, Some(&cluster.node(NODE)), &rustls::version::TLS13));
    while mute.conn.is_handshaking() {
        mute.conn.complete_io(&mut mute.sock).expect("handshake");
    }
    // And one that sends a byte of a record now and then.
    let mut slow = raw(&server);
    let mut record = vec![22, 3, 1, 1, 0];
    record.resize(261, 1);
    for byte in &record {
        if slow.write_all(&[*byte]).is_err() {
            break;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    wait_until(&server, "all ended", |stats| stats.ended(EndReason::HelloTimeout) == 4);
    drain(&mut silent);
    assert_nothing_leaks(server);
}

#[test]
fn a_frame_comes_whole_however_it_is_cut_into_records_and_half_a_frame_times_out() {
    let cluster = Cluster::new();
    let timeouts = Timeouts { half_frame_ms: 300, ..timeouts() };
    let server = start_with(cluster.node(HOLDER), timeouts);
    let other = bystander(&server, &cluster);
    let me = of(NODE, client_number(FAMILY, 1));
    let mut stream = raw_tls(&server, client_config(&cluster, Some(&cluster.family(NODE, FAMILY)), &rustls::version::TLS13));
    let mut ping = Vec::new();
    encode::bare(&mut ping, ramster_core::wire::frame::Kind::Ping, 5);
    for byte in hello(&me).iter().chain(&ping) {
        stream.write_all(&[*byte]).expect("a record of one byte");
    }
    let mut welcome = [0; 24 + 44];
    stream.read_exact(&mut welcome).expect("welcome");
    let mut pong = [0; 24];
    stream.read_exact(&mut pong).expect("pong");
    assert_eq!((&pong[..4], pong[5], pong[8]), (&b"RAMs"[..], 17, 5));
    stream.write_all(&ping[..20]).expect("half a frame");
    drain(&mut stream);
    ended_alone(server, other, EndReason::HalfFrameTimeout);
}

#[test]
fn a_client_that_takes_no_answers_fills_its_own_socket_and_is_ended() {
    let cluster = Cluster::new();
    let timeouts = Timeouts { not_taking_ms: 400, ..timeouts() };
    let server = start_with(cluster.node(HOLDER), timeouts);
    let mut other = bystander(&server, &cluster);
    let me = of(NODE, client_number(FAMILY, 1));
    let family = cluster.family(NODE, FAMILY);
    let mut own = link(&server, &family, &me);
    put_sized(&mut own, 1, 0..256, 1, 4096);
    let mut stream = raw_tls(&server, client_config(&cluster, Some(&family), &rustls::version::TLS13));
    stream.write_all(&hello(&me)).expect("hello");
    let mut welcome = [0; 24 + 44];
    stream.read_exact(&mut welcome).expect("welcome");
    let mut flood = Vec::new();
    for request in 0..200 {
        encode::get(&mut flood, request, &handles(256)).expect("get");
    }
    stream.sock.set_write_timeout(Some(Duration::from_millis(100))).expect("timeout");
    let _ = stream.write_all(&flood);
    // Meanwhile others are served.
    for index in 0..20 {
        assert_eq!(get(&mut other, index, 1), Ok((1, bytes_of(77, index, 1, 1000))));
    }
    wait_until(&server, "ended", |stats| stats.ended(EndReason::NotTakingTimeout) == 1);
    drop((stream, own, other));
    assert_nothing_leaks(server);
}

/// And one that takes them slowly gets all of them, whole.
#[test]
fn a_slow_reader_gets_everything() {
    let cluster = Cluster::new();
    let server = start_tls(&cluster);
    let me = of(NODE, client_number(FAMILY, 1));
    let mut link = link(&server, &cluster.family(NODE, FAMILY), &me);
    put_sized(&mut link, 1, 0..256, 1, 4096);
    for request in 0..100 {
        link.send_get(request, &handles(256)).expect("get");
    }
    // 100 MiB are asked for; the holder has filled the socket long before this looks.
    std::thread::sleep(Duration::from_millis(300));
    for outcome in finish(&mut link, 100).expect("answers") {
        assert_eq!(outcome.pages.len(), 256);
        assert!(outcome.pages[200] == Ok((1, bytes_of(1, 200, 1, 4096))));
    }
    drop(link);
    assert_nothing_leaks(server);
}

/// Puts faster than the holder takes them: what waits on this side is limited, in the outbox and behind it.
#[test]
fn what_a_slow_holder_does_not_take_is_limited() {
    let cluster = Cluster::new();
    let server = start_tls(&cluster);
    let me = of(NODE, client_number(FAMILY, 1));
    let mut link = link(&server, &cluster.family(NODE, FAMILY), &me);
    let bytes = vec![7; 4096];
    let blob = ramster_core::wire::message::Blob { kind: 2, tag: ramster_core::seal::Tag([5; 16]), bytes: &bytes };
    let pages: Vec<_> =
        (0..256).map(|index| ramster_core::wire::message::PutPage { handle: handle(index), version: 1, blob }).collect();
    let (mut sent, mut turned_down) = (0, false);
    // Nobody reads the answers, so the holder stops reading in the end.
    while sent < 1000 && !turned_down {
        match link.send_put(sent, PoolKind::Persistent, &pages) {
            Ok(()) => sent += 1,
            Err(LinkError::Local(_)) => turned_down = true,
            Err(error) => panic!("{error}"),
        }
    }
    assert!(turned_down && link.has_unsent(), "{sent}");
    let outcomes = finish(&mut link, sent as usize).expect("answers");
    assert!(
        outcomes.iter().all(|outcome| outcome.puts == vec![PutStatus::Stored; 256] || outcome.puts.contains(&PutStatus::Stale))
    );
    assert!(!link.has_unsent());
    drop(link);
    assert_nothing_leaks(server);
}

#[test]
fn a_link_too_many_and_the_end_of_a_holder_are_told_over_tls() {
    let cluster = Cluster::new();
    let config = ServerConfig { credentials: Some(cluster.node(HOLDER)), max_links: 1, ..config(PLENTY_BYTES) };
    let server = Server::start(config).expect("server");
    let (family, me) = (cluster.family(NODE, FAMILY), of(NODE, client_number(FAMILY, 1)));
    let mut first = link(&server, &family, &me);
    let second = try_link(&server, &family, HOLDER, &me).err();
    assert_eq!(second, Some(LinkError::Refused(RefuseReason::TooManyLinks)));
    server.stop();
    let told = first.wait(DEADLINE_MS, &mut |_| {}).err();
    assert_eq!(told, Some(LinkError::Refused(RefuseReason::Stopping)));
}

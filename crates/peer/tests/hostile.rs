//! What a bad or unlucky client can do to a server: nothing to the others. Half frames, random bytes, wrong versions, floods, slow readers, silence.

mod common;

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;

use common::*;
use ramster_core::wire::error::RemoteProtocolError;
use ramster_core::wire::frame::{HEADER_BYTES, Header, Kind};
use ramster_core::wire::message::{Hello, RefuseReason, Role};
use ramster_core::wire::{MAX_BODY_BYTES, PROTOCOL_VERSION, encode};
use ramster_peer::client::{Link, LinkError};
use ramster_peer::server::{EndReason, Server, ServerConfig};

fn hello(client: u128) -> Vec<u8> {
    let mut frame = Vec::new();
    let versions = (PROTOCOL_VERSION, PROTOCOL_VERSION);
    let owner = owner(client);
    let hello =
        Hello { owner, role: Role::Bulk, lowest_version: versions.0, highest_version: versions.1, auth_scheme: 0, auth: &[] };
    encode::hello(&mut frame, &hello).expect("hello");
    frame
}

/// Reads until the server closes. A reset counts as closing: it happens when bytes were still unread.
fn read_to_end(stream: &mut TcpStream) -> Vec<u8> {
    let mut bytes = Vec::new();
    match stream.read_to_end(&mut bytes) {
        Ok(_) => {}
        Err(error) => assert_eq!(error.kind(), ErrorKind::ConnectionReset, "{error}"),
    }
    bytes
}

/// Sends `bytes` after a hello, waits for the end of that link, and checks that another link never noticed.
fn ends_that_link_alone(bytes: &[u8], reason: EndReason) {
    let server = start(PLENTY_BYTES);
    let mut bystander = connect(&server, 77);
    put(&mut bystander, 77, 0..20, 1);
    let mut stream = raw(&server);
    stream.write_all(&[hello(5), bytes.to_vec()].concat()).expect("write");
    read_to_end(&mut stream);
    wait_until(&server, "that link ends", |stats| stats.ended(reason) == 1 && stats.links == 1);
    assert_eq!(get(&mut bystander, 19, 1), Ok((1, bytes_of(77, 19, 1, 1000))));
    drop(bystander);
    assert_nothing_leaks(server);
}

fn header(kind: Kind, length_bytes: usize, count: u16) -> Vec<u8> {
    Header { kind, request: 3, length_bytes: length_bytes as u32, count, first_index: 0, ephemeral: false }.encode().to_vec()
}

fn ping_with(at: usize, value: u8) -> Vec<u8> {
    let mut frame = header(Kind::Ping, 0, 0);
    frame[at] = value;
    frame
}

#[test]
fn a_wrong_header_ends_that_link_and_has_its_own_counter() {
    use RemoteProtocolError as Wrong;
    for (bytes, wrong) in [
        (ping_with(0, 0), Wrong::BadMagic),
        (ping_with(4, 2), Wrong::BadVersion),
        (ping_with(5, 77), Wrong::UnknownKind),
        (ping_with(6, 1), Wrong::BadFlags),
        (header(Kind::Ping, 1, 0), Wrong::BadLength),
        (header(Kind::Get, MAX_BODY_BYTES + 1, 256), Wrong::FrameTooLong),
        (header(Kind::Get, 36 * 257, 257), Wrong::TooManyPages),
        (header(Kind::Get, 0, 0), Wrong::BadPageRange),
        (header(Kind::Welcome, 44, 0), Wrong::UnexpectedMessage),
        (hello(6), Wrong::UnexpectedMessage),
    ] {
        ends_that_link_alone(&bytes, EndReason::Protocol(wrong));
    }
}

#[test]
fn a_wrong_body_ends_that_link_and_has_its_own_counter() {
    // A put of one page whose blob claims more bytes than may be, and one that claims more than came.
    let put = |claimed: u16| {
        let mut frame = header(Kind::Put, 55 + 10, 1);
        frame.extend_from_slice(&[1; 36 + 17]);
        frame.extend_from_slice(&claimed.to_le_bytes());
        frame.extend_from_slice(&[2; 10]);
        frame
    };
    ends_that_link_alone(&put(60_000), EndReason::Protocol(RemoteProtocolError::BlobTooLong));
    ends_that_link_alone(&put(11), EndReason::Protocol(RemoteProtocolError::BadLength));
    ends_that_link_alone(&put(9), EndReason::Protocol(RemoteProtocolError::BadLength));
}

#[test]
fn nothing_but_a_hello_is_taken_before_the_handshake() {
    let server = start(PLENTY_BYTES);
    let mut stream = raw(&server);
    stream.write_all(&header(Kind::Put, 60_000, 200)).expect("write");
    read_to_end(&mut stream);
    let reason = EndReason::Protocol(RemoteProtocolError::UnexpectedMessage);
    wait_until(&server, "refused on the header alone", |stats| stats.ended(reason) == 1);
    assert_nothing_leaks(server);
}

#[test]
fn another_version_and_unknown_credentials_are_refused_and_told_why() {
    let server = start(PLENTY_BYTES);
    let mut too_new = hello(1);
    (too_new[HEADER_BYTES + 33], too_new[HEADER_BYTES + 34]) = (2, 9);
    let mut other_header = hello(1);
    other_header[4] = 2;
    let mut with_credentials = hello(1);
    with_credentials[HEADER_BYTES + 35] = 1;
    for (bytes, reason, end) in [
        (too_new, RefuseReason::Version, EndReason::RefusedVersion),
        (with_credentials, RefuseReason::Auth, EndReason::RefusedAuth),
        (other_header, RefuseReason::Version, EndReason::RefusedVersion),
    ] {
        let mut stream = raw(&server);
        stream.write_all(&bytes).expect("write");
        let answer = read_to_end(&mut stream);
        // The last one is closed with its body unread, so the answer may be overtaken by the reset.
        if !answer.is_empty() {
            assert_eq!(answer[HEADER_BYTES..], [reason as u8, PROTOCOL_VERSION, PROTOCOL_VERSION]);
        }
        wait_until(&server, "refused", |stats| stats.ended(end) >= 1);
    }
    wait_until(&server, "two refused", |stats| stats.ended(EndReason::RefusedVersion) == 2);
    assert_nothing_leaks(server);
}

#[test]
fn links_over_the_limit_are_told_so_and_room_comes_back() {
    let server = Server::start(ServerConfig { max_links: 3, ..config(PLENTY_BYTES) }).expect("server");
    let links: Vec<Link> = (0..3).map(|client| connect(&server, client)).collect();
    for _ in 0..5 {
        let refused = Link::connect(&server.address(), &owner(9), Role::Bulk, DEADLINE_MS);
        assert!(matches!(refused, Err(LinkError::Refused(RefuseReason::TooManyLinks))));
    }
    wait_until(&server, "five refused", |stats| stats.ended(EndReason::RefusedTooManyLinks) == 5);
    drop(links);
    wait_until(&server, "links closed", |stats| stats.links == 0);
    drop(connect(&server, 9));
    assert_nothing_leaks(server);
}

#[test]
fn a_client_that_never_says_hello_is_ended() {
    let server = start_impatient();
    let mut silent = raw(&server);
    let mut half = raw(&server);
    half.write_all(&hello(1)[..30]).expect("write");
    read_to_end(&mut silent);
    read_to_end(&mut half);
    wait_until(&server, "both ended", |stats| stats.ended(EndReason::HelloTimeout) == 2);
    assert_nothing_leaks(server);
}

#[test]
fn half_a_frame_ends_that_link_and_a_silent_client_stays() {
    let server = start_impatient();
    let mut silent = connect(&server, 1);
    put(&mut silent, 1, 0..10, 1);
    let mut half = raw(&server);
    half.write_all(&[hello(2), header(Kind::Get, 36 * 10, 10), vec![0; 100]].concat()).expect("write");
    read_to_end(&mut half);
    wait_until(&server, "half frame ended", |stats| stats.ended(EndReason::HalfFrameTimeout) == 1);
    // Longer than every timeout of this server, and nothing was said meanwhile.
    std::thread::sleep(std::time::Duration::from_millis(700));
    assert_eq!(get(&mut silent, 9, 1), Ok((1, bytes_of(1, 9, 1, 1000))));
    drop(silent);
    assert_nothing_leaks(server);
}

/// Asks for gigabytes and takes none of them: costs the server one buffer, and others nothing.
#[test]
fn a_client_that_does_not_take_its_answers_is_ended_and_slows_nobody() {
    let server = start_impatient();
    let mut bystander = connect(&server, 77);
    put(&mut bystander, 77, 0..256, 1);
    let mut greedy = raw(&server);
    greedy.write_all(&hello(77)).expect("hello");
    let mut gets = Vec::new();
    encode::get(&mut gets, 1, &handles(256)).expect("get");
    let flood = std::thread::spawn(move || {
        // Ends with an error once the server closes the link; 20,000 x 256 KB of answers would be 5 GB.
        let sent = (0..20_000).take_while(|_| greedy.write_all(&gets).is_ok()).count();
        (sent, greedy)
    });
    for round in 0..200 {
        assert!(get(&mut bystander, round, 1).is_ok());
    }
    let (sent, _greedy) = flood.join().expect("flood");
    assert!(sent < 20_000);
    wait_until(&server, "not taking", |stats| stats.ended(EndReason::NotTakingTimeout) == 1);
    assert!(server.stats().foreign.gets_hit < 256 * 20_000);
    drop(bystander);
    assert_nothing_leaks(server);
}

/// Slow is not dead: as long as it takes a little now and then it gets everything.
#[test]
fn a_slow_reader_gets_everything_and_slows_nobody() {
    let server = start_impatient();
    let mut bystander = connect(&server, 77);
    put_sized(&mut bystander, 77, 0..256, 1, 4096);
    let mut slow = raw(&server);
    let mut bytes = hello(77);
    for request in 0..16 {
        encode::get(&mut bytes, request, &handles(256)).expect("get");
    }
    slow.write_all(&bytes).expect("gets");
    // A welcome, and 16 answers of 256 pages in frames of at most 64 KiB, whatever their number.
    let (mut pages, mut received, mut buffer) = (0, Vec::new(), vec![0; 1 << 20]);
    while pages < 16 * 256 {
        std::thread::sleep(std::time::Duration::from_millis(20));
        let count = slow.read(&mut buffer).expect("read");
        assert!(count > 0, "closed after {pages} pages");
        received.extend_from_slice(&buffer[..count]);
        while let Some(head) = received.first_chunk::<HEADER_BYTES>() {
            let header = Header::decode(head).expect("header");
            if received.len() < header.frame_bytes() {
                break;
            }
            received.drain(..header.frame_bytes());
            pages += usize::from(header.count);
        }
        assert!(get(&mut bystander, 3, 1).is_ok());
    }
    drop((slow, bystander));
    assert_nothing_leaks(server);
}

/// Thousands of tiny requests in one piece: whole frames wait in the inbox while no socket is ready, and all are answered.
#[test]
fn a_flood_of_small_requests_is_answered_to_the_last() {
    let server = start(PLENTY_BYTES);
    let mut flood = raw(&server);
    let mut bytes = hello(1);
    for request in 0..50_000 {
        encode::bare(&mut bytes, Kind::Ping, request);
    }
    let mut reader = flood.try_clone().expect("clone");
    let writer = std::thread::spawn(move || flood.write_all(&bytes).map(|()| flood));
    let mut head = [0; HEADER_BYTES];
    reader.read_exact(&mut head).expect("welcome");
    let mut body = vec![0; Header::decode(&head).expect("welcome").length_bytes as usize];
    reader.read_exact(&mut body).expect("welcome");
    for request in 0..50_000 {
        reader.read_exact(&mut head).expect("pong");
        let header = Header::decode(&head).expect("pong");
        assert_eq!((header.kind, header.request), (Kind::Pong, request));
    }
    drop((writer.join().expect("writer"), reader));
    assert_nothing_leaks(server);
}

#[test]
fn random_bytes_and_mangled_frames_end_their_links_and_nothing_else() {
    let seed = std::env::var("RAMSTER_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(0x5eed_2026u64);
    println!("RAMSTER_SEED={seed}");
    let mut random = Random(seed);
    let server = start(PLENTY_BYTES);
    let mut bystander = connect(&server, 77);
    put(&mut bystander, 77, 0..50, 1);
    let mut good = Vec::new();
    encode::get(&mut good, 1, &handles(5)).expect("get");
    encode::flush_range(&mut good, 2, &handle(1), 9);
    encode::share(&mut good, 3, &owner(8));
    for round in 0..150u128 {
        let mut bytes = match round % 3 {
            0 => (0..random.below(3000)).map(|_| random.next() as u8).collect(),
            _ => [hello(1000 + round), good.clone(), good.clone()].concat(),
        };
        for _ in 0..random.below(6) {
            let at = random.below(bytes.len().max(1));
            if let Some(byte) = bytes.get_mut(at) {
                *byte = random.next() as u8;
            }
        }
        let cut = random.below(bytes.len() + 1);
        let mut stream = raw(&server);
        let _ = stream.write_all(&bytes[..if round % 2 == 0 { bytes.len() } else { cut }]);
        let _ = stream.shutdown(std::net::Shutdown::Write);
        read_to_end(&mut stream);
        assert_eq!(get(&mut bystander, (round % 50) as u32, 1).map(|page| page.0), Ok(1), "round {round}");
    }
    drop(bystander);
    assert_nothing_leaks(server);
}

struct Random(u64);

impl Random {
    /// splitmix64.
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn below(&mut self, limit: usize) -> usize {
        (self.next() % limit.max(1) as u64) as usize
    }
}

#[test]
fn a_client_that_dies_in_the_middle_of_a_put_leaves_nothing() {
    let server = start(PLENTY_BYTES);
    let mut stream = raw(&server);
    let mut half_put = header(Kind::Put, 60_000, 100);
    half_put.extend_from_slice(&[0; 30_000]);
    stream.write_all(&[hello(1), half_put].concat()).expect("write");
    wait_until(&server, "welcomed", |stats| stats.clients.len() == 1);
    drop(stream);
    wait_until(&server, "ended", |stats| stats.links == 0);
    assert_nothing_leaks(server);
}

#[test]
fn stopping_the_server_tells_its_clients() {
    let server = start(PLENTY_BYTES);
    let mut link = connect(&server, 1);
    put(&mut link, 1, 0..10, 1);
    server.stop();
    let told = link.wait(DEADLINE_MS, &mut |_| {});
    assert!(matches!(told, Err(LinkError::Refused(RefuseReason::Stopping) | LinkError::Closed)), "{told:?}");
}

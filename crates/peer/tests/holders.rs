//! What a bad or unlucky holder can do to an owner: end that link, with a reason and by a deadline, and nothing else.

mod common;

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::thread::JoinHandle;

use common::*;
use ramster_core::handle::PoolKind;
use ramster_core::seal::Tag;
use ramster_core::wire::encode;
use ramster_core::wire::error::{LocalProtocolError, RemoteProtocolError};
use ramster_core::wire::frame::{HEADER_BYTES, Kind};
use ramster_core::wire::message::{Blob, Found, HELLO_BYTES, PutPage, PutStatus, Role, Welcome};
use ramster_core::wire::{MAX_IN_FLIGHT, PROTOCOL_VERSION};
use ramster_peer::client::{Link, LinkError};
use rustix::io::Errno;

/// A holder that takes one link, reads the hello and then does as told.
fn holder(script: impl FnOnce(TcpStream) + Send + 'static) -> (SocketAddr, JoinHandle<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("bind");
    let address = listener.local_addr().expect("address");
    let thread = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().expect("accept");
        stream.read_exact(&mut [0; HEADER_BYTES + HELLO_BYTES]).expect("hello");
        script(stream);
    });
    (address, thread)
}

fn welcome() -> Vec<u8> {
    let mut frame = Vec::new();
    let version = PROTOCOL_VERSION;
    let welcome =
        Welcome { version, auth_scheme: 0, auth: &[], node: 3, incarnation: 4, account: 5, offer_bytes: 7, free_bytes: 6 };
    encode::welcome(&mut frame, &welcome).expect("welcome");
    frame
}

fn connect_to(address: &SocketAddr) -> Result<Link, LinkError> {
    Link::connect(address, &owner(1), Role::Get, DEADLINE_MS)
}

/// Sends `bytes` after a welcome; the client has asked for one page as request 1. What does the link say?
fn answer_with(bytes: Vec<u8>) -> LinkError {
    let (address, thread) = holder(move |mut stream| {
        stream.write_all(&welcome()).expect("welcome");
        stream.read_exact(&mut [0; HEADER_BYTES + 36]).expect("get");
        let _ = stream.write_all(&bytes);
    });
    let mut link = connect_to(&address).expect("link");
    link.send_get(1, &[(handle(0), 1)]).expect("get");
    let error = loop {
        match link.wait(DEADLINE_MS, &mut |_| {}) {
            Ok(delivered) => assert!(delivered, "neither an answer nor an end"),
            Err(error) => break error,
        }
    };
    thread.join().expect("holder");
    error
}

fn pages(request: u64, first_index: u16, count: usize) -> Vec<u8> {
    let mut frame = Vec::new();
    let mut answer = encode::PagesWriter::begin(&mut frame, request, first_index);
    (0..count).for_each(|_| assert!(answer.push(&Found::Miss)));
    answer.finish();
    frame
}

#[test]
fn a_holder_that_is_not_there_or_never_answers_is_an_error_by_the_deadline() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("bind");
    let address = listener.local_addr().expect("address");
    assert_eq!(Link::connect(&address, &owner(1), Role::Get, 100).err(), Some(LinkError::Deadline));
    drop(listener);
    assert_eq!(connect_to(&address).err(), Some(LinkError::Io(Errno::CONNREFUSED)));
}

#[test]
fn a_holder_that_closes_or_sends_nonsense_instead_of_a_welcome_is_told_apart() {
    let (address, thread) = holder(drop);
    assert_eq!(connect_to(&address).err(), Some(LinkError::Closed));
    thread.join().expect("holder");
    let (address, thread) = holder(|mut stream| stream.write_all(&[b'H'; 100]).expect("write"));
    assert_eq!(connect_to(&address).err(), Some(LinkError::Remote(RemoteProtocolError::BadMagic)));
    thread.join().expect("holder");
    let mut other_version = welcome();
    other_version[HEADER_BYTES] = 2;
    let (address, thread) = holder(move |mut stream| stream.write_all(&other_version).expect("write"));
    assert_eq!(connect_to(&address).err(), Some(LinkError::Remote(RemoteProtocolError::BadVersion)));
    thread.join().expect("holder");
}

#[test]
fn the_holder_says_who_it_is_and_what_it_has() {
    let (address, thread) = holder(|mut stream| stream.write_all(&welcome()).expect("welcome"));
    let link = connect_to(&address).expect("link");
    let facts = link.holder();
    assert_eq!((facts.node, facts.incarnation, facts.account), (3, 4, 5));
    assert_eq!((link.holder_offer_bytes(), link.holder_free_bytes()), (7, 6));
    thread.join().expect("holder");
}

#[test]
fn an_answer_that_nobody_asked_for_ends_the_link_with_its_reason() {
    use RemoteProtocolError as Wrong;
    let mut put_done = Vec::new();
    let mut answer = encode::PutDoneWriter::begin(&mut put_done, 1, 0);
    answer.push(PutStatus::Stored);
    answer.finish(0);
    let mut ping = Vec::new();
    encode::bare(&mut ping, Kind::Ping, 1);
    let mut bad_status = pages(1, 0, 1);
    bad_status[HEADER_BYTES] = 9;
    for (bytes, wrong) in [
        (pages(2, 0, 1), Wrong::UnknownRequest),
        (pages(1, 0, 2), Wrong::BadPageRange),
        (pages(1, 1, 1), Wrong::AnswerOutOfOrder),
        ([pages(1, 0, 1), pages(1, 0, 1)].concat(), Wrong::UnknownRequest),
        (put_done, Wrong::UnexpectedMessage),
        (ping, Wrong::UnexpectedMessage),
        (welcome(), Wrong::UnexpectedMessage),
        (bad_status, Wrong::BadStatus),
    ] {
        assert_eq!(answer_with(bytes), LinkError::Remote(wrong));
    }
}

#[test]
fn half_an_answer_and_then_the_end_is_a_closed_link() {
    let answer = pages(1, 0, 1);
    assert_eq!(answer_with(answer[..answer.len() - 1].to_vec()), LinkError::Closed);
    assert_eq!(answer_with(Vec::new()), LinkError::Closed);
}

#[test]
fn a_wait_ends_by_its_deadline_when_nothing_comes() {
    let (done, wait_for_done) = std::sync::mpsc::channel::<()>();
    let (address, thread) = holder(move |mut stream| {
        stream.write_all(&welcome()).expect("welcome");
        let _ = wait_for_done.recv();
    });
    let mut link = connect_to(&address).expect("link");
    link.send_ping(1).expect("ping");
    for timeout_ms in [0, 1, 30, 30] {
        assert_eq!(link.wait(timeout_ms, &mut |_| {}), Ok(false));
    }
    drop(done);
    thread.join().expect("holder");
}

/// A holder that takes nothing: the owner's memory for it is bounded, and it learns at once.
#[test]
fn a_holder_that_takes_nothing_fills_two_mebibytes_and_then_requests_are_turned_down() {
    let (done, wait_for_done) = std::sync::mpsc::channel::<()>();
    let (address, thread) = holder(move |mut stream| {
        stream.write_all(&welcome()).expect("welcome");
        let _ = wait_for_done.recv();
    });
    let mut link = connect_to(&address).expect("link");
    let bytes = [1; 4096];
    let page = PutPage { handle: handle(0), version: 1, blob: Blob { kind: 3, tag: Tag([1; 16]), bytes: &bytes } };
    let taken = (0..1000).take_while(|request| link.send_put(*request, PoolKind::Persistent, &[page; 256]).is_ok()).count();
    assert!(taken < 1000 && link.has_unsent());
    assert_eq!(link.send_put(9999, PoolKind::Persistent, &[page]), Err(LinkError::Local(LocalProtocolError::OutboxFull)));
    assert_eq!(link.in_flight_count(), taken);
    drop(done);
    thread.join().expect("holder");
}

#[test]
fn requests_in_flight_have_a_limit_and_names_of_their_own() {
    let server = start(PLENTY_BYTES);
    let mut link = connect(&server, 1);
    for request in 0..MAX_IN_FLIGHT as u64 {
        link.send_ping(request).expect("ping");
    }
    assert_eq!(link.send_ping(5000), Err(LinkError::Local(LocalProtocolError::TooManyInFlight)));
    assert_eq!(finish(&mut link, MAX_IN_FLIGHT).expect("pongs").len(), MAX_IN_FLIGHT);
    link.send_ping(0).expect("ping");
    assert_eq!(link.send_ping(0), Err(LinkError::Local(LocalProtocolError::DuplicateRequest)));
    one(&mut link);
    drop(link);
    assert_nothing_leaks(server);
}

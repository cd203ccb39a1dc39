//! The wire as a whole: every message survives the round trip, any bytes are survived, and mangled frames never cost more than the limit. The last
//! is the fuzz targets' small deterministic sister, for machines without nightly.

use proptest::prelude::*;
use ramster_core::handle::{Handle, ObjectId, OwnerId, PoolId, PoolKind};
use ramster_core::seal::Tag;
use ramster_core::wire::buffer::{INBOX_LIMIT_BYTES, Inbox};
use ramster_core::wire::error::{LocalProtocolError, RemoteProtocolError};
use ramster_core::wire::frame::{HEADER_BYTES, Header, Kind};
use ramster_core::wire::message::*;
use ramster_core::wire::{MAX_AUTH_BYTES, MAX_BLOB_BYTES, MAX_FRAME_BYTES, MAX_PAGES, encode};

/// The frames in `bytes`, decoded, and nothing left over.
fn frames(bytes: &[u8]) -> Vec<(Header, Message<'_>)> {
    let mut rest = bytes;
    let mut frames = Vec::new();
    while let Some(head) = rest.first_chunk::<HEADER_BYTES>() {
        let header = Header::decode(head).expect("header");
        assert!(header.frame_bytes() <= MAX_FRAME_BYTES);
        frames.push((header, Message::decode(&header, &rest[HEADER_BYTES..header.frame_bytes()]).expect("message")));
        rest = &rest[header.frame_bytes()..];
    }
    assert!(rest.is_empty());
    frames
}

fn any_handle() -> impl Strategy<Value = Handle> {
    (any::<u32>(), any::<[u64; 3]>(), any::<u32>()).prop_map(|(pool, object, index)| Handle {
        pool: PoolId(pool),
        object: ObjectId(object),
        index,
    })
}

fn any_owner() -> impl Strategy<Value = OwnerId> {
    (any::<u64>(), any::<u128>(), any::<u64>()).prop_map(|(node, client, incarnation)| OwnerId { node, client, incarnation })
}

/// Kind, tag and length of a blob whose bytes all say the kind.
fn any_blob() -> impl Strategy<Value = (u8, [u8; 16], usize)> {
    (any::<u8>(), any::<[u8; 16]>(), prop_oneof![0..=MAX_BLOB_BYTES, Just(MAX_BLOB_BYTES), Just(0)])
}

fn config() -> ProptestConfig {
    ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() }
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn a_put_survives_the_round_trip_in_as_many_frames_as_it_takes(
        request in any::<u64>(),
        pages in prop::collection::vec((any_handle(), any::<u32>(), any_blob()), 1..=MAX_PAGES),
    ) {
        let bytes: Vec<Vec<u8>> = pages.iter().map(|(_, _, (kind, _, length))| vec![*kind; *length]).collect();
        let puts: Vec<PutPage> = pages.iter().zip(&bytes)
            .map(|((handle, version, (kind, tag, _)), bytes)| {
                PutPage { handle: *handle, version: *version, blob: Blob { kind: *kind, tag: Tag(*tag), bytes } }
            })
            .collect();
        let mut out = Vec::new();
        encode::put(&mut out, request, PoolKind::Persistent, &puts).expect("put");
        // The holder sends the blobs back untouched: put them through an answer too.
        let mut answers = Vec::new();
        let mut at = 0;
        for (header, message) in frames(&out) {
            let Message::Put(arrived) = message else { panic!("{header:?}") };
            prop_assert_eq!((header.request, usize::from(header.first_index)), (request, at));
            for page in arrived {
                prop_assert_eq!((page.handle, page.version), (puts[at].handle, puts[at].version));
                let mut answer = encode::PagesWriter::begin(&mut answers, request, 0);
                let hit = Found::Hit { version: page.version, blob: page.blob };
                prop_assert!(answer.push(&hit));
                answer.finish();
                at += 1;
            }
        }
        prop_assert_eq!(at, puts.len());
        for ((_, message), put) in frames(&answers).into_iter().zip(&puts) {
            let Message::Pages(mut found) = message else { panic!() };
            prop_assert_eq!(found.next(), Some(Found::Hit { version: put.version, blob: put.blob }));
            prop_assert_eq!(found.next(), None);
        }
    }

    #[test]
    fn gets_and_flushes_survive_the_round_trip(
        request in any::<u64>(),
        pages in prop::collection::vec((any_handle(), any::<u32>()), 1..=MAX_PAGES),
        skip in 0..=MAX_PAGES,
    ) {
        let mut out = Vec::new();
        encode::get(&mut out, request, &pages).expect("get");
        encode::flush(&mut out, request, &pages).expect("flush");
        let frames = frames(&out);
        let (Message::Get(wanted), Message::Flush(flushed)) = (frames[0].1, frames[1].1) else { panic!() };
        prop_assert_eq!(wanted.collect::<Vec<_>>(), pages.clone());
        prop_assert_eq!(flushed.collect::<Vec<_>>(), pages.clone());
        prop_assert_eq!(wanted.skip_to(skip).collect::<Vec<_>>(), pages.get(skip..).unwrap_or_default());
    }

    #[test]
    fn single_messages_survive_the_round_trip(
        request in any::<u64>(), handle in any_handle(), count in any::<u32>(), owner in any_owner(),
        numbers in any::<[u64; 5]>(), auth in prop::collection::vec(any::<u8>(), 0..=MAX_AUTH_BYTES),
    ) {
        let [node, incarnation, account, offer_bytes, free_bytes] = numbers;
        let hello = Hello { owner, role: Role::Bulk, lowest_version: 1, highest_version: 3, auth_scheme: 1, auth: &auth };
        let welcome = Welcome { version: 1, auth_scheme: 2, auth: &auth, node, incarnation, account, offer_bytes, free_bytes };
        let refuse = Refuse { reason: RefuseReason::Incarnation, lowest_version: 1, highest_version: 2 };
        let done = Done { status: DoneStatus::Gone, pages: account, free_bytes };
        let mut out = Vec::new();
        encode::hello(&mut out, &hello).expect("hello");
        encode::welcome(&mut out, &welcome).expect("welcome");
        encode::refuse(&mut out, &refuse);
        encode::flush_range(&mut out, request, &handle, count);
        encode::flush_object(&mut out, request, handle.pool, handle.object);
        encode::destroy_pool(&mut out, request, handle.pool);
        encode::share(&mut out, request, &owner);
        encode::done(&mut out, request, &done);
        encode::farewell(&mut out, request, &done);
        encode::status(&mut out, offer_bytes, free_bytes, account);
        for kind in [Kind::Goodbye, Kind::Ping, Kind::Pong] {
            encode::bare(&mut out, kind, request);
        }
        let messages: Vec<Message> = frames(&out).into_iter().map(|(_, message)| message).collect();
        prop_assert_eq!(messages, vec![
            Message::Hello(hello), Message::Welcome(welcome), Message::Refuse(refuse),
            Message::FlushRange { first: handle, count }, Message::FlushObject { pool: handle.pool, object: handle.object },
            Message::DestroyPool(handle.pool), Message::Share(owner), Message::Done(done), Message::Farewell(done),
            Message::Status { offer_bytes, free_bytes, recall_bytes: account }, Message::Goodbye, Message::Ping, Message::Pong,
        ]);
    }

    #[test]
    fn any_body_under_any_header_is_survived(
        kind in 1..=18u8, count in 0..300u16, first_index in 0..300u16, body in prop::collection::vec(any::<u8>(), 0..3000),
    ) {
        let kind = Kind::from_byte(kind).expect("kind");
        let header = Header { kind, request: 1, length_bytes: body.len() as u32, count, first_index, ephemeral: false };
        if let Ok(header) = Header::decode(&header.encode())
            && let Ok(message) = Message::decode(&header, &body)
        {
            walk(&header, message);
        }
    }
}

/// Takes everything out of a message: its iterators MUST end where its count says.
fn walk(header: &Header, message: Message<'_>) {
    let count = match message {
        Message::Put(pages) => pages.inspect(|page| assert!(page.blob.bytes.len() <= MAX_BLOB_BYTES)).count(),
        Message::Get(wanted) | Message::Flush(wanted) => wanted.count(),
        Message::Pages(answers) => answers.count(),
        Message::PutDone { statuses, .. } => statuses.count(),
        _ => 0,
    };
    assert_eq!(count, usize::from(header.count));
}

#[test]
fn what_may_not_be_sent_is_not_written() {
    let handle = Handle { pool: PoolId(1), object: ObjectId([1; 3]), index: 1 };
    let long = vec![0; MAX_BLOB_BYTES + 1];
    let page = |bytes| PutPage { handle, version: 1, blob: Blob { kind: 0, tag: Tag([0; 16]), bytes } };
    let owner = OwnerId { node: 1, client: 2, incarnation: 3 };
    let hello = Hello { owner, role: Role::Get, lowest_version: 1, highest_version: 1, auth_scheme: 0, auth: &[0; 1025] };
    let mut out = Vec::new();
    assert_eq!(encode::put(&mut out, 1, PoolKind::Persistent, &[]), Err(LocalProtocolError::NoPages));
    assert_eq!(encode::put(&mut out, 1, PoolKind::Persistent, &[page(&[]); 257]), Err(LocalProtocolError::TooManyPages));
    assert_eq!(encode::put(&mut out, 1, PoolKind::Persistent, &[page(&[]), page(&long)]), Err(LocalProtocolError::BlobTooLong));
    assert_eq!(encode::get(&mut out, 1, &[(handle, 1); 257]), Err(LocalProtocolError::TooManyPages));
    assert_eq!(encode::hello(&mut out, &hello), Err(LocalProtocolError::AuthTooLong));
    assert!(out.is_empty());
}

/// splitmix64.
fn random(state: &mut u64) -> usize {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mixed = (*state ^ (*state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    (mixed ^ (mixed >> 31)) as usize
}

#[test]
fn mangled_frames_in_pieces_never_panic_and_never_pass_the_memory_limit() {
    let seed = std::env::var("RAMSTER_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(20_261_123u64);
    println!("RAMSTER_SEED={seed}");
    let mut state = seed;
    let handles: Vec<_> = (0..40).map(|index| (Handle { pool: PoolId(1), object: ObjectId([2; 3]), index }, index)).collect();
    let bytes = [7; 2000];
    let blob = Blob { kind: 1, tag: Tag([9; 16]), bytes: &bytes };
    let puts: Vec<_> = handles.iter().map(|(handle, version)| PutPage { handle: *handle, version: *version, blob }).collect();
    let mut good = Vec::new();
    encode::get(&mut good, 1, &handles).expect("get");
    encode::put(&mut good, 2, PoolKind::Persistent, &puts).expect("put");
    encode::flush_range(&mut good, 3, &handles[0].0, 5);
    encode::share(&mut good, 4, &OwnerId { node: 1, client: 2, incarnation: 3 });
    let mut reasons = std::collections::HashSet::new();
    let mut understood = 0;
    for _ in 0..3000 {
        let mut stream = good.clone();
        for _ in 0..random(&mut state) % 4 {
            // Half of the damage goes where headers are: at the start.
            let reach = if random(&mut state).is_multiple_of(2) { 64 } else { stream.len() };
            let at = random(&mut state) % reach;
            stream[at] = random(&mut state) as u8;
        }
        let start = if random(&mut state).is_multiple_of(8) { random(&mut state) % 100 } else { 0 };
        match hear(&stream[start..], &mut state) {
            Ok(frames) => understood += frames,
            Err(reason) => drop(reasons.insert(reason)),
        }
    }
    assert!(understood > 1000 && reasons.len() >= 7, "{understood} frames, {reasons:?}: too tame");
}

fn hear(stream: &[u8], state: &mut u64) -> Result<usize, RemoteProtocolError> {
    let (mut inbox, mut rest, mut frames) = (Inbox::new(), stream, 0);
    while !rest.is_empty() {
        let space = inbox.space();
        let count = (1 + random(state) % 40_000).min(space.len()).min(rest.len());
        assert!(count > 0);
        space[..count].copy_from_slice(&rest[..count]);
        inbox.received(count);
        rest = &rest[count..];
        assert!(inbox.capacity_bytes() <= INBOX_LIMIT_BYTES);
        while let Some(header) = inbox.header()? {
            let Some(body) = inbox.body(&header) else { break };
            walk(&header, Message::decode(&header, body)?);
            inbox.consume(&header);
            frames += 1;
        }
    }
    Ok(frames)
}

#[test]
fn the_protocol_document_shows_the_states_the_reasons_and_the_limits_of_the_code() {
    let document = include_str!("../../../docs/protocol.md");
    let states = document.split("## States of a link").nth(1).and_then(|rest| rest.split("\n\n").nth(1)).expect("state table");
    let rows: Vec<String> =
        ramster_core::wire::session::TABLE.iter().map(|(from, kind, to)| format!("| {from:?} | {kind:?} | {to:?} |")).collect();
    assert_eq!(states.lines().skip(2).collect::<Vec<_>>(), rows);
    for kind in Kind::ALL {
        let sender = if kind.sender() == ramster_core::wire::frame::Side::Client { "owner" } else { "holder" };
        assert!(document.contains(&format!("| {kind:?} | {} | {sender} |", kind as u8)), "{kind:?}");
    }
    for error in RemoteProtocolError::ALL {
        assert!(document.contains(&format!("`{}`", error.reason())), "{}", error.reason());
    }
    for (what, limit) in [
        ("frame, header included", MAX_FRAME_BYTES),
        ("pages in a message", MAX_PAGES),
        ("bytes of a page", MAX_BLOB_BYTES),
        ("credentials", MAX_AUTH_BYTES),
        ("requests in flight on a link (owner's side)", ramster_core::wire::MAX_IN_FLIGHT),
        ("receive buffer", INBOX_LIMIT_BYTES),
    ] {
        assert!(document.contains(&format!("| {what} | {limit}")), "{what} {limit}");
    }
}

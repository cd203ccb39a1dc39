//! Bytes from a holder, as a client with requests in flight takes them: never a panic, and never more answers than were asked for.
#![no_main]

use libfuzzer_sys::fuzz_target;
use ramster_core::wire::MAX_BLOB_BYTES;
use ramster_core::wire::buffer::Inbox;
use ramster_core::wire::error::RemoteProtocolError;
use ramster_core::wire::frame::{Kind, Side};
use ramster_core::wire::message::{Found, Message};
use ramster_core::wire::session::{InFlight, Session};

const ASKED: usize = 300;

fn understand(inbox: &mut Inbox, session: &mut Session, in_flight: &mut InFlight) -> Result<usize, RemoteProtocolError> {
    let mut answers = 0;
    while let Some(header) = inbox.header()? {
        session.may_receive(header.kind)?;
        let Some(body) = inbox.body(&header) else { break };
        let message = Message::decode(&header, body)?;
        session.receive(header.kind)?;
        if header.kind.is_answer() {
            in_flight.answered(&header)?;
        }
        match message {
            Message::Pages(pages) => {
                for found in pages {
                    answers += 1;
                    if let Found::Hit { blob, .. } = found {
                        assert!(blob.bytes.len() <= MAX_BLOB_BYTES);
                    }
                }
            }
            Message::PutDone { statuses, .. } => answers += statuses.count(),
            _ => {}
        }
        inbox.consume(&header);
    }
    Ok(answers)
}

fuzz_target!(|bytes: &[u8]| {
    let (mut inbox, mut session, mut in_flight) = (Inbox::new(), Session::new(Side::Client), InFlight::new());
    session.send(Kind::Hello).expect("a new session");
    in_flight.asked(1, Kind::Get, 200);
    in_flight.asked(2, Kind::Put, 100);
    for (request, kind) in [(3, Kind::Flush), (4, Kind::Ping), (5, Kind::Share)] {
        in_flight.asked(request, kind, 0);
    }
    let (mut rest, mut answers) = (bytes, 0);
    while !rest.is_empty() {
        let space = inbox.space();
        let count = rest.len().min(space.len());
        space[..count].copy_from_slice(&rest[..count]);
        inbox.received(count);
        rest = &rest[count..];
        match understand(&mut inbox, &mut session, &mut in_flight) {
            Ok(more) => answers += more,
            Err(_) => break,
        }
    }
    assert!(answers <= ASKED);
});

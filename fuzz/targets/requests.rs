//! Bytes from a client, in pieces of any size, up to the decoded messages: never a panic, never more memory than the limit, and the pieces make no
//! difference.
#![no_main]

use libfuzzer_sys::fuzz_target;
use ramster_core::wire::buffer::{INBOX_LIMIT_BYTES, Inbox};
use ramster_core::wire::error::RemoteProtocolError;
use ramster_core::wire::frame::Side;
use ramster_core::wire::message::Message;
use ramster_core::wire::session::Session;

/// What was understood, told so that two runs can be compared.
fn listen(bytes: &[u8], piece_bytes: usize) -> (Vec<String>, Option<RemoteProtocolError>) {
    let (mut inbox, mut session, mut heard) = (Inbox::new(), Session::new(Side::Server), Vec::new());
    let mut rest = bytes;
    while !rest.is_empty() {
        let space = inbox.space();
        let count = rest.len().min(piece_bytes).min(space.len());
        assert!(count > 0, "a whole frame was left in the inbox");
        space[..count].copy_from_slice(&rest[..count]);
        inbox.received(count);
        rest = &rest[count..];
        if let Err(error) = understand(&mut inbox, &mut session, &mut heard) {
            return (heard, Some(error));
        }
        assert!(inbox.capacity_bytes() <= INBOX_LIMIT_BYTES);
    }
    (heard, None)
}

fn understand(inbox: &mut Inbox, session: &mut Session, heard: &mut Vec<String>) -> Result<(), RemoteProtocolError> {
    while let Some(header) = inbox.header()? {
        session.may_receive(header.kind)?;
        let Some(body) = inbox.body(&header) else { break };
        let message = Message::decode(&header, body)?;
        session.receive(header.kind)?;
        if let Some(answer) = header.kind.answer() {
            let _ = session.send(answer);
        } else if matches!(message, Message::Hello(_)) {
            let _ = session.send(ramster_core::wire::frame::Kind::Welcome);
        }
        let pages = match message {
            Message::Put(pages) => pages.map(|page| page.blob.bytes.len()).sum::<usize>(),
            Message::Get(wanted) | Message::Flush(wanted) => wanted.count(),
            _ => 0,
        };
        heard.push(format!("{header:?} {pages}"));
        inbox.consume(&header);
    }
    Ok(())
}

fuzz_target!(|input: (u16, &[u8])| {
    let (piece_bytes, bytes) = input;
    let piece_bytes = usize::from(piece_bytes).max(1);
    let whole = listen(bytes, usize::MAX);
    assert_eq!(listen(bytes, piece_bytes), whole);
});

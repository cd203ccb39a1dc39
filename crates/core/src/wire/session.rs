//! Who may say what when. Covers the state table of a link, the same for both sides, and the requests that wait for answers; not the bytes.

use std::collections::VecDeque;

use super::error::{LocalProtocolError, RemoteProtocolError};
use super::frame::{Header, Kind, Side};
use super::{MAX_IN_FLIGHT, MAX_PAGES};

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum State {
    /// Nothing was said yet.
    Opening,
    /// The client said who it is.
    Greeted,
    Open,
    /// The client said goodbye; answers under way still come.
    Leaving,
    Closed,
}

/// From, what is said, to. What is not here is an error of whoever said it. docs/protocol.md shows this table and a test compares them.
pub const TABLE: &[(State, Kind, State)] = &[
    (State::Opening, Kind::Hello, State::Greeted),
    (State::Opening, Kind::Refuse, State::Closed),
    (State::Greeted, Kind::Welcome, State::Open),
    (State::Greeted, Kind::Refuse, State::Closed),
    (State::Open, Kind::Put, State::Open),
    (State::Open, Kind::PutDone, State::Open),
    (State::Open, Kind::Get, State::Open),
    (State::Open, Kind::Pages, State::Open),
    (State::Open, Kind::Flush, State::Open),
    (State::Open, Kind::FlushRange, State::Open),
    (State::Open, Kind::FlushObject, State::Open),
    (State::Open, Kind::DestroyPool, State::Open),
    (State::Open, Kind::Share, State::Open),
    (State::Open, Kind::Done, State::Open),
    (State::Open, Kind::Ping, State::Open),
    (State::Open, Kind::Pong, State::Open),
    (State::Open, Kind::Status, State::Open),
    (State::Open, Kind::Goodbye, State::Leaving),
    (State::Open, Kind::Refuse, State::Closed),
    (State::Leaving, Kind::PutDone, State::Leaving),
    (State::Leaving, Kind::Pages, State::Leaving),
    (State::Leaving, Kind::Done, State::Leaving),
    (State::Leaving, Kind::Pong, State::Leaving),
    (State::Leaving, Kind::Status, State::Leaving),
    (State::Leaving, Kind::Farewell, State::Closed),
    (State::Leaving, Kind::Refuse, State::Closed),
];

/// One side of a link.
#[derive(Debug)]
pub struct Session {
    side: Side,
    state: State,
}

impl Session {
    pub fn new(side: Side) -> Self {
        Session { side, state: State::Opening }
    }

    pub fn state(&self) -> State {
        self.state
    }

    fn next(&self, kind: Kind) -> Option<State> {
        TABLE.iter().find(|(from, said, _)| *from == self.state && *said == kind).map(|(_, _, to)| *to)
    }

    /// MUST be asked before a frame of this kind is written.
    pub fn send(&mut self, kind: Kind) -> Result<(), LocalProtocolError> {
        if kind.sender() != self.side {
            return Err(LocalProtocolError::UnexpectedMessage);
        }
        self.state = self.next(kind).ok_or(LocalProtocolError::UnexpectedMessage)?;
        Ok(())
    }

    /// Judges a header before its body is there, so that nobody without a handshake can make us wait for, or store, a long frame.
    pub fn may_receive(&self, kind: Kind) -> Result<(), RemoteProtocolError> {
        let expected = kind.sender() != self.side && self.next(kind).is_some();
        if expected { Ok(()) } else { Err(RemoteProtocolError::UnexpectedMessage) }
    }

    pub fn receive(&mut self, kind: Kind) -> Result<(), RemoteProtocolError> {
        self.may_receive(kind)?;
        self.state = self.next(kind).ok_or(RemoteProtocolError::UnexpectedMessage)?;
        Ok(())
    }
}

#[derive(Clone, Copy, Debug)]
struct Waiting {
    request: u64,
    answer: Kind,
    pages: u16,
    answered: u16,
}

/// The client's requests that wait for answers. An answer nobody asked for, of the wrong kind, too long or out of order ends the link.
#[derive(Debug)]
pub struct InFlight {
    waiting: VecDeque<Waiting>,
}

impl Default for InFlight {
    fn default() -> Self {
        Self::new()
    }
}

impl InFlight {
    pub fn new() -> Self {
        InFlight { waiting: VecDeque::with_capacity(16) }
    }

    pub fn len(&self) -> usize {
        self.waiting.len()
    }

    pub fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    pub fn check(&self, request: u64, pages: usize) -> Result<(), LocalProtocolError> {
        if pages > MAX_PAGES {
            return Err(LocalProtocolError::TooManyPages);
        }
        if self.waiting.len() >= MAX_IN_FLIGHT {
            return Err(LocalProtocolError::TooManyInFlight);
        }
        if self.waiting.iter().any(|waiting| waiting.request == request) {
            return Err(LocalProtocolError::DuplicateRequest);
        }
        Ok(())
    }

    /// After `check`, once the request is written. `pages` is 0 for requests that are answered as a whole.
    pub fn asked(&mut self, request: u64, kind: Kind, pages: usize) {
        if let Some(answer) = kind.answer() {
            self.waiting.push_back(Waiting { request, answer, pages: pages as u16, answered: 0 });
        }
    }

    /// True: that was the last frame of the answer and the request is forgotten.
    pub fn answered(&mut self, header: &Header) -> Result<bool, RemoteProtocolError> {
        // Holders answer in order, so this is the first one all but always.
        let at = self.waiting.iter().position(|waiting| waiting.request == header.request);
        let at = at.ok_or(RemoteProtocolError::UnknownRequest)?;
        let waiting = &mut self.waiting[at];
        if waiting.answer != header.kind {
            return Err(RemoteProtocolError::UnexpectedMessage);
        }
        if waiting.answered != header.first_index {
            return Err(RemoteProtocolError::AnswerOutOfOrder);
        }
        if header.count > waiting.pages - waiting.answered {
            return Err(RemoteProtocolError::BadPageRange);
        }
        waiting.answered += header.count;
        let done = waiting.answered == waiting.pages;
        if done {
            self.waiting.remove(at);
        }
        Ok(done)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STATES: [State; 5] = [State::Opening, State::Greeted, State::Open, State::Leaving, State::Closed];

    fn session(side: Side, state: State) -> Session {
        Session { side, state }
    }

    #[test]
    fn every_state_and_kind_is_either_in_the_table_or_an_error_of_its_sender() {
        for state in STATES {
            for kind in Kind::ALL {
                let rows: Vec<_> = TABLE.iter().filter(|row| row.0 == state && row.1 == kind).collect();
                assert!(rows.len() <= 1);
                for side in [Side::Client, Side::Server] {
                    let sent = session(side, state).send(kind);
                    let received = session(side, state).receive(kind);
                    assert_eq!(sent.is_ok(), kind.sender() == side && rows.len() == 1, "{side:?} sends {kind:?} in {state:?}");
                    assert_eq!(
                        received.is_ok(),
                        kind.sender() != side && rows.len() == 1,
                        "{side:?} hears {kind:?} in {state:?}"
                    );
                }
            }
        }
    }

    #[test]
    fn nothing_is_said_on_a_closed_link_and_nothing_but_hello_on_a_new_one() {
        for kind in Kind::ALL {
            assert!(session(Side::Server, State::Closed).receive(kind).is_err());
            assert_eq!(session(Side::Server, State::Opening).may_receive(kind).is_ok(), kind == Kind::Hello);
        }
    }

    fn answer(kind: Kind, request: u64, first_index: u16, count: u16) -> Header {
        Header { kind, request, length_bytes: 0, count, first_index, ephemeral: false }
    }

    #[test]
    fn an_answer_in_parts_is_done_with_its_last_part() {
        let mut in_flight = InFlight::new();
        in_flight.asked(5, Kind::Get, 40);
        assert_eq!(in_flight.answered(&answer(Kind::Pages, 5, 0, 15)), Ok(false));
        assert_eq!(in_flight.answered(&answer(Kind::Pages, 5, 15, 25)), Ok(true));
        assert!(in_flight.is_empty());
    }

    #[test]
    fn answers_of_different_requests_may_alternate_frame_by_frame() {
        let mut in_flight = InFlight::new();
        in_flight.asked(1, Kind::Get, 20);
        in_flight.asked(2, Kind::Put, 20);
        assert_eq!(in_flight.answered(&answer(Kind::PutDone, 2, 0, 10)), Ok(false));
        assert_eq!(in_flight.answered(&answer(Kind::Pages, 1, 0, 10)), Ok(false));
        assert_eq!(in_flight.answered(&answer(Kind::PutDone, 2, 10, 10)), Ok(true));
        assert_eq!(in_flight.answered(&answer(Kind::Pages, 1, 10, 10)), Ok(true));
    }

    #[test]
    fn an_answer_that_nobody_asked_for_has_its_own_reason() {
        let mut in_flight = InFlight::new();
        in_flight.asked(1, Kind::Get, 20);
        for (header, reason) in [
            (answer(Kind::Pages, 2, 0, 1), RemoteProtocolError::UnknownRequest),
            (answer(Kind::PutDone, 1, 0, 1), RemoteProtocolError::UnexpectedMessage),
            (answer(Kind::Pages, 1, 1, 1), RemoteProtocolError::AnswerOutOfOrder),
            (answer(Kind::Pages, 1, 0, 21), RemoteProtocolError::BadPageRange),
        ] {
            assert_eq!(in_flight.answered(&header), Err(reason));
        }
    }

    #[test]
    fn requests_in_flight_have_a_limit_and_distinct_names() {
        let mut in_flight = InFlight::new();
        for request in 0..MAX_IN_FLIGHT as u64 {
            assert_eq!(in_flight.check(request, 1), Ok(()));
            in_flight.asked(request, Kind::Ping, 0);
        }
        assert_eq!(in_flight.check(9999, 1), Err(LocalProtocolError::TooManyInFlight));
        assert_eq!(in_flight.answered(&answer(Kind::Pong, 500, 0, 0)), Ok(true));
        assert_eq!(in_flight.check(501, 1), Err(LocalProtocolError::DuplicateRequest));
    }
}

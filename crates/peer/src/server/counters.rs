//! Why links ended, one counter each. Covers the reasons and their names; pages are counted in `core::foreign`.

use std::sync::atomic::{AtomicU64, Ordering};

use ramster_core::wire::error::RemoteProtocolError;

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum EndReason {
    /// The client said goodbye and was answered.
    Goodbye,
    /// The client closed, or died.
    PeerClosed,
    /// The socket failed.
    SocketError,
    /// Nothing came back for too long, or there is no way there: the client may well live.
    Unreachable,
    HelloTimeout,
    HalfFrameTimeout,
    NotTakingTimeout,
    RefusedVersion,
    RefusedIncarnation,
    RefusedTooManyLinks,
    RefusedAuth,
    /// Its certificate was revoked.
    RefusedRevoked,
    /// No TLS came about, or it broke: another authority, no certificate, no TLS at all.
    TlsFailed,
    /// Our own side would have broken the protocol.
    OwnError,
    Stopping,
    Protocol(RemoteProtocolError),
}

const PLAIN: [EndReason; 15] = [
    EndReason::Goodbye,
    EndReason::PeerClosed,
    EndReason::SocketError,
    EndReason::Unreachable,
    EndReason::HelloTimeout,
    EndReason::HalfFrameTimeout,
    EndReason::NotTakingTimeout,
    EndReason::RefusedVersion,
    EndReason::RefusedIncarnation,
    EndReason::RefusedTooManyLinks,
    EndReason::RefusedAuth,
    EndReason::RefusedRevoked,
    EndReason::TlsFailed,
    EndReason::OwnError,
    EndReason::Stopping,
];
const REASONS: usize = PLAIN.len() + RemoteProtocolError::ALL.len();

impl EndReason {
    pub fn name(self) -> &'static str {
        match self {
            Self::Goodbye => "goodbye",
            Self::PeerClosed => "peer_closed",
            Self::SocketError => "socket_error",
            Self::Unreachable => "unreachable",
            Self::HelloTimeout => "hello_timeout",
            Self::HalfFrameTimeout => "half_frame_timeout",
            Self::NotTakingTimeout => "not_taking_timeout",
            Self::RefusedVersion => "refused_version",
            Self::RefusedIncarnation => "refused_incarnation",
            Self::RefusedTooManyLinks => "refused_too_many_links",
            Self::RefusedAuth => "refused_auth",
            Self::RefusedRevoked => "refused_revoked",
            Self::TlsFailed => "tls_failed",
            Self::OwnError => "own_error",
            Self::Stopping => "stopping",
            Self::Protocol(error) => error.reason(),
        }
    }

    fn all() -> impl Iterator<Item = EndReason> {
        PLAIN.into_iter().chain(RemoteProtocolError::ALL.map(EndReason::Protocol))
    }
}

pub struct Counters {
    pub accepted: AtomicU64,
    pub accepts_paused: AtomicU64,
    ended: [AtomicU64; REASONS],
}

impl Default for Counters {
    fn default() -> Self {
        Counters { accepted: AtomicU64::new(0), accepts_paused: AtomicU64::new(0), ended: [const { AtomicU64::new(0) }; REASONS] }
    }
}

impl Counters {
    pub fn count_end(&self, reason: EndReason) {
        if let Some(counter) = EndReason::all().position(|other| other == reason).and_then(|index| self.ended.get(index)) {
            counter.fetch_add(1, Ordering::Relaxed);
        }
    }

    pub fn ended(&self) -> Vec<(&'static str, u64)> {
        EndReason::all().zip(&self.ended).map(|(reason, counter)| (reason.name(), counter.load(Ordering::Relaxed))).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reason_has_a_name_and_a_counter_of_its_own() {
        let counters = Counters::default();
        for reason in EndReason::all() {
            counters.count_end(reason);
        }
        let ended = counters.ended();
        assert!(ended.iter().all(|(_, count)| *count == 1));
        let names: std::collections::HashSet<_> = ended.iter().map(|(name, _)| name).collect();
        assert_eq!(names.len(), REASONS);
    }
}

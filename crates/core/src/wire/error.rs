//! Whose fault it was. Covers the two kinds of protocol error; not lost connections, which are the socket's business.

use std::fmt;

/// The other side broke the protocol: the link ends, nothing else does. One counter each; `reason` is its name everywhere.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum RemoteProtocolError {
    BadMagic,
    BadVersion,
    UnknownKind,
    BadFlags,
    FrameTooLong,
    BadLength,
    TooManyPages,
    BadPageRange,
    BlobTooLong,
    BadStatus,
    BadRole,
    UnexpectedMessage,
    UnknownRequest,
    AnswerOutOfOrder,
}

impl RemoteProtocolError {
    pub const ALL: [RemoteProtocolError; 14] = [
        Self::BadMagic,
        Self::BadVersion,
        Self::UnknownKind,
        Self::BadFlags,
        Self::FrameTooLong,
        Self::BadLength,
        Self::TooManyPages,
        Self::BadPageRange,
        Self::BlobTooLong,
        Self::BadStatus,
        Self::BadRole,
        Self::UnexpectedMessage,
        Self::UnknownRequest,
        Self::AnswerOutOfOrder,
    ];

    pub fn reason(self) -> &'static str {
        match self {
            Self::BadMagic => "bad_magic",
            Self::BadVersion => "bad_version",
            Self::UnknownKind => "unknown_kind",
            Self::BadFlags => "bad_flags",
            Self::FrameTooLong => "frame_too_long",
            Self::BadLength => "bad_length",
            Self::TooManyPages => "too_many_pages",
            Self::BadPageRange => "bad_page_range",
            Self::BlobTooLong => "blob_too_long",
            Self::BadStatus => "bad_status",
            Self::BadRole => "bad_role",
            Self::UnexpectedMessage => "unexpected_message",
            Self::UnknownRequest => "unknown_request",
            Self::AnswerOutOfOrder => "answer_out_of_order",
        }
    }
}

/// Our own side would have broken the protocol: nothing was sent, the link goes on.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum LocalProtocolError {
    UnexpectedMessage,
    NoPages,
    TooManyPages,
    BlobTooLong,
    AuthTooLong,
    TooManyInFlight,
    DuplicateRequest,
    /// The peer does not take what was sent: wait, then try again.
    OutboxFull,
}

impl fmt::Display for RemoteProtocolError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the peer broke the protocol: {}", self.reason())
    }
}

impl fmt::Display for LocalProtocolError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "this message may not be sent: {self:?}")
    }
}

impl std::error::Error for RemoteProtocolError {}
impl std::error::Error for LocalProtocolError {}

//! What carries a link's bytes: the socket itself, or TLS over it. Covers sending and receiving without blocking, and how much waits in between; not what
//! the bytes mean, nor who may say what (`tls`).
//!
//! TLS writes while one reads (its handshake) and holds plaintext that no socket tells of: `has_unsent` and `has_received` say so, and whoever waits for
//! the socket MUST ask both first.

use std::io::{self, IoSlice, Write};
use std::mem::MaybeUninit;
use std::sync::Arc;

use rustix::fd::OwnedFd;
use rustix::io::Errno;
use rustix::net::RecvFlags;
use rustls::pki_types::CertificateDer;
use rustls::{ClientConnection, ServerConnection};

use crate::socket;
use crate::tls::{Secured, TlsError, server_name};

/// Encrypted and not taken by the socket: four records, as much as is sent in one call. Doubled, it would only leave the cache between the cipher and the
/// call, and wait here instead of in the outbox, where it is counted.
const UNSENT_BYTES: usize = 64 * 1024;
/// Read in one call, on the stack of whoever reads: two records and more than an answer of one page. Callers' stacks may be small.
const READ_BYTES: usize = 32 * 1024;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum TransportError {
    Io(Errno),
    Tls(TlsError),
}

impl From<Errno> for TransportError {
    fn from(errno: Errno) -> Self {
        TransportError::Io(errno)
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Received {
    /// The socket has nothing now.
    Nothing,
    /// The other side closed.
    Closed,
    /// So many bytes, perhaps none (a handshake's). `more`: there may be more that the socket will not tell of.
    Bytes { count_bytes: usize, more: bool },
}

pub struct Sent {
    /// Of the bytes given: not to be given again.
    pub taken_bytes: usize,
    /// The socket took something.
    pub has_moved: bool,
}

pub enum Transport {
    Plain,
    Tls(Box<Tls>),
}

pub struct Tls {
    connection: rustls::Connection,
    /// Decrypted and not given to anybody: less than a record, since no read asks for more than there is space.
    received_bytes: usize,
}

impl Transport {
    /// The owner's side. What is sent before the handshake is done goes out with its end.
    pub fn client(secured: &Secured<'_>) -> Result<Transport, TlsError> {
        let connection = ClientConnection::new(Arc::clone(&secured.context.config), server_name(secured.node)?)?;
        Ok(Self::tls(connection.into()))
    }

    /// The holder's side. None: plain.
    pub fn server(config: Option<Arc<rustls::ServerConfig>>) -> Result<Transport, TlsError> {
        match config {
            None => Ok(Transport::Plain),
            Some(config) => Ok(Self::tls(ServerConnection::new(config)?.into())),
        }
    }

    fn tls(mut connection: rustls::Connection) -> Transport {
        connection.set_buffer_limit(Some(UNSENT_BYTES));
        Transport::Tls(Box::new(Tls { connection, received_bytes: 0 }))
    }

    /// What the other side has shown, its chain verified. None: plain, or not yet.
    pub fn certificate(&self) -> Option<&CertificateDer<'static>> {
        match self {
            Transport::Plain => None,
            Transport::Tls(tls) => tls.connection.peer_certificates()?.first(),
        }
    }

    pub fn is_tls(&self) -> bool {
        matches!(self, Transport::Tls(_))
    }

    /// Something waits in here for the socket to take it: be told when it does.
    pub fn has_unsent(&self) -> bool {
        matches!(self, Transport::Tls(tls) if tls.connection.wants_write())
    }

    /// `receive` gives bytes without the socket being readable.
    pub fn has_received(&self) -> bool {
        matches!(self, Transport::Tls(tls) if tls.received_bytes > 0)
    }

    /// What waits in here, then these bytes, as far as the socket takes them; for TLS up to [`UNSENT_BYTES`] further.
    pub fn send(&mut self, socket: &OwnedFd, bytes: &[u8]) -> Result<Sent, TransportError> {
        match self {
            Transport::Plain => {
                let mut taken_bytes = 0;
                while taken_bytes < bytes.len() {
                    match socket::send(socket, &bytes[taken_bytes..])? {
                        0 => break,
                        count_bytes => taken_bytes += count_bytes,
                    }
                }
                Ok(Sent { taken_bytes, has_moved: taken_bytes > 0 })
            }
            Transport::Tls(tls) => tls.send(socket, bytes),
        }
    }

    /// One read of the socket at most.
    pub fn receive(&mut self, socket: &OwnedFd, space: &mut [u8], flags: RecvFlags) -> Result<Received, TransportError> {
        match self {
            Transport::Plain => {
                let space_bytes = space.len();
                Ok(match socket::receive(socket, space, flags)? {
                    None => Received::Nothing,
                    Some(0) => Received::Closed,
                    // A read that did not fill the space found the end of what there was: asking again would cost a system call for nothing.
                    Some(count_bytes) => Received::Bytes { count_bytes, more: count_bytes == space_bytes },
                })
            }
            Transport::Tls(tls) => tls.receive(socket, space, flags),
        }
    }
}

impl Tls {
    fn send(&mut self, socket: &OwnedFd, bytes: &[u8]) -> Result<Sent, TransportError> {
        let mut has_moved = self.flush(socket)?;
        let mut taken_bytes = 0;
        while taken_bytes < bytes.len() && !self.connection.wants_write() {
            let count_bytes =
                self.connection.writer().write(&bytes[taken_bytes..]).map_err(|_| TransportError::Tls(TlsError::Failed))?;
            if count_bytes == 0 {
                break;
            }
            taken_bytes += count_bytes;
            has_moved |= self.flush(socket)?;
        }
        Ok(Sent { taken_bytes, has_moved })
    }

    /// Whether the socket took anything.
    fn flush(&mut self, socket: &OwnedFd) -> Result<bool, TransportError> {
        let mut has_moved = false;
        while self.connection.wants_write() {
            match self.connection.write_tls(&mut Records(socket)) {
                Ok(0) => break,
                Ok(_) => has_moved = true,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => return Err(TransportError::Io(Errno::from_io_error(&error).unwrap_or(Errno::IO))),
            }
        }
        Ok(has_moved)
    }

    fn receive(&mut self, socket: &OwnedFd, space: &mut [u8], flags: RecvFlags) -> Result<Received, TransportError> {
        let mut count_bytes = self.take(space)?;
        if count_bytes > 0 {
            return Ok(Received::Bytes { count_bytes, more: true });
        }
        let mut buffer = [const { MaybeUninit::uninit() }; READ_BYTES];
        // Plaintext is shorter than what carries it, so at most the record that was half there is left over.
        let asked_bytes = space.len().min(READ_BYTES);
        let Some(read) = socket::receive_into(socket, &mut buffer[..asked_bytes], flags)? else { return Ok(Received::Nothing) };
        if read.is_empty() {
            return Ok(Received::Closed);
        }
        let filled = read.len() == asked_bytes;
        let mut rest: &[u8] = read;
        let mut is_closed = false;
        while !rest.is_empty() && !is_closed {
            match self.connection.read_tls(&mut rest) {
                // A record longer than any may be has no room.
                Ok(0) | Err(_) => return Err(self.failed(socket, TlsError::NotTls)),
                Ok(_) => {}
            }
            match self.connection.process_new_packets() {
                Ok(state) => (self.received_bytes, is_closed) = (state.plaintext_bytes_to_read(), state.peer_has_closed()),
                Err(error) => return Err(self.failed(socket, error.into())),
            }
            count_bytes += self.take(&mut space[count_bytes..])?;
        }
        self.flush(socket)?;
        match is_closed && count_bytes == 0 {
            true => Ok(Received::Closed),
            false => Ok(Received::Bytes { count_bytes, more: filled || self.received_bytes > 0 }),
        }
    }

    fn take(&mut self, space: &mut [u8]) -> Result<usize, TransportError> {
        if self.received_bytes == 0 || space.is_empty() {
            return Ok(0);
        }
        let count_bytes =
            io::Read::read(&mut self.connection.reader(), space).map_err(|_| TransportError::Tls(TlsError::Failed))?;
        self.received_bytes -= count_bytes;
        Ok(count_bytes)
    }

    /// Tells the other side, if it can be told at once. Whether it arrives is not our concern.
    fn failed(&mut self, socket: &OwnedFd, error: TlsError) -> TransportError {
        let _ = self.flush(socket);
        TransportError::Tls(error)
    }
}

/// Records on their way to the socket, several in one call.
struct Records<'a>(&'a OwnedFd);

impl Write for Records<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.write_vectored(&[IoSlice::new(bytes)])
    }

    fn write_vectored(&mut self, records: &[IoSlice<'_>]) -> io::Result<usize> {
        match socket::send_all_of(self.0, records) {
            Ok(0) => Err(io::ErrorKind::WouldBlock.into()),
            Ok(count_bytes) => Ok(count_bytes),
            Err(errno) => Err(errno.into()),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};

    use super::*;
    use crate::tls::Credentials;

    #[test]
    fn what_waits_for_a_handshake_or_a_full_socket_is_limited() {
        let rcgen::CertifiedKey { cert, signing_key } =
            rcgen::generate_simple_self_signed(vec!["node-1.ramster".to_owned()]).expect("certificate");
        let credentials = Credentials { roots_pem: cert.pem(), chain_pem: cert.pem(), key_pem: signing_key.serialize_pem() };
        let context = credentials.client_context().expect("context");
        let listener = TcpListener::bind("127.0.0.1:0").expect("bind");
        let socket = OwnedFd::from(TcpStream::connect(listener.local_addr().expect("address")).expect("connect"));
        let mut transport = Transport::client(&Secured { context: &context, node: 1 }).expect("transport");
        let sent = transport.send(&socket, &vec![7; 1 << 20]).expect("send");
        assert!(sent.has_moved && sent.taken_bytes == UNSENT_BYTES, "{}", sent.taken_bytes);
        assert_eq!(transport.send(&socket, &[7; 100]).expect("send").taken_bytes, 0);
    }
}

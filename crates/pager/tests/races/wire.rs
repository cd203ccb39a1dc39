//! A peer whose answers can be held back: a real server behind a relay. Covers the delay layer; what is done meanwhile is the tests'.

use std::io::{Error, Read, Result, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use ramster_core::handle::OwnerId;
use ramster_core::wire::frame::{HEADER_BYTES, Header, Kind};
use ramster_core::wire::message::{Message, Role};
use ramster_engine::PeerAddr;
use ramster_peer::server::{Server, ServerConfig};

use crate::stage::wait_until;

pub struct Peer {
    pub server: Server,
    address: SocketAddr,
    relay: Arc<Relay>,
}

#[derive(Default)]
struct Relay {
    first: Mutex<Option<OwnerId>>,
    held: AtomicBool,
    cut: AtomicBool,
}

impl Peer {
    pub fn start() -> Peer {
        let any: SocketAddr = "127.0.0.1:0".parse().expect("address");
        let server = Server::start(ServerConfig { threads: 1, ..ServerConfig::new(any, 1, 256 << 20) }).expect("server");
        let listener = TcpListener::bind(any).expect("listen");
        let peer = Peer { address: listener.local_addr().expect("address"), relay: Arc::default(), server };
        let (to, relay) = (peer.server.address(), Arc::clone(&peer.relay));
        std::thread::spawn(move || accept(&listener, to, &relay));
        peer
    }

    pub fn list(&self) -> Vec<PeerAddr> {
        vec![PeerAddr { node: 1, address: self.address.to_string() }]
    }

    /// Until `release`, nothing that the peer says arrives, except at forked children and at who forks them.
    pub fn hold(&self) {
        self.relay.held.store(true, SeqCst);
    }

    pub fn release(&self) {
        self.relay.held.store(false, SeqCst);
    }

    /// The peer is dead to its clients: links end and there are no new ones.
    pub fn cut(&self) {
        self.relay.cut.store(true, SeqCst);
        let _ = TcpStream::connect(self.address);
    }
}

fn accept(listener: &TcpListener, to: SocketAddr, relay: &Arc<Relay>) {
    while let Ok((client, _)) = listener.accept() {
        if relay.cut.load(SeqCst) {
            return; // and with the listener goes the address
        }
        let relay = Arc::clone(relay);
        // An error here means that one of the two has ended with its test.
        std::thread::spawn(move || connect(client, to, &relay));
    }
}

/// Greetings are never held back: they are passed on first, one frame each way.
fn connect(mut client: TcpStream, to: SocketAddr, relay: &Arc<Relay>) -> Result<()> {
    let mut server = TcpStream::connect(to)?;
    let hello = read_frame(&mut client)?;
    let can_be_held = relay.can_hold(&hello);
    server.write_all(&hello)?;
    client.write_all(&read_frame(&mut server)?)?;
    for stream in [&client, &server] {
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(Duration::from_millis(5)))?;
    }
    let (client_too, server_too) = (client.try_clone()?, server.try_clone()?);
    let held = Arc::new(AtomicBool::new(can_be_held));
    let (up, down, held_too) = (Arc::clone(relay), Arc::clone(relay), Arc::clone(&held));
    std::thread::spawn(move || {
        pass(client, server, &up, |first| {
            if asks_for_a_share(first) {
                held.store(false, SeqCst);
            }
            false
        });
    });
    std::thread::spawn(move || pass(server_too, client_too, &down, |_| held_too.load(SeqCst)));
    Ok(())
}

fn read_frame(from: &mut TcpStream) -> Result<Vec<u8>> {
    let mut header = [0; HEADER_BYTES];
    from.read_exact(&mut header)?;
    let header = Header::decode(&header).map_err(Error::other)?;
    let mut frame = header.encode().to_vec();
    frame.resize(HEADER_BYTES + header.length_bytes as usize, 0);
    from.read_exact(&mut frame[HEADER_BYTES..])?;
    Ok(frame)
}

impl Relay {
    /// Links of the process that came first, not of its forked children. One that it opens while the peer is held is held too if it gets pages (a second
    /// handler's).
    fn can_hold(&self, hello: &[u8]) -> bool {
        let (header, body) = hello.split_first_chunk().expect("a frame");
        let header = Header::decode(header).expect("decoded before");
        let Ok(Message::Hello(hello)) = Message::decode(&header, body) else { return false };
        let first = *self.first.lock().expect("first").get_or_insert(hello.owner);
        hello.owner == first && (hello.role == Role::Get || !self.held.load(SeqCst))
    }
}

/// Not to be held back: who forks opens a link for this one question and waits for its answer.
fn asks_for_a_share(bytes: &[u8]) -> bool {
    bytes.first_chunk().and_then(|header| Header::decode(header).ok()).is_some_and(|header| header.kind == Kind::Share)
}

/// Passes all on until either side ends. `is_held` says of the bytes that have come whether they wait for the release.
fn pass(mut from: TcpStream, mut to: TcpStream, relay: &Relay, is_held: impl Fn(&[u8]) -> bool) {
    let mut bytes = vec![0; 64 << 10];
    while !relay.cut.load(SeqCst) {
        let got = match from.read(&mut bytes) {
            Ok(0) => break,
            Ok(got) => got,
            Err(error) if matches!(error.kind(), std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut) => continue,
            Err(_) => break,
        };
        wait_until("the peer is released", || !is_held(&bytes[..got]) || !relay.held.load(SeqCst) || relay.cut.load(SeqCst));
        if relay.cut.load(SeqCst) || to.write_all(&bytes[..got]).is_err() {
            break;
        }
    }
    let _ = from.shutdown(Shutdown::Both);
    let _ = to.shutdown(Shutdown::Both);
}

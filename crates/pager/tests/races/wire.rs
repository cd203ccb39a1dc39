//! A peer whose answers can be held back: a real server behind a relay. Covers the delay layer; what is done meanwhile is the tests'.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::time::Duration;

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

    /// Until `release`, nothing that the peer says arrives on the links that are open now.
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
        let Ok(server) = TcpStream::connect(to) else { continue }; // it has ended with its test
        for stream in [&client, &server] {
            stream.set_nodelay(true).expect("nodelay");
            stream.set_read_timeout(Some(Duration::from_millis(5))).expect("timeout");
        }
        let (client_too, server_too) = (client.try_clone().expect("clone"), server.try_clone().expect("clone"));
        let relays = [Arc::clone(relay), Arc::clone(relay)];
        let [up, down] = relays;
        std::thread::spawn(move || pass(client, server, &up, false));
        std::thread::spawn(move || pass(server_too, client_too, &down, true));
    }
}

/// A link that was made while the peer was held is not held: only its older ones are.
fn pass(mut from: TcpStream, mut to: TcpStream, relay: &Relay, can_be_held: bool) {
    let can_be_held = can_be_held && !relay.held.load(SeqCst);
    let mut bytes = vec![0; 64 << 10];
    while !relay.cut.load(SeqCst) {
        let got = match from.read(&mut bytes) {
            Ok(0) => break,
            Ok(got) => got,
            Err(error) if matches!(error.kind(), std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut) => continue,
            Err(_) => break,
        };
        if can_be_held {
            wait_until("the peer is released", || !relay.held.load(SeqCst) || relay.cut.load(SeqCst));
        }
        if relay.cut.load(SeqCst) || to.write_all(&bytes[..got]).is_err() {
            break;
        }
    }
    let _ = from.shutdown(Shutdown::Both);
    let _ = to.shutdown(Shutdown::Both);
}

//! What the tests of TLS links share: servers and links with certificates, rustls itself as a client that says what no `Link` would, and a relay in between.
#![allow(dead_code)] // Each test file uses its part.

use std::io::Read;
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::thread::JoinHandle;

use ramster_core::handle::OwnerId;
use ramster_core::wire::message::{Hello, RefuseReason, Role};
use ramster_core::wire::{PROTOCOL_VERSION, encode};
use ramster_peer::client::{Link, LinkError};
use ramster_peer::server::{EndReason, Server, ServerConfig, Timeouts};
use ramster_peer::tls::{Credentials, Secured};

use crate::common::*;
use crate::pki::{self, Cluster, client_number};

/// The holder's, in all of these tests (`common::config`).
pub const HOLDER: u64 = 9;
pub const NODE: u64 = 1;
pub const FAMILY: u64 = 0xfeed_0000_0000_0001;

pub fn start_tls(cluster: &Cluster) -> Server {
    start_with(cluster.node(HOLDER), timeouts())
}

pub fn start_with(credentials: Credentials, timeouts: Timeouts) -> Server {
    let credentials = Some(credentials);
    Server::start(ServerConfig { credentials, timeouts, ..config(PLENTY_BYTES) }).expect("server")
}

pub fn of(node: u64, client: u128) -> OwnerId {
    OwnerId { node, client, incarnation: 100 }
}

/// As this owner, with these credentials, to whoever should be `peer`.
pub fn try_link(server: &Server, credentials: &Credentials, peer: u64, me: &OwnerId) -> Result<Link, LinkError> {
    let context = credentials.client_context().expect("credentials");
    let secured = Secured { context: &context, node: peer };
    Link::connect_by(Some(secured), &server.address(), me, Role::Bulk, DEADLINE_MS)
}

pub fn link(server: &Server, credentials: &Credentials, me: &OwnerId) -> Link {
    try_link(server, credentials, HOLDER, me).expect("link")
}

pub fn is_refused(outcome: Result<Link, LinkError>) -> bool {
    matches!(outcome, Err(LinkError::Refused(RefuseReason::Auth)))
}

/// rustls itself as the client, to say what `Link` never would.
pub type RawTls = rustls::StreamOwned<rustls::ClientConnection, TcpStream>;

pub fn client_config(
    cluster: &Cluster,
    mine: Option<&Credentials>,
    version: &'static rustls::SupportedProtocolVersion,
) -> rustls::ClientConfig {
    use rustls::pki_types::pem::PemObject;
    use rustls::pki_types::{CertificateDer, PrivateKeyDer};
    let mut roots = rustls::RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(cluster.roots_pem().as_bytes()).expect("root")).expect("root");
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = rustls::ClientConfig::builder_with_provider(provider).with_protocol_versions(&[version]).expect("version");
    let builder = builder.with_root_certificates(roots);
    match mine {
        None => builder.with_no_client_auth(),
        Some(mine) => {
            let chain = CertificateDer::pem_slice_iter(mine.chain_pem.as_bytes()).map(|it| it.expect("chain")).collect();
            let key = PrivateKeyDer::from_pem_slice(mine.key_pem.as_bytes()).expect("key");
            builder.with_client_auth_cert(chain, key).expect("certificate")
        }
    }
}

pub fn raw_tls(server: &Server, config: rustls::ClientConfig) -> RawTls {
    let name = pki::node_name(HOLDER).try_into().expect("name");
    rustls::StreamOwned::new(rustls::ClientConnection::new(Arc::new(config), name).expect("connection"), raw(server))
}

pub fn hello(me: &OwnerId) -> Vec<u8> {
    let mut frame = Vec::new();
    let (lowest_version, highest_version) = (PROTOCOL_VERSION, PROTOCOL_VERSION);
    let hello = Hello { owner: *me, role: Role::Bulk, lowest_version, highest_version, auth_scheme: 0, auth: &[] };
    encode::hello(&mut frame, &hello).expect("hello");
    frame
}

/// Ends when the server closes, however.
pub fn drain(stream: &mut impl Read) -> usize {
    let mut bytes = Vec::new();
    let _ = stream.read_to_end(&mut bytes);
    bytes.len()
}

pub fn bystander(server: &Server, cluster: &Cluster) -> Link {
    let me = of(NODE, client_number(FAMILY, 77));
    let mut link = link(server, &cluster.family(NODE, FAMILY), &me);
    put(&mut link, 77, 0..20, 1);
    link
}

/// Exactly one link ended for this reason, and the bystander never noticed.
pub fn ended_alone(server: Server, mut bystander: Link, reason: EndReason) {
    wait_until(&server, reason.name(), |stats| stats.ended(reason) == 1 && stats.links == 1);
    assert_eq!(get(&mut bystander, 19, 1), Ok((1, bytes_of(77, 19, 1, 1000))));
    drop(bystander);
    assert_nothing_leaks(server);
}

/// Between a client and the server, for one link: `pass` is given what came and where it goes. Returns all that the client sent.
pub fn relay(server: &Server, pass: fn(&[u8], &mut TcpStream)) -> (SocketAddr, JoinHandle<Vec<u8>>) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("bind");
    let (address, upstream) = (listener.local_addr().expect("address"), server.address());
    let pump = move |mut from: TcpStream, mut to: TcpStream| {
        let (mut seen, mut chunk) = (Vec::new(), vec![0; 1 << 16]);
        while let Ok(count) = from.read(&mut chunk)
            && count > 0
        {
            seen.extend_from_slice(&chunk[..count]);
            pass(&chunk[..count], &mut to);
        }
        let _ = to.shutdown(Shutdown::Both);
        seen
    };
    let handle = std::thread::spawn(move || {
        let (client, _) = listener.accept().expect("accept");
        let holder = TcpStream::connect(upstream).expect("connect");
        for stream in [&client, &holder] {
            stream.set_nodelay(true).expect("nodelay");
        }
        let (back_from, back_to) = (holder.try_clone().expect("clone"), client.try_clone().expect("clone"));
        let back = std::thread::spawn(move || pump(back_from, back_to));
        let seen = pump(client, holder);
        drop(back.join());
        seen
    });
    (address, handle)
}

pub fn link_by(address: &SocketAddr, cluster: &Cluster, me: &OwnerId) -> Link {
    let context = cluster.family(me.node, FAMILY).client_context().expect("credentials");
    Link::connect_by(Some(Secured { context: &context, node: HOLDER }), address, me, Role::Bulk, DEADLINE_MS).expect("link")
}

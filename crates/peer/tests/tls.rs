//! Links over TLS, with certificates on both sides: a page's journey, who is turned away, in whose name one may speak, and rotation. What a bad client or
//! network can do is `tls_hostile.rs`.

mod common;
#[path = "common/pki.rs"]
mod pki;
#[path = "common/tls.rs"]
mod tls;

use std::io::{Read, Write};
use std::net::TcpListener;
use std::sync::Arc;

use common::*;
use pki::{Cluster, Validity, client_number};
use ramster_core::handle::OwnerId;
use ramster_core::wire::message::{DoneStatus, PutStatus, Role, Welcome};
use ramster_core::wire::{PROTOCOL_VERSION, encode};
use ramster_peer::client::{Link, LinkError};
use ramster_peer::server::{EndReason, Server, ServerConfig};
use ramster_peer::tls::{Credentials, Secured, TlsError};
use rcgen::ExtendedKeyUsagePurpose;
use tls::*;

#[test]
fn pages_go_out_and_come_back_over_tls() {
    let cluster = Cluster::new();
    let server = start_tls(&cluster);
    let me = of(NODE, client_number(FAMILY, 1));
    let mut link = link(&server, &cluster.family(NODE, FAMILY), &me);
    assert_eq!(link.holder().node, HOLDER);
    // Batches of the longest pages: many records, and a receive buffer that is full in the middle of one.
    for index in (0..2048).step_by(256) {
        assert_eq!(put_sized(&mut link, 1, index..index + 256, 1, 4096), vec![PutStatus::Stored; 256]);
    }
    for request in 0..40u64 {
        let first = request as u32 % 7 * 256;
        let wanted: Vec<_> = (first..first + 256).map(|index| (handle(index), 1)).collect();
        link.send_get(request, &wanted).expect("get");
    }
    for (request, outcome) in finish(&mut link, 40).expect("answers").into_iter().enumerate() {
        let first = request as u32 % 7 * 256;
        let expected: Vec<_> = (first..first + 256).map(|index| Ok((1, bytes_of(1, index, 1, 4096)))).collect();
        assert!(outcome.pages == expected, "request {request}");
    }
    assert_eq!(get(&mut link, 17, 1), Ok((1, bytes_of(1, 17, 1, 4096))));
    link.send_flush(0, &[(handle(17), 1)]).expect("flush");
    assert_eq!(one(&mut link).done, Some((DoneStatus::Done, 1)));
    assert_eq!(get(&mut link, 17, 1), Err("miss"));
    link.send_goodbye(0).expect("goodbye");
    assert_eq!(one(&mut link).done, Some((DoneStatus::Done, 2047)));
    wait_until(&server, "goodbye", |stats| stats.ended(EndReason::Goodbye) == 1);
    drop(link);
    assert_nothing_leaks(server);
}

/// It has a certificate of its own and says that it is somebody else: no page goes there, or an owner would look for them elsewhere.
#[test]
fn a_holder_whose_welcome_names_another_node_than_its_certificate_is_left() {
    let cluster = Cluster::new();
    let listener = TcpListener::bind("127.0.0.1:0").expect("bind");
    let address = listener.local_addr().expect("address");
    let mine = cluster.node(HOLDER);
    let liar = std::thread::spawn(move || {
        use rustls::pki_types::pem::PemObject;
        let chain = vec![rustls::pki_types::CertificateDer::from_pem_slice(mine.chain_pem.as_bytes()).expect("chain")];
        let key = rustls::pki_types::PrivateKeyDer::from_pem_slice(mine.key_pem.as_bytes()).expect("key");
        let builder = rustls::ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()));
        let builder = builder.with_protocol_versions(&[&rustls::version::TLS13]).expect("version").with_no_client_auth();
        let config = Arc::new(builder.with_single_cert(chain, key).expect("certificate"));
        let (socket, _) = listener.accept().expect("accept");
        let mut stream = rustls::StreamOwned::new(rustls::ServerConnection::new(config).expect("connection"), socket);
        stream.read_exact(&mut vec![0; hello(&owner(1)).len()]).expect("hello");
        let (node, version) = (8, PROTOCOL_VERSION);
        let welcome = Welcome {
            version,
            auth_scheme: 0,
            auth: &[],
            node,
            incarnation: 1,
            account: 1,
            offer_bytes: 1 << 30,
            free_bytes: 1 << 30,
        };
        let mut frame = Vec::new();
        encode::welcome(&mut frame, &welcome).expect("welcome");
        stream.write_all(&frame).expect("welcome");
        drain(&mut stream);
    });
    let context = cluster.node(NODE).client_context().expect("credentials");
    let secured = Some(Secured { context: &context, node: HOLDER });
    let left = Link::connect_by(secured, &address, &of(NODE, 1), Role::Bulk, DEADLINE_MS).err();
    assert_eq!(left, Some(LinkError::Tls(TlsError::WrongName)));
    liar.join().expect("liar");
}

#[test]
fn certificates_of_others_out_of_date_or_none_at_all_end_that_link_alone() {
    let (cluster, stranger) = (Cluster::new(), Cluster::new());
    let me = of(NODE, client_number(FAMILY, 1));
    let believing = |credentials: Credentials| Credentials { roots_pem: cluster.roots_pem(), ..credentials };
    let server_only = cluster.certify(&pki::node_name(NODE), &[ExtendedKeyUsagePurpose::ServerAuth], Validity::Now);
    let whole = cluster.family(NODE, FAMILY);
    let leaf_alone = whole.chain_pem.split_inclusive("-----END CERTIFICATE-----").next().expect("first").to_owned();
    for (what, credentials) in [
        ("another authority's", believing(stranger.family(NODE, FAMILY))),
        ("another authority's node, whose name is the same", believing(stranger.node(NODE))),
        ("expired", cluster.node_valid(NODE, Validity::Past)),
        ("not valid yet", cluster.node_valid(NODE, Validity::Future)),
        ("not for clients", server_only),
        ("without what leads to a root", Credentials { chain_pem: leaf_alone, ..whole }),
    ] {
        let server = start_tls(&cluster);
        let other = bystander(&server, &cluster);
        let refused = try_link(&server, &credentials, HOLDER, &me).err();
        assert!(matches!(refused, Some(LinkError::Tls(TlsError::Refused) | LinkError::Closed)), "{what}: {refused:?}");
        ended_alone(server, other, EndReason::TlsFailed);
    }
    let server = start_tls(&cluster);
    let other = bystander(&server, &cluster);
    let mut bare = raw_tls(&server, client_config(&cluster, None, &rustls::version::TLS13));
    let _ = bare.write_all(&hello(&me));
    drain(&mut bare);
    ended_alone(server, other, EndReason::TlsFailed);
}

#[test]
fn an_owner_turns_away_from_a_holder_that_is_not_the_node_it_called() {
    let (cluster, stranger) = (Cluster::new(), Cluster::new());
    let me = of(NODE, 1);
    let server = start_tls(&cluster);
    let wrong = try_link(&server, &cluster.node(NODE), 8, &me).err();
    assert_eq!(wrong, Some(LinkError::Tls(TlsError::WrongName)));
    let mine = Credentials { roots_pem: stranger.roots_pem(), ..cluster.node(NODE) };
    assert_eq!(try_link(&server, &mine, HOLDER, &me).err(), Some(LinkError::Tls(TlsError::UnknownAuthority)));
    let expired = start_with(cluster.node_valid(HOLDER, Validity::Past), timeouts());
    assert_eq!(try_link(&expired, &cluster.node(NODE), HOLDER, &me).err(), Some(LinkError::Tls(TlsError::OutOfDate)));
    // A client's certificate does not make a holder, although its node's authority would sign anything under its own name.
    let posing = Server::start(ServerConfig { credentials: Some(cluster.family(HOLDER, FAMILY)), ..config(PLENTY_BYTES) });
    assert!(posing.err().expect("refused").to_string().contains("chain: the certificate is not for node-9.ramster"));
    assert_nothing_leaks(server);
    assert_nothing_leaks(expired);
}

#[test]
fn a_certificate_speaks_for_its_own_node_and_family_only() {
    let cluster = Cluster::new();
    let server = start_tls(&cluster);
    let (mine, other) = (client_number(FAMILY, 1), client_number(FAMILY + 1, 1));
    let family = cluster.family(NODE, FAMILY);
    let mut refused = 0;
    let mut turned_away = |credentials: &Credentials, me: &OwnerId| {
        assert!(is_refused(try_link(&server, credentials, HOLDER, me)), "{me:?}");
        refused += 1;
        wait_until(&server, "counted", |stats| stats.ended(EndReason::RefusedAuth) == refused);
    };
    turned_away(&family, &of(2, mine));
    turned_away(&family, &of(NODE, other));
    turned_away(&cluster.node(NODE), &of(2, mine));
    turned_away(&cluster.certify("ramster", &[ExtendedKeyUsagePurpose::ClientAuth], Validity::Now), &of(NODE, mine));
    // Two processes of the family, and the node itself for both families.
    let links = [
        link(&server, &family, &of(NODE, mine)),
        link(&server, &family, &of(NODE, client_number(FAMILY, 2))),
        link(&server, &cluster.node(NODE), &of(NODE, other)),
        link(&server, &cluster.node(NODE), &of(NODE, 0)),
    ];
    drop(links);
    assert_nothing_leaks(server);
}

/// A node's authority for its clients can sign what it likes; holders take of it only what is under its node's name.
#[test]
fn a_nodes_authority_signs_for_nobody_elses_clients_and_for_no_other_node() {
    let cluster = Cluster::new();
    let rogue = cluster.clients_of(NODE);
    let family = client_number(FAMILY, 1);
    for (name, me) in [
        (format!("c{FAMILY:016x}.{}", pki::node_name(2)), of(2, family)),
        (pki::node_name(2), of(2, family)),
        ("*.ramster".to_owned(), of(2, family)),
        (pki::node_name(11), of(11, family)),
        (format!("x{}", pki::node_name(NODE)), of(NODE, family)),
    ] {
        let server = start_tls(&cluster);
        let other = bystander(&server, &cluster);
        let refused = try_link(&server, &rogue.certify(&name, Validity::Now), HOLDER, &me).err();
        assert!(matches!(refused, Some(LinkError::Tls(TlsError::Refused) | LinkError::Closed)), "{name}: {refused:?}");
        ended_alone(server, other, EndReason::TlsFailed);
    }
}

#[test]
fn two_families_of_one_node_cannot_name_each_others_pages() {
    let cluster = Cluster::new();
    let server = start_tls(&cluster);
    let authority = cluster.clients_of(NODE);
    let (one_me, two_me) = (of(NODE, client_number(FAMILY, 5)), of(NODE, client_number(FAMILY + 1, 5)));
    let (one_family, two_family) = (authority.family(FAMILY), authority.family(FAMILY + 1));
    let (mut one_link, mut two_link) = (link(&server, &one_family, &one_me), link(&server, &two_family, &two_me));
    put(&mut one_link, 1, 0..10, 1);
    put(&mut two_link, 2, 0..10, 1);
    assert_eq!(get(&mut one_link, 3, 1), Ok((1, bytes_of(1, 3, 1, 1000))));
    assert_eq!(get(&mut two_link, 3, 1), Ok((1, bytes_of(2, 3, 1, 1000))));
    assert!(is_refused(try_link(&server, &two_family, HOLDER, &one_me)));
    // A later life of the other would take its place, and its pages would go.
    assert!(is_refused(try_link(&server, &two_family, HOLDER, &OwnerId { incarnation: 101, ..one_me })));
    assert_eq!(get(&mut one_link, 3, 1), Ok((1, bytes_of(1, 3, 1, 1000))));
    drop((one_link, two_link));
    assert_nothing_leaks(server);
}

#[test]
fn a_share_goes_to_the_same_family_alone_unless_the_node_itself_asks() {
    let cluster = Cluster::new();
    let server = start_tls(&cluster);
    let authority = cluster.clients_of(NODE);
    let mut parent = link(&server, &authority.family(FAMILY), &of(NODE, client_number(FAMILY, 1)));
    put(&mut parent, 1, 0..10, 1);
    let (child, stranger) = (of(NODE, client_number(FAMILY, 2)), of(NODE, client_number(FAMILY + 1, 2)));
    let mut child_link = link(&server, &authority.family(FAMILY), &child);
    let mut stranger_link = link(&server, &authority.family(FAMILY + 1), &stranger);
    parent.send_share(0, &stranger).expect("share");
    assert_eq!(one(&mut parent).done, Some((DoneStatus::Refused, 0)));
    assert_eq!(get(&mut stranger_link, 3, 1), Err("miss"));
    assert_eq!(server.stats().foreign.shares_refused, 1);
    parent.send_share(0, &child).expect("share");
    assert_eq!(one(&mut parent).done, Some((DoneStatus::Done, 10)));
    assert_eq!(get(&mut child_link, 3, 1), Ok((1, bytes_of(1, 3, 1, 1000))));
    let mut nodes_own = link(&server, &cluster.node(NODE), &of(NODE, client_number(FAMILY, 1)));
    nodes_own.send_share(0, &stranger).expect("share");
    assert_eq!(one(&mut nodes_own).done, Some((DoneStatus::Done, 10)));
    drop((parent, child_link, stranger_link, nodes_own));
    assert_nothing_leaks(server);
}

#[test]
fn rotation_is_for_new_links_and_ends_none_that_is_open() {
    let (before, after) = (Cluster::new(), Cluster::new());
    let server = start_tls(&before);
    let (old_me, new_me) = (of(NODE, client_number(FAMILY, 1)), of(NODE, client_number(FAMILY, 2)));
    let mut old_link = link(&server, &before.family(NODE, FAMILY), &old_me);
    put(&mut old_link, 1, 0..10, 1);
    // Both authorities for a while: the holder still shows the old one's certificate.
    let both = before.roots_pem() + &after.roots_pem();
    let with_both = |credentials: Credentials| Credentials { roots_pem: both.clone(), ..credentials };
    server.set_credentials(&with_both(before.node(HOLDER))).expect("credentials");
    drop(link(&server, &with_both(before.family(NODE, FAMILY)), &new_me));
    drop(link(&server, &with_both(after.family(NODE, FAMILY)), &new_me));
    // Then the new one's alone.
    server.set_credentials(&after.node(HOLDER)).expect("credentials");
    assert!(try_link(&server, &with_both(before.family(NODE, FAMILY)), HOLDER, &new_me).is_err());
    assert!(try_link(&server, &before.family(NODE, FAMILY), HOLDER, &new_me).is_err());
    let mut new_link = link(&server, &after.family(NODE, FAMILY), &new_me);
    put(&mut new_link, 2, 0..10, 1);
    assert_eq!(get(&mut old_link, 5, 1), Ok((1, bytes_of(1, 5, 1, 1000))));
    // Bad ones change nothing.
    for (bad, what) in [
        (Credentials { key_pem: before.node(HOLDER).key_pem, ..after.node(HOLDER) }, "key: it is not that of"),
        (Credentials { key_pem: String::new(), ..after.node(HOLDER) }, "key: it has no private key"),
        (Credentials { roots_pem: "nothing".to_owned(), ..after.node(HOLDER) }, "roots: no certificate"),
        (Credentials { chain_pem: String::new(), ..after.node(HOLDER) }, "chain: no certificate"),
        (after.node(8), "chain: the certificate is not for node-9.ramster"),
    ] {
        let error = server.set_credentials(&bad).expect_err("bad credentials").to_string();
        assert!(error.contains(what) && !error.contains('\n'), "{error}");
    }
    assert_eq!(get(&mut new_link, 5, 1), Ok((1, bytes_of(2, 5, 1, 1000))));
    drop((old_link, new_link));
    assert_nothing_leaks(server);
}

/// What a node that is forgotten for good has left, and whoever has its key.
#[test]
fn a_revoked_node_and_its_processes_are_turned_away_and_their_open_links_end() {
    let cluster = Cluster::new();
    let server = start_tls(&cluster);
    let (me, other) = (of(NODE, client_number(FAMILY, 1)), of(2, client_number(FAMILY, 1)));
    let mut mine = link(&server, &cluster.family(NODE, FAMILY), &me);
    let nodes_own = link(&server, &cluster.node(NODE), &of(NODE, 0));
    let mut others = link(&server, &cluster.family(2, FAMILY), &other);
    put(&mut mine, 1, 0..10, 1);
    put(&mut others, 2, 0..10, 1);
    server.set_revoked(&[NODE, 77]);
    wait_until(&server, "both links ended", |stats| stats.ended(EndReason::RefusedRevoked) == 2);
    wait_until(&server, "its pages are gone, without a grace time", |stats| stats.pages() == 10);
    for credentials in [cluster.family(NODE, FAMILY), cluster.node(NODE)] {
        assert!(is_refused(try_link(&server, &credentials, HOLDER, &me)));
    }
    wait_until(&server, "counted", |stats| stats.ended(EndReason::RefusedRevoked) == 4);
    assert_eq!(get(&mut others, 3, 1), Ok((1, bytes_of(2, 3, 1, 1000))), "nobody else is affected");
    server.set_revoked(&[]);
    drop((mine, nodes_own, link(&server, &cluster.family(NODE, FAMILY), &me), others));
    assert_nothing_leaks(server);
}

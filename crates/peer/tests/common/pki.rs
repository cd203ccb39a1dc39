//! Certificates for tests, made when they run: a cluster's authority, nodes, and each node's own authority for the processes of its machine.
#![allow(dead_code)] // Each user of this file uses a part of it.

use ramster_peer::tls::Credentials;
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, GeneralSubtree, IsCa, KeyPair,
    KeyUsagePurpose, NameConstraints, date_time_ymd,
};

pub type Issuer = CertifiedIssuer<'static, KeyPair>;

pub struct Cluster {
    root: Issuer,
}

/// The authority of one node for its clients.
pub struct ClientAuthority {
    issuer: Issuer,
    node: u64,
    roots_pem: String,
}

#[derive(Clone, Copy, PartialEq)]
pub enum Validity {
    Now,
    Past,
    Future,
}

fn key() -> KeyPair {
    KeyPair::generate().expect("key")
}

fn authority(name: &str, names_under: Option<String>) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::DigitalSignature];
    params.name_constraints = names_under
        .map(|name| NameConstraints { permitted_subtrees: vec![GeneralSubtree::DnsName(name)], excluded_subtrees: vec![] });
    params
}

fn leaf(name: &str, usages: &[ExtendedKeyUsagePurpose], validity: Validity) -> CertificateParams {
    let mut params = CertificateParams::new(vec![name.to_owned()]).expect("name");
    params.distinguished_name.push(DnType::CommonName, name);
    params.extended_key_usages = usages.to_vec();
    params.use_authority_key_identifier_extension = true;
    match validity {
        Validity::Now => {}
        Validity::Past => params.not_after = date_time_ymd(2001, 1, 1),
        Validity::Future => params.not_before = date_time_ymd(3001, 1, 1),
    }
    params
}

pub fn node_name(node: u64) -> String {
    format!("node-{node}.ramster")
}

/// Says that it is this owner's node and these processes' family.
pub fn client_number(family: u64, process: u64) -> u128 {
    u128::from(family) << 64 | u128::from(process)
}

impl Cluster {
    pub fn new() -> Cluster {
        Cluster { root: CertifiedIssuer::self_signed(authority("cluster", None), key()).expect("root") }
    }

    pub fn roots_pem(&self) -> String {
        self.root.pem()
    }

    pub fn node(&self, node: u64) -> Credentials {
        self.node_valid(node, Validity::Now)
    }

    pub fn node_valid(&self, node: u64, validity: Validity) -> Credentials {
        let both = [ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        self.certify(&node_name(node), &both, validity)
    }

    /// For any name and purpose.
    pub fn certify(&self, name: &str, usages: &[ExtendedKeyUsagePurpose], validity: Validity) -> Credentials {
        let key = key();
        let certificate = leaf(name, usages, validity).signed_by(&key, &self.root).expect("sign");
        Credentials { roots_pem: self.roots_pem(), chain_pem: certificate.pem(), key_pem: key.serialize_pem() }
    }

    pub fn clients_of(&self, node: u64) -> ClientAuthority {
        let params = authority(&format!("clients of node {node}"), Some(node_name(node)));
        let issuer = CertifiedIssuer::signed_by(params, key(), &self.root).expect("sign");
        ClientAuthority { issuer, node, roots_pem: self.roots_pem() }
    }

    pub fn family(&self, node: u64, family: u64) -> Credentials {
        self.clients_of(node).family(family)
    }
}

impl ClientAuthority {
    pub fn family(&self, family: u64) -> Credentials {
        self.certify(&format!("c{family:016x}.{}", node_name(self.node)), Validity::Now)
    }

    /// Whatever name: a node that lies.
    pub fn certify(&self, name: &str, validity: Validity) -> Credentials {
        let key = key();
        let both = [ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        let certificate = leaf(name, &both, validity).signed_by(&key, &self.issuer).expect("sign");
        let chain_pem = certificate.pem() + &self.issuer.pem();
        Credentials { roots_pem: self.roots_pem.clone(), chain_pem, key_pem: key.serialize_pem() }
    }
}

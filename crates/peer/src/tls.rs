//! Certificates on both sides of a link. Covers what a process has to show (`Credentials`), the names in certificates, and who may speak for whom by
//! them; how bytes go through TLS is `transport`, who makes certificates is Python's.
//!
//! Nothing here reads the environment, a file or the machine's own list of authorities.

use std::fmt;
use std::sync::Arc;

use ramster_core::handle::OwnerId;
use rustls::client::{Resumption, verify_server_name};
use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::server::{NoServerSessionStorage, ParsedCertificate, VerifierBuilderError, WebPkiClientVerifier};
use rustls::version::TLS13;
use rustls::{AlertDescription, CertificateError, ClientConfig, RootCertStore};

/// What a process shows, and whom it believes: PEM text.
#[derive(Clone, PartialEq, Eq)]
pub struct Credentials {
    /// The cluster's authorities; several while one takes the place of another.
    pub roots_pem: String,
    /// Our certificate, then those between it and a root.
    pub chain_pem: String,
    pub key_pem: String,
}

impl fmt::Debug for Credentials {
    /// Keys do not belong in logs.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Credentials")
    }
}

/// Which of the credentials is wrong, and how: one line.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct CredentialsError(pub String);

impl fmt::Display for CredentialsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "credentials: {}", self.0)
    }
}

impl std::error::Error for CredentialsError {}

/// Why TLS did not come about, or broke.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum TlsError {
    /// What the other side sent is not TLS, or was changed on its way.
    NotTls,
    /// Its certificate comes from no authority of ours.
    UnknownAuthority,
    /// Its certificate is out of date, or not valid yet.
    OutOfDate,
    /// Its certificate is somebody else's than the node's that was called.
    WrongName,
    /// Its certificate is of no use here, or does not belong to its key.
    BadCertificate,
    NoCertificate,
    /// It does not take our certificate.
    Refused,
    /// No version or cipher in common, or a defect of either side.
    Failed,
}

impl fmt::Display for TlsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NotTls => "it does not speak TLS",
            Self::UnknownAuthority => "its certificate is not from this cluster's authority",
            Self::OutOfDate => "its certificate has expired, or a clock is wrong",
            Self::WrongName => "its certificate is another node's",
            Self::BadCertificate => "its certificate cannot be used",
            Self::NoCertificate => "it has shown no certificate",
            Self::Refused => "it does not take our certificate",
            Self::Failed => "TLS failed",
        })
    }
}

impl From<rustls::Error> for TlsError {
    fn from(error: rustls::Error) -> Self {
        use CertificateError as Bad;
        use rustls::Error;
        match error {
            Error::InvalidCertificate(bad) => match bad {
                // The wrong signature: another authority of the same name.
                Bad::UnknownIssuer | Bad::BadSignature => Self::UnknownAuthority,
                Bad::Expired | Bad::ExpiredContext { .. } | Bad::NotValidYet | Bad::NotValidYetContext { .. } => Self::OutOfDate,
                Bad::NotValidForName | Bad::NotValidForNameContext { .. } => Self::WrongName,
                _ => Self::BadCertificate,
            },
            Error::NoCertificatesPresented => Self::NoCertificate,
            Error::InvalidMessage(_) | Error::DecryptError | Error::InappropriateMessage { .. } => Self::NotTls,
            Error::AlertReceived(
                AlertDescription::UnknownCA
                | AlertDescription::DecryptError
                | AlertDescription::BadCertificate
                | AlertDescription::CertificateExpired
                | AlertDescription::CertificateRequired
                | AlertDescription::CertificateUnknown
                | AlertDescription::UnsupportedCertificate
                | AlertDescription::AccessDenied,
            ) => Self::Refused,
            _ => Self::Failed,
        }
    }
}

/// What a process opens links with.
pub struct ClientContext {
    pub(crate) config: Arc<ClientConfig>,
    leaf: CertificateDer<'static>,
}

/// TLS for one link: with what, and which node must answer.
#[derive(Clone, Copy)]
pub struct Secured<'a> {
    pub context: &'a ClientContext,
    pub node: u64,
}

impl ClientContext {
    /// Holders take what we say in this owner's name.
    pub fn may_speak_for(&self, owner: &OwnerId) -> bool {
        Standing::of(&self.leaf, owner).is_some()
    }
}

impl Credentials {
    pub fn client_context(&self) -> Result<ClientContext, CredentialsError> {
        let (chain, key) = (self.chain()?, self.key()?);
        let leaf = chain[0].clone();
        let builder = ClientConfig::builder_with_provider(provider()).with_protocol_versions(&[&TLS13]).map_err(unusable)?;
        let builder = builder.with_root_certificates(Arc::new(self.roots()?));
        let mut config = builder.with_client_auth_cert(chain, key).map_err(unusable)?;
        // A resumed link would go by what was checked when another one was opened.
        config.resumption = Resumption::disabled();
        config.enable_sni = false;
        Ok(ClientContext { config: Arc::new(config), leaf })
    }

    /// For the holder that is `node`: others would turn away from any other certificate.
    pub(crate) fn server_config(&self, node: u64) -> Result<Arc<rustls::ServerConfig>, CredentialsError> {
        let (chain, key) = (self.chain()?, self.key()?);
        if !is_valid_for(&chain[0], node_name(node)) {
            return Err(CredentialsError(format!("chain: the certificate is not for {}", node_name(node))));
        }
        let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(self.roots()?), provider())
            .clear_root_hint_subjects()
            .build()
            .map_err(|error: VerifierBuilderError| CredentialsError(format!("roots: {error}")))?;
        let builder = rustls::ServerConfig::builder_with_provider(provider()).with_protocol_versions(&[&TLS13]);
        let builder = builder.map_err(unusable)?.with_client_cert_verifier(verifier);
        let mut config = builder.with_single_cert(chain, key).map_err(unusable)?;
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
        Ok(Arc::new(config))
    }

    fn roots(&self) -> Result<RootCertStore, CredentialsError> {
        let mut roots = RootCertStore::empty();
        for root in certificates("roots", &self.roots_pem)? {
            roots.add(root).map_err(|error| CredentialsError(format!("roots: a certificate is damaged: {error}")))?;
        }
        Ok(roots)
    }

    /// Never empty.
    fn chain(&self) -> Result<Vec<CertificateDer<'static>>, CredentialsError> {
        let chain = certificates("chain", &self.chain_pem)?;
        match ParsedCertificate::try_from(&chain[0]) {
            Ok(_) => Ok(chain),
            Err(error) => Err(CredentialsError(format!("chain: its first certificate is damaged: {error}"))),
        }
    }

    fn key(&self) -> Result<PrivateKeyDer<'static>, CredentialsError> {
        PrivateKeyDer::from_pem_slice(self.key_pem.as_bytes()).map_err(|_| {
            CredentialsError("key: it has no private key in PEM; make one with `ramster init` or `ramster join`".to_owned())
        })
    }
}

fn certificates(what: &str, pem: &str) -> Result<Vec<CertificateDer<'static>>, CredentialsError> {
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem.as_bytes()).collect();
    match found {
        Ok(found) if !found.is_empty() => Ok(found),
        Ok(_) => Err(CredentialsError(format!("{what}: no certificate in PEM is in it"))),
        Err(error) => Err(CredentialsError(format!("{what}: it is not PEM: {error:?}"))),
    }
}

fn unusable(error: rustls::Error) -> CredentialsError {
    CredentialsError(match error {
        rustls::Error::InconsistentKeys(_) => "key: it is not that of the certificate in chain".to_owned(),
        other => format!("chain or key: {other}"),
    })
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(ring::default_provider())
}

/// A node, whoever speaks for it.
fn node_name(node: u64) -> String {
    format!("node-{node}.ramster")
}

/// The processes of one family, which the node's own authority has signed for.
fn family_name(family: u64, node: u64) -> String {
    format!("c{family:016x}.{}", node_name(node))
}

/// The half of a client's number that all processes of one tree by fork share.
pub fn family_of(client: u128) -> u64 {
    (client >> 64) as u64
}

pub(crate) fn server_name(node: u64) -> Result<ServerName<'static>, TlsError> {
    ServerName::try_from(node_name(node)).map_err(|_| TlsError::Failed)
}

fn is_valid_for(certificate: &CertificateDer<'_>, name: String) -> bool {
    let (Ok(parsed), Ok(name)) = (ParsedCertificate::try_from(certificate), ServerName::try_from(name)) else { return false };
    verify_server_name(&parsed, &name).is_ok()
}

/// In whose name the one behind a certificate may speak, of the node that the certificate was found valid for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Standing {
    /// The node itself: any client of it.
    Node,
    /// One family of its clients.
    Family(u64),
}

impl Standing {
    /// None: it may not speak for this owner. The certificate's chain MUST have been verified.
    pub(crate) fn of(certificate: &CertificateDer<'_>, owner: &OwnerId) -> Option<Standing> {
        let family = family_of(owner.client);
        if is_valid_for(certificate, node_name(owner.node)) {
            Some(Standing::Node)
        } else {
            is_valid_for(certificate, family_name(family, owner.node)).then_some(Standing::Family(family))
        }
    }

    /// Whether it may give pages to this client, of its own node.
    pub(crate) fn may_share_with(self, client: u128) -> bool {
        match self {
            Standing::Node => true,
            Standing::Family(family) => family == family_of(client),
        }
    }
}

//! Who this engine is to holders, and what proves it: its owner name and the credentials of the next link. Covers the family, which all processes of a
//! tree by fork share and a certificate names; what certificates say is `peer::tls`.

use std::net::SocketAddr;
use std::sync::Arc;

use ramster_core::handle::OwnerId;
use ramster_peer::tls::{ClientContext, Secured, family_of};

use crate::engine::Engine;
use crate::options::{CredentialsPem, Options, StartError};

pub(crate) struct Identity {
    owner: OwnerId,
    /// As they came, so that the same ones again change nothing.
    pem: Option<CredentialsPem>,
    /// None: links are plain.
    context: Option<Arc<ClientContext>>,
    /// A link is or was open: a holder knows this family.
    is_known: bool,
}

/// What one link is opened with.
pub(crate) struct Passport {
    pub(crate) me: OwnerId,
    context: Option<Arc<ClientContext>>,
}

impl Passport {
    /// None: plain. `node` is who must answer.
    pub(crate) fn secured(&self, node: u64) -> Option<Secured<'_>> {
        self.context.as_deref().map(|context| Secured { context, node })
    }

    /// Plain links never leave this machine.
    pub(crate) fn may_reach(&self, address: &SocketAddr) -> bool {
        self.context.is_some() || address.ip().is_loopback()
    }
}

impl Identity {
    /// `client`: a number of its own; the family of the options takes the place of its high half.
    pub(crate) fn new(options: &Options, client: u128) -> Result<Identity, StartError> {
        let client = options.family()?.map_or(client, |family| of_family(family, client));
        let owner = OwnerId { node: options.node, client, incarnation: 1 };
        let mut identity = Identity { owner, pem: None, context: None, is_known: false };
        if let Some(pem) = &options.credentials {
            identity.take(pem, context_of(pem)?)?;
        }
        Ok(identity)
    }

    pub(crate) fn owner(&self) -> OwnerId {
        self.owner
    }

    /// The owner that we are with these credentials. An error: nobody would believe us.
    fn owner_with(&self, pem: &CredentialsPem, context: &ClientContext) -> Result<OwnerId, StartError> {
        let mut owner = self.owner;
        if let Some(family) = pem.family()?.filter(|family| *family != family_of(owner.client)) {
            if self.is_known {
                let own = family_of(owner.client);
                let why = format!(
                    "credentials: they are for the family {family:016x}, and since its first link this program is of {own:016x}"
                );
                return Err(StartError(why));
            }
            owner.client = of_family(family, owner.client);
        }
        if let Some(node) = pem.node.filter(|node| *node != owner.node) {
            if self.is_known {
                let own = owner.node;
                let why = format!("credentials: they are of node {node}, and since its first link this program is of node {own}");
                return Err(StartError(why));
            }
            owner.node = node;
        }
        if !context.may_speak_for(&owner) {
            let (node, family) = (owner.node, family_of(owner.client));
            let why =
                format!("credentials: the certificate is for neither node-{node}.ramster nor c{family:016x}.node-{node}.ramster");
            return Err(StartError(why));
        }
        Ok(owner)
    }

    /// The next link is opened with these. Returns whether we are another owner now.
    fn take(&mut self, pem: &CredentialsPem, context: ClientContext) -> Result<bool, StartError> {
        let owner = self.owner_with(pem, &context)?;
        let is_other = owner != self.owner;
        (self.owner, self.pem, self.context) = (owner, Some(pem.clone()), Some(Arc::new(context)));
        Ok(is_other)
    }
}

fn context_of(pem: &CredentialsPem) -> Result<ClientContext, StartError> {
    pem.credentials().client_context().map_err(|error| StartError(error.to_string()))
}

impl Engine {
    pub(crate) fn owner(&self) -> OwnerId {
        self.identity().lock().owner
    }

    pub(crate) fn set_owner(&self, owner: OwnerId) {
        self.identity().lock().owner = owner;
    }

    /// For a link that is opened now. Once it is open, `is_still` MUST be asked.
    pub(crate) fn passport(&self) -> Passport {
        let identity = self.identity().lock();
        Passport { me: identity.owner, context: identity.context.clone() }
    }

    /// A link is open in this name, and from here on the family stays. False: it was taken on while the link was being opened; drop the link.
    pub(crate) fn is_still(&self, passport: &Passport) -> bool {
        let mut identity = self.identity().lock();
        let is_still = identity.owner == passport.me;
        identity.is_known |= is_still;
        is_still
    }

    /// The next link is opened with these; those that are open go on. Holders that could not be reached are tried again at once.
    pub(crate) fn take_credentials(&self, pem: &CredentialsPem) -> Result<(), StartError> {
        if self.identity().lock().pem.as_ref() == Some(pem) {
            return Ok(());
        }
        // Parsing takes a millisecond, and whoever opens a link wants the lock.
        let context = context_of(pem)?;
        let is_other = self.identity().lock().take(pem, context)?;
        if is_other {
            self.seals().go_on_as(self.owner(), true);
        }
        self.holders().try_all_again();
        Ok(())
    }
}

fn of_family(family: u64, client: u128) -> u128 {
    u128::from(family) << 64 | u128::from(client as u64)
}

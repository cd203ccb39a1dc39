"""A node's credentials: read from its directory, checked, and made into what links need: plain data and TLS contexts.

Not: signing (`authority`), the files themselves (`files`), or when to read them again (`node.trust`).
"""

from __future__ import annotations

import ssl
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from ramster.errors import ConfigError
from ramster.security import authority, files, names


@dataclass(frozen=True)
class Credentials:
    """What one node is and may sign. `certificate_file` has its key and certificate, for TLS contexts."""

    node: int
    roots: str
    own: authority.Pair
    clients: authority.Pair
    certificate_file: str

    def plain(self) -> dict[str, str]:
        """For the native server and for asking peers."""
        return {
            "roots": self.roots,
            "chain": authority.pem(self.own.certificate),
            "key": authority.key_pem(self.own.key),
        }

    def for_client(self, family: str, now: datetime) -> tuple[dict[str, Any], x509.Certificate]:
        """New credentials of a client process of this machine, and their certificate. `family`: 16 hexadecimal digits."""
        key = authority.make_key()
        leaf = authority.sign_client(self.clients, key.public_key(), self.node, family, now)
        chain = authority.pem(leaf, self.clients.certificate)
        plain = {"roots": self.roots, "chain": chain, "key": authority.key_pem(key)}
        # Who it is to holders: a program that found its node by the socket does not know the node's number yet.
        return {**plain, "family": family, "node": self.node}, leaf

    def listening(self) -> ssl.SSLContext:
        """For the control port: TLS 1.3; a certificate of this cluster is checked when there is one."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.verify_mode = ssl.CERT_OPTIONAL
        # Without tickets every link shows its certificate again, and none outlives a rotation.
        context.num_tickets = 0
        return self._known(context)

    def asking(self) -> ssl.SSLContext:
        """For questions to other nodes' control ports; the name that is expected goes along with each."""
        return self._known(trusting(self.roots))

    def _known(self, context: ssl.SSLContext) -> ssl.SSLContext:
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        context.verify_flags |= ssl.VerifyFlags.VERIFY_X509_STRICT
        context.load_verify_locations(cadata=self.roots)
        context.load_cert_chain(self.certificate_file)
        return context


def trusting(roots: str) -> ssl.SSLContext:
    """A context of somebody without a certificate who trusts `roots` alone."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.verify_flags |= ssl.VerifyFlags.VERIFY_X509_STRICT
    context.load_verify_locations(cadata=roots)
    return context


def trusting_nobody() -> ssl.SSLContext:
    """For the one question whose answer is checked against a token's pin. Nothing secret may be said through it."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


def load(directory: files.Directory) -> Credentials:
    """This node's credentials. Raises ConfigError for files that are missing, damaged, readable by others, or not one set."""
    roots_text = directory.read(files.ROOTS, private=False)
    roots = _certificates(directory, files.ROOTS, roots_text)
    own = _pair(directory, files.NODE)
    clients = _pair(directory, files.CLIENTS)
    node = authority.node_named(own.certificate)
    if node is None:
        raise ConfigError(f"{directory.file(files.NODE)}: its certificate names no node; put the file back from a copy")
    for name, pair in ((files.NODE, own), (files.CLIENTS, clients)):
        if not any(_signed_by(pair.certificate, root) for root in roots):
            raise ConfigError(
                f"{directory.file(name)}: is not signed by {files.ROOTS} beside it; put both back from one copy"
            )
    wanted = f"clients of {names.of_node(node)}"
    if clients.certificate.subject.rfc4514_string() != f"CN={wanted}":
        raise ConfigError(
            f"{directory.file(files.CLIENTS)}: is another node's; put it back from a copy, or run: ramster rotate"
        )
    return Credentials(node, roots_text, own, clients, directory.file(files.NODE))


def load_authority(directory: files.Directory) -> authority.Pair:
    """The cluster's authority, where its key is. Raises ConfigError."""
    text = directory.read(files.AUTHORITY_KEY, private=True)
    key = _key(directory.file(files.AUTHORITY_KEY), text)
    for root in _certificates(directory, files.ROOTS, directory.read(files.ROOTS, private=False)):
        if root.public_key() == key.public_key():
            return authority.Pair(root, key)
    cure = "put both back from one copy"
    raise ConfigError(f"{directory.file(files.AUTHORITY_KEY)}: is not the key of {files.ROOTS} beside it; {cure}")


def write_pair(
    directory: files.Directory, name: str, certificate: x509.Certificate, key: ec.EllipticCurvePrivateKey
) -> None:
    """A key and its certificate in one private file: one rename changes both. Raises StartError."""
    directory.write(name, authority.key_pem(key) + authority.pem(certificate), private=True)


def issue_own(directory: files.Directory, signer: authority.Pair, node: int, now: datetime) -> None:
    """New keys and certificates of the node that signs, for itself. Raises StartError."""
    key, clients_key = authority.make_key(), authority.make_key()
    write_pair(directory, files.NODE, authority.sign_node(signer, key.public_key(), node, now), key)
    certificate = authority.sign_client_authority(signer, clients_key.public_key(), node, now)
    write_pair(directory, files.CLIENTS, certificate, clients_key)


def checked(
    text: object, root: x509.Certificate, key: ec.EllipticCurvePrivateKey, *, node: int | None
) -> x509.Certificate | None:
    """A certificate that another node signed for `key`; None unless it is, by `root`, and (with `node`) names that node."""
    try:
        certificate = x509.load_pem_x509_certificate(text.encode()) if isinstance(text, str) else None
    except ValueError:
        return None
    if certificate is None or not _signed_by(certificate, root) or certificate.public_key() != key.public_key():
        return None
    return certificate if node is None or authority.node_named(certificate) == node else None


def roots_of(text: str) -> list[x509.Certificate]:
    """The certificates in `text`; none when it has none that can be read."""
    try:
        return x509.load_pem_x509_certificates(text.encode())
    except ValueError:
        return []


def summary(credentials: Credentials) -> dict[str, Any]:
    """For `ramster status`: when this node's certificates end, in seconds since 1970."""
    return {
        "certificate_expires_s": int(credentials.own.certificate.not_valid_after_utc.timestamp()),
        "clients_expire_s": int(credentials.clients.certificate.not_valid_after_utc.timestamp()),
    }


def _pair(directory: files.Directory, name: str) -> authority.Pair:
    text = directory.read(name, private=True)
    certificate = _certificates(directory, name, text)[0]
    key = _key(directory.file(name), text)
    if certificate.public_key() != key.public_key():
        raise ConfigError(f"{directory.file(name)}: its key is not its certificate's; put the file back from a copy")
    return authority.Pair(certificate, key)


def _certificates(directory: files.Directory, name: str, text: str) -> list[x509.Certificate]:
    found = roots_of(text)
    if not found:
        raise ConfigError(f"{directory.file(name)}: has no certificate; put the file back from a copy")
    return found


def _key(path: str, text: str) -> ec.EllipticCurvePrivateKey:
    try:
        key = serialization.load_pem_private_key(text.encode(), None)
    except (ValueError, TypeError):
        key = None
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise ConfigError(f"{path}: has no P-256 key; put the file back from a copy")
    return key


def _signed_by(certificate: x509.Certificate, root: x509.Certificate) -> bool:
    try:
        certificate.verify_directly_issued_by(root)
    except Exception:  # wrong issuer, wrong key type, wrong signature: all mean no
        return False
    return True

"""Makes the cluster's authority and signs certificates. Covers keys, names, what each certificate may do, and for how long.

Not: files (`files`), or who is entitled to a certificate (`node.admission`). The time comes in; keys and serial numbers are
from the operating system, through `cryptography`.

Nothing in a request is taken over but its public key: every name is the signer's.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from ramster.errors import RefusedError
from ramster.security import names

# The authority outlives the machines that it was made on; changing it means joining again.
AUTHORITY_DAYS = 3650
# A node renews at half of it, so it may be switched off for half a year.
NODE_DAYS = 365
# A client process gets a new one from its node after a day; what is stolen from it is of no use after two.
CLIENT_DAYS = 2
# Clocks of machines differ, by a time zone at worst; a certificate is good at once on one that is a day behind.
BACKDATED_DAYS = 1
# A request for a P-256 key takes about 400 bytes.
REQUEST_MAX_BYTES = 4096


@dataclass(frozen=True)
class Pair:
    """A certificate with its private key: what can sign or speak."""

    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey


def make_key() -> ec.EllipticCurvePrivateKey:
    """A new P-256 key."""
    return ec.generate_private_key(ec.SECP256R1())


def key_pem(key: ec.EllipticCurvePrivateKey) -> str:
    """`key` as an unencrypted PKCS #8 text; whoever writes it to a file makes that 0600."""
    private, plain = serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    return key.private_bytes(serialization.Encoding.PEM, private, plain).decode()


def pem(*certificates: x509.Certificate) -> str:
    """Certificates as one text, in this order."""
    return "".join(found.public_bytes(serialization.Encoding.PEM).decode() for found in certificates)


def pin(certificate: x509.Certificate) -> bytes:
    """The SHA-256 (32 bytes) of a certificate's public key info: what a token pins."""
    info = certificate.public_key().public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    return hashlib.sha256(info).digest()


def make_authority(now: datetime) -> Pair:
    """A new cluster's authority. It may sign nodes and, below them, one more level: their clients' authorities."""
    key = make_key()
    digest = x509.SubjectKeyIdentifier.from_public_key(key.public_key()).digest
    name = f"ramster cluster {digest[:4].hex()}"
    builder = _builder(name, key.public_key(), now, AUTHORITY_DAYS).issuer_name(_subject(name))
    builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=1), critical=True)
    builder = builder.add_extension(_usage(signs=True), critical=True)
    builder = builder.add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(key.public_key()), False)
    return Pair(builder.sign(key, hashes.SHA256()), key)


def sign_node(authority: Pair, public_key: ec.EllipticCurvePublicKey, node: int, now: datetime) -> x509.Certificate:
    """A node's own certificate: for the links that it takes and those that it opens."""
    usages = [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
    return _sign_leaf(authority, public_key, names.of_node(node), now, NODE_DAYS, usages)


def sign_client(
    clients: Pair, public_key: ec.EllipticCurvePublicKey, node: int, family: str, now: datetime
) -> x509.Certificate:
    """A client process's certificate, signed by the client authority of its node. It cannot take links."""
    name = names.of_client(node, family)
    return _sign_leaf(clients, public_key, name, now, CLIENT_DAYS, [ExtendedKeyUsageOID.CLIENT_AUTH])


def sign_client_authority(
    authority: Pair, public_key: ec.EllipticCurvePublicKey, node: int, now: datetime
) -> x509.Certificate:
    """The authority of one node for its client processes: no other names, and no authority below it."""
    builder = _builder(f"clients of {names.of_node(node)}", public_key, now, NODE_DAYS, authority)
    builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
    builder = builder.add_extension(_usage(signs=True), critical=True)
    subtree = [x509.DNSName(names.of_node(node))]
    builder = builder.add_extension(x509.NameConstraints(subtree, excluded_subtrees=None), critical=True)
    return builder.sign(authority.key, hashes.SHA256())


def make_request(key: ec.EllipticCurvePrivateKey) -> str:
    """A certificate request: proof that whoever asks has the key. It names nothing."""
    request = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([])).sign(key, hashes.SHA256())
    return request.public_bytes(serialization.Encoding.PEM).decode()


def read_request(text: object) -> ec.EllipticCurvePublicKey:
    """The public key of a request. Raises RefusedError unless it is a whole, signed one for a P-256 key."""
    if not isinstance(text, str) or len(text) > REQUEST_MAX_BYTES:
        raise RefusedError("the certificate request is missing or too long")
    try:
        request = x509.load_pem_x509_csr(text.encode())
        key, signed = request.public_key(), request.is_signature_valid
    except Exception:  # the parser has many ways to say that bytes are no request
        raise RefusedError("the certificate request cannot be read") from None
    if not signed or not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP256R1):
        raise RefusedError("the certificate request is not for a P-256 key that its sender has")
    return key


def node_named(certificate: x509.Certificate) -> int | None:
    """The node that a certificate names; None when it is no node's."""
    try:
        found = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return None
    dns = found.get_values_for_type(x509.DNSName)
    return names.node_of(dns[0]) if len(dns) == 1 else None


def half_life(certificate: x509.Certificate) -> datetime:
    """When it is to be renewed: half-way from its signing (not from its backdated beginning) to its end."""
    signed = certificate.not_valid_before_utc + timedelta(days=BACKDATED_DAYS)
    return signed + (certificate.not_valid_after_utc - signed) / 2


def utc_now() -> datetime:
    """The one clock of this package: callers pass it on."""
    return datetime.now(UTC)


def _sign_leaf(
    signer: Pair,
    public_key: ec.EllipticCurvePublicKey,
    name: str,
    now: datetime,
    days: int,
    usages: list[x509.ObjectIdentifier],
) -> x509.Certificate:
    builder = _builder(name, public_key, now, days, signer)
    builder = builder.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
    builder = builder.add_extension(_usage(signs=False), critical=True)
    builder = builder.add_extension(x509.ExtendedKeyUsage(usages), critical=False)
    builder = builder.add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
    return builder.sign(signer.key, hashes.SHA256())


def _builder(
    name: str, public_key: ec.EllipticCurvePublicKey, now: datetime, days: int, signer: Pair | None = None
) -> x509.CertificateBuilder:
    """What all certificates have. None lives longer than its signer."""
    end = now + timedelta(days=days)
    builder = x509.CertificateBuilder(subject_name=_subject(name), public_key=public_key)
    builder = builder.serial_number(x509.random_serial_number())
    builder = builder.not_valid_before(now - timedelta(days=BACKDATED_DAYS))
    builder = builder.add_extension(x509.SubjectKeyIdentifier.from_public_key(public_key), critical=False)
    if signer is not None:
        end = min(end, signer.certificate.not_valid_after_utc)
        builder = builder.issuer_name(signer.certificate.subject)
        identifier = signer.certificate.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
        above = x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(identifier)
        builder = builder.add_extension(above, critical=False)
    return builder.not_valid_after(end)


def _subject(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])


def _usage(*, signs: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs, content_commitment=False, key_encipherment=False, data_encipherment=False,
        key_agreement=False, key_cert_sign=signs, crl_sign=signs, encipher_only=False, decipher_only=False,
    )  # fmt: skip

"""Certificates: what each may do and for how long, shown by real handshakes where a handshake decides."""

from __future__ import annotations

import ssl
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID

from ramster.errors import RefusedError
from ramster.security import authority, names

NOW = datetime(2030, 6, 1, 12, 0, tzinfo=UTC)
FAMILY = "0123456789abcdef"


def now() -> datetime:
    return authority.utc_now().replace(microsecond=0)


def shake_hands(server: ssl.SSLContext, client: ssl.SSLContext, name: str) -> None:
    """A whole TLS handshake in memory, with a byte each way. Raises ssl.SSLError of whichever side says no."""
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    sides = [
        server.wrap_bio(to_server, to_client, server_side=True),
        client.wrap_bio(to_client, to_server, server_hostname=name),
    ]
    done = [False, False]
    for _ in range(20):
        for index, side in enumerate(sides):
            if not done[index]:
                try:
                    side.do_handshake()
                    done[index] = True
                except ssl.SSLWantReadError:
                    pass
        if all(done):
            break
    assert all(done)
    for writer, reader in (sides, sides[::-1]):
        writer.write(b"x")
        assert reader.read(1) == b"x"


class Cluster:
    def __init__(self, tmp_path: Path, when: datetime | None = None) -> None:
        self.tmp_path = tmp_path
        self.now = when or now()
        self.root = authority.make_authority(self.now)

    def clients(self, node: int) -> authority.Pair:
        key = authority.make_key()
        return authority.Pair(authority.sign_client_authority(self.root, key.public_key(), node, self.now), key)

    def context(
        self, key: ec.EllipticCurvePrivateKey, *chain: x509.Certificate, server: bool = False
    ) -> ssl.SSLContext:
        path = self.tmp_path / f"{len(list(self.tmp_path.iterdir()))}.pem"
        path.write_text(authority.key_pem(key) + authority.pem(*chain))
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER if server else ssl.PROTOCOL_TLS_CLIENT)
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        context.verify_flags |= ssl.VerifyFlags.VERIFY_X509_STRICT
        context.verify_mode = ssl.CERT_REQUIRED
        context.load_verify_locations(cadata=authority.pem(self.root.certificate))
        context.load_cert_chain(path)
        return context

    def node(self, node: int, *, server: bool = False) -> ssl.SSLContext:
        key = authority.make_key()
        return self.context(key, authority.sign_node(self.root, key.public_key(), node, self.now), server=server)

    def client(self, clients: authority.Pair, node: int, *, server: bool = False) -> ssl.SSLContext:
        key = authority.make_key()
        leaf = authority.sign_client(clients, key.public_key(), node, FAMILY, self.now)
        return self.context(key, leaf, clients.certificate, server=server)


def test_every_certificate_has_its_names_its_uses_and_its_time() -> None:
    root = authority.make_authority(NOW)
    key = authority.make_key()
    node = authority.sign_node(root, key.public_key(), 7, NOW)
    pair = authority.Pair(authority.sign_client_authority(root, key.public_key(), 7, NOW), key)
    client = authority.sign_client(pair, key.public_key(), 7, FAMILY, NOW)
    for certificate, days in ((root.certificate, 3650), (node, 365), (pair.certificate, 365), (client, 2)):
        assert certificate.not_valid_before_utc == NOW - timedelta(days=1)
        assert certificate.not_valid_after_utc == NOW + timedelta(days=days)
    for certificate, name in ((node, "node-7.ramster"), (client, f"c{FAMILY}.node-7.ramster")):
        found = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        assert found.get_values_for_type(x509.DNSName) == [name]
    uses = [set(found.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value) for found in (node, client)]
    assert uses == [
        {ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH},
        {ExtendedKeyUsageOID.CLIENT_AUTH},
    ]
    constraints = pair.certificate.extensions.get_extension_for_class(x509.NameConstraints)
    assert constraints.critical
    assert constraints.value.permitted_subtrees == [x509.DNSName("node-7.ramster")]
    lengths = [
        found.extensions.get_extension_for_class(x509.BasicConstraints).value.path_length
        for found in (root.certificate, pair.certificate)
    ]
    assert lengths == [1, 0]
    assert len({found.serial_number for found in (root.certificate, node, pair.certificate, client)}) == 4
    assert authority.node_named(node) == 7
    assert authority.node_named(client) is None
    assert authority.half_life(client) == NOW + timedelta(days=1)


def test_nothing_outlives_its_signer() -> None:
    root = authority.make_authority(NOW)
    late = NOW + timedelta(days=3600)
    assert authority.sign_node(root, root.key.public_key(), 1, late).not_valid_after_utc == NOW + timedelta(days=3650)


def test_nodes_and_client_processes_of_one_cluster_shake_hands(tmp_path: Path) -> None:
    cluster = Cluster(tmp_path)
    server = cluster.node(1, server=True)
    shake_hands(server, cluster.node(2), names.of_node(1))
    shake_hands(server, cluster.client(cluster.clients(2), 2), names.of_node(1))


def test_a_node_is_not_taken_for_another(tmp_path: Path) -> None:
    cluster = Cluster(tmp_path)
    with pytest.raises(ssl.SSLCertVerificationError):
        shake_hands(cluster.node(3, server=True), cluster.node(2), names.of_node(1))


def test_another_clusters_certificate_opens_nothing(tmp_path: Path) -> None:
    cluster, other = Cluster(tmp_path), Cluster(tmp_path)
    stranger = other.node(2)
    stranger.load_verify_locations(cadata=authority.pem(cluster.root.certificate))
    with pytest.raises(ssl.SSLError):
        shake_hands(cluster.node(1, server=True), stranger, names.of_node(1))


def test_a_nodes_client_authority_cannot_name_another_nodes_clients_or_nodes(tmp_path: Path) -> None:
    cluster = Cluster(tmp_path)
    server = cluster.node(1, server=True)
    with pytest.raises(ssl.SSLError, match="permitted subtree"):
        shake_hands(server, cluster.client(cluster.clients(2), 3), names.of_node(1))
    clients, key = cluster.clients(2), authority.make_key()
    forged = authority.sign_node(clients, key.public_key(), 3, cluster.now)
    with pytest.raises(ssl.SSLError, match="permitted subtree"):
        shake_hands(server, cluster.context(key, forged, clients.certificate), names.of_node(1))
    context = cluster.context(key, forged, clients.certificate, server=True)
    with pytest.raises(ssl.SSLError, match="permitted subtree"):
        shake_hands(context, cluster.node(1), names.of_node(3))


def test_a_nodes_client_authority_cannot_make_another_authority(tmp_path: Path) -> None:
    cluster = Cluster(tmp_path)
    first, key = cluster.clients(2), authority.make_key()
    # Under another subject: one that is issued to its own name is a mere change of key, which path lengths do not count.
    second = authority.Pair(authority.sign_client_authority(first, key.public_key(), 3, cluster.now), key)
    leaf = authority.sign_client(second, key.public_key(), 2, FAMILY, cluster.now)
    with pytest.raises(ssl.SSLError, match=r"(?i)path length"):
        shake_hands(
            cluster.node(1, server=True),
            cluster.context(key, leaf, second.certificate, first.certificate),
            names.of_node(1),
        )


def test_a_client_process_cannot_pose_as_a_holder(tmp_path: Path) -> None:
    cluster = Cluster(tmp_path)
    pretender = cluster.client(cluster.clients(2), 2, server=True)
    with pytest.raises(ssl.SSLCertVerificationError):
        shake_hands(pretender, cluster.node(1), names.of_client(2, FAMILY))


@pytest.mark.parametrize("days", [-400, 3])
def test_a_certificate_opens_nothing_before_and_after_its_time(tmp_path: Path, days: int) -> None:
    cluster = Cluster(tmp_path)
    server = cluster.node(1, server=True)
    cluster.now += timedelta(days=days)
    with pytest.raises(ssl.SSLError, match=r"expired|not yet valid"):
        shake_hands(server, cluster.node(2), names.of_node(1))


def test_a_request_gives_its_key_and_nothing_else() -> None:
    key = authority.make_key()
    assert authority.read_request(authority.make_request(key)) == key.public_key()


def _request_of(key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey) -> str:
    built = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([])).sign(key, hashes.SHA256())
    return built.public_bytes(serialization.Encoding.PEM).decode()


def _broken_request() -> str:
    """Of a key that the sender does not have: the signature is another one's."""
    key, other = authority.make_key(), authority.make_key()
    raw = x509.load_pem_x509_csr(authority.make_request(key).encode()).public_bytes(serialization.Encoding.DER)
    point = serialization.PublicFormat.UncompressedPoint
    mine = key.public_key().public_bytes(serialization.Encoding.X962, point)
    theirs = other.public_key().public_bytes(serialization.Encoding.X962, point)
    assert mine in raw
    swapped = x509.load_der_x509_csr(raw.replace(mine, theirs))
    return swapped.public_bytes(serialization.Encoding.PEM).decode()


@pytest.mark.parametrize(
    "text",
    [
        None,
        17,
        "",
        "-----BEGIN CERTIFICATE REQUEST-----\nAAAA\n-----END CERTIFICATE REQUEST-----\n",
        "x" * 5000,
        _request_of(rsa.generate_private_key(65537, 2048)),
        _request_of(ec.generate_private_key(ec.SECP384R1())),
        _broken_request(),
    ],
)
def test_what_is_no_request_for_a_key_of_its_sender_is_refused(text: object) -> None:
    with pytest.raises(RefusedError):
        authority.read_request(text)


@pytest.mark.parametrize("name", ["node-0.ramster", "node-01.ramster", "node-1.ramster.x", "xnode-1.ramster", "node-1", "",
                                  f"node-{1 << 63}.ramster", "c0123456789abcdef.node-1.ramster", "node-1.ramster\n"])  # fmt: skip
def test_what_is_no_nodes_name_names_none(name: str) -> None:
    assert names.node_of(name) is None

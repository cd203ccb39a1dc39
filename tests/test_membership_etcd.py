"""Membership by etcd: the contract with real nodes and a real etcd; etcd away and back, compaction, namesakes, TLS, passwords."""

from __future__ import annotations

import asyncio
import random
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import membership_contract as contract
from conftest import NodeUnderTest, need, wait_for
from etcd_cluster import EtcdUnderTest, Registered
from ramster.cluster.membership import Announcement, Timing
from ramster.cluster.registry import Registry, encode
from ramster.config.cluster import ClusterTable
from ramster.errors import RefusedError
from ramster.node.heartbeats import now_ms
from ramster.node.registration import Registration
from ramster.transport import lines
from ramster.transport.etcd import Entry, Etcd


@pytest.fixture(scope="module")
def etcd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EtcdUnderTest]:
    found = EtcdUnderTest(tmp_path_factory.mktemp("etcd"))
    yield found
    found.stop()


@pytest.fixture
def own_etcd(tmp_path: Path) -> Iterator[EtcdUnderTest]:
    """For tests that stop it."""
    (tmp_path / "etcd").mkdir()
    found = EtcdUnderTest(tmp_path / "etcd")
    yield found
    found.stop()


@pytest.fixture
def cluster(tmp_path: Path, etcd: EtcdUnderTest, request: pytest.FixtureRequest) -> Iterator[Registered]:
    found = Registered(tmp_path, etcd, f"t{abs(hash(request.node.nodeid))}")
    yield found
    found.end()


@pytest.mark.parametrize("scenario", contract.SCENARIOS, ids=lambda scenario: scenario.__name__)
def test_etcd(scenario: Callable[[contract.Cluster, random.Random], None], cluster: Registered) -> None:
    seed = random.randrange(1 << 32)
    print("seed", seed)
    scenario(cluster, random.Random(seed))


def test_etcd_a_random_history_ends_with_one_view(cluster: Registered) -> None:
    seed = random.randrange(1 << 32)
    print("seed", seed)
    contract.a_random_history_ends_with_one_view(cluster, random.Random(seed), steps=5)


def etcdctl(etcd: EtcdUnderTest, *arguments: str) -> str:
    need("etcdctl")
    answer = subprocess.run(
        ["etcdctl", "--endpoints", etcd.url, *arguments], capture_output=True, text=True, timeout=20,
        env={"ETCDCTL_API": "3", "PATH": "/usr/bin:/bin:/usr/sbin"},
    )  # fmt: skip
    assert answer.returncode == 0, answer.stderr
    return answer.stdout


@pytest.mark.parametrize("wiped", [False, True])
def test_while_etcd_is_away_the_last_view_stays_and_quorum_goes_and_both_are_back_with_it(
    tmp_path: Path, own_etcd: EtcdUnderTest, wiped: bool
) -> None:
    cluster = Registered(tmp_path, own_etcd, "away")
    try:
        running = contract.all_up(cluster)
        own_etcd.stop()
        assert cluster.until(lambda: not any(cluster.quorum(node).held for node in running), cluster.cut_ms)
        cluster.advance(cluster.death_ms)
        assert contract.agree(cluster, running), contract.story(cluster, running)
        if wiped:
            own_etcd.wipe()
        own_etcd.start()
        gone = cluster.until(lambda: not contract.agree(cluster, running), 500)
        assert wiped or not gone, contract.story(cluster, running)
        contract.must(
            cluster,
            lambda: contract.agree(cluster, running) and all(cluster.quorum(node).held for node in running),
            cluster.converge_ms,
            running,
            "registered again",
        )
        for node in running:
            assert " is down" not in cluster.nodes[node].log.read_text()
    finally:
        cluster.end()


def test_a_view_survives_compaction_of_what_it_has_not_seen_yet(cluster: Registered) -> None:
    running = contract.all_up(cluster)
    cluster.cut(3, "both")
    cluster.advance(500)
    for number in range(20):
        etcdctl(cluster.etcd, "put", f"/ramster/{cluster.name}/other", str(number))
    cluster.kill(2)
    cluster.start(2)
    revision = etcdctl(cluster.etcd, "get", "/", "--write-out=fields").split('"Revision" : ')[1].split("\n")[0]
    etcdctl(cluster.etcd, "compact", revision)
    cluster.heal()
    contract.must(cluster, lambda: contract.agree(cluster, running), cluster.converge_ms, running, "all is seen")


def test_two_nodes_that_register_with_one_id_are_neither_used_and_both_are_told(cluster: Registered) -> None:
    running = contract.all_up(cluster)
    twin_folder = cluster.folder / "twin"
    twin_folder.mkdir()
    twin = Registered(twin_folder, cluster.etcd, cluster.name)
    try:
        twin.start(3)

        def seen() -> bool:
            return all("two nodes claim id 3" in cluster.view(node)[3].reason for node in (1, 2))

        def told() -> bool:
            return all("claims this node's id 3" in one.quorum(3).reason for one in (cluster, twin))

        wait_for(seen, "the claim is seen")
        assert contract.sees_down(cluster, 1, 3)
        assert contract.sees_down(cluster, 2, 3)
        wait_for(told, "both are told")
        assert not cluster.quorum(3).held
        assert not twin.quorum(3).held
        twin.stop(3)
        contract.must(cluster, lambda: contract.agree(cluster, running), 30_000, running, "one is left and used")
    finally:
        twin.end()


def certificates(folder: Path) -> dict[str, str]:
    """An authority, and one certificate for etcd and one for nodes. etcd's gateway calls etcd itself with etcd's own, so
    that must be good for both sides. With authentication on, the gateway refuses a client whose certificate has a CN."""
    need("openssl")
    made = {}

    def run(*arguments: str) -> None:
        subprocess.run(["openssl", *arguments], check=True, capture_output=True, timeout=60, cwd=folder)

    run("req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2",
        "-keyout", "ca.key", "-out", "ca.pem", "-subj", "/CN=test authority")  # fmt: skip
    for name in ("etcd", "node"):
        (folder / f"{name}.ext").write_text(
            "subjectAltName=IP:127.0.0.1,DNS:localhost\nextendedKeyUsage=serverAuth,clientAuth\n"
        )
        run("req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes",
            "-keyout", f"{name}.key", "-out", f"{name}.csr", "-subj", f"/O={name}")  # fmt: skip
        run("x509", "-req", "-in", f"{name}.csr", "-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial",
            "-days", "2", "-extfile", f"{name}.ext", "-out", f"{name}.pem")  # fmt: skip
    for file in ("ca.pem", "etcd.pem", "etcd.key", "node.pem", "node.key"):
        made[file] = str(folder / file)
    return made


def test_etcd_with_tls_certificates_on_both_sides_and_a_password(tmp_path: Path) -> None:
    folder = tmp_path / "tls"
    folder.mkdir()
    files = certificates(folder)
    flags = ("--cert-file", files["etcd.pem"], "--key-file", files["etcd.key"], "--client-cert-auth",
             "--trusted-ca-file", files["ca.pem"])  # fmt: skip
    etcd = EtcdUnderTest(folder, scheme="https", flags=flags)
    nodes: list[NodeUnderTest] = []
    (folder / "password").write_text("secret\n")

    def control(*arguments: str) -> None:
        tls = ("--cacert", files["ca.pem"], "--cert", files["node.pem"], "--key", files["node.key"])
        etcdctl(etcd, *tls, *arguments)

    def start(number: int, user: str = "ramster", key: bool = True) -> NodeUnderTest:
        more = (
            f'\n[cluster]\nmembership = "etcd"\ndeath_ms = 3000\netcd = ["{etcd.url}"]\netcd_ca = "{files["ca.pem"]}"\n'
            f'etcd_user = "{user}"\netcd_password_file = "{folder}/password"\n'
        )
        if key:
            more += f'etcd_cert = "{files["node.pem"]}"\netcd_key = "{files["node.key"]}"\n'
        node = NodeUnderTest(tmp_path, number, "16M", {}, "127.0.0.1:0", more)
        nodes.append(node)
        node.wait_up()
        return node

    def quorum(node: NodeUnderTest) -> dict[str, object]:
        found: dict[str, object] = lines.ask(str(node.socket), {"type": "status"}, deadline_ms=5000)["quorum"]
        return found

    try:
        for command in (
            ("user", "add", "root:root"), ("user", "grant-role", "root", "root"), ("role", "add", "nodes"),
            ("role", "grant-permission", "--prefix=true", "nodes", "readwrite", "/ramster/"),
            ("user", "add", "ramster:secret"), ("user", "grant-role", "ramster", "nodes"), ("auth", "enable"),
        ):  # fmt: skip
            control(*command)
        first, second = start(1), start(2)
        wait_for(lambda: len(first.status()["nodes"]) == 2, "the other node is seen")
        assert first.status()["nodes"][1]["state"] == "up"
        stranger, unknown = start(3, key=False), start(4, user="nobody")
        wait_for(lambda: "authentication failed" in str(quorum(unknown)["reason"]), "a wrong user is told so")
        wait_for(lambda: "etcd: " in str(quorum(stranger)["reason"]), "a node without a certificate is told so")
        assert not quorum(unknown)["held"]
        assert not quorum(stranger)["held"]
        assert quorum(second)["held"]
        assert {found["id"] for found in second.status()["nodes"]} == {1, 2}
        assert "secret" not in first.log.read_text()
    finally:
        for node in nodes:
            node.kill()
        etcd.stop()


def test_a_node_without_etcd_starts_says_so_and_joins_when_etcd_comes(
    tmp_path: Path, start_node: Callable[..., NodeUnderTest]
) -> None:
    need("etcd")
    folder = tmp_path / "later"
    folder.mkdir()
    etcd = EtcdUnderTest(folder, running=False)
    more = f'\n[cluster]\nmembership = "etcd"\ndeath_ms = 3000\netcd = ["{etcd.url}"]\n'
    node = start_node(1, more=more)
    try:
        wait_for(lambda: "etcd: " in node.status()["quorum"]["reason"], "it says what is missing")
        assert not node.status()["quorum"]["held"]
        etcd.start()
        wait_for(lambda: node.status()["quorum"]["held"], "it has joined")
    finally:
        etcd.stop()


@pytest.mark.parametrize(
    "body",
    [
        b"", b"not JSON", b"[]", b"{}", b'{"header":{"revision":"x"}}', b'{"header":7,"kvs":7}',
        b'{"header":{"revision":"1"},"kvs":[{"key":"*"}]}', b'{"result":{"events":[7]}}', b'{"result":7}\n{"result":{}}\n',
        b'{"code":"x"}', b'{"a":' * 20_000,
    ],
)  # fmt: skip
@pytest.mark.parametrize("status", [200, 400, 503])
def test_whatever_answers_for_etcd_is_an_error_of_etcd_and_ends_nothing_else(body: bytes, status: int) -> None:
    """An HTTP server of three lines, which is no etcd."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        head = f"HTTP/1.1 {status} OK\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n"
        writer.write(head.encode() + body)
        writer.close()

    async def ask() -> None:
        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        store = Etcd(ClusterTable(membership="etcd", etcd=(f"http://127.0.0.1:{port}",)), deadline_ms=5000)
        try:
            for question in (store.grant(2), store.keep("1"), store.get("k"), store.list("/p/"), follow(store)):
                try:
                    await question
                except (OSError, RefusedError) as error:
                    told.append(str(error))
        finally:
            await store.close()
            server.close()

    told: list[str] = []

    async def follow(store: Etcd) -> None:
        async for batch in store.watch("/p/", 1, within_ms=2000):
            assert batch.events == []

    asyncio.run(ask())
    assert len(told) >= 2
    assert all(words.startswith("etcd: ") for words in told)


def test_an_entry_that_ends_between_looking_and_writing_is_no_namesake(etcd: EtcdUnderTest) -> None:
    """Found by 200 registrations on a busy machine: lapsed leases were taken for nodes with the same id."""

    class Racing(Etcd):
        raced = False

        async def get(self, key: str) -> Entry | None:
            found = await super().get(key)
            if found is not None and not self.raced:
                self.raced = True
                await self.delete(key)
            return found

    async def run() -> None:
        own = Announcement(1, "10.0.0.1:1", 5, 1600, 1600)
        membership = Registry(own, cluster="race", timing=Timing(3000), now_ms=now_ms())
        store = Racing(ClusterTable(membership="etcd", etcd=(etcd.url,)), deadline_ms=5000)
        await store.put(membership.own_key, encode(own), await store.grant(5))
        running = asyncio.create_task(Registration(membership, store).run())
        try:
            async with asyncio.timeout(20):
                while not membership.quorum().held:
                    await asyncio.sleep(0.05)
            entries, _ = await store.list(membership.prefix)
            assert store.raced
            assert [entry.key for entry in entries] == [membership.own_key]
        finally:
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)

    asyncio.run(run())

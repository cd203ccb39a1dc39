"""Metrics: the table of names, sums that never go down, and what a node serves, read by Prometheus's own parser."""

from __future__ import annotations

import random
import re
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as read_openmetrics
from prometheus_client.parser import text_string_to_metric_families as read_text

from conftest import RAMSTER, NodeUnderTest, ramster, under_ramster, wait_for
from ports import free_ports
from ramster import _native
from ramster.config import file
from ramster.errors import ConfigError
from ramster.metrics import names
from ramster.metrics.totals import BLOCKS_MAX, Totals
from test_node import WORK
from test_three_nodes import Machine, do

DOCUMENT = Path(__file__).parent.parent / "docs" / "operations.md"


def test_the_document_has_the_same_table() -> None:
    rows = re.findall(r"^\| `(ramster_\w+)` \| (\w+) \| ([\w, ]*) ?\| (.+) \|$", DOCUMENT.read_text(), re.MULTILINE)
    documented = {name: (kind, labels.strip(), meaning) for name, kind, labels, meaning in rows}
    assert documented == {
        metric.name: (metric.kind, ", ".join(metric.labels), metric.meaning) for metric in names.METRICS
    }


def test_every_counter_and_histogram_of_programs_is_a_metric_and_names_are_as_prometheus_wants_them() -> None:
    fields = [name for metric in names.METRICS if metric.kind != names.HISTOGRAM for name in metric.fields]
    assert sorted(fields) == sorted(set(_native.STAT_FIELDS) - names.NO_COUNTERS), "see metrics/names.py"
    timed = [name for metric in names.METRICS if metric.kind == names.HISTOGRAM for name in metric.fields]
    assert sorted(timed) == sorted(_native.HISTOGRAMS)
    assert len(names.BY_NAME) == len(names.METRICS)
    for metric in names.METRICS:
        assert re.fullmatch(r"ramster_[a-z_]+", metric.name)
        assert metric.name.endswith("_total") == (metric.kind == names.COUNTER)
        assert metric.kind != names.HISTOGRAM or metric.name.endswith("_seconds")


def test_sums_count_each_block_once_and_never_go_down() -> None:
    seed = random.randrange(1 << 32)
    print("seed", seed)
    made = random.Random(seed)
    totals, before = Totals(), 0
    truth: dict[str, int] = {}
    for _ in range(3000):
        block = f"b{made.randrange(40)}"
        # Processes of one tree speak of one block, some of them late.
        truth[block] = truth.get(block, 0) + made.randrange(5)
        said = truth[block] - made.choice([0, 0, 1]) * made.randrange(3)
        totals.hear(block, {"puts": truth[block]}, {"put": [truth[block]] * 25})
        totals.hear(block, {"puts": max(said, 0)}, {"put": [max(said, 0)] * 25})
        counters, histograms = totals.sums()
        assert counters["puts"] == sum(truth.values()) >= before
        assert histograms["put"] == [counters["puts"]] * 25
        before = counters["puts"]


def test_blocks_that_are_told_apart_are_bounded_and_their_counts_stay() -> None:
    totals = Totals()
    for number in range(BLOCKS_MAX + 500):
        totals.hear(f"b{number}", {"puts": 2}, {"put": [1, 2]})
        totals.hear("lives", {"puts": number}, {})
    assert totals.sums() == (
        {"puts": 2 * (BLOCKS_MAX + 500) + BLOCKS_MAX + 499},
        {"put": [BLOCKS_MAX + 500, 2 * (BLOCKS_MAX + 500)]},
    )
    assert len(totals._blocks) <= BLOCKS_MAX


@pytest.mark.parametrize("address", ["0.0.0.0:9146", "192.0.2.1:9146", "[::]:9146", "127.0.0.1:0", "9146"])
def test_metrics_are_for_this_machine_alone(address: str) -> None:
    text = f'[node]\nid = 1\nlisten = "127.0.0.1:7946"\noffer = "1G"\nsocket = "/tmp/x"\nmetrics = "{address}"\n'
    with pytest.raises(ConfigError, match=r"n\.toml:6: node\.metrics") as caught:
        file.parse(text, path="n.toml", ram_bytes=1 << 30)
    assert "\n" not in str(caught.value)


def test_a_port_that_is_taken_is_one_line(start_node: Callable[..., NodeUnderTest], tmp_path: Path) -> None:
    (port,) = free_ports(1)
    _with_metrics(start_node, 1, port)
    config = tmp_path / "other.toml"
    config.write_text(f'[node]\nid = 2\nlisten = "127.0.0.1:0"\noffer = "1M"\nsocket = "{tmp_path}/o.sock"\n'
                      f'metrics = "127.0.0.1:{port}"\n')  # fmt: skip
    answer = ramster("node", "--config", str(config), timeout=30)
    assert (answer.returncode, answer.stderr.count(b"\n")) == (1, 1)
    assert b"node.metrics: cannot listen on 127.0.0.1" in answer.stderr
    assert not (tmp_path / "o.sock").exists()


def _with_metrics(
    start_node: Callable[..., NodeUnderTest], number: int, port: int, peers: dict[int, str] | None = None
) -> NodeUnderTest:
    return start_node(number, offer="256M", peers=peers, metrics=f"127.0.0.1:{port}")


def scrape(port: int, accept: str = "") -> tuple[str, str]:
    request = urllib.request.Request(f"http://127.0.0.1:{port}/metrics", headers={"Accept": accept} if accept else {})
    with urllib.request.urlopen(request, timeout=20) as answer:
        return answer.headers["Content-Type"], answer.read().decode()


Samples = dict[tuple[str, tuple[str, ...]], float]


def samples(port: int) -> Samples:
    return {
        (sample.name, tuple(sample.labels.values())): sample.value
        for family in read_text(scrape(port)[1])
        for sample in family.samples
    }


def test_what_is_served_is_the_table_in_both_formats(start_node: Callable[..., NodeUnderTest]) -> None:
    (port,) = free_ports(1)
    _with_metrics(start_node, 4, port)
    kind, text = scrape(port)
    assert kind.startswith("text/plain; version=")
    found = {family.name: family for family in read_text(text)}
    assert set(found) == {metric.name.removesuffix("_total") for metric in names.METRICS}
    for metric in names.METRICS:
        family = found[metric.name.removesuffix("_total")]
        assert (family.type, family.documentation) == (metric.kind, metric.meaning)
        for sample in family.samples:
            assert set(sample.labels) - {"le"} == set(metric.labels), metric.name
    kind, text = scrape(port, "application/openmetrics-text; version=1.0.0")
    assert kind.startswith("application/openmetrics-text")
    assert {family.name for family in read_openmetrics(text)} == set(found)  # type: ignore[no-untyped-call]
    with pytest.raises(urllib.error.HTTPError, match="404"):
        urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=20)


# 64 MiB that compress to little: its pages stay here.
FITS = """
import random
blocks = [random.randbytes(64) * 1024 for _ in range(1000)]
for _ in range(4):
    random.shuffle(blocks)
    assert sum(block.count(0) >= 0 for block in blocks) == 1000
"""


def test_metrics_of_a_program_on_both_sides_while_it_runs_and_after_it_has_ended(
    start_node: Callable[..., NodeUnderTest],
) -> None:
    home_port, holder_port = free_ports(2)
    holder = _with_metrics(start_node, 2, holder_port)
    home = _with_metrics(start_node, 1, home_port, {2: holder.address})
    under_ramster([sys.executable, "-c", FITS], local="16M", flags=("--node", str(home.socket)), check=True)
    code = WORK + "print('done', flush=True); sys.stdin.read()"
    process = subprocess.Popen(
        [*RAMSTER, "run", "--local", "16M", "--node", str(home.socket), "--", sys.executable, "-c", code],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    )  # fmt: skip
    try:
        assert process.stdout is not None
        process.stdout.readline()
        assert process.stdout.readline() == b"done\n"

        def at_rest() -> tuple[dict[str, Any], Samples] | None:
            """What the program says and the metrics between two reports that are alike."""
            (before,) = home.status()["clients"]
            seen = samples(home_port)
            (after,) = home.status()["clients"]
            return (after["stats"], seen) if before["stats"] == after["stats"] else None

        stats, seen = wait_for(at_rest, "the program rests")
        _agree(stats, seen)
        assert seen["ramster_clients", ()] == 1
        assert seen["ramster_clients_bytes", ("remote",)] == stats["bytes_remote"]
        assert seen["ramster_members", ("up",)] == 1
        assert 0 < seen["ramster_member_latency_seconds", ("2",)] < 5
        there = samples(holder_port)
        assert (
            there["ramster_node_foreign_bytes", ("2", "0")] == holder.status()["nodes"][0]["foreign_bytes"] > 40 << 20
        )
        assert there["ramster_node_foreign_pages", ("2", "0")] > 10_000
        assert there["ramster_foreign_puts_stored_total", ()] >= stats["pages_remotified"]
        assert there["ramster_foreign_gets_total", ("hit",)] >= stats["pages_localified"] > 0
        process.communicate(b"", timeout=60)
        assert process.returncode == 0
    finally:
        if process.poll() is None:
            process.kill()
            process.wait(20)
    wait_for(lambda: samples(home_port)["ramster_clients", ()] == 0, "the program has ended")
    after = samples(home_port)
    down = [
        key for key, value in seen.items() if key[0].endswith(("_total", "_bucket", "_count")) and after[key] < value
    ]
    assert down == []
    _agree(stats, after)
    # Each heartbeat is a link that ends so.
    assert samples(holder_port)["ramster_page_links_ended_total", ("peer_closed",)] > 0


def _agree(stats: dict[str, int], seen: Samples) -> None:
    """The metrics are at least what the program has said, and the histograms what they should be."""
    for metric in names.METRICS:
        if metric.kind == names.COUNTER:
            for name, labels in metric.fields.items():
                assert seen[metric.name, labels] >= stats[name], name
    remote = seen["ramster_get_seconds_count", ("remote",)]
    assert remote >= stats["faults_remote"] > 0
    local = seen["ramster_get_seconds_count", ("local",)]
    assert 0 < local < seen["ramster_gets_total", ()] / 4
    assert seen["ramster_put_seconds_count", ()] >= stats["puts"] * 0.9
    for name, labels in (("get", ("remote",)), ("get", ("local",)), ("put", ())):
        mean_s = seen[f"ramster_{name}_seconds_sum", labels] / seen[f"ramster_{name}_seconds_count", labels]
        assert 1e-7 < mean_s < 1


def test_a_node_with_certificates_tells_of_them_and_of_its_control_port(tmp_path: Path) -> None:
    (port,) = free_ports(1)
    machine = Machine(tmp_path / "m")
    do("init", *machine.flags())
    config = machine.dir / "node.toml"
    config.write_text(config.read_text().replace("# metrics = ", "metrics = ").replace("9146", str(port)))
    machine.start()
    try:
        machine.wait_said("serves pages on")
        no_tls(machine.control)
        event = "ramster_control_events_total", ("ended_bad_tls",)
        seen = wait_for(lambda: (found := samples(port)).get(event) and found, "a stranger is counted")
        ends = machine.status()["cluster"]
        assert seen["ramster_certificate_end_timestamp_seconds", ("node",)] == ends["certificate_expires_s"]
        assert seen["ramster_certificate_end_timestamp_seconds", ("clients",)] == ends["clients_expire_s"]
        assert seen["ramster_quorum_held", ()] == 1
        assert seen["ramster_node_limit_bytes", ("1",)] == 256 << 20
    finally:
        machine.stop()


def no_tls(address: str) -> None:
    host, _, port = address.rpartition(":")
    with socket.create_connection((host, int(port)), 10) as link:
        link.sendall(b"GET / HTTP/1.0\r\n\r\n")
        link.recv(1000)

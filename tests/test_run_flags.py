"""The flags of `ramster run`, and the options and environment that they lead to."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from ramster.cli import run
from ramster.doors import launch
from ramster.doors.options import Wishes, build
from ramster.errors import ConfigError, UsageError


def test_flags_are_read_with_and_without_equals_up_to_the_program() -> None:
    assert run.parse(["--local", "1G", "--spill=/tmp", "--", "sort", "--local"]) == (
        {"local": "1G", "spill": "/tmp"},
        ["sort", "--local"],
    )
    assert run.parse(["--local=1G", "sort", "--", "-k1"]) == ({"local": "1G"}, ["sort", "--", "-k1"])


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--lokal", "1G", "--", "x"], "did you mean --local?"),
        (["-l", "x"], "unknown flag '-l'"),
        (["--local"], "--local needs a value"),
        (["--local", "--", "x"], "--local needs a value"),
        (["--local=", "--", "x"], "--local needs a value"),
        (["--local", "1G"], "no program given"),
        ([], "no program given"),
        (["--"], "no program given"),
    ],
)
def test_a_bad_flag_is_told_with_the_cure(arguments: list[str], words: str) -> None:
    with pytest.raises(UsageError, match=words.replace("?", r"\?")):
        run.parse(arguments)


def test_peers_become_numeric_addresses_and_flags_win_over_the_file(tmp_path: Path) -> None:
    config = tmp_path / "r.toml"
    config.write_text('[run]\nlocal = "1G"\nmalloc = "system"\n[[peers]]\nid = 9\naddress = "127.0.0.1:9"\n')
    options = build(Wishes(config=str(config), local="64M"), program="p")
    assert options["local_bytes"] == 64 << 20
    assert options["malloc"] == "system"
    assert options["peers"] == [{"node": 9, "address": "127.0.0.1:9"}]
    options = build(Wishes(config=str(config), peers="localhost:5,[::1]:6"), program="p")
    assert options["local_bytes"] == 1 << 30
    assert [peer["address"].rpartition(":")[2] for peer in options["peers"]] == ["5", "6"]
    assert options["peers"][1]["address"] == "[::1]:6"


@pytest.mark.parametrize(
    ("wishes", "words"),
    [
        (Wishes(local="x"), "--local: 'x'"),
        (Wishes(local="64M", resident="65M"), "--resident: 65M is more than --local 64M"),
        (Wishes(peers="127.0.0.1"), "--peers: .*host:port"),
        (Wishes(peers="127.0.0.1:0"), "--peers: .*port 0"),
        (Wishes(peers=","), "--peers: no address"),
        (Wishes(spill="/nowhere"), "--spill: /nowhere is not a directory"),
        (Wishes(durability="copies=4"), "--durability: 'copies=4' is not known; write auto, none, disk, copies=1"),
        (Wishes(durability="ec=2"), r"--durability: 'ec=2' is no code; write ec=K\+M .* as in ec=2\+1"),
        (Wishes(durability="ec=1+1"), "--durability: 'ec=1.1' is no code"),
        (Wishes(durability="ec=5+2"), "--durability: 'ec=5.2' is no code; .* 6 together at most"),
        (Wishes(durability="ec=2+1x"), "--durability: 'ec=2.1x' is no code"),
        (Wishes(durability="disk"), "--durability: disk needs a directory; name it with --spill"),
        (Wishes(node="/nowhere"), "--node: /nowhere does not exist"),
        (Wishes(node="/etc/passwd"), "--node: /etc/passwd is not a socket"),
        (Wishes(malloc="tc"), "--malloc: 'tc'"),
    ],
)
def test_a_bad_value_names_its_flag(wishes: Wishes, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        build(wishes, program="p")


def test_the_environment_is_the_original_one_with_the_library_in_front() -> None:
    code = (
        "import json; from ramster.doors import launch; "
        "print(json.dumps(launch.environment({'local_bytes': 1}, library='/l/_preload.so')))"
    )
    start = {
        "PATH": "/usr/bin:/bin",
        "LD_PRELOAD": "",
        "X": "a=b\nc",
        "PYTHONPATH": str(Path(launch.__file__).parents[2]),
    }
    found = json.loads(
        subprocess.run([sys.executable, "-c", code], env=start, capture_output=True, timeout=60, check=True).stdout
    )
    assert found.pop("LD_PRELOAD") == "/l/_preload.so"
    assert json.loads(found.pop("RAMSTER_OPTIONS")) == {"local_bytes": 1}
    # Python sets LC_CTYPE for itself in such an environment; the program must not see that.
    assert found == {key: value for key, value in start.items() if key != "LD_PRELOAD"}


def test_the_way_to_the_program_imports_nothing_slow() -> None:
    code = (
        "import sys, ramster.cli.main, ramster.cli.run, ramster.doors.supervise; "
        "print([m for m in ('typer', 'rich', 'numpy', 'asyncio', 'tomllib', 'socket', 'ramster._native') if m in sys.modules])"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, timeout=60, check=True)
    assert found.stdout.strip() == b"[]"


def test_durability_reaches_the_engine_as_it_reads_it(tmp_path: Path) -> None:
    for text, option in [
        (None, "auto"), ("none", "none"), ("copies=2", {"copies": 2}), ("disk", "disk"), ("ec=4+2", {"ec": [4, 2]}),
    ]:  # fmt: skip
        options = build(Wishes(local="64M", spill=str(tmp_path), durability=text), program="p")
        assert options["durability"] == option

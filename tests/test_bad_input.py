"""Every bad input: one line that names the flag or file and the cure, exit code 2 or 1, nothing half done."""

import os
import shutil
import socket
import subprocess
from pathlib import Path

import pytest

from conftest import RAMSTER, ramster

BAD = [
    (["run", "--local", "x", "--", "true"], 2, ["--local", "8G"]),
    (["run", "--local", "0", "--", "true"], 2, ["--local", "8G"]),
    (["run", "--local", "200%", "--", "true"], 2, ["--local", "100%"]),
    (["run", "--resident", "2G", "--local", "1G", "--", "true"], 2, ["--resident", "--local"]),
    (["run", "--peers", "nohost", "--", "true"], 2, ["--peers", "host:port"]),
    (["run", "--peers", "host.invalid:1", "--", "true"], 2, ["--peers", "host.invalid"]),
    (["run", "--spill", "/nowhere", "--", "true"], 2, ["--spill", "/nowhere", "mkdir"]),
    (["run", "--node", "/nowhere", "--", "true"], 2, ["--node", "/nowhere", "ramster node"]),
    (["run", "--config", "/nowhere.toml", "--", "true"], 2, ["/nowhere.toml", "cannot be read"]),
    (["run", "--malloc", "best", "--", "true"], 2, ["--malloc", "auto or system"]),
    (["run", "--stats", "/nowhere/s", "--", "true"], 2, ["--stats", "/nowhere/s"]),
    (["run", "--stats", "/tmp", "--", "true"], 2, ["--stats", "/tmp"]),
    (["run", "--locale", "1G", "--", "true"], 2, ["--local"]),
    (["run", "--local", "1G"], 2, ["no program"]),
    (["run", "--", "no-such-program-here"], 2, ["no-such-program-here", "PATH"]),
    (["run", "--", "/no/such/program"], 2, ["/no/such/program", "check the path"]),
    (["run", "--", "/etc"], 2, ["/etc", "directory"]),
    (["run", "--", "/etc/passwd"], 2, ["/etc/passwd", "not executable"]),
    (["run", "--", ""], 2, ["empty"]),
    (["node"], 2, ["--config"]),
    (["node", "--config", "/nowhere.toml"], 2, ["/nowhere.toml"]),
    (["status", "--node", "/nowhere"], 1, ["/nowhere", "ramster node --config"]),
    (["status", "--config", "/nowhere.toml"], 2, ["/nowhere.toml"]),
    (["demo", "--size", "x"], 2, ["--size"]),
    (["demo", "--size", "1M"], 2, ["--size", "8M"]),
    (["frobnicate"], 2, ["frobnicate", "--help"]),
    (["--frobnicate"], 2, ["--frobnicate", "--help"]),
    (["version", "extra"], 2, ["extra", "--help"]),
]


def one_line(answer: subprocess.CompletedProcess[bytes], code: int, words: list[str]) -> None:
    message = answer.stderr.decode()
    assert answer.returncode == code, message
    assert answer.stdout == b""
    assert message.startswith("ramster: ")
    assert message.count("\n") == 1, message
    for word in words:
        assert word in message


@pytest.mark.parametrize(("arguments", "code", "words"), BAD, ids=[" ".join(case[0]) for case in BAD])
def test_bad_input_gets_one_line_and_its_exit_code(arguments: list[str], code: int, words: list[str]) -> None:
    one_line(ramster(*arguments), code, words)


def node_file(tmp_path: Path, **changes: str) -> Path:
    table = {"id": "1", "listen": '"127.0.0.1:0"', "offer": '"64M"', "socket": f'"{tmp_path}/n.sock"', **changes}
    path = tmp_path / "node.toml"
    path.write_text("[node]\n" + "".join(f"{key} = {value}\n" for key, value in table.items()))
    return path


def test_an_unknown_key_is_told_with_its_line_and_the_nearest_one(tmp_path: Path) -> None:
    path = node_file(tmp_path, offers='"1G"')
    one_line(ramster("node", "--config", str(path)), 2, [f"{path}:6", "'offers'", "'offer'"])


def test_a_port_in_use_is_told_and_leaves_no_socket_behind(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        path = node_file(tmp_path, listen=f'"127.0.0.1:{port}"')
        one_line(ramster("node", "--config", str(path)), 1, [str(path), str(port), "choose a free port"])
    assert not (tmp_path / "n.sock").exists()


def test_a_socket_path_that_is_taken_by_a_file_is_told_and_the_file_stays(tmp_path: Path) -> None:
    (tmp_path / "n.sock").write_text("precious")
    one_line(ramster("node", "--config", str(node_file(tmp_path))), 1, ["n.sock", "not a socket"])
    assert (tmp_path / "n.sock").read_text() == "precious"


def test_a_second_node_on_the_same_socket_is_told(tmp_path: Path) -> None:
    path = tmp_path / "n.sock"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()
        one_line(ramster("node", "--config", str(node_file(tmp_path))), 1, ["n.sock", "already listens"])


def test_a_listener_that_others_could_reach_is_refused(tmp_path: Path) -> None:
    path = node_file(tmp_path, listen='"0.0.0.0:7946"')
    one_line(ramster("node", "--config", str(path)), 2, [f"{path}:3", "other machines"])


def test_no_permission_for_userfaultfd_is_told_before_the_program_starts() -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can give up the permission for a test")
    if shutil.which("setpriv") is None:
        pytest.skip("setpriv is not installed; .ci/run installs util-linux")
    # Without capabilities and as another user, neither the device nor the system call is allowed by default.
    drop = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "--inh-caps=-all", "--bounding-set=-all"]
    probe = subprocess.run(
        [*drop, "sh", "-c", f"test -x {RAMSTER[0]} && test -r {Path(__file__)}"], timeout=20, check=False
    )
    if probe.returncode:
        pytest.skip("another user cannot read this checkout")
    if Path("/proc/sys/vm/unprivileged_userfaultfd").read_text().strip() != "0":
        pytest.skip("this machine allows userfaultfd to everybody")
    answer = subprocess.run(
        [*drop, *RAMSTER, "run", "--", "echo", "started"],
        capture_output=True,
        timeout=60,
        stdin=subprocess.DEVNULL,
        check=False,
    )
    one_line(answer, 1, ["userfaultfd", "ramster doctor"])

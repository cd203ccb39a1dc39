"""The small verbs: help, version, doctor."""

import json

from conftest import ramster


def test_help_lists_every_verb() -> None:
    text = ramster("--help").stdout.decode()
    for verb in ("run", "node", "status", "init", "token", "join", "rotate", "doctor", "demo", "version",
                 "nodes", "leave", "forget", "set"):  # fmt: skip
        assert verb in text
    assert ramster().returncode == 2
    assert b"--local SIZE" in ramster("run", "--help").stdout


def test_version_is_one_word_or_one_object() -> None:
    from ramster import __version__

    assert ramster("version").stdout.decode().strip() == __version__
    assert json.loads(ramster("version", "--json").stdout) == {"version": __version__}


def test_doctor_says_what_is_there_and_exits_accordingly() -> None:
    answer = ramster("doctor", "--json")
    found = json.loads(answer.stdout)
    assert answer.returncode == (0 if found["ok"] else 1)
    names = [check["name"] for check in found["checks"]]
    assert names[0] == "userfaultfd"
    assert {"preload library", "memory"} <= set(names)
    for check in found["checks"]:
        assert check["state"] in ("ok", "slow", "missing")
        assert check["state"] == "ok" or check["cure"]
    assert b"userfaultfd" in ramster("doctor").stdout

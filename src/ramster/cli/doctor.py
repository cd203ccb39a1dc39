"""`ramster doctor`: what this machine allows, what is missing, and the command that grants it. Changes nothing."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path

from ramster import _native
from ramster.config import machine, places, sizes
from ramster.doors import launch
from ramster.errors import RamsterError
from ramster.policy import split

# Below this the page tables of a large program, whose regions come and go, run out of mappings.
MAPS_ENOUGH = 65530


@dataclass(frozen=True)
class Check:
    """One finding. `state`: `ok`, `slow` (works, with something used instead or a cost), or `missing` (does not work)."""

    name: str
    state: str
    found: str
    cure: str = ""


def main(*, as_json: bool) -> int:
    """Prints the findings; returns 1 when something is missing."""
    checks = examine()
    healthy = all(check.state != "missing" for check in checks)
    if as_json:
        print(json.dumps({"ok": healthy, "checks": [asdict(check) for check in checks]}, indent=2))
    else:
        _show(checks)
    return 0 if healthy else 1


def examine() -> list[Check]:
    """All findings, the needed ones first."""
    found = _native.probe()
    return [*_userfaultfd(found), _preload(), _memory(), _halt_poll(found.get("halt_poll_ns")), _maps(), _node()]


def _userfaultfd(found: dict[str, object]) -> list[Check]:
    reason = launch.userfaultfd_refusal(found)
    if reason is not None:
        what, _, cure = reason.partition(": ")
        return [Check("userfaultfd", "missing", what, cure)]
    checks = [Check("userfaultfd", "ok", f"kernel {found['kernel']}")]
    instead = {
        "has_move": ("UFFDIO_MOVE (Linux 6.8)", "pages are copied in and out"),
        "has_poison": ("UFFDIO_POISON (Linux 6.6)", "a lost page is replaced by a mapping that answers with SIGBUS"),
        "has_pagemap_scan": ("PAGEMAP_SCAN (Linux 6.7)", "resident pages are read from pagemap entry by entry"),
    }
    for key, (feature, used) in instead.items():
        if found.get(key):
            checks.append(Check(feature, "ok", "the kernel has it"))
        else:
            checks.append(Check(feature, "slow", f"the kernel does not have it: {used}", "a newer kernel"))
    return checks


def _preload() -> Check:
    try:
        return Check("preload library", "ok", launch.preload_library())
    except RamsterError as error:
        what, _, cure = str(error).partition("; ")
        return Check("preload library", "missing", what, cure)


def _memory() -> Check:
    memory = machine.memory()
    limit = f", memory cgroup limit {sizes.show(memory.limit_bytes)}" if memory.limit_bytes else ""
    auto = split.auto(memory.room_bytes).local_bytes
    found = f"{sizes.show(memory.total_bytes)} RAM, {sizes.show(memory.available_bytes)} available{limit}"
    return Check("memory", "ok", f"{found}; --local auto is {sizes.show(auto)}")


def _halt_poll(poll_ns: object) -> Check:
    name = "idle virtual cores"
    if poll_ns is None:
        return Check(name, "ok", "no haltpoll governor here")
    if poll_ns == 0:
        cure = "echo 200000 | sudo tee /sys/module/haltpoll/parameters/guest_halt_poll_ns"
        return Check(name, "slow", "halt at once, and waking one costs a fault some 50 us", cure)
    return Check(name, "ok", f"poll for {poll_ns} ns before they halt")


def _maps() -> Check:
    try:
        count = int(Path("/proc/sys/vm/max_map_count").read_text())
    except (OSError, ValueError):
        return Check("mappings", "ok", "no limit can be read")
    if count < MAPS_ENOUGH:
        return Check("mappings", "slow", f"a process may have {count}", f"sysctl vm.max_map_count={MAPS_ENOUGH}")
    return Check("mappings", "ok", f"a process may have {count}")


def _node() -> Check:
    path = places.default_socket()
    if os.path.exists(path):
        return Check("local node", "ok", path)
    return Check("local node", "ok", "none; programs work alone, with compressed memory")


def _show(checks: list[Check]) -> None:
    from rich.console import Console

    console = Console(highlight=False, soft_wrap=True)
    colours = {"ok": "green", "slow": "yellow", "missing": "red"}
    for check in checks:
        console.print(f"[{colours[check.state]}]{check.state:>8}[/]  {check.name}: {check.found}")
        if check.cure:
            console.print(f"{'':>10}cure: {check.cure}", markup=False)

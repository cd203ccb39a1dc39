"""What the machine has, from made-up /proc and /sys trees."""

from pathlib import Path

from ramster.config import machine

GIB = 1 << 30


def tree(root: Path, files: dict[str, str]) -> str:
    for name, content in {"proc/meminfo": "MemTotal: 16777216 kB\nMemAvailable: 8388608 kB\n", **files}.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    return str(root)


def test_without_a_cgroup_the_room_is_what_is_available(tmp_path: Path) -> None:
    assert machine.memory(tree(tmp_path, {})) == machine.Memory(16 * GIB, 8 * GIB, None, 8 * GIB)


def test_the_tightest_cgroup_v2_on_the_way_up_counts(tmp_path: Path) -> None:
    root = tree(
        tmp_path,
        {
            "proc/self/cgroup": "0::/a/b\n",
            "sys/fs/cgroup/a/b/memory.max": "max\n",
            "sys/fs/cgroup/a/memory.max": str(2 * GIB),
            "sys/fs/cgroup/a/memory.current": str(GIB),
            "sys/fs/cgroup/a/memory.stat": f"anon 5\ninactive_file {GIB // 2}\n",
        },
    )
    found = machine.memory(root)
    assert (found.limit_bytes, found.room_bytes, found.ram_bytes) == (2 * GIB, 3 * GIB // 2, 2 * GIB)


def test_cgroup_v1_counts_and_its_huge_number_means_no_limit(tmp_path: Path) -> None:
    root = tree(
        tmp_path,
        {
            "proc/self/cgroup": "5:cpu,cpuacct:/x\n4:memory:/x\n0::/\n",
            "sys/fs/cgroup/memory/x/memory.limit_in_bytes": str(GIB),
            "sys/fs/cgroup/memory/x/memory.usage_in_bytes": str(GIB // 4),
            "sys/fs/cgroup/memory/memory.limit_in_bytes": "9223372036854771712",
        },
    )
    found = machine.memory(root)
    assert (found.limit_bytes, found.room_bytes) == (GIB, 3 * GIB // 4)


def test_in_a_container_whose_path_is_the_hosts_the_mounts_top_counts(tmp_path: Path) -> None:
    root = tree(
        tmp_path,
        {
            "proc/self/cgroup": "0::/../docker/abc\n",
            "sys/fs/cgroup/memory.max": str(GIB),
            "sys/fs/cgroup/memory.current": "0",
        },
    )
    assert machine.memory(root).limit_bytes == GIB


def test_a_full_cgroup_has_no_room_and_never_less(tmp_path: Path) -> None:
    root = tree(
        tmp_path,
        {"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/memory.max": "4096", "sys/fs/cgroup/memory.current": "8192"},
    )
    assert machine.memory(root).room_bytes == 0


def test_this_machine_has_some() -> None:
    found = machine.memory()
    assert 0 < found.room_bytes <= found.available_bytes <= found.total_bytes


def test_pressure_is_the_machines_or_the_cgroups_whichever_is_more(tmp_path: Path) -> None:
    assert machine.pressure_percent(tree(tmp_path, {})) == 0.0
    root = tree(
        tmp_path,
        {
            "proc/pressure/memory": "some avg10=1.25 avg60=0.00 total=1\nfull avg10=9.00 avg60=0.00 total=1\n",
            "proc/self/cgroup": "0::/a\n",
            "sys/fs/cgroup/a/memory.pressure": "some avg10=7.50 avg60=0.00 avg300=0.00 total=1\n",
        },
    )
    assert machine.pressure_percent(root) == 7.5
    (tmp_path / "sys/fs/cgroup/a/memory.pressure").write_text("some avg10=x")
    assert machine.pressure_percent(root) == 1.25

"""How many bytes a page costs: our store against zram's, the same pages, the same codec.

Covers making the pages, asking both and printing the ratios; needs root for zram. Usage:
``python -m bench.density [--mib N] [--json FILE]``
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import struct
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

PAGE_BYTES = 4096
ROOT = Path(__file__).resolve().parent.parent
ZRAM_CONTROL = Path("/sys/class/zram-control")
ENDINGS = (".py", ".h", ".txt", ".c", ".rs", ".md", ".json", ".html")


def text_pages(size_bytes: int) -> bytes:
    """Real text of this machine, file after file."""
    pages = bytearray()
    for folder, _, names in os.walk("/usr"):
        for name in sorted(names):
            if name.endswith(ENDINGS):
                with contextlib.suppress(OSError):
                    pages += Path(folder, name).read_bytes()
        if len(pages) >= size_bytes:
            break
    return bytes(pages[:size_bytes])


def heap_pages(size_bytes: int) -> bytes:
    """The heap of a CPython that has built a dict of tuples, read from its own memory."""
    program = """
import sys
want = int(sys.argv[1])
kept = {}
mib = want >> 20
for number in range(mib * 4000):
    kept[f"key:{number}"] = (number, str(number * 7), float(number) / 3)
out = sys.stdout.buffer
left = want
with open("/proc/self/maps") as maps, open("/proc/self/mem", "rb", buffering=0) as memory:
    for line in list(maps):
        fields = line.split()
        start, end = (int(part, 16) for part in fields[0].split("-"))
        private = fields[1] == "rw-p" and (len(fields) == 5 or fields[5] == "[heap]")
        if private and end - start >= 1 << 18 and left > 0:
            memory.seek(start)
            left -= out.write(memory.read(min(end - start, left)))
"""
    made = subprocess.run([sys.executable, "-c", program, str(size_bytes)], capture_output=True, check=True)
    return made.stdout


def half_pages(size_bytes: int) -> bytes:
    """Each page half random bytes, half one letter: what the fault benchmarks use."""
    draw = random.Random(1)
    return b"".join(draw.randbytes(PAGE_BYTES // 2) + b"r" * (PAGE_BYTES // 2) for _ in range(size_bytes // PAGE_BYTES))


def float_pages(size_bytes: int) -> bytes:
    """float64 prices, rounded to two decimals."""
    draw = random.Random(2)
    return b"".join(struct.pack("<d", round(draw.uniform(1, 1000), 2)) for _ in range(size_bytes // 8))


def mixed_pages(size_bytes: int) -> bytes:
    """Pages of every compressibility: 0 to 4096 random bytes, the rest one letter."""
    draw = random.Random(3)
    pages = []
    for _ in range(size_bytes // PAGE_BYTES):
        length = draw.randrange(PAGE_BYTES + 1)
        pages.append(draw.randbytes(length) + b"x" * (PAGE_BYTES - length))
    return b"".join(pages)


SAMPLES: dict[str, Callable[[int], bytes]] = {
    "text under /usr": text_pages,
    "Python heap": heap_pages,
    "half random": half_pages,
    "float64, 2 decimals": float_pages,
    "random share 0 to 1": mixed_pages,
}


@contextlib.contextmanager
def zram_device(size_bytes: int) -> Iterator[str]:
    """A zram of our own with lz4, gone afterwards."""
    number = (ZRAM_CONTROL / "hot_add").read_text().strip()
    name = f"zram{number}"
    try:
        (Path("/sys/block") / name / "comp_algorithm").write_text("lz4")
        (Path("/sys/block") / name / "disksize").write_text(str(size_bytes))
        yield name
    finally:
        (Path("/sys/block") / name / "reset").write_text("1")
        (ZRAM_CONTROL / "hot_remove").write_text(number)


def zram_used_bytes(sample: Path) -> int:
    with zram_device(sample.stat().st_size) as name:
        command = ["dd", f"if={sample}", f"of=/dev/{name}", "bs=1M", "oflag=direct", "status=none"]
        subprocess.run(command, check=True)
        return int((Path("/sys/block") / name / "mm_stat").read_text().split()[2])


def store_facts(sample: Path) -> dict[str, float]:
    command = ["cargo", "run", "--release", "--quiet", "-p", "ramster-core", "--example", "density", "--", str(sample)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    facts: dict[str, float] = json.loads(done.stdout)
    return facts


def compare(make: Callable[[int], bytes], size_bytes: int, folder: Path) -> dict[str, float]:
    sample = folder / "pages"
    pages = make(size_bytes)
    sample.write_bytes(pages[: len(pages) // PAGE_BYTES * PAGE_BYTES])
    facts = store_facts(sample)
    facts["zram_used_bytes"] = zram_used_bytes(sample)
    facts["ratio"] = facts["used_bytes"] / facts["zram_used_bytes"]
    facts["ratio_with_metadata"] = (facts["used_bytes"] + facts["metadata_bytes"]) / facts["zram_used_bytes"]
    return facts


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--mib", type=int, default=64, help="MiB of pages per sample")
    parser.add_argument("--json", type=Path, help="file for the facts")
    arguments = parser.parse_args()
    if os.geteuid() != 0 or not ZRAM_CONTROL.exists():
        print("density: needs root and zram (modprobe zram), to ask zram the same", file=sys.stderr)
        return 1
    results = {}
    columns = ("ours B/page", "zram B/page", "ratio", "index B/page", "ratio with it", "pack ns", "put ns", "get ns")
    print(f"{'pages':22}" + "".join(f"{column:>14}" for column in columns))
    with tempfile.TemporaryDirectory(prefix="ramster-density-") as folder:
        for name, make in SAMPLES.items():
            facts = compare(make, arguments.mib << 20, Path(folder))
            results[name] = facts
            count = facts["pages"]
            row = [f"{facts[field] / count:.0f}" for field in ("used_bytes", "zram_used_bytes")]
            row += [f"{facts['ratio']:.3f}", f"{facts['metadata_bytes'] / count:.1f}"]
            row += [f"{facts['ratio_with_metadata']:.3f}"]
            row += [f"{facts[field]:.0f}" for field in ("pack_ns", "put_again_ns", "get_ns")]
            print(f"{name:22}" + "".join(f"{cell:>14}" for cell in row))
    if arguments.json:
        arguments.json.write_text(json.dumps(results, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""`ramster.configure`: once, before the first array, with errors that name the argument."""

import subprocess
import sys

from conftest import under_ramster


def run(code: str) -> None:
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, timeout=60, check=False)
    assert (answer.returncode, answer.stderr) == (0, b""), answer.stderr.decode()


def test_a_bad_argument_is_named_and_changes_nothing() -> None:
    run("""
import ramster
bad = ({"local": "x"}, "local"), ({"peers": "a"}, "peers"), ({"spill": "/nowhere"}, "spill"), ({"local": 3}, "local")
for arguments, word in bad:
    try: ramster.configure(**arguments)
    except ramster.ConfigError as error: assert str(error).startswith(word), error
    else: raise SystemExit(word)
assert ramster.stats()["faults"] == 0
ramster.configure(local="64M")
ramster.empty(10)
""")


def test_it_is_too_late_after_the_first_array() -> None:
    run("""
import ramster
ramster.configure(local=64 << 20)
a = ramster.empty(1000)
try: ramster.configure(local="1G")
except ramster.ConfigError as error: assert "before the first" in str(error)
else: raise SystemExit("accepted")
""")


def test_under_ramster_run_the_flags_decide() -> None:
    code = """
import ramster
try: ramster.configure(local="1G")
except ramster.ConfigError as error: assert "ramster run" in str(error)
else: raise SystemExit("accepted")
"""
    answer = under_ramster([sys.executable, "-c", code])
    assert (answer.returncode, answer.stderr) == (0, b"")


def test_importing_ramster_does_not_import_numpy() -> None:
    run("import ramster, sys; assert 'numpy' not in sys.modules; assert 'empty' in dir(ramster)")

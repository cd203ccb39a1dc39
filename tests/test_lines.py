"""JSON lines: what comes in is untrusted."""

import asyncio
import socket
import threading
from pathlib import Path

import pytest

from ramster.errors import RefusedError
from ramster.transport import lines


def test_a_message_survives_the_way() -> None:
    message = {"type": "stats", "faults": 3, "text": "a\nb"}
    line = lines.encode(message)
    assert line.count(b"\n") == 1
    assert lines.decode(line) == message


@pytest.mark.parametrize("line", [b"\n", b"[]\n", b"3\n", b'"x"\n', b"{\n", b"\xff\xfe\n", b"[" * 100_000 + b"\n"])
def test_anything_but_an_object_is_refused(line: bytes) -> None:
    with pytest.raises(RefusedError):
        lines.decode(line)


def test_an_overlong_line_is_refused_and_half_a_line_is_the_end() -> None:
    async def feed(data: bytes) -> object:
        reader = asyncio.StreamReader(limit=1024)
        reader.feed_data(data)
        reader.feed_eof()
        return await lines.receive(reader)

    with pytest.raises(RefusedError):
        asyncio.run(feed(b"x" * 5000 + b"\n"))
    assert asyncio.run(feed(b'{"type":')) is None


def test_a_silent_node_is_given_up_at_the_deadline(tmp_path: Path) -> None:
    path = str(tmp_path / "s")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen()
        held: list[socket.socket] = []
        threading.Thread(target=lambda: held.append(listener.accept()[0]), daemon=True).start()
        with pytest.raises(TimeoutError):
            lines.ask(path, {"type": "status"}, deadline_ms=200)
        for link in held:
            link.close()

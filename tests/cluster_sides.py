"""Clusters without pages for the tests: directories, and control ports that run in a thread of the test's own process."""

from __future__ import annotations

import asyncio
import socket
import ssl
import threading
from pathlib import Path
from typing import Any

from ports import free_ports
from ramster.config import addresses, file
from ramster.node import joining
from ramster.node.cluster_side import ClusterSide, Hooks
from ramster.security import authority, credentials, files, names, tokens
from ramster.transport import lines

DEADLINE_S = 20.0


def place(folder: Path) -> joining.Place:
    listen, control = free_ports(2)
    return joining.Place(
        str(folder), f"127.0.0.1:{listen}", f"127.0.0.1:{control}", "64M", str(folder.parent / f"{folder.name}.sock")
    )


def make_cluster(folder: Path, node: int = 1) -> joining.Place:
    """A new cluster's first node in `folder`."""
    found = place(folder)
    joining.make_cluster(found, node)
    return found


def make_token(folder: Path, *, expires: str = "1h") -> str:
    from conftest import ramster

    answer = ramster("token", "--dir", str(folder), "--expires", expires)
    assert answer.returncode == 0, answer.stderr
    return answer.stdout.decode().strip()


class Side:
    """The control port of the node in a directory, running until `stop`. `context` is that of the node itself."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.learnt: list[tuple[int, str]] = []
        self.changes: list[dict[str, str]] = []
        self.forgotten: list[tuple[int, int | None]] = []
        self.leaving: list[tuple[int, bool]] = []
        self._ready = threading.Event()
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()
        assert self._ready.wait(DEADLINE_S)
        if self._error is not None:
            raise self._error

    def _run(self) -> None:
        async def main() -> None:
            found = file.read(str(self.folder / "node.toml"), ram_bytes=16 << 30)
            assert found.node is not None
            self.loop = asyncio.get_running_loop()
            self.stopping = asyncio.Event()
            try:
                self.side = ClusterSide(found)
                hooks = Hooks(
                    learn=lambda node, address: self.learnt.append((node, address)),
                    status=lambda: {"type": "status", "nodes": []},
                    changed=self.changes.append,
                    forget=lambda node, life: self.forgotten.append((node, life)),
                    leaving=lambda node, is_leaving: self.leaving.append((node, is_leaving)),
                )
                self.side.open(found.node.listen, hooks)
            except BaseException as error:
                self._error = error
                raise
            finally:
                self._ready.set()
            await self.stopping.wait()
            self.side.check()
            await self.side.close()

        asyncio.run(main())

    def stop(self) -> None:
        if self._thread.is_alive():
            self.loop.call_soon_threadsafe(self.stopping.set)
            self._thread.join(DEADLINE_S)
        assert not self._thread.is_alive()

    @property
    def address(self) -> str:
        assert self.side.port is not None
        return self.side.port.address

    def counts(self) -> dict[str, int]:
        assert self.side.port is not None
        return self.side.port.stats()

    def link(self, context: ssl.SSLContext | None = None) -> ssl.SSLSocket:
        """A TLS link to it: a stranger's, or with a node's or a client's context."""
        host, port = addresses.split(self.address, of="address")
        raw = socket.create_connection((host, port), DEADLINE_S)
        stranger = credentials.trusting((self.folder / "ca.pem").read_text())
        name = names.of_node(self.side.trust.credentials.node)
        return (context or stranger).wrap_socket(raw, server_hostname=name)

    def ask(self, message: dict[str, Any], context: ssl.SSLContext | None = None) -> dict[str, Any] | None:
        """The answer, or None when the link was ended without one."""
        with self.link(context) as link:
            link.sendall(lines.encode(message))
            return read_answer(link)


def read_answer(link: ssl.SSLSocket) -> dict[str, Any] | None:
    got = b""
    try:
        while not got.endswith(b"\n"):
            part = link.recv(65536)
            if not part:
                return None
            got += part
    except (ssl.SSLError, ConnectionError):
        return None
    return lines.decode(got)


def node_context(folder: Path) -> ssl.SSLContext:
    """The context with which the node in `folder` asks others."""
    return credentials.load(files.Directory(str(folder))).asking()


def signed_context(folder: Path, node: int, tmp_path: Path) -> ssl.SSLContext:
    """A context of any node of the cluster in `folder`, signed by its authority."""
    signer = credentials.load_authority(files.Directory(str(folder)))
    key = authority.make_key()
    certificate = authority.sign_node(signer, key.public_key(), node, authority.utc_now())
    return context_of(
        certificate_text=authority.key_pem(key) + authority.pem(certificate), folder=folder, tmp_path=tmp_path
    )


def context_of(certificate_text: str, folder: Path, tmp_path: Path) -> ssl.SSLContext:
    path = tmp_path / f"own-{len(list(tmp_path.iterdir()))}.pem"
    path.write_text(certificate_text)
    context = credentials.trusting((folder / "ca.pem").read_text())
    context.load_cert_chain(path)
    return context


def join_message(token_text: str, **changes: Any) -> dict[str, Any]:
    token = tokens.read(token_text)
    return {
        "type": "join", "token": token.id, "secret": token.secret.hex(), "node": None,
        "request": authority.make_request(authority.make_key()),
        "clients_request": authority.make_request(authority.make_key()),
        "listen": "192.0.2.7:7946", "control": "192.0.2.7:7947", **changes,
    }  # fmt: skip


def pair(address: str) -> tuple[str, int]:
    return addresses.split(address, of="address")


def introduction(node: int, port: int = 7946) -> dict[str, Any]:
    return {"type": "introduce", "node": node, "listen": f"192.0.2.{node}:{port}", "control": f"192.0.2.{node}:7947"}

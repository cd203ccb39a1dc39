"""`host:port` as people write it, IPv6 in brackets, to a checked pair. Names are resolved here, once, so that no page
waits for DNS.
"""

from __future__ import annotations

from ramster.errors import ConfigError


def split(text: str, *, of: str) -> tuple[str, int]:
    """`127.0.0.1:7946` or `[::1]:7946` to host and port. Raises ConfigError naming `of`."""
    host, colon, port_text = text.strip().rpartition(":")
    if not colon or not host or not (port_text.isascii() and port_text.isdigit()):
        raise ConfigError(f"{of}: {text!r} is not an address; write host:port, like 127.0.0.1:7946 or [::1]:7946")
    port = int(port_text)
    if port > 65535:
        raise ConfigError(f"{of}: port {port} in {text!r} is too large; ports go up to 65535")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    elif ":" in host:
        raise ConfigError(f"{of}: {text!r} has an IPv6 address without brackets; write [{host}]:{port}")
    return host, port


def numeric(text: str, *, of: str) -> str:
    """`text` with its host as a numeric address, as the engine wants it. A name is resolved now."""
    host, port = split(text, of=of)
    if port == 0:
        raise ConfigError(
            f"{of}: {text!r} has port 0, which nothing listens on; write the port that the peer listens on"
        )
    import socket  # the fast path of `ramster run` pays for this only when there are peers

    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except OSError as error:
        raise ConfigError(
            f"{of}: the host of {text!r} cannot be resolved ({error.strerror or error}); check its name"
        ) from None
    return join(str(found[0][4][0]), port)


def join(host: str, port: int) -> str:
    """The inverse of `split`."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def is_one_machine(host: str) -> bool:
    """Whether `host` is the numeric address of one machine, which other nodes can be told: no name, no 0.0.0.0, no group."""
    import ipaddress

    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return False
    return not (address.is_unspecified or address.is_multicast)


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches `host`. Listeners without certificates bind nowhere else."""
    if host == "localhost":
        return True
    import ipaddress

    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False

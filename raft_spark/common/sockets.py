"""Bind and name TCP addresses of either family: IPv4, IPv6, and IPv6 as Java writes it, `[fd00:0:0:0:0:0:0:2%eth0]`."""

import ipaddress
import os
import socket
import struct
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

BACKLOG = 1024  # connections that the system accepts before the program does
WILDCARDS = ("::", "0.0.0.0")  # noqa: S104 - whoever connects is authenticated


def bare_host(host: str) -> str:
    """Return a host without brackets, and an IPv6 address without its zone unless only the zone makes it reachable."""
    bare = host.translate({ord("["): None, ord("]"): None})
    try:
        address = ipaddress.ip_address(bare)
    except ValueError:
        return bare
    return str(address) if address.is_link_local else str(address).partition("%")[0]


def location(host: str, port: int) -> str:
    """Return `host:port`, with an IPv6 address in brackets."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def listen(bind: str, host: str) -> socket.socket:
    """Return a listening socket on a free port of the address `bind`, which others call `host`.

    It is bound to all addresses of both families if `bind` is of another family than `host`, or cannot be bound. Raises
    OSError when nothing can be bound.
    """
    wildcard = bind in WILDCARDS or _families(bind).isdisjoint(_families(host) or _families(bind))
    candidates = WILDCARDS if wildcard else (bind, *WILDCARDS)
    errors = []
    for family, address in (found for name in candidates for found in _resolve(name)):
        try:
            return _bind(family, address)
        except OSError as error:
            errors.append(error)
    raise errors[0] if errors else OSError(f"{bind} has no address")


def _families(host: str) -> set[socket.AddressFamily]:
    return {family for family, _ in _resolve(host)}


def _resolve(host: str) -> Iterator[tuple[socket.AddressFamily, Any]]:
    """Yield the family and the address, with port 0, of each address of a host; nothing if its name is unknown."""
    with suppress(OSError):
        for family, _, _, _, address in socket.getaddrinfo(host, 0, type=socket.SOCK_STREAM):
            yield family, address


def _bind(family: socket.AddressFamily, address: Any) -> socket.socket:  # noqa: ANN401 - its shape depends on the family
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        if family == socket.AF_INET6:
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)  # "::" serves IPv4 too
        listener.bind(address)
        listener.listen(BACKLOG)
    except OSError:
        listener.close()
        raise
    return listener


def limit_reads(descriptor: int, seconds: float) -> None:
    """Let a read of an open socket that waits for so many seconds raise BlockingIOError."""
    with socket.socket(fileno=os.dup(descriptor)) as same:
        same.setsockopt(
            socket.SOL_SOCKET, socket.SO_RCVTIMEO, struct.pack("ll", *divmod(round(seconds * 1e6), 1_000_000))
        )

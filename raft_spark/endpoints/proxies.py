"""URL -> the proxy through which it is reached, by HTTP_PROXY, HTTPS_PROXY, ALL_PROXY and NO_PROXY, in either case.

An address of the loopback interface never has a proxy: the servers of kinds embedded and fake are there.
"""

import base64
import ipaddress
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from urllib.parse import SplitResult, unquote, urlsplit

from raft_spark.errors import ConfigError

PORTS = {"http": 80, "https": 443}


@dataclass(frozen=True, slots=True)
class Proxy:
    """A proxy: its URL without user name and password, the variable that names it, the headers with the password."""

    url: str
    variable: str
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    secrets: tuple[str, ...] = field(default=(), repr=False)


def find_proxy(url: str) -> Proxy | None:
    """Return the proxy for a URL, None when it is reached directly. Raises ConfigError for one that cannot be used."""
    target = urlsplit(url)
    name, value = next(filter(all, map(_variable, (f"{target.scheme}_proxy", "all_proxy"))), ("", ""))
    if not value or is_direct(target, _variable("no_proxy")[1]):
        return None
    parts = urlsplit(value if "://" in value else f"http://{value}")
    if parts.scheme not in PORTS or not parts.hostname:
        msg = f"{name} must be the address of an HTTP proxy, such as http://proxy.example.com:3128, not {parts.scheme}:"
        raise ConfigError(msg)
    return Proxy(f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}", name, *_authorization(parts))


def is_direct(target: SplitResult, no_proxy: str) -> bool:
    """Return whether a URL is reached without a proxy: a loopback address, or one that an entry of NO_PROXY covers.

    An entry is *, a domain (with all below it), an address, or a network such as 10.0.0.0/8; a port limits the first three.
    """
    host = (target.hostname or "").rstrip(".")
    address = _address(host)
    if host == "localhost" or host.endswith(".localhost") or (address and address.is_loopback):
        return True
    port = target.port or PORTS.get(target.scheme)
    return any(_covers(entry.lower(), host, port) for entry in re.split(r"[\s,]+", no_proxy) if entry)


def _covers(entry: str, host: str, port: int | None) -> bool:
    address = _address(host)
    if address and (network := _network(entry.strip("[]"))):
        return address in network
    name, colon, digits = entry.rpartition(":")
    if colon and digits.isdigit() and not _network(entry):
        return int(digits) == port and _covers(name, host, port)
    domain = entry.removeprefix("*").lstrip(".").rstrip(".")
    return entry == "*" or (domain != "" and (host == domain or host.endswith(f".{domain}")))


def _address(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        return None


def _network(entry: str) -> ipaddress.IPv4Network | ipaddress.IPv6Network | None:
    try:
        return ipaddress.ip_network(entry, strict=False)
    except ValueError:
        return None


def _variable(name: str) -> tuple[str, str]:
    """Return (name, value) of an environment variable; its name in lower case takes precedence, also with an empty value."""
    found = name if name in os.environ else name.upper()
    return found, os.environ.get(found, "").strip()


def _authorization(parts: SplitResult) -> tuple[dict[str, str], tuple[str, ...]]:
    """Return the headers with the user name and password of a proxy's URL, and what must be in no message."""
    if not parts.username:
        return {}, ()
    password = unquote(parts.password or "")
    token = base64.b64encode(f"{unquote(parts.username)}:{password}".encode()).decode()
    secrets = tuple(filter(None, (token, parts.password, password)))
    return {"proxy-authorization": f"Basic {token}"}, secrets

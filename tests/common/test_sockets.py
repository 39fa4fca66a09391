"""Addresses as Spark and Java write them, and sockets of either family on real loopback."""

import socket

import pytest

from raft_spark.common import sockets

pytestmark = pytest.mark.row
V6 = pytest.mark.skipif(not socket.has_ipv6, reason="no IPv6")


@pytest.mark.parametrize(
    ("host", "bare"),
    [
        ("[0:0:0:0:0:0:0:1]", "::1"),
        ("[::1%lo]", "::1"),
        ("[::1]%lo", "::1"),
        ("fd00:0:0:0:0:0:0:2%eth0", "fd00::2"),
        ("[2600:1f18:1:2:3:4:5:6]", "2600:1f18:1:2:3:4:5:6"),
        ("[fe80:0:0:0:0:0:0:9%eth0]", "fe80::9%eth0"),  # a link-local address is of no use without its zone
        ("10.0.0.7", "10.0.0.7"),
        ("ip-10-0-0-7.ec2.internal", "ip-10-0-0-7.ec2.internal"),
        ("", ""),
    ],
)
def test_a_host_loses_its_brackets_and_the_zone_that_other_machines_do_not_know(host: str, bare: str):
    assert sockets.bare_host(host) == bare


def test_a_location_is_read_as_host_and_port():
    assert sockets.location("fd00::2", 80) == "[fd00::2]:80"
    assert sockets.location("10.0.0.7", 80) == "10.0.0.7:80"


@V6
@pytest.mark.parametrize(
    ("bind", "host", "reached"),
    [
        ("127.0.0.1", "127.0.0.1", ["127.0.0.1"]),
        ("::1", "::1", ["::1"]),
        ("::1", "no.such.host.invalid", ["::1"]),
        ("::ffff:127.0.0.1", "::1", ["127.0.0.1"]),
        ("localhost", "localhost", ["localhost"]),
        ("0.0.0.0", "::1", ["127.0.0.1", "::1"]),  # noqa: S104 - the case to try
        ("::", "127.0.0.1", ["127.0.0.1", "::1"]),
        ("127.0.0.1", "::1", ["127.0.0.1", "::1"]),  # others come by another family
        ("192.0.2.7", "192.0.2.7", ["127.0.0.1", "::1"]),  # an address that this machine does not have
        ("2001:db8::7", "2001:db8::7", ["127.0.0.1", "::1"]),
        ("no.such.host.invalid", "::1", ["127.0.0.1", "::1"]),
    ],
)
def test_a_socket_is_reached_by_the_family_of_its_name(bind: str, host: str, reached: list[str]):
    with sockets.listen(bind, host) as listener:
        for name in reached:
            socket.create_connection((name, listener.getsockname()[1]), timeout=5).close()


@V6
def test_a_loopback_address_is_bound_alone():
    with sockets.listen("127.0.0.1", "127.0.0.1") as listener, pytest.raises(OSError, match="refused"):
        socket.create_connection(("::1", listener.getsockname()[1]), timeout=5)

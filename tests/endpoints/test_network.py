"""The way to a server: proxies, certificate authorities, addresses."""

import base64
import shutil
import socket
import subprocess
from collections.abc import Iterator
from contextlib import closing
from urllib.parse import urlsplit

import pytest
from pydantic import ValidationError

from raft_spark.config import Endpoint
from raft_spark.endpoints import connect
from raft_spark.endpoints.base import Reply, Request
from raft_spark.endpoints.proxies import find_proxy, is_direct
from raft_spark.errors import ConfigError
from support import certificates, http_proxy
from support.http_proxy import Proxy
from support.loopback_aws import Server, serve

VARIABLES = (
    *(name for word in ("HTTP", "HTTPS", "ALL", "NO") for name in (f"{word}_PROXY", f"{word.lower()}_proxy")),
    *("SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE", "AWS_CA_BUNDLE"),
)
CHAT = {"choices": [{"message": {"content": "It does."}, "finish_reason": "stop"}]}
CONVERSE = {"output": {"message": {"content": [{"text": "It does."}]}}, "stopReason": "end_turn"}
KINDS = ("openai", "sagemaker", "bedrock")
PASSWORD = "p@ss:w/rd"


@pytest.fixture(autouse=True)
def environment(monkeypatch, tmp_path):
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIDEXAMPLE")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "x")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    return monkeypatch


@pytest.fixture
def server() -> Iterator[Server]:
    with serve() as loopback:
        yield loopback


@pytest.fixture
def bundle_and_tls(tmp_path):
    return certificates.make(tmp_path, "teacher.test", "localhost")


@pytest.fixture
def bundle(bundle_and_tls) -> str:
    return str(bundle_and_tls[0])


@pytest.fixture
def secure(bundle_and_tls) -> Iterator[Server]:
    with serve(bundle_and_tls[1]) as loopback:
        yield loopback


@pytest.fixture
def proxy(server) -> Iterator[Proxy]:
    with http_proxy.serve(teacher=server.port) as proxy:
        yield proxy


@pytest.fixture
def tunnel(secure) -> Iterator[Proxy]:
    with http_proxy.serve(teacher=secure.port) as proxy:
        yield proxy


def endpoint(kind: str, url: str, **more: object) -> Endpoint:
    fields = {
        "openai": {"url": f"{url}/v1", "model": "m"},
        "sagemaker": {"url": url, "endpoint_name": "e", "codec": "openai", "region": "us-east-1"},
        "bedrock": {"url": url, "model": "m", "region": "us-east-1"},
    }
    return Endpoint(kind=kind, **{**fields[kind], **more})


def ask(conf: Endpoint, calls: int = 1) -> Reply:
    request = Request([{"role": "user", "content": "Why?"}], "m", {"max_tokens": 5})
    with closing(connect(conf, 2, 5.0)) as client:
        replies = [client.ask(request) for _ in range(calls)]
    return replies[-1]


def answer(server: Server, kind: str) -> None:
    server.answers(CONVERSE if kind == "bedrock" else CHAT)


# --- proxies


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("variable", ["HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"])
def test_a_plain_call_goes_through_the_proxy(environment, server, proxy, kind, variable):
    answer(server, kind)
    environment.setenv(variable, f"http://{proxy.address}")
    assert ask(endpoint(kind, "http://teacher.test"), 2).completion == "It does."
    assert [command for command, _ in proxy.seen] == ["POST", "POST"]
    assert {urlsplit(target).netloc for _, target in proxy.seen} == {"teacher.test"}
    assert server.seen[0][1]["host"] == "teacher.test"


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("scheme", ["http://", ""])
def test_an_encrypted_call_goes_through_a_tunnel_of_the_proxy(environment, secure, tunnel, bundle, kind, scheme):
    answer(secure, kind)
    environment.setenv("HTTPS_PROXY", f"{scheme}{tunnel.address}")
    assert ask(endpoint(kind, "https://teacher.test", ca_bundle=bundle), 3).completion == "It does."
    assert tunnel.seen == [("CONNECT", "teacher.test:443")]  # one tunnel for all calls
    assert len(secure.seen) == 3


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("scheme", ["http", "https"])
def test_the_password_of_a_proxy_is_sent_to_it_alone_and_never_shown(environment, server, bundle_and_tls, kind, scheme):
    bundle, tls = bundle_and_tls
    with serve(tls if scheme == "https" else None) as target, http_proxy.serve(teacher=target.port) as proxy:
        answer(target, kind)
        proxy.authorization = f"Basic {base64.b64encode(f'me:{PASSWORD}'.encode()).decode()}"
        conf = endpoint(kind, f"{scheme}://teacher.test", ca_bundle=str(bundle))
        environment.setenv(f"{scheme}_proxy", f"http://me:p%40ss%3Aw%2Frd@{proxy.address}")
        assert ask(conf).completion == "It does."
        assert "proxy-authorization" not in target.seen[0][1]
        proxy.authorization = "Basic other"
        reply = ask(conf)
    assert reply.error_class == "refused"
    assert reply.error.startswith(
        f"the proxy http://{proxy.address} ({scheme}_proxy) refuses to connect to {scheme}://teacher.test: "
    )
    assert "407" in reply.error
    assert not any(secret in reply.error for secret in (PASSWORD, "p%40ss", "Basic"))


@pytest.mark.parametrize("kind", KINDS)
def test_a_proxy_may_be_reached_by_https(environment, secure, bundle_and_tls, kind):
    bundle, tls = bundle_and_tls
    answer(secure, kind)
    with http_proxy.serve(tls, teacher=secure.port) as proxy:
        environment.setenv("HTTPS_PROXY", f"https://{proxy.address}")
        assert ask(endpoint(kind, "https://teacher.test", ca_bundle=str(bundle)), 2).completion == "It does."
    assert proxy.seen == [("CONNECT", "teacher.test:443")]


@pytest.mark.parametrize(("status", "error_class"), [(403, "refused"), (502, "unavailable"), (503, "unavailable")])
def test_a_proxy_that_opens_no_tunnel_says_why(environment, tunnel, bundle, status, error_class):
    tunnel.refuses_with = status
    environment.setenv("HTTPS_PROXY", f"http://{tunnel.address}")
    reply = ask(endpoint("bedrock", "https://teacher.test", ca_bundle=bundle))
    assert reply.error_class == error_class
    assert str(status) in reply.error
    assert not reply.is_cut_off


@pytest.mark.parametrize("kind", KINDS)
def test_a_proxy_that_is_down_is_named(environment, kind):
    with closing(socket.create_server(("127.0.0.1", 0))) as listener:
        address = f"127.0.0.1:{listener.getsockname()[1]}"
    environment.setenv("HTTP_PROXY", f"http://me:secret@{address}")
    reply = ask(endpoint(kind, "http://teacher.test"))
    assert reply.error_class == "unavailable"
    assert reply.error.startswith(
        f"no answer: could not connect to http://teacher.test through the proxy http://{address} (HTTP_PROXY): "
    )
    assert "secret" not in reply.error
    assert not reply.is_cut_off


@pytest.mark.parametrize("kind", KINDS)
def test_a_server_on_loopback_is_reached_without_a_proxy(environment, server, proxy, kind):
    answer(server, kind)
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        environment.setenv(name, f"http://{proxy.address}")
    assert ask(endpoint(kind, server.url)).completion == "It does."
    assert proxy.seen == []


@pytest.mark.row
@pytest.mark.parametrize(
    ("url", "no_proxy", "direct"),
    [
        ("http://127.0.0.1:8000/v1", "", True),
        ("http://127.8.8.8", "", True),
        ("http://localhost", "", True),
        ("http://a.localhost", "", True),
        ("http://[::1]:80", "", True),
        ("http://example.com", "", False),
        ("http://example.com", "*", True),
        ("http://example.com", "example.com", True),
        ("http://EXAMPLE.com.", "Example.COM", True),
        ("http://a.example.com", "example.com", True),
        ("http://a.example.com", ".example.com", True),
        ("http://a.example.com", "*.example.com", True),
        ("http://example.com", ".example.com", True),
        ("http://badexample.com", "example.com", False),
        ("http://example.com.evil.org", "example.com", False),
        ("http://example.com", "other.org, example.com", True),
        ("http://example.com", "other.org example.com", True),
        ("http://example.com", ",, ,", False),
        ("http://example.com:8080", "example.com:8080", True),
        ("http://example.com:8081", "example.com:8080", False),
        ("http://example.com", "example.com:80", True),
        ("https://example.com", "example.com:443", True),
        ("http://10.1.2.3", "10.0.0.0/8", True),
        ("http://11.1.2.3", "10.0.0.0/8", False),
        ("http://10.1.2.3", "10.1.2.3", True),
        ("http://10.1.2.3:8000", "10.1.2.3:8000", True),
        ("http://10.1.2.3:8000", "10.1.2.3:9000", False),
        ("http://10.1.2.33", "10.1.2.3", False),
        ("http://[fd00::5]", "fd00::/8", True),
        ("http://[fd00::5]:80", "[fd00::5]", True),
        ("http://[fd00::5]", "fd00::6", False),
        ("http://ten.example.com", "10.0.0.0/8", False),
    ],
)
def test_no_proxy_has_domains_addresses_networks_and_ports(url, no_proxy, direct):
    assert is_direct(urlsplit(url), no_proxy) == direct


@pytest.mark.row
def test_the_variable_in_lower_case_comes_first(environment):
    environment.setenv("HTTPS_PROXY", "http://upper:1")
    environment.setenv("ALL_PROXY", "http://all:2")
    assert find_proxy("https://example.com").url == "http://upper:1"
    assert find_proxy("http://example.com").url == "http://all:2"
    environment.setenv("https_proxy", "lower:3/")
    assert find_proxy("https://example.com").url == "http://lower:3"
    environment.setenv("no_proxy", "example.com")
    assert find_proxy("https://example.com") is None


@pytest.mark.row
def test_a_proxy_shows_no_password(environment):
    environment.setenv("HTTPS_PROXY", "http://me:secret@proxy:3128")
    proxy = find_proxy("https://example.com")
    assert proxy.url == "http://proxy:3128"
    assert "secret" not in repr(proxy)


@pytest.mark.parametrize("value", ["socks5://me:secret@proxy:1080", "http://"])
def test_a_proxy_of_another_kind_is_refused(environment, value):
    environment.setenv("HTTP_PROXY", value)
    with pytest.raises(ConfigError):
        find_proxy("http://teacher.test")
    for kind in KINDS:
        reply = ask(endpoint(kind, "http://teacher.test"))
        assert reply.error_class == "refused"
        assert reply.error.startswith("HTTP_PROXY must be the address of an HTTP proxy, such as ")
        assert "secret" not in reply.error


# --- certificate authorities


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "named_by", ["ca_bundle", "SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE", "AWS_CA_BUNDLE"]
)
def test_a_private_authority_is_trusted(environment, secure, bundle, tmp_path, kind, named_by):
    answer(secure, kind)
    settings = {"ca_bundle": bundle} if named_by == "ca_bundle" else {}
    if named_by == "SSL_CERT_DIR":
        command = ["openssl", "x509", "-subject_hash", "-noout", "-in", bundle]
        hashed = subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()
        (tmp_path / "trusted").mkdir()
        shutil.copy(bundle, tmp_path / "trusted" / f"{hashed}.0")
        environment.setenv(named_by, str(tmp_path / "trusted"))
    elif named_by != "ca_bundle":
        environment.setenv(named_by, bundle)
    assert ask(endpoint(kind, secure.url, **settings)).completion == "It does."


@pytest.mark.parametrize("kind", KINDS)
def test_the_setting_comes_before_the_environment(environment, secure, bundle, tmp_path, kind):
    answer(secure, kind)
    for name in ("SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE", "AWS_CA_BUNDLE"):
        environment.setenv(name, str(tmp_path / "gone"))
    assert ask(endpoint(kind, secure.url, ca_bundle=bundle)).completion == "It does."


@pytest.mark.parametrize(
    ("kind", "default"), [("openai", "the authorities of this machine"), ("bedrock", "cacert.pem")]
)
def test_an_unknown_authority_is_refused_with_what_to_set(environment, secure, kind, default):
    reply = ask(endpoint(kind, secure.url))
    assert reply.error_class == "refused"
    assert reply.error.startswith(
        f"the certificate of {secure.url} is not accepted: unable to get local issuer certificate; set ca_bundle of the "
        "endpoint, or SSL_CERT_FILE, to the certificate file of your authority (now: "
    )
    assert default in reply.error
    assert secure.seen == []


@pytest.mark.parametrize("kind", KINDS)
def test_an_authority_that_does_not_vouch_is_named(environment, secure, tmp_path, kind):
    (tmp_path / "other").mkdir()
    other, _ = certificates.make(tmp_path / "other", "other.test")
    environment.setenv("REQUESTS_CA_BUNDLE", str(other))
    reply = ask(endpoint(kind, secure.url))
    assert reply.error_class == "refused"
    assert f"(now: REQUESTS_CA_BUNDLE ({other}" in reply.error


@pytest.mark.parametrize("kind", KINDS)
def test_a_certificate_of_another_host_is_refused(environment, tunnel, bundle, kind):
    tunnel.hosts["other.test"] = tunnel.hosts["teacher.test"]
    environment.setenv("HTTPS_PROXY", f"http://{tunnel.address}")
    reply = ask(endpoint(kind, "https://other.test", ca_bundle=bundle))
    assert reply.error_class == "refused"
    assert "Hostname mismatch, certificate is not valid for 'other.test'" in reply.error


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (None, "No such file or directory"),
        ("", "it holds no certificate in PEM format"),
        ("no PEM", "it holds no certificate in PEM format"),
    ],
)
def test_a_bundle_that_cannot_be_read_is_refused(environment, secure, tmp_path, kind, content, reason):
    path = tmp_path / "bundle.pem"
    if content is not None:
        path.write_text(content)
    end = f"cannot be read on this machine: {reason}"
    reply = ask(endpoint(kind, secure.url, ca_bundle=str(path)))
    assert reply == Reply(error_class="refused", error=f"the certificate authorities of ca_bundle ({path}) {end}")
    environment.setenv("SSL_CERT_FILE", str(path))
    assert f"SSL_CERT_FILE ({path}) {end}" in ask(endpoint(kind, secure.url)).error


# --- addresses


@pytest.mark.row
@pytest.mark.parametrize("url", [" http://host:8000/v1", "http://host:8000/v1/ ", "\thttp://host:8000/v1//\n"])
def test_spaces_and_slashes_around_an_address_are_removed(url):
    assert Endpoint(kind="openai", url=url, model="m").url == "http://host:8000/v1"


@pytest.mark.row
@pytest.mark.parametrize(
    ("url", "right"),
    [
        ("http://host/v1/chat/completions", "http://host/v1"),
        ("http://host/v1/chat/completions/", "http://host/v1"),
        ("http://host/v1/completions", "http://host/v1"),
        ("http://host/v1/v1", "http://host/v1"),
        ("http://host/openai/v1/v1/", "http://host/openai/v1"),
    ],
)
def test_an_address_that_is_no_base_url_is_told(url, right):
    with pytest.raises(ValidationError, match=rf"it must be the base URL, such as {right}\b(?!/)"):
        Endpoint(kind="openai", url=url, model="m")


@pytest.mark.row
@pytest.mark.parametrize(
    "url", ["http://host/v1", "http://host/completions-api/v1", "http://host/v1beta/openai", "http://host"]
)
def test_other_addresses_stay_as_they_are(url):
    assert Endpoint(kind="openai", url=url, model="m").url == url


@pytest.mark.row
def test_a_space_within_an_address_is_an_error():
    with pytest.raises(ValidationError, match="it must be an address such as"):
        Endpoint(kind="openai", url="http://host/v 1", model="m")


def test_a_query_is_sent_with_each_call(server):
    server.answers(CHAT)
    url, query = f"{server.url}/openai/deployments/gpt", {"api-version": "2024-10-21"}
    assert ask(Endpoint(kind="openai", url=url, model="m", query=query)).completion == "It does."
    assert server.seen[0][0] == "/openai/deployments/gpt/chat/completions?api-version=2024-10-21"


@pytest.mark.parametrize("status", [404, 405])
def test_a_route_that_is_not_there_is_told_with_its_address(server, status):
    server.answers({"detail": "Not Found"}, status)
    asked = f"{server.url}/chat/completions was asked"
    error = f"{asked}; the url of most servers ends in /v1: status {status}: Not Found"
    assert ask(Endpoint(kind="openai", url=server.url, model="m")) == Reply(
        error_class="refused" if status == 404 else "bad_request", error=error
    )
    reply = ask(Endpoint(kind="openai", url=f"{server.url}/v1", model="m"))
    assert reply.error == f"{server.url}/v1/chat/completions was asked: status {status}: Not Found"


def test_a_model_that_is_not_there_is_no_matter_of_the_address(server):
    server.answers({"error": {"message": "The model `m` does not exist."}}, 404)
    reply = ask(Endpoint(kind="openai", url=server.url, model="m"))
    assert reply.error == "status 404: The model `m` does not exist."


@pytest.mark.parametrize(
    ("location", "right"),
    [
        ("https://teacher.test/v1/chat/completions", "https://teacher.test/v1"),
        ("/api/v1/chat/completions", "{url}/api/v1"),
        ("https://teacher.test/login", "https://teacher.test/login"),
    ],
)
def test_a_redirection_is_told_with_where_to(server, location, right):
    server.answers(b"", 308, Location=location)
    reply = ask(Endpoint(kind="openai", url=f"{server.url}/v1", model="m"))
    assert reply.error_class == "refused"
    where = location if "://" in location else f"{server.url}{location}"
    start = (
        f"{server.url}/v1/chat/completions redirects to {where}; set url to {right.format(url=server.url)}: status 308"
    )
    assert reply.error.startswith(start)

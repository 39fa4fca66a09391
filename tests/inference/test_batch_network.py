"""The way to the services of batch jobs: certificates and proxies as for calls in real time, headers and query of the settings."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from starlette.routing import Route

from conftest import Settle
from raft_spark.endpoints.fake import batch_jobs as bedrock_double
from raft_spark.endpoints.fake import openai_batches, sagemaker_async
from raft_spark.errors import EndpointError
from raft_spark.inference import batch_jobs
from support import batch_services, certificates, http_proxy
from support.batch_services import collect, register

ROUTES: dict[str, Callable[[], list[Route]]] = {
    "openai": openai_batches.routes,
    "sagemaker": sagemaker_async.routes,
    "bedrock": bedrock_double.routes,
}
VARIABLES = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY")
RECORDS = 100  # the fewest that Bedrock takes
CERTIFICATES = ("SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE", "AWS_CA_BUNDLE")


@pytest.fixture(autouse=True)
def environment(monkeypatch, tmp_path):
    for name in (*VARIABLES, *map(str.lower, VARIABLES), *CERTIFICATES):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIDEXAMPLE")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "x")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    return monkeypatch


@pytest.fixture(params=ROUTES)
def kind(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    """The certificate of an authority; `server.pem` beside it is that of a server."""
    certificates.make(tmp_path, "teacher.test", "localhost")
    return tmp_path / "authority.pem"


@contextmanager
def served(kind: str, folder: Path, pair: Path | None = None) -> Iterator[str]:
    """Serve a fake service, and once more without encryption for its faults."""
    routes = ROUTES[kind]()
    with batch_services.serving(routes) as plain, batch_services.serving(routes, pair=pair) as address:
        if kind == "sagemaker":
            batch_services.behave(plain, "async", output=str(folder / "out"), failure=str(folder / "failed"))
        yield address


def settings(kind: str, url: str, **more: str) -> list[str]:
    own = {
        "openai": {"url": f"{url}/v1", "model": "m"},
        "sagemaker": {"url": url, "endpoint_name": "slow", "codec": "openai", "region": "us-east-1"},
        "bedrock": {
            "url": url,
            "model": "meta.llama3-1-8b-instruct-v1:0",
            "role_arn": "arn:aws:iam::123456789012:role/batch",
            "region": "us-east-1",
        },
    }[kind]
    fields = {"kind": kind, **own, **more}
    return [
        *(f"endpoints.b.{name}={value}" for name, value in fields.items()),
        "completions.endpoint=b",
        "completions.mode=batch",
        "completions.batch.poll_seconds=0.05",
    ]


def answered(settled: Settle, kind: str, url: str, **more: str) -> int:
    """Register a job at an address of loopback, for which files may be local, and run it at `url`."""
    jobs = register(settled(*settings(kind, "http://127.0.0.1:9")), RECORDS)
    ((job,),) = batch_jobs.submit_and_poll(settled(*settings(kind, url, **more)), jobs, lambda _: None, lambda: True)
    return job.answered


@pytest.mark.parametrize("named_by", ["ca_bundle", "SSL_CERT_FILE", "AWS_CA_BUNDLE"])
def test_a_private_authority_is_trusted(settled: Settle, environment, kind, named_by, bundle, tmp_path):
    more = {"ca_bundle": str(bundle)} if named_by == "ca_bundle" else {}
    if not more:
        environment.setenv(named_by, str(bundle))
    with served(kind, tmp_path, bundle.with_name("server.pem")) as url:
        assert answered(settled, kind, url, **more) == RECORDS


def test_an_unknown_authority_ends_the_run_with_what_to_set(settled: Settle, kind, bundle, tmp_path):
    words = r"certificate of https://\S+ is not accepted: unable to get local issuer certificate; set ca_bundle of the endpoint"
    with served(kind, tmp_path, bundle.with_name("server.pem")) as url, pytest.raises(EndpointError, match=words):
        answered(settled, kind, url)


@pytest.mark.parametrize("content", [None, "no PEM"])
def test_a_bundle_that_cannot_be_read_ends_the_run(settled: Settle, kind, content, tmp_path):
    path = tmp_path / "bundle.pem"
    if content:
        path.write_text(content)
    with pytest.raises(EndpointError, match=r"the certificate authorities of ca_bundle \(.* cannot be read"):
        answered(settled, kind, "https://127.0.0.1:9", ca_bundle=str(path))


@pytest.mark.parametrize("variable", ["HTTPS_PROXY", "all_proxy"])
def test_an_encrypted_service_is_reached_through_the_proxy(
    settled: Settle, environment, kind, variable, bundle, tmp_path
):
    with (
        served(kind, tmp_path, bundle.with_name("server.pem")) as url,
        http_proxy.serve(teacher=urlsplit(url).port) as proxy,
    ):
        environment.setenv(variable, f"http://{proxy.address}")
        assert answered(settled, kind, "https://teacher.test", ca_bundle=str(bundle)) == RECORDS
    assert set(proxy.seen) == {("CONNECT", "teacher.test:443")}


def test_a_plain_service_is_reached_through_the_proxy(settled: Settle, environment, kind, tmp_path):
    with served(kind, tmp_path) as url, http_proxy.serve(teacher=urlsplit(url).port) as proxy:
        environment.setenv("http_proxy", f"http://{proxy.address}")
        assert answered(settled, kind, "http://teacher.test") == RECORDS
    assert {urlsplit(address).netloc for _, address in proxy.seen} == {"teacher.test"}


def test_an_address_of_loopback_or_of_no_proxy_is_reached_directly(settled: Settle, environment, kind, tmp_path):
    environment.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    with served(kind, tmp_path) as url:
        assert answered(settled, kind, url) == RECORDS


def test_a_proxy_that_refuses_ends_the_run(settled: Settle, environment, kind, bundle):
    with http_proxy.serve() as proxy:
        proxy.refuses_with = 407
        environment.setenv("HTTPS_PROXY", f"http://me:secret@{proxy.address}")
        with pytest.raises(EndpointError, match="407") as raised:
            answered(settled, kind, "https://teacher.test", ca_bundle=str(bundle))
    assert "secret" not in str(raised.value)


def test_every_call_of_openai_s_batch_jobs_has_what_the_settings_say(settled: Settle, environment, tmp_path):
    environment.setenv("TEACHER_KEY", "sk-1234")
    seen: list[dict] = []
    with batch_services.serving(openai_batches.routes(), seen) as url:
        conf = settled(
            *settings("openai", url, api_key_env="TEACHER_KEY", api_key_header="api-key"),
            'endpoints.b.headers={x-title = "trial"}',
            'endpoints.b.query={api-version = "2024-10-21"}',
        )
        assert len(collect(conf, register(conf, 3))) == 3
    calls = {(scope["method"], scope["path"]) for scope in seen}
    assert {("GET", "/v1/batches"), ("POST", "/v1/files"), ("POST", "/v1/batches")} < calls
    assert any(path.endswith("/content") for _, path in calls)
    for scope in seen:
        headers = dict(scope["headers"])
        assert (headers[b"api-key"], headers[b"x-title"]) == (b"sk-1234", b"trial")
        assert b"authorization" not in headers
        assert scope["query_string"] in {b"api-version=2024-10-21", b"limit=100&api-version=2024-10-21"}
    assert batch_jobs.pending(conf.lake) == []

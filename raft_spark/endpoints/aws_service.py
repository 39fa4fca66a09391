"""Find where a service of AWS is, which certificates and which proxy lead there, and open boto3 clients that go that way.

Calls in real time (aws_connection) and batch jobs share it, so that one setting holds for both.
"""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from botocore.config import Config
from botocore.exceptions import BotoCoreError
from botocore.httpsession import get_cert_path
from botocore.session import Session

from raft_spark.config.models import Endpoint
from raft_spark.endpoints import authorities
from raft_spark.endpoints.authorities import Authorities, find_authorities
from raft_spark.endpoints.credentials import open_session
from raft_spark.endpoints.proxies import find_proxy
from raft_spark.errors import ConfigError


@dataclass(frozen=True, slots=True)
class AwsService:
    """Where a service is, how its calls are signed, and who vouches for it."""

    url: str
    region: str
    signing_name: str
    user_agent: str
    trusted: Authorities


def region(conf: Endpoint) -> str | None:
    """Return the endpoint's region, else AWS_REGION, which boto3 ignores; None for boto3's default."""
    return conf.region or os.environ.get("AWS_REGION") or None


def find_service(name: str, conf: Endpoint, session: Session | None = None) -> AwsService:
    """Ask boto3 where a service is, without credentials. Raises BotoCoreError."""
    session = session or open_session()
    client = session.create_client(
        name,
        region_name=region(conf),
        endpoint_url=conf.url or None,
        aws_access_key_id="none",
        aws_secret_access_key="none",  # noqa: S106 - nothing is sent
    )
    meta = client.meta
    client.close()
    of_profile = session.get_config_variable("ca_bundle")
    trusted = find_authorities(conf.ca_bundle, [("AWS_CA_BUNDLE or ca_bundle of the AWS profile", of_profile or "")])
    return AwsService(
        meta.endpoint_url.rstrip("/"),
        meta.region_name,
        meta.service_model.signing_name,
        meta.config.user_agent,
        trusted if trusted.paths else Authorities((get_cert_path(verify=True),), "botocore"),
    )


def address(name: str, conf: Endpoint) -> str:
    """Return where a service is, for a person; its name if boto3 cannot say, for which a call has a message of its own."""
    try:
        return find_service(name, conf).url
    except BotoCoreError:
        return name


def open_client(name: str, conf: Endpoint, seconds: float, connections: int = 10) -> Any:  # noqa: ANN401 - boto3 creates its classes at run time
    """Open a client that sends each call once and waits `seconds`. Raises BotoCoreError or ConfigError."""
    session = open_session()
    service = find_service(name, conf, session)
    bundle = _bundle(service.trusted)
    settings = Config(
        max_pool_connections=connections,
        connect_timeout=seconds,
        read_timeout=seconds,
        retries={"total_max_attempts": 1},
        proxies=_proxies(service.url),
        proxies_config={"proxy_ca_bundle": bundle},
    )
    return session.create_client(
        name, region_name=service.region, endpoint_url=service.url, verify=bundle, config=settings
    )


def _bundle(trusted: Authorities) -> str:
    """Return the file of certificates; boto3 takes one file and no folder."""
    authorities.context(trusted)
    found = next((path for path in trusted.paths if Path(path).is_file()), None)
    if not found:
        msg = f"batch jobs of AWS need the certificates in one file, but {trusted} is a folder; set ca_bundle to a file"
        raise ConfigError(msg)
    return found


def _proxies(url: str) -> dict[str, str]:
    """Return the proxy as boto3 takes it, with the password that may be in its variable."""
    proxy = find_proxy(url)
    return {urlsplit(url).scheme: os.environ[proxy.variable].strip()} if proxy else {}

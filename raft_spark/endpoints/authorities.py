"""Settings and environment variables -> the certificate authorities that a server is checked against."""

import os
import ssl
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from urllib3.util.ssl_ import create_urllib3_context

from raft_spark.errors import ConfigError

VARIABLES = ("SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE", "AWS_CA_BUNDLE")
UNTRUSTED = "certificate verify failed: "  # of OpenSSL
REMEDY = "set ca_bundle of the endpoint, or SSL_CERT_FILE, to the certificate file of your authority"


@dataclass(frozen=True, slots=True)
class Authorities:
    """The files or folders of trusted certificates and what names them; no path is the machine's own."""

    paths: tuple[str, ...] = ()
    named_by: str = ""

    def __str__(self) -> str:
        """Say where the certificates are, for a message."""
        where = " and ".join(self.paths) or "the authorities of this machine"
        return f"{self.named_by} ({where})" if self.named_by else where


def find_authorities(ca_bundle: str, first: Sequence[tuple[str, str]] = ()) -> Authorities:
    """Return the bundle of the setting, else of `first`, pairs of name and path, else of the first variable that is set.

    Of OpenSSL's own two variables both are used.
    """
    environment = [(name, os.environ.get(name, "")) for name in VARIABLES]
    own = os.path.expanduser(ca_bundle)  # noqa: PTH111 - Path raises for a user that does not exist
    pairs = [(name, path) for name, path in [("ca_bundle", own), *first, *environment] if path]
    if pairs and all(name.startswith("SSL_CERT_") for name, _ in pairs[:2]):
        return Authorities(tuple(path for _, path in pairs[:2]), " and ".join(name for name, _ in pairs[:2]))
    return Authorities((pairs[0][1],), pairs[0][0]) if pairs else Authorities()


def refusal(server: str, reason: str) -> str:
    """Return what to say of a server whose certificate OpenSSL does not accept for this reason."""
    why = reason.rpartition(UNTRUSTED)[2].partition(" (_ssl")[0]
    return f"the certificate of {server} is not accepted: {why}; {REMEDY}"


def context(authorities: Authorities) -> ssl.SSLContext:
    """Return a context that accepts only servers that these authorities vouch for. Raises ConfigError for a bad file."""
    made = create_urllib3_context()
    if not authorities.paths:
        made.load_default_certs()
    for path in authorities.paths:
        try:
            made.load_verify_locations(**{"capath" if Path(path).is_dir() else "cafile": path})
        except OSError as error:  # also ssl.SSLError
            reason = "it holds no certificate in PEM format" if isinstance(error, ssl.SSLError) else error.strerror
            msg = f"the certificate authorities of {authorities} cannot be read on this machine: {reason}"
            raise ConfigError(msg) from error
    return made

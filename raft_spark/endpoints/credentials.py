"""Read AWS credentials from botocore's chain, with more patience than botocore has.

Whatever the chain finds is kept until it can be read again: a refresh that fails does no harm while the old credentials
are still valid. The service of a machine's or a container's credentials may be late for PATIENCE_SECONDS.
"""

import os
import socket
from threading import Lock
from time import monotonic
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import botocore.session
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    ConnectionError,  # noqa: A004 - botocore's
    CredentialRetrievalError,
    HTTPClientError,
    MetadataRetrievalError,
    NoCredentialsError,
)

METADATA = {"metadata_service_num_attempts": 3, "metadata_service_timeout": 2}  # botocore's own: 1 and 1 s
METADATA_ADDRESS = "http://169.254.169.254"
PATIENCE_SECONDS = 60.0  # a chain that fails for longer is refused
PAUSE_SECONDS = 2.0  # between two tries of a chain that failed
KEPT_SECONDS = 30.0  # the same while older credentials are still there
# What a file or a credential_process may lack or print, for which botocore has no error.
SOURCE_ERRORS = (OSError, ValueError, LookupError, AttributeError, TypeError)
PASSING = (ConnectionError, HTTPClientError, CredentialRetrievalError, MetadataRetrievalError)

SILENT_METADATA = CredentialRetrievalError(
    provider="the instance metadata service", error_msg="it does not answer, or this machine has no role"
)


class Keys(NamedTuple):
    """Credentials that do not change, as botocore's signers take them."""

    access_key: str
    secret_key: str
    token: str | None


class InvalidSourceError(BotoCoreError):  # type: ignore[misc] # botocore has no types
    """A source of the chain fails in a way that botocore has no error for."""

    fmt = "a source of AWS credentials failed: {error_msg}"


class InvalidKeyError(BotoCoreError):  # type: ignore[misc] # the same
    """A credential cannot be sent in a header."""

    fmt = "the AWS {part} from {source} holds a space, a line break or another character that no key has; correct it there"


class LateCredentialsError(MetadataRetrievalError):  # type: ignore[misc] # the same
    """The chain cannot be read at the moment; the call should be repeated."""

    fmt = "the AWS credentials cannot be read: {error_msg}"


def open_session() -> botocore.session.Session:
    """Open a session that asks the instance metadata service several times, unless the user has set how often."""
    session = botocore.session.get_session()
    given = session.get_scoped_config()
    for name, value in METADATA.items():
        if name not in given and f"AWS_{name.upper()}" not in os.environ:
            session.set_config_variable(name, value)
    return session


class CredentialChain:
    """The credentials of one client. Many threads call `current` at the same time."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._found: Any = None  # botocore's credentials, which refresh themselves
        self._keys: Keys | None = None
        self._error: Exception = NoCredentialsError()
        self._failing_since: float | None = None
        self._next_try = 0.0

    def current(self) -> Keys:
        """Return the credentials for one call, those before while another thread refreshes them.

        Raises what botocore raises, LateCredentialsError for a failure that may pass.
        """
        kept = self._keys
        if not self._lock.acquire(blocking=kept is None) and kept is not None:
            return kept
        try:
            if monotonic() >= self._next_try:
                self._read()
            if self._keys is None:
                raise self._error
            return self._keys
        finally:
            self._lock.release()

    def renew(self, refused: Keys) -> Keys | None:
        """Read the chain from its start, after AWS refused its credentials; return None if it still has the same ones."""
        with self._lock:
            if self._keys == refused:
                self._found, self._keys, self._next_try = None, None, 0.0
        keys = self.current()
        return None if keys == refused else keys

    def _read(self) -> None:
        try:
            self._keys = self._load()
            self._failing_since = None
        except (BotoCoreError, ClientError) as error:
            now = monotonic()
            self._failing_since = now if self._failing_since is None else self._failing_since
            may_pass = isinstance(error, PASSING) and now - self._failing_since < PATIENCE_SECONDS
            self._error = LateCredentialsError(error_msg=error) if may_pass else error
            self._next_try = now + (PAUSE_SECONDS if self._keys is None else KEPT_SECONDS)

    def _load(self) -> Keys:
        try:
            self._found = self._found or open_session().get_credentials()
            frozen = self._found and self._found.get_frozen_credentials()
        except SOURCE_ERRORS as error:
            raise InvalidSourceError(error_msg=error) from error
        if not frozen:
            raise SILENT_METADATA if _has_metadata_service() else NoCredentialsError
        keys = Keys(frozen.access_key, frozen.secret_key, frozen.token)
        for part, value in zip(("access key", "secret key", "session token"), keys, strict=True):
            if value and not is_sendable(value):
                raise InvalidKeyError(part=part, source=self._found.method)
        return keys


def is_sendable(key: str) -> bool:
    """Return whether a key is printable ASCII without spaces, as each part of a header must be."""
    return key.isascii() and key.isprintable() and " " not in key


def _has_metadata_service() -> bool:
    """Return whether this machine can reach an instance metadata service, as those of EC2 can."""
    if os.environ.get("AWS_EC2_METADATA_DISABLED", "").lower() == "true":
        return False
    address = urlsplit(os.environ.get("AWS_EC2_METADATA_SERVICE_ENDPOINT") or METADATA_ADDRESS)
    try:
        socket.create_connection((address.hostname or "", address.port or 80), 1.0).close()
    except (OSError, ValueError):
        return False
    return True

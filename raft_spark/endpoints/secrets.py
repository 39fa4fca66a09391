"""Read the API key of an endpoint from AWS Secrets Manager.

Error messages of this module never contain the key.
"""

import json

from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError
from botocore.parsers import ResponseParserError

from raft_spark.config import Endpoint
from raft_spark.endpoints import api_keys, aws_errors
from raft_spark.endpoints.aws_service import region
from raft_spark.endpoints.credentials import SOURCE_ERRORS, open_session

CLIENT_CONFIG = Config(connect_timeout=10, read_timeout=10, retries={"total_max_attempts": 5, "mode": "standard"})


def read_key(conf: Endpoint) -> tuple[str, str]:
    """Return (key, "") or ("", problem).

    The SDK retries, since many tasks read the secret at once and a call is cheap.
    """
    entry = conf.api_key_secret
    try:
        client = open_session().create_client("secretsmanager", region_name=region(conf), config=CLIENT_CONFIG)
        secret = client.get_secret_value(SecretId=entry).get("SecretString", "")
    except (BotoCoreError, ClientError, ResponseParserError, *SOURCE_ERRORS) as error:
        return "", f"the secret {entry}, named by api_key_secret, cannot be read: {aws_errors.message_of(error)}"
    key = _key_in(secret).strip()
    if not key:
        return (
            "",
            f"the secret {entry}, named by api_key_secret, must contain a key, as text or as api_key of a JSON object",
        )
    problem = api_keys.problem(key)
    return ("", f"the secret {entry}, named by api_key_secret, {problem}") if problem else (key, "")


def _key_in(secret: str) -> str:
    """Return api_key or the only value of a JSON object, else the whole text; "" when the object has several values."""
    try:
        value = json.loads(secret)
    except (ValueError, RecursionError):
        return secret
    match value:
        case {"api_key": str(key)}:
            return key
        case dict():
            return next((key for key in value.values() if len(value) == 1 and isinstance(key, str)), "")
    return secret

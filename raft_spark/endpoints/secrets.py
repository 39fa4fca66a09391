"""An endpoint that names an entry of AWS Secrets Manager -> the key in it, or a sentence that says why there is none.

The key is in nothing else that leaves this module.
"""

import json

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError
from botocore.parsers import ResponseParserError

from raft_spark.config import Endpoint
from raft_spark.endpoints import aws_errors
from raft_spark.endpoints.aws import region

CLIENT_CONFIG = Config(connect_timeout=10, read_timeout=10, retries={"total_max_attempts": 5, "mode": "standard"})


def read_key(conf: Endpoint) -> tuple[str, str]:
    """Return the key and "", or "" and what is wrong. Many tasks ask at once, and it costs nothing: the SDK may retry."""
    entry = conf.api_key_secret
    try:
        client = boto3.Session().client("secretsmanager", region_name=region(conf), config=CLIENT_CONFIG)
        found = client.get_secret_value(SecretId=entry).get("SecretString", "")
    except (BotoCoreError, ClientError, ResponseParserError) as error:
        return "", f"the secret {entry}, named by api_key_secret, cannot be read: {aws_errors.message_of(error)}"
    key = _key_in(found).strip()
    if not (key and key.isascii() and key.isprintable()):
        return "", f"the secret {entry}, named by api_key_secret, must hold a key: as text, or in JSON as its api_key"
    return key, ""


def _key_in(found: str) -> str:
    """Take the text itself, or of a JSON object its api_key or only value."""
    try:
        held = json.loads(found)
    except (ValueError, RecursionError):
        return found
    match held:
        case {"api_key": str(key)}:
            return key
        case dict():
            return next((key for key in held.values() if len(held) == 1 and isinstance(key, str)), "")
    return found

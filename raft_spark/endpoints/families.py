"""request -> the parameters that its model takes, whatever the protocol: the rules of model families, by the model's name.

The rules do not change a request's key, and every setting of `changes` comes before them. Sources:
    Claude    Anthropic, "Migration guide": from 4.1 on temperature or top_p, from Opus 4.7 on neither
    OpenAI    API reference, chat completions: reasoning models take max_completion_tokens and no temperature
    top_p     the defaults below 1 are those of Bedrock's user guide and of each model's generation_config.json
"""

import re
from collections.abc import Mapping

from raft_spark.endpoints.base import Request

_CLAUDE = re.compile(r"claude-(?:[a-z]+-)?(\d{1,2})(?:[.-](\d{1,2}))?(?!\d)")
_ONE_OF_TWO, _NO_SAMPLING = (4, 1), (4, 7)  # the first Claude that takes one of temperature and top_p, and none
_OPENAI = re.compile(r"(?:^|[/.])(?:o[1-9](?:-(?:mini|pro|preview|deep)\b.*|-\d{4}-.*)?|gpt-[5-9](?:[.-].*)?)$")
_OWN_TOP_P = re.compile(r"llama|nova-|qwen|deepseek|gemma")  # models whose top_p is less than 1 if none is sent


def sent_parameters(request: Request) -> dict[str, float]:
    """Return the parameters that are sent, by their OpenAI names.

    A top_p of 1 is left out, because it is the default, and some models refuse it; not where a model's own default is
    another one and it samples.
    """
    left_out = request.changes.leave_out
    wanted = {name: value for name, value in request.parameters.items() if name not in left_out}
    if _takes_no_sampling(request.model):
        return {name: value for name, value in wanted.items() if name not in ("temperature", "top_p")}
    has_own = _OWN_TOP_P.search(request.model.lower()) and wanted.get("temperature") != 0
    if wanted.get("top_p") == 1 and not has_own:
        del wanted["top_p"]
    elif {"temperature", "top_p"} <= wanted.keys() and _claude_version(request.model) >= _ONE_OF_TWO:
        del wanted["temperature" if wanted["temperature"] == 1 else "top_p"]
    return wanted


def openai_names(model: str) -> Mapping[str, str]:
    """Return the names of parameters that differ for a model of OpenAI."""
    return {"max_tokens": "max_completion_tokens"} if _OPENAI.search(model.lower()) else {}


def _takes_no_sampling(model: str) -> bool:
    is_reasoning = _OPENAI.search(model.lower()) and "chat" not in model.lower()
    return bool(is_reasoning) or _claude_version(model) >= _NO_SAMPLING


def _claude_version(model: str) -> tuple[int, int]:
    """Return the version in a name such as anthropic.claude-haiku-4-5-20251001-v1:0 or claude-4.7-opus; 0.0 for others."""
    found = _CLAUDE.search(model.lower())
    return (int(found[1]), int(found[2] or 0)) if found else (0, 0)

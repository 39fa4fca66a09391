"""What is sent to a model is a setting: what cannot be sent, or must not be stored, is refused in one sentence."""

import pytest

from raft_spark import config
from raft_spark.config.sending import CONVERSE_FIELDS
from raft_spark.errors import ConfigError
from support import aws_model

pytestmark = pytest.mark.row

OPENAI = ('endpoints.mine={kind="openai", url="http://127.0.0.1:1/v1", model="m"}', "completions.endpoint=mine")
CLAUDE = ('endpoints.mine={kind="bedrock", model="us.anthropic.claude-haiku-4-5-20251001-v1:0"}', "completions.endpoint=mine")  # fmt: skip


def refused(*assignments: str) -> str:
    with pytest.raises(ConfigError) as caught:
        config.load(assignments=assignments)
    return str(caught.value)


@pytest.mark.parametrize(
    ("assignment", "message"),
    [
        ("completions.parameters={messages=[]}", "completions.parameters must not have 'messages': raft-spark writes the prompt"),
        ('completions.parameters={model="x"}', "completions.parameters must not have 'model': the model is that of the endpoint"),
        ("completions.parameters={stream=true}", "completions.parameters must not have 'stream': raft-spark reads whole answers"),
        ("completions.parameters={n=2}", "completions.parameters must not have 'n': raft-spark stores one answer for each request"),
        (
            "completions.parameters={max_completion_tokens=9}",
            ("completions.parameters must not have 'max_completion_tokens': the limit of an answer is completions.max_new_tokens, "
            "and `rename` gives it another name"),
        ),
        (
            "completions.parameters={inferenceConfig={maxTokens=9}}",
            ("completions.parameters must not have 'inferenceConfig.maxTokens': the limit of an answer is "
            "completions.max_new_tokens, and `rename` gives it another name"),
        ),
        (
            "completions.parameters={a={b=[1, nan]}}",
            "completions.parameters has 'a.b.1' = nan; it must be text, a finite number, true or false, a list or a table of these",
        ),
        (
            "completions.parameters={day=2026-01-01}",
            "completions.parameters has 'day' = 2026-01-01; it must be text, a finite number, true or false, a list or a table of these",
        ),
        (
            'endpoints.mine.parameters={extra={api_key="k"}}',
            ("endpoints.mine.parameters must not have 'extra.api_key', because settings are stored with each version; a key is named by "
            "api_key_env"),
        ),
        ("completions.parameters=3", "completions.parameters is 3; it must be a table of settings"),
        (
            "completions.leave_out=seed",
            'completions.leave_out.0 is "seed"; it must be one of temperature, top_p, max_tokens, do_sample, details, return_full_text',
        ),
        (
            'completions.rename={seed="s"}',
            "completions.rename has 'seed'; it must rename some of temperature, top_p, max_tokens",
        ),
        (
            'completions.rename={max_tokens="messages"}',
            ("completions.rename gives max_tokens the name 'messages'; it must be a name that the server knows, such as "
            "max_completion_tokens"),
        ),
        (
            'completions.rename={temperature="heat", top_p="heat"}',
            "completions.rename gives two parameters one name; it must give each its own",
        ),
        (
            'endpoints.mine.headers={Authorization="Bearer sk-1234"}',
            ("endpoints.mine.headers has 'Authorization'; settings are stored, so no header may hold a key: name its variable as "
            "api_key_env, and the header as api_key_header"),
        ),
        (
            'endpoints.mine.headers={x-title="a\\nb"}',
            "endpoints.mine.headers has 'x-title', whose value must be printable ASCII in one line, without blanks at its ends",
        ),
        (
            'endpoints.mine.headers={Content-Length="3"}',
            ("endpoints.mine.headers has 'Content-Length', which is no header of the user's; raft-spark or HTTP sets it, or it is no valid "
            "name"),
        ),
        (
            'endpoints.mine.query={subscription-key="k"}',
            ("endpoints.mine.query has 'subscription-key'; settings are stored, so no parameter of the URL may hold a key: it must go into "
            "a header, see api_key_env"),
        ),
        (
            'endpoints.fake.headers={x-title="a"}',
            "endpoints.fake has headers, query or api_key_header, which only an endpoint of kind openai sends; remove them",
        ),
        (
            'endpoints.mine.url="http://127.0.0.1:1/v1?api-version=2024-10-21"',
            "endpoints.mine.url has a ? or a #; it must end before, and an endpoint of kind openai has what follows in its setting query",
        ),
        ("completions.system=both", 'completions.system is "both"; it must be one of "", system, user'),
    ],
)  # fmt: skip
def test_what_cannot_be_sent_is_refused_in_a_sentence(assignment: str, message: str):
    assert refused(*OPENAI, assignment) == message


@pytest.mark.parametrize("name", ["api-key", "X-Api-Key", "x-functions-key", "Cookie", "X-Auth-Token", "Proxy-Authorization", "Ocp-Apim-Subscription-Key"])  # fmt: skip
def test_a_header_that_is_made_for_keys_is_refused_and_its_value_not_repeated(name: str):
    message = refused(*OPENAI, f'endpoints.mine.headers={{{name}="sk-1234"}}')
    assert name in message
    assert "sk-1234" not in message


def test_what_contradicts_itself_is_refused():
    assert (
        refused(*OPENAI, "completions.leave_out=max_tokens", 'endpoints.mine.rename={max_tokens="x"}')
        == "completions, with endpoints.mine: leave_out and rename both name max_tokens; it must be in one of them"
    )
    assert (
        refused(*OPENAI, 'endpoints.mine.rename={top_p="p"}', "endpoints.mine.parameters={p=1}")
        == "endpoints.mine rename and parameters both make the field p; it must be in one of them"
    )


def test_converse_takes_only_its_own_fields():
    known = {*aws_model.model("bedrock-runtime").operation_model("Converse").input_shape.members}
    assert known >= {*CONVERSE_FIELDS}
    assert "parameters has 'top_k'; Converse takes additionalModelRequestFields, " in refused(*CLAUDE, "completions.parameters.top_k=5")  # fmt: skip
    assert "Converse has fixed names" in refused(*CLAUDE, 'endpoints.mine.rename={max_tokens="maximum"}')
    config.load(assignments=[*CLAUDE, "completions.parameters.additionalModelRequestFields.top_k=5"])


def test_the_teacher_s_own_settings_come_before_those_of_its_endpoint():
    conf = config.load(
        assignments=[
            *OPENAI,
            'endpoints.mine.parameters={seed=1, reasoning={effort="low", summary="none"}}',
            "completions.parameters={seed=2, reasoning={effort='high'}}",
            "endpoints.mine.leave_out=top_p",
            "completions.leave_out=temperature",
            "endpoints.mine.system=user",
        ]
    )
    sent = conf.teacher_requests
    assert sent.parameters == {"seed": 2, "reasoning": {"effort": "high", "summary": "none"}}
    assert sent.leave_out == ("top_p", "temperature")
    assert sent.system == "user"
    assert conf.completions.parameters == {"seed": 2, "reasoning": {"effort": "high"}}  # as set, not as sent


def test_a_limit_in_dollars_needs_a_limit_of_tokens():
    prices = ("endpoints.mine.input_price=1", "endpoints.mine.output_price=2", "completions.max_spend=3")
    conf = config.load(assignments=[*OPENAI, *prices, "endpoints.mine.leave_out=max_tokens"])
    with pytest.raises(ConfigError, match=r"leave_out has max_tokens for endpoints\.mine, so nothing bounds"):
        conf.check_max_spend()
    renamed = config.load(assignments=[*OPENAI, *prices, 'endpoints.mine.rename={max_tokens="max_completion_tokens"}'])
    renamed.check_max_spend()

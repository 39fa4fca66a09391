"""Settings: the last wins key by key; what is wrong is named before anything starts; no secret is ever kept."""

import json
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import get_args

import botocore.session
import pydantic
import pytest
from hypothesis import given
from hypothesis import strategies as st

from conftest import ROOT
from raft_spark import config
from raft_spark.config import models
from raft_spark.errors import ConfigError

pytestmark = pytest.mark.row

REFERENCE = (ROOT / "conf/default.toml").read_text()
SECTIONS = ("lake", "articles", "base", "completions", "dataset", "dataset.gate", "training", "refresh", "log", "emr")


def refused(*assignments: str, files: tuple[str, ...] = ()) -> str:
    with pytest.raises(ConfigError) as caught:
        config.load(files, assignments)
    assert caught.value.exit_status == 2
    return str(caught.value)


def write(path: Path, text: str) -> str:
    path.write_text(text, encoding="utf-8")
    return str(path)


# Layers


def test_files_lie_over_the_defaults_and_assignments_over_files_key_by_key(tmp_path):
    one = write(tmp_path / "one.toml", "[base]\nseed = 1\ndistractors = 1\noracle_share = 0.5")
    two = write(tmp_path / "two.toml", "[base]\nseed = 2\ndistractors = 2")
    base = config.load([one, two], ["base.seed=3"]).base
    assert (base.seed, base.distractors, base.oracle_share, base.strategy) == (3, 2, 0.5, "auto")


@pytest.mark.parametrize(
    ("under", "over", "name", "value"),
    [
        ("base.distractors=7", "base.distractors=0", "distractors", 0),
        ("base.oracle_share=0.5", "base.oracle_share=0.0", "oracle_share", 0.0),
        ("completions.decision=true", "completions.decision=false", "decision", False),
        ("base.seed=9", "base.seed=0", "seed", 0),
    ],
)
def test_zero_and_false_win_too(under: str, over: str, name: str, value: object):
    section = getattr(config.load(assignments=[under, over]), over.partition(".")[0])
    assert getattr(section, name) == value


def test_an_empty_text_wins_too():
    lake = config.load(assignments=["lake.s3_region=eu-west-1", 'lake.s3_region=""']).lake
    assert not lake.s3_region


def test_a_list_is_replaced_not_extended():
    formats = config.load(assignments=['dataset.formats=["notebook"]']).dataset.formats
    assert formats == ("notebook",)


def test_a_section_may_be_given_whole_and_keeps_its_other_keys():
    base = config.load(assignments=["base={seed=4}"]).base
    assert (base.seed, base.distractors) == (4, 3)


def test_a_new_endpoint_joins_the_known_ones():
    conf = config.load(
        assignments=[
            'endpoints.mine={kind="openai", url="http://127.0.0.1:8000/v1/", model="m"}',
            "completions.endpoint=mine",
        ]
    )
    assert sorted(conf.endpoints) == ["embedded", "fake", "mine"]
    assert (conf.teacher.url, conf.teacher.model) == ("http://127.0.0.1:8000/v1", "m")


def test_a_bare_value_is_text():
    conf = config.load(assignments=["articles.source=/data/a b#c", "lake.root=s3://bucket/lake", "base.strategy=join"])
    assert conf.articles.source == "/data/a b#c"
    assert (conf.lake.root, conf.base.strategy) == ("s3://bucket/lake", "join")


@given(st.text(st.characters(min_codepoint=32, exclude_categories=["Cs", "Cc"]), min_size=1))
def test_any_bare_text_arrives_as_it_is(text: str):
    assert config.load(assignments=[f"lake.s3_region=_{text}"]).lake.s3_region == f"_{text}"


def test_quoted_keys_reach_spark_whole():
    spark = config.load(assignments=['spark."spark.master"="local[2]"', 'spark."spark.ui.enabled"=false-ish']).spark
    assert spark == {"spark.master": "local[2]", "spark.ui.enabled": "false-ish"}


def test_a_jobs_arguments_may_stand_in_any_order(tmp_path):
    file = write(tmp_path / "mine.toml", "[base]\nseed = 5\ndistractors = 5")
    conf = config.from_argv(["--set", "base.seed=6", file, "--set", "base.oracle_share=1"])
    assert (conf.base.seed, conf.base.distractors, conf.base.oracle_share) == (6, 5, 1.0)


@pytest.mark.parametrize(
    ("assignment", "value"),
    [
        ("dataset.formats=alpaca,messages", ("alpaca", "messages")),
        ("evaluation.distractors=6,1", (1, 6)),
        ("evaluation.distractors=3", (3,)),
        ("completions.again_temperatures=0.5,0.9", (0.5, 0.9)),
        ("completions.retry=filtered", ("filtered",)),
    ],
)
def test_a_list_may_be_given_by_commas(assignment: str, value: tuple[object, ...]):
    section, _, key = assignment.partition("=")[0].partition(".")
    assert getattr(getattr(config.load(assignments=[assignment]), section), key) == value


def test_files_of_the_package_are_found_by_name_from_anywhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert config.load(["notebook.toml"]) == config.load(["conf/notebook.toml"])
    assert config.load(["local.toml"]).articles.source == "sample:90"


def test_a_mistyped_path_is_not_replaced_by_a_file_of_the_package(tmp_path):
    message = refused(files=(str(tmp_path / "production/local.toml"),))
    assert "production/local.toml cannot be read (No such file or directory)" in message
    assert "default.toml, emr.toml, local.toml, notebook.toml" in message


# What is wrong is named


@pytest.mark.parametrize(
    ("assignment", "message"),
    [
        ("base.distractors=101", "base.distractors is 101; it must be a whole number in 0..100"),
        ("base.distractors=-1", "base.distractors is -1; it must be a whole number in 0..100"),
        ("base.distractors=2.0", "base.distractors is 2.0; it must be a whole number in 0..100"),
        ("base.distractors=true", "base.distractors is true; it must be a whole number in 0..100"),
        ("base.distractors=many", 'base.distractors is "many"; it must be a whole number in 0..100'),
        ("base.distractors=", 'base.distractors is ""; it must be a whole number in 0..100'),
        ("base.oracle_share=1.3", "base.oracle_share is 1.3; it must be a number in 0..1"),
        ("base.oracle_share=nan", "base.oracle_share is NaN; it must be a number in 0..1"),
        ("base.oracle_share=false", "base.oracle_share is false; it must be a number in 0..1"),
        ("completions.decision=1", "completions.decision is 1; it must be true or false"),
        ("completions.decision=False", 'completions.decision is "False"; it must be true or false'),
        ("base.absent=oracle", 'base.absent is "oracle"; it must be one of stand_in, singles, nothing'),
        ("base.strategy=shuffle", 'base.strategy is "shuffle"; it must be one of auto, broadcast, join'),
        ("base.seed=9223372036854775808", "base.seed is 9223372036854775808; it must be a whole number in 0..9223372036854775807"),
        ('dataset.language="english"', 'dataset.language is "english"; it must be text such as en'),
        ("completions.again_temperatures=[]", "completions.again_temperatures is []; it must be a list of 1 to 10, each a number in 0..2"),
        ("endpoints.mine=3", "endpoints.mine is 3; it must be a table of settings"),
        ("endpoints.fake.codec=xyz", 'endpoints.fake.codec is "xyz"; it must be one of "", tgi, lmi, openai, converse, llama, titan'),
        ("endpoints.fake.codec=tgi", "endpoints.fake has codec 'tgi'; an endpoint of kind fake has no codec"),
        ('endpoints.fake.request_metadata={team="a;b"}', "endpoints.fake.request_metadata has the entry 'team'; name and value must have at most 256 letters, digits, spaces and :_@$#=/+,.-"),
        ('endpoints.fake.request_metadata={"caf\u00e9"="a"}', "endpoints.fake.request_metadata has the entry 'caf\u00e9'; name and value must have at most 256 letters, digits, spaces and :_@$#=/+,.-"),
        ('endpoints.fake.request_metadata={""="a"}', "endpoints.fake.request_metadata has the entry ''; name and value must have at most 256 letters, digits, spaces and :_@$#=/+,.-"),
        ('endpoints.fake.request_metadata={key="a"}', "endpoints.fake.request_metadata has the entry 'key'; it must have another name, because raft-spark sends the key of each request under it"),
        ("endpoints.fake.input_price=-1", "endpoints.fake.input_price is -1; it must be a number, 0 or more"),
        ("evaluation.distractors=[0,3]", "evaluation.distractors.0 is 0; it must be a whole number in 1..100"),
        ("articles.limit=-1", "articles.limit is -1; it must be a whole number, 0 or more"),
        ("completions.top_p=0", "completions.top_p is 0; it must be a number above 0, at most 1"),
        ("completions.timeout_seconds=inf", "completions.timeout_seconds is Infinity; it must be a number above 0, at most 86400"),
        ("dataset.formats=[]", "dataset.formats is []; it must be a list of 1 or more, each one of messages, prompt_completion, answer_only, preference, notebook, jumpstart, bedrock, alpaca, sharegpt"),
        ("dataset.gate=off", 'dataset.gate is "off"; it must be a table of settings'),
        ('spark."spark.executor.cores"=4', "spark.spark.executor.cores is 4; it must be text"),
        ("lake.root=gs://bucket", 'lake.root is "gs://bucket"; it must be a folder or s3://bucket/prefix'),
        ("lake.root=", 'lake.root is ""; it must be a folder or s3://bucket/prefix'),
        ("articles.source=gs://b/x.jsonl", 'articles.source is "gs://b/x.jsonl"; it must be a folder or s3://bucket/prefix'),
        ("articles.source=sample:0", 'articles.source is "sample:0"; it must be sample:N with N from 1 to 999999999'),
        ("articles.source=hf:pubmed", 'articles.source is "hf:pubmed"; it must be hf:OWNER/NAME/CONFIG, for example hf:qiaojin/PubMedQA/pqa_artificial'),
        ("articles.test_share=0.9", "articles.validation_share + articles.test_share is 1; it must be below 1, so that training rows are left"),
        ("completions.endpoint=gpt", "completions.endpoint is 'gpt'; it must name one of [endpoints.*]: embedded, fake"),
        ("endpoints.fake.url=ftp://host", 'endpoints.fake.url is "ftp://host"; it must be an address such as http://127.0.0.1:8000/v1'),
        ("endpoints.mine.kind=openai", "endpoints.mine needs url and model, as every endpoint of kind openai"),
        ("endpoints.mine.model=m", "endpoints.mine.kind is missing; it must be one of openai, sagemaker, bedrock, embedded, fake"),
        ("base.distractorz=3", ("base.distractorz is not a setting (did you mean distractors?); [base] has the settings: "
         "absent, broadcast_limit_mb, distractors, distractors_from, oracle_share, retrieval, seed, strategy, variants")),
        ("base.distractors_from={embedding=0.5}", "base.distractors_from has embedding = 0.5; base.retrieval.endpoint must name the [endpoints.NAME] that embeds questions and passages"),
        ("base.retrieval.endpoint=nobody", "base.retrieval.endpoint is 'nobody'; it must name one of [endpoints.*]: embedded, fake"),
        ("base.retrieval.endpoint=embedded", "base.retrieval.endpoint is 'embedded', of kind 'embedded', which cannot embed; its kind must be 'openai', 'bedrock', 'fake'"),
        ("dataset.gate.words=off", "dataset.gate.words is not a setting; [dataset.gate] has the settings: answer, citation, decision, language, length, quote, refusal, truncated, turn"),
        ("endpoints.fake.speed=1", ("endpoints.fake.speed is not a setting; [endpoints.fake] has the settings: api_key_env, api_key_header, "
             "api_key_secret, batch_folder, batch_input_price, batch_output_price, ca_bundle, codec, endpoint_name, headers, hourly_price, "
             "inference_component, input_price, kind, latency_ms, leave_out, model, output_price, parameters, query, region, "
             "rename, request_metadata, role_arn, route, service_tier, system, threads, url, weights")),
        ("bases.seed=1", "bases is not a setting (did you mean base?); the sections are: articles, base, completions, dataset, emr, endpoints, evaluation, hosting, lake, log, prices, refresh, spark, training"),
    ],
)  # fmt: skip
def test_a_wrong_setting_is_named_with_its_value_and_what_is_right(assignment: str, message: str):
    assert refused(assignment) == message


def test_every_wrong_setting_is_named_at_once():
    message = refused("base.distractors=-1", "lake.file_mb=0", "articles.colour=red")
    assert [line.split()[0] for line in message.splitlines()] == [
        "lake.file_mb",
        "articles.colour",
        "base.distractors",
    ]


@pytest.mark.parametrize("assignment", ["base", "base=3", "=3", "base.seed", "", "a b.c=1"])
def test_what_is_no_assignment_is_shown_with_an_example(assignment: str):
    message = refused(assignment)
    assert message == f"--set {assignment!r} is not section.key=value, for example --set base.distractors=4"


def test_a_file_that_is_no_toml_is_named(tmp_path):
    broken = write(tmp_path / "broken.toml", "[base\nseed = 1")
    assert refused(files=(broken,)).startswith(f"{broken} is not TOML: ")
    latin = tmp_path / "latin.toml"
    latin.write_bytes(b'[lake]\nroot = "caf\xe9"')
    assert refused(files=(str(latin),)).startswith(f"{latin} is not TOML: ")


# Secrets


@pytest.mark.parametrize(
    "assignment",
    [
        "endpoints.fake.url=http://bob:hunter2@host/v1",
        "endpoints.fake.url=http://hunter2@host/v1",
        "lake.s3_endpoint=http://bob:hunter2@host",
        "lake.root=s3://bob:hunter2@bucket/lake",
        "endpoints.fake.api_key_env=sk-hunter2",
        "endpoints.fake.api_key=hunter2",
        'spark."spark.hadoop.fs.s3a.secret.key"="hunter2"',
        'spark."spark.hadoop.fs.s3a.access.key"="hunter2"',
        'spark."spark.ssl.keyPassword"="hunter2"',
    ],
)
def test_a_secret_is_refused(assignment: str):
    message = refused(assignment)
    assert assignment.partition("=")[0].partition('"')[0].rstrip(".") in message
    if "lake.root" not in assignment:
        assert "hunter2" not in message


def test_settings_name_the_variable_of_a_key_and_never_its_value(monkeypatch):
    monkeypatch.setenv("TEACHER_KEY", "hunter2")
    conf = config.load(assignments=["endpoints.fake.api_key_env=TEACHER_KEY"])
    saved = json.dumps(conf.settings())
    assert '"api_key_env": "TEACHER_KEY"' in saved
    assert "hunter2" not in saved + repr(conf)


def test_settings_are_saved_as_plain_json_and_settle_to_the_same():
    conf = config.load(["notebook.toml"])
    assert config.Config.model_validate_json(json.dumps(conf.settings())) == conf


def test_a_settled_configuration_cannot_be_changed():
    conf = config.load()
    with pytest.raises(pydantic.ValidationError):
        conf.base.seed = 1
    with pytest.raises(pydantic.ValidationError):
        conf.lake = config.load(assignments=["lake.root=x"]).lake


def test_a_format_named_twice_is_written_once():
    formats = config.load(assignments=['dataset.formats=["notebook", "messages", "notebook"]']).dataset.formats
    assert formats == ("notebook", "messages")


@pytest.mark.parametrize(
    ("assignment", "sentence"),
    [
        ("emr.code=/builds", 'emr.code is "/builds"; it must be s3://bucket/prefix'),
        ('emr.code="s3://bucket/a,b"', "it must be s3://bucket/prefix with letters, digits and _./=- only"),
        ("emr.role_arn=raft-spark-job", "it must be the ARN of a role, such as arn:aws:iam::123456789012:role/NAME"),
        ("emr.application_id=My-App", "it must be the id of an application, such as 00fabc123def4567"),
        ("emr.label=emr-7.9.0", "it must be a release label emr-spark-8.N.N, or emr-7.N.N from 7.10.0 on"),
        ("emr.executor_cores=3", "emr.executor_cores is 3; it must be one of 1, 2, 4, 8, 16"),
        ("emr.timeout_minutes=0", "emr.timeout_minutes is 0; it must be a whole number in 5..10080"),
        ("emr.prometheus_url=https://prometheus.example", "it must be an address such as https://aps-workspaces.REGION.amazonaws.com/workspaces"),
        ('emr.tags={"who?"="me"}', "at most 190 tags with letters, digits, spaces and /_.:=+@- only, unlike who?"),
    ],
)  # fmt: skip
def test_what_emr_serverless_would_refuse_is_refused_here(assignment: str, sentence: str):
    assert sentence in refused(assignment)


# conf/


def fields(section: str) -> dict[str, pydantic.fields.FieldInfo]:
    model: type[pydantic.BaseModel] = config.Config
    for name in section.split("."):
        annotation = model.model_fields[name].annotation
        assert isinstance(annotation, type)
        model = annotation
    return {
        name: field
        for name, field in model.model_fields.items()
        if not (isinstance(field.annotation, type) and issubclass(field.annotation, models.Section))
    }


def lines(section: str) -> dict[str, str]:
    """Return each setting of a section of conf/default.toml with its comment, comments on the next lines included."""
    body = re.search(rf"^\[{re.escape(section)}\].*?$(.*?)(?=^\[|\Z)", REFERENCE, re.MULTILINE | re.DOTALL)
    assert body
    found: dict[str, str] = {}
    for line in body[1].splitlines():
        setting = re.match(r"(\w+) = ", line)
        if setting:
            found[setting[1]] = line.partition(" #")[2].strip()
        elif line.startswith(" ") and found:
            found[list(found)[-1]] += " " + line.strip(" #")
    return found


@pytest.mark.parametrize("section", SECTIONS)
def test_the_reference_page_has_every_setting_once_with_a_comment_and_nothing_else(section: str):
    written = lines(section)
    assert sorted(written) == sorted(fields(section))
    assert [name for name, comment in written.items() if not comment] == []


def test_the_reference_page_has_every_section_and_tells_of_every_key_of_an_endpoint():
    page = tomllib.loads(REFERENCE)
    assert sorted(page) == sorted(config.Config.model_fields)
    about = REFERENCE[REFERENCE.index("# One section for each model") : REFERENCE.index("[endpoints.embedded]")]
    assert [name for name in config.Endpoint.model_fields if not re.search(rf"\b{name}\b", about)] == []


def test_every_price_says_where_and_when_it_was_read():
    conf = config.load()
    assert len(conf.prices) > 10
    for name, price in [*conf.prices.items(), ("emr", conf.emr)]:
        assert price.source, name
        assert re.fullmatch(r"20\d\d-\d\d(-\d\d)?", price.date), name


def test_a_models_batch_price_is_below_its_price_on_demand_and_nothing_costs_nothing():
    for name, price in config.load().prices.items():
        if name.startswith("ml."):
            assert 0 < price.hourly_price < 100, name
        else:
            assert 0 < price.input_price <= price.output_price < 10, name
            assert price.batch_input_price == pytest.approx(price.input_price / 2), name
            assert price.batch_output_price == pytest.approx(price.output_price / 2), name


def bounds(field: pydantic.fields.FieldInfo) -> Iterator[tuple[str, float]]:
    for found in field.metadata:
        yield from (
            (name, getattr(found, name)) for name in ("ge", "gt", "le", "lt") if getattr(found, name, None) is not None
        )


@pytest.mark.parametrize("section", SECTIONS)
def test_the_ranges_of_the_reference_page_are_those_that_are_checked(section: str):
    comments = lines(section)
    for name, field in fields(section).items():
        checked, choices = dict(bounds(field)), get_args(field.annotation)
        told = re.search(r"(above )?(\d+)\.\.(2\^63-1|\d+(?:\.\d+)?)", comments[name])
        if "le" in checked:
            assert told, name
            low, high = int(told[2]), 2**63 - 1 if "^" in told[3] else float(told[3])
            assert checked == {"gt" if told[1] else "ge": low, "le": high}, name
        if field.annotation is not None and len(choices) > 1 and all(isinstance(choice, str) for choice in choices):
            above = REFERENCE[: REFERENCE.index(f"\n{name} = ", REFERENCE.index(f"\n[{section}]"))].rpartition("\n[")[2]
            assert [choice for choice in choices if choice not in comments[name] + above] == [], name


def test_the_notebooks_recipe():
    conf = config.load(["notebook.toml"])
    assert (conf.articles.source, conf.articles.limit) == ("hf:qiaojin/PubMedQA/pqa_artificial", 40_000)
    assert (conf.base.distractors, conf.base.oracle_share, conf.base.absent) == (3, 0.7, "nothing")
    asked = conf.completions
    assert (asked.template, asked.temperature, asked.top_p, asked.max_new_tokens) == ("llama3", 0.9, 0.9, 512)
    assert (conf.dataset.formats, conf.dataset.file) == (("notebook",), "jsonl")
    assert (conf.dataset.gate.truncated, conf.dataset.gate.refusal) == ("off", "off")


@pytest.mark.parametrize("file", sorted((ROOT / "conf").glob("*.toml")), ids=lambda file: file.name)
def test_every_file_of_conf_settles(file: Path):
    assert config.load([str(file)]).lake.root


BEDROCK = "endpoints.b={kind='bedrock', model='%s', region='us-east-1'}"


@pytest.mark.parametrize(
    ("assignments", "message"),
    [
        ((BEDROCK % "us.amazon.nova-lite-v1:0", "base.retrieval.endpoint=b"), "endpoints.b.codec must be 'titan'"),
        ((BEDROCK % "amazon.titan-embed-text-v2:0", "completions.endpoint=b"), "completions.endpoint names b, whose codec 'titan' embeds texts"),
        ((BEDROCK % "amazon.titan-embed-text-v2:0", "evaluation.students=b"), "evaluation.students names b, whose codec 'titan' embeds texts"),
        ((BEDROCK % "amazon.titan-embed-text-v2:0", "evaluation.judge=b"), "evaluation.judge names b, whose codec 'titan' embeds texts"),
    ],
)  # fmt: skip
def test_a_model_that_embeds_and_one_that_writes_are_not_mixed_up(assignments: tuple[str, ...], message: str):
    assert message in refused(*assignments)


def test_an_embedder_needs_the_price_of_what_it_reads_alone():
    embedder = "endpoints.e={kind='openai', model='e', url='http://127.0.0.1:1/v1'}"
    wanted = ("base.distractors_from={embedding=0.5}", "base.retrieval.endpoint=e", "completions.max_spend=1")
    basis = ("completions.endpoint=fake", embedder, *wanted)
    with pytest.raises(ConfigError, match=r"the price of endpoints\.e \(e\) is unknown"):
        config.load(assignments=basis).check_max_spend()
    config.load(assignments=[*basis, "endpoints.e.input_price=0.02"]).check_max_spend()


@pytest.mark.parametrize("wanted", ["dataset.absent_answer=answer_only", "dataset.formats=messages,answer_only"])
def test_an_answer_without_its_thought_must_be_there(wanted: str):
    with pytest.raises(ConfigError, match=r"dataset\.gate\.answer is 'flag'; it must be 'reject'"):
        config.load(assignments=[wanted, "dataset.gate.answer=flag"])


METADATA = "[a-zA-Z0-9\\s:_@$#=/+,-.]"  # of Converse; a tag's key and value have [a-zA-Z0-9\s._:/=+@-]


def test_request_metadata_has_the_patterns_of_bedrock():
    service = botocore.session.get_session().get_service_model("bedrock-runtime")
    metadata = service.operation_model("Converse").input_shape.members["requestMetadata"]
    assert metadata.key.metadata["pattern"] == f"{METADATA}{{1,256}}"
    assert metadata.value.metadata["pattern"] == f"{METADATA}{{0,256}}"
    assert metadata.metadata["max"] == 15 + 1  # one is the key of the request
    given = {"team:a_b@c$d#e=f/g+h,i-j.k": "l m", "x" * 256: "y" * 256, "empty": ""}
    assert (
        config.load(assignments=[f"endpoints.fake.request_metadata={toml(given)}"]).endpoints["fake"].request_metadata
        == given
    )
    for name, value in (("x" * 257, ""), ("x", "y" * 257), ("x", "(a)"), ("x*", "")):
        assert "name and value must have at most 256 letters" in refused(
            f"endpoints.fake.request_metadata={toml({name: value})}"
        )


def test_request_metadata_that_batch_jobs_cannot_have_as_tags_is_refused():
    service = botocore.session.get_session().get_service_model("bedrock")
    tag = service.operation_model("CreateModelInvocationJob").input_shape.members["tags"].member.members
    assert tag["key"].metadata["pattern"] == tag["value"].metadata["pattern"] == "[a-zA-Z0-9\\s._:/=+@-]*"
    assert tag["key"].metadata["max"] == 128
    role = 'role_arn="arn:aws:iam::123456789012:role/batch"'
    for name, value in (("cost,center", "7"), ("center", "$7"), ("x" * 129, "7")):
        endpoint = f'endpoints.b={{kind="bedrock", model="m", {role}, request_metadata={toml({name: value})}}}'
        batch = (endpoint, "completions.endpoint=b", "completions.mode=batch")
        with pytest.raises(ConfigError, match=r"becomes tags of the batch jobs, so '.*' must have letters"):
            config.load(assignments=batch)
        assert config.load(assignments=batch[:2]).teacher.request_metadata == {name: value}


def toml(table: dict[str, str]) -> str:
    return "{" + ", ".join(f'"{name}"="{value}"' for name, value in table.items()) + "}"


@pytest.mark.parametrize(
    ("recipes", "message"),
    [
        ('{raft=["a", "other"]}', "evaluation.recipes.raft names other; each must be one of evaluation.students, and in one recipe only"),
        ('{raft=["a"], dsf=["a", "b"]}', "evaluation.recipes.raft names a; each must be one of evaluation.students"),
        ('{a=["a", "b"]}', "evaluation.recipes names a, which is a student too; it must have a name of its own"),
        ("{raft=[]}", "evaluation.recipes.raft"),
    ],
)  # fmt: skip
def test_a_recipe_is_made_of_students_that_are_asked(recipes: str, message: str):
    students = [f"endpoints.{name}.{each}" for name in ("a", "b") for each in ("kind=fake", f"model={name}")]
    with pytest.raises(ConfigError, match=re.escape(message)):
        config.load(assignments=[*students, "evaluation.students=a,b", f"evaluation.recipes={recipes}"])
    both = config.load(assignments=[*students, "evaluation.students=a,b", "evaluation.recipes.raft=a,b"])
    assert both.evaluation.recipes == {"raft": ("a", "b")}

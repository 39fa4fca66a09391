"""What StartJobRun is sent: legal by the service's own model, whole, quoted, without secrets; and what is refused before."""

import dataclasses
import json
import re
import shlex
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from conftest import ROOT
from raft_spark import config
from raft_spark.emr import application, job_run, submit, validation, worker_sizes
from raft_spark.emr.release import Release, ReleaseFile
from raft_spark.errors import ConfigError
from raft_spark.stages import registry
from support.job_documents import EVERYTHING, RELEASE, SETTINGS, built, found, settled

pytestmark = pytest.mark.row

LABELS = ("emr-spark-8.1.0", "emr-7.14.0")


def refused(*assignments: str, job: str = "refresh", release: Release = RELEASE) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        built(*assignments, job=job, release=release)
    return str(caught.value).splitlines()


def spark(document: dict[str, Any]) -> dict[str, str]:
    """Read sparkSubmitParameters as a shell does."""
    words = shlex.split(document["jobDriver"]["sparkSubmit"]["sparkSubmitParameters"])
    assert set(words[::2]) == {"--conf"}
    return dict(word.split("=", 1) for word in words[1::2])


def read(document: dict[str, Any]) -> config.Config:
    """Settle the settings as the job does."""
    return config.from_argv(document["jobDriver"]["sparkSubmit"]["entryPointArguments"])


def test_fields_of_a_body_reach_the_cluster_as_they_were_set():
    fields = "completions.parameters.additionalModelRequestFields"
    schema = '{anyOf=[{type="string", deep=[{}, []]}, {const=1.5}], empty={}}'
    made = built(f'{fields}={{"a.b"="x y"}}', f"{fields}.schema={schema}")
    assert read(made).completions.parameters == {
        "additionalModelRequestFields": {
            "a.b": "x y",
            "schema": {"anyOf": [{"type": "string", "deep": [{}, []]}, {"const": 1.5}], "empty": {}},
        }
    }


# The service's model


@pytest.mark.parametrize("job", registry.JOBS)
@pytest.mark.parametrize("label", LABELS)
@pytest.mark.parametrize("more", [(), EVERYTHING])
def test_every_document_is_legal_by_the_services_own_model(job: str, label: str, more: tuple[str, ...]):
    assert found(built(f"emr.label={label}", *more, job=job)) == []


def test_the_check_by_the_model_finds_what_is_not_legal():
    document = built() | {"name": "", "tags": {"ü": "", job_run.IDENTITY: "x"}, "mode": "SOMETIMES"}
    document["jobDriver"]["sparkSubmit"] |= {"entryPointArguments": ["x"] * 1025, "other": ""}
    problems = [" ".join(line.split()[:2]) for line in found(document)]
    assert sorted(problems) == [
        "Invalid length",  # ParamValidator's own report
        "document.jobDriver.sparkSubmit.entryPointArguments: 1025",
        "document.mode: 'SOMETIMES'",
        "document.name: ''",
        "document.name: 0",
        "document.tags.key: 'ü'",
    ]


def test_a_whole_document():
    document = built(*EVERYTHING, "base.distractors=4", "emr.label=emr-7.14.0", job="base")
    tags = document.pop("tags")
    parameters = document["jobDriver"]["sparkSubmit"].pop("sparkSubmitParameters")
    assert document == {
        "applicationId": "00f1abcdefgh2345",
        "executionRoleArn": "arn:aws:iam::123456789012:role/raft-spark-job",
        "name": "raft-spark-base",
        "mode": "BATCH",
        "executionTimeoutMinutes": 720,
        "retryPolicy": {"maxAttempts": 10},
        "flexExecution": {"enabled": True},
        "configurationOverrides": {
            "monitoringConfiguration": {
                "s3MonitoringConfiguration": {"logUri": "s3://logs/emr/"},
                "cloudWatchLoggingConfiguration": {"enabled": True, "logGroupName": "/emr-serverless/raft-spark"},
                "prometheusMonitoringConfiguration": {
                    "remoteWriteUrl": "https://aps-workspaces.us-east-1.amazonaws.com/workspaces/ws-0a1b/api/v1/remote_write"
                },
            }
        },
        "jobDriver": {
            "sparkSubmit": {
                "entryPoint": "s3://code/releases/raft-spark-1.0.0-0123456789ab/jobs/base.py",
                "entryPointArguments": [
                    "--set=lake.root=s3://lake/raft",
                    "--set=articles.source=s3://lake/pubmedqa",
                    "--set=base.distractors=4",
                    "--set=completions.endpoint=mine",
                    '--set=evaluation.students=["mine"]',
                    "--set=endpoints.mine.kind=bedrock",
                    "--set=endpoints.mine.model=us.amazon.nova-lite-v1:0",
                    "--set=endpoints.mine.codec=converse",
                ],
            }
        },
    }
    assert sorted(tags) == ["cost:center", "raft-spark:identity", "raft-spark:job", "raft-spark:release", "team"]
    assert shlex.split(parameters) == [
        part
        for setting in (
            "spark.driver.cores=4",
            "spark.driver.memory=14894m",
            "spark.executor.cores=4",
            "spark.executor.memory=14894m",
            "spark.emr-serverless.driver.disk=20G",
            "spark.emr-serverless.executor.disk=20G",
            "spark.executor.instances=3",
            "spark.dynamicAllocation.enabled=true",
            "spark.dynamicAllocation.initialExecutors=3",
            "spark.dynamicAllocation.maxExecutors=3",
            "spark.archives=s3://code/releases/raft-spark-1.0.0-0123456789ab/environment-x86_64.tar.gz#environment",
            "spark.emr-serverless.driverEnv.PYSPARK_PYTHON=python3.11",
            "spark.emr-serverless.driverEnv.PYSPARK_DRIVER_PYTHON=python3.11",
            "spark.executorEnv.PYSPARK_PYTHON=python3.11",
            "spark.emr-serverless.driverEnv.PYTHONPATH=./environment",
            "spark.executorEnv.PYTHONPATH=./environment",
        )
        for part in ("--conf", setting)
    ]


def test_an_application_of_arm_gets_its_own_packages_and_a_source_on_the_hub_the_hubs():
    at = "s3://code/releases/raft-spark-1.0.0-0123456789ab"
    properties = spark(built("emr.architecture=arm64", "articles.source=hf:a/b/c"))
    assert properties["spark.archives"] == f"{at}/environment-aarch64.tar.gz#environment,{at}/hub-aarch64.tar.gz#hub"
    assert properties["spark.executorEnv.PYTHONPATH"] == "./environment:./hub"


def test_a_dataset_whose_tokens_are_counted_takes_the_hubs_packages():
    properties = spark(built("dataset.tokenizer=s3://code/tokenizer.json", job="dataset"))
    assert properties["spark.archives"].endswith("#hub")
    assert "#hub" not in spark(built("dataset.tokenizer=s3://code/tokenizer.json", job="base"))["spark.archives"]


def test_only_what_a_shell_would_split_is_quoted():
    parameters = built('spark."spark.x"="it\'s a b"')["jobDriver"]["sparkSubmit"]["sparkSubmitParameters"]
    assert "--conf spark.archives=s3://code/releases/" in parameters
    assert parameters.endswith("""--conf 'spark.x=it'"'"'s a b'""")


def test_a_job_that_reads_no_source_needs_no_hub():
    assert "hub" not in spark(built("articles.source=hf:a/b/c", job="dataset"))["spark.archives"]


def test_fewer_executors_than_sparks_first_ones_are_kept_to():
    properties = spark(built("emr.max_executors=1"))
    names = ("executor.instances", "dynamicAllocation.initialExecutors", "dynamicAllocation.maxExecutors")
    assert [properties[f"spark.{name}"] for name in names] == ["1", "1", "1"]


# Settings reach the job as they are


def sent_sections(conf: config.Config) -> dict[str, Any]:
    return conf.model_dump(exclude={"emr", "spark"})


def test_the_job_settles_to_the_same_settings_with_no_file():
    conf = settled(
        "completions.retry=bad_request,filtered", "endpoints.fake.latency_ms=0", 'prices."a b".input_price=0.5'
    )
    assert sent_sections(read(job_run.build(conf, "base", (), RELEASE))) == sent_sections(conf)


words = st.text(st.characters(exclude_categories=["Cs"]), max_size=30) | st.sampled_from(
    ["7", "true", "1e3", "2026-11-22", "inf", "a.b"]
)
tags = st.text("aZ9 :_@$#=/+,.-", max_size=256)  # as Bedrock accepts them
fields = st.fixed_dictionaries(
    {"kind": st.just("bedrock"), "model": words.filter(bool), "inference_component": words},
    optional={
        "request_metadata": st.dictionaries(tags.filter(bool), tags, max_size=3),
        "input_price": st.floats(0, 1e9),
    },
)


@given(fields, st.integers(0, 2**63 - 1), st.floats(0, 1), st.dictionaries(words, st.floats(0, 1e-5), max_size=2))
def test_any_words_and_numbers_reach_the_job_as_they_are(fields: dict, seed: int, share: float, prices: dict):
    whole = settled().settings()
    whole["base"] |= {"seed": seed, "oracle_share": share}
    whole["endpoints"]["mine"] = fields
    whole["prices"] |= {name: {"input_price": price} for name, price in prices.items()}
    conf = config.Config.model_validate(whole)
    assert sent_sections(read(job_run.build(conf, "base", (), RELEASE))) == sent_sections(conf)


@given(st.dictionaries(words.filter(lambda word: word and "=" not in word and not word.startswith("spark.")), words))
def test_any_setting_of_spark_comes_back_from_a_shell_as_it_is(settings: dict[str, str]):
    conf = settled().model_copy(update={"spark": settings})
    properties = spark(job_run.build(conf, "base", (), RELEASE))
    assert {key: properties[key] for key in settings} == settings


def test_sparks_own_settings_travel_to_spark_and_emrs_to_emr_alone():
    document = built('spark."spark.sql.shuffle.partitions"="64"', "emr.timeout_minutes=60")
    assert spark(document)["spark.sql.shuffle.partitions"] == "64"
    assert document["executionTimeoutMinutes"] == 60
    arguments = " ".join(document["jobDriver"]["sparkSubmit"]["entryPointArguments"])
    assert "spark." not in arguments
    assert "emr." not in arguments


def test_more_than_the_service_takes_is_refused():
    conf = settled().model_copy(update={"spark": {"spark.x": "y" * 102_400}})
    with pytest.raises(
        ConfigError, match=r"there are 10\d,\d\d\d characters of Spark's settings; StartJobRun takes at most 102,400"
    ):
        job_run.build(conf, "base", (), RELEASE)
    with pytest.raises(
        ConfigError, match=r"there are 1,0\d\d settings that are not the defaults; StartJobRun takes at most 1,024"
    ):
        job_run.build(settled(), "base", ["--set=base.seed=1"] * 1020, RELEASE)


def test_no_secret_is_in_the_document(monkeypatch: pytest.MonkeyPatch):
    for name in ("AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "OPENAI_API_KEY"):
        monkeypatch.setenv(name, "sesame")
    openai = 'endpoints.mine={kind="openai", url="https://models.example/v1", model="m", api_key_secret="prod/key"}'
    document = json.dumps(built(openai))
    assert "sesame" not in document
    assert "prod/key" in document
    with pytest.raises(ConfigError, match=r"must not hold 'spark\.executorEnv\.OPENAI_API_KEY'"):
        settled('spark."spark.executorEnv.OPENAI_API_KEY"="sesame"')


# One run of a document at a time


def test_the_token_is_of_what_runs_and_of_the_run_before():
    document = built()
    assert job_run.client_token(document, "") == job_run.client_token(built(), "")
    others = [
        job_run.client_token(document, "00frun1"),
        job_run.client_token(built("base.seed=1"), ""),
        job_run.client_token(built("emr.application_id=00fother"), ""),
        job_run.client_token(built(release=dataclasses.replace(RELEASE, name="raft-spark-1.0.0-ba9876543210")), ""),
        job_run.client_token(built(job="base"), ""),
    ]
    assert len({job_run.client_token(document, ""), *others}) == 6


def test_a_tag_is_no_other_run():
    assert job_run.client_token(built('emr.tags={build="7"}'), "") == job_run.client_token(
        built('emr.tags={build="8"}'), ""
    )


# What is refused before anything is uploaded


def test_all_that_is_missing_is_named_at_once():
    with pytest.raises(ConfigError) as caught:
        job_run.build(config.load(), "refresh", (), RELEASE)
    assert str(caught.value).splitlines() == [
        "emr.application_id, emr.role_arn, emr.code must be set; conf/emr.toml is a template",
        "lake.root is 'build/lake'; EMR needs a bucket: s3://bucket/prefix",
        (
            "completions.endpoint is 'embedded', of kind embedded, which runs on this machine only; "
            "EMR needs an endpoint of kind sagemaker, bedrock or openai"
        ),
    ]


def test_the_file_to_fill_in_says_what_is_missing_and_runs_when_it_is_filled_in(tmp_path: Path):
    text = (ROOT / "conf/emr.toml").read_text()
    with pytest.raises(ConfigError) as caught:
        job_run.build(config.load(["emr.toml"]), "refresh", (), RELEASE)
    assert str(caught.value).splitlines() == [
        "emr.application_id, emr.role_arn, emr.code must be set; conf/emr.toml is a template",
        "lake.root is 'build/lake'; EMR needs a bucket: s3://bucket/prefix",
    ]
    filled = re.sub(r"^# (root|application_id|role_arn|code|logs) =", r"\1 =", text, flags=re.MULTILINE)
    filled = filled.replace('role_arn = ""', 'role_arn = "arn:aws:iam::123456789012:role/job"')
    (tmp_path / "my.toml").write_text(filled.replace('application_id = ""', 'application_id = "00f1"'))
    document = job_run.build(config.load([str(tmp_path / "my.toml")]), "refresh", (), RELEASE)
    assert found(document) == []
    assert document["retryPolicy"] == {"maxAttempts": 3}
    assert spark(document)["spark.executor.memory"] == "11702m"
    assert read(document).completions.max_spend == 25.0


@pytest.mark.parametrize(
    ("assignment", "sentence"),
    [
        ("lake.root=s3a://lake/raft", "lake.root is 's3a://lake/raft'; EMR needs a bucket: s3://bucket/prefix"),
        ("lake.s3_endpoint=http://127.0.0.1:9000", "lake.s3_endpoint is 'http://127.0.0.1:9000', which is this machine"),
        ("lake.format=iceberg", "lake.format is 'iceberg', so spark.\"spark.jars\", spark.\"spark.sql.catalog.raft.catalog-impl\""),
        ("articles.holdout=ids.txt", "articles.holdout is 'ids.txt', a file of this machine; EMR reads it from s3://"),
        ("articles.holdout=pubmedqa-test", ""),
        ("articles.source=build/articles", "articles.source is 'build/articles', a folder of this machine"),
        ("completions.endpoint=fake", "of kind fake, which runs on this machine only"),
        ("endpoints.mine.url=http://localhost:8000/v1", "endpoints.mine.url is 'http://localhost:8000/v1', which is this machine"),
        ("endpoints.mine.url=http://[::1]:8000/v1", "endpoints.mine.url is 'http://[::1]:8000/v1', which is this machine"),
        ("endpoints.mine.url=http://[::ffff:127.0.0.1]/v1", "endpoints.mine.url is 'http://[::ffff:127.0.0.1]/v1', which is this machine"),
        ("endpoints.mine.api_key_env=KEY", "endpoints.mine.api_key_env names an environment variable, which EMR's workers do not have"),
        ("emr.driver_memory_gb=7", "emr.driver_memory_gb is 7 GB with 4 vCPUs; such a worker has 8 to 30 GB"),
        ("emr.executor_cores=8", ""),
        ("emr.executor_cores=16", "emr.executor_memory_gb is 16 GB with 16 vCPUs; such a worker has 32 to 120 GB in steps of 8"),
        ('spark."spark.executor.memory"="8g"', "[spark] has spark.executor.memory, which EMR or raft-spark sets"),
        ('spark."spark.master"="local[2]"', "[spark] has spark.master, which EMR or raft-spark sets"),
        ('spark."spark.emr-serverless.memoryOverheadFactor"="much"', "it must be a number between 0 and 1"),
    ],
)  # fmt: skip
def test_what_emr_cannot_run_with_is_said(assignment: str, sentence: str):
    if sentence:
        assert sentence in "\n".join(refused(assignment))
    else:
        assert built(assignment)


def test_a_job_that_asks_nothing_may_have_any_teacher_and_one_that_reads_nothing_any_source():
    assert built("completions.endpoint=embedded", "articles.source=build/articles", job="dataset")


OTHERS = (
    'endpoints.base={kind="openai", model="base", url="http://127.0.0.1:8000/v1"}',
    'endpoints.tuned={kind="sagemaker", model="tuned", endpoint_name="tuned", codec="openai", api_key_env="KEY"}',
)


def test_an_evaluation_is_refused_for_each_student_and_judge_that_emr_does_not_reach():
    problems = refused(
        *OTHERS, "evaluation.students=mine,base,embedded,tuned", "evaluation.judge=fake", job="evaluation"
    )
    assert [line.split(";")[0] for line in problems] == [
        "endpoints.base.url is 'http://127.0.0.1:8000/v1', which is this machine and out of EMR's reach",
        "evaluation.students has 'embedded', of kind embedded, which runs on this machine only",
        "endpoints.tuned.api_key_env names an environment variable, which EMR's workers do not have",
        "evaluation.judge is 'fake', of kind fake, which runs on this machine only",
    ]


def test_an_evaluation_may_have_any_teacher_and_other_jobs_any_student():
    assert built("completions.endpoint=embedded", "articles.source=build/articles", job="evaluation")
    assert built("evaluation.students=embedded", "evaluation.judge=fake")


def test_an_evaluation_takes_its_students_with_it_and_no_packages_of_the_hub():
    document = built("evaluation.judge=mine", "dataset.tokenizer=a/b", "articles.source=hf:a/b/c", job="evaluation")
    assert document["jobDriver"]["sparkSubmit"]["entryPoint"].endswith("/jobs/evaluation.py")
    assert (read(document).evaluation.students, read(document).evaluation.judge) == (("mine",), "mine")
    assert "hub" not in spark(document)["spark.archives"]


def test_a_release_with_other_defaults_is_refused_for_only_what_differs_travels():
    other = dataclasses.replace(RELEASE, files=(*RELEASE.files, ReleaseFile("conf/default.toml", 1, "other")))
    problems = refused(release=other)
    assert len(problems) == 1
    assert "has another conf/default.toml than this raft-spark" in problems[0]


def test_a_release_without_the_job_is_refused():
    empty = dataclasses.replace(RELEASE, files=())
    assert refused(job="base", release=empty) == [
        "release raft-spark-1.0.0-0123456789ab has no jobs/base.py; build another: raft-spark emr package"
    ]


# Workers


def test_the_table_of_workers_is_amazons():
    table = {cores: (legal[0], legal[-1], legal.step) for cores, legal in worker_sizes.MEMORY_GB.items()}
    assert table == {1: (2, 8, 1), 2: (4, 16, 1), 4: (8, 30, 1), 8: (16, 60, 4), 16: (32, 120, 8)}


@pytest.mark.parametrize(
    ("memory_gb", "factor", "heap"),
    [(2, 0.1, 1664), (4, 0.1, 3712), (16, 0.1, 14_894), (30, 0.1, 27_927), (16, 0.4, 11_702), (120, 0.1, 111_709)],
)
def test_the_heap_leaves_room_for_the_overhead(memory_gb: int, factor: float, heap: int):
    assert worker_sizes.heap_mb(memory_gb, factor) == heap


legal = st.sampled_from([(cores, memory) for cores, memories in worker_sizes.MEMORY_GB.items() for memory in memories])


@given(legal, st.floats(0.01, 0.99))
def test_heap_and_overhead_make_the_worker_that_was_asked_for_and_no_larger_one(worker: tuple[int, int], factor: float):
    cores, memory_gb = worker
    heap = worker_sizes.heap_mb(memory_gb, factor)
    whole = heap + max(384, int(heap * factor))
    assert memory_gb * 1024 - 2 <= whole <= memory_gb * 1024
    assert worker_sizes.problem(cores, memory_gb) == ""


@given(st.sampled_from([1, 2, 4, 8, 16]), st.integers(2, 120))
def test_a_worker_is_legal_or_the_sentence_says_which_are(cores: int, memory_gb: int):
    problems = worker_sizes.problem(cores, memory_gb)
    assert (problems == "") == (memory_gb in worker_sizes.MEMORY_GB[cores])
    assert not problems or f"{worker_sizes.MEMORY_GB[cores][0]} to {worker_sizes.MEMORY_GB[cores][-1]} GB" in problems


def test_workers_money_and_the_share_of_a_task_are_said_before():
    conf = settled(
        "completions.in_flight=64", "completions.requests_per_second=6", "emr.vcpu_hour=0.05", "emr.gb_hour=0.01"
    )
    assert list(submit.worker_lines(conf)) == [
        "driver 4 vCPU, 16 GB: 14,894 MB for Spark's heap, 1,490 MB for Python",
        "at most 3 executors, each 4 vCPU, 16 GB: 14,894 MB for Spark's heap, 1,490 MB for Python",
        "together 16 vCPU, 64 GB: $1.44 an hour while all of them run",
    ]
    assert list(submit.quota_lines(conf, "refresh")) == [
        "3 executors x 4 cores = 12 tasks",
        "12 tasks; limits of the cluster and of one task: 64 calls open at once / 12 = 5.333, 6 requests a second / 12 = 0.5",
    ]
    assert list(submit.quota_lines(conf, "base")) == []


def test_more_tasks_than_calls_are_said_to_be_too_many():
    lines = list(submit.quota_lines(settled("completions.in_flight=8"), "completions"))
    assert lines[0] == "3 executors x 4 cores = 12 tasks, of which 4 would send no request: completions.in_flight is 8"
    assert lines[1].startswith("8 tasks;")


def test_the_share_of_a_task_is_said_of_students_even_where_the_teacher_is_asked_in_batches():
    conf = settled(
        "completions.mode=batch", "endpoints.mine.role_arn=arn:aws:iam::123456789012:role/batch", "emr.max_executors=2"
    )
    assert list(submit.quota_lines(conf, "completions")) == []
    assert next(submit.quota_lines(conf, "evaluation")).startswith("2 executors x 4 cores = 8 tasks")


# The application


APPLICATION = {
    "releaseLabel": "emr-spark-8.1.0",
    "type": "Spark",
    "state": "STOPPED",
    "architecture": "X86_64",
    "autoStartConfiguration": {"enabled": True},
    "networkConfiguration": {"subnetIds": ["subnet-1"]},
}


def test_an_application_that_fits_is_nothing_to_speak_of():
    assert application.problems(APPLICATION, settled()) == []
    assert application.notes(APPLICATION, settled(), "refresh") == []


@pytest.mark.parametrize(
    ("other", "sentence"),
    [
        ({"releaseLabel": "emr-7.14.0"}, "runs emr-7.14.0 on x86_64, the settings say emr-spark-8.1.0 on x86_64"),
        ({"architecture": "ARM64"}, "runs emr-spark-8.1.0 on arm64, the settings say emr-spark-8.1.0 on x86_64"),
        ({"type": "Hive"}, "is of type Hive"),
        ({"state": "TERMINATED"}, "is deleted"),
        ({"autoStartConfiguration": {"enabled": False}}, "is stopped and its automatic start is off"),
        (
            {"maximumCapacity": {"cpu": "6 vCPU", "memory": "64 GB"}},
            "may use 6 vCPUs, but a driver with one executor needs 8",
        ),
    ],
)
def test_an_application_that_does_not_fit_is_refused(other: dict[str, Any], sentence: str):
    problems = application.problems(APPLICATION | other, settled())
    assert len(problems) == 1
    assert sentence in problems[0]


def test_a_smaller_application_is_said_to_give_fewer_executors():
    small = APPLICATION | {"maximumCapacity": {"cpu": "12vCPU", "memory": "400 GB", "disk": "2000 GB"}}
    assert application.problems(small, settled()) == []
    assert application.notes(small, settled(), "base") == [
        "note: the application may use 12 vCPUs, and the settings ask for 16: there will be fewer executors"
    ]


def test_an_application_without_a_network_is_said_not_to_reach_the_teacher():
    alone = {name: value for name, value in APPLICATION.items() if name != "networkConfiguration"}
    notes = application.notes(alone, settled("articles.source=hf:a/b/c"), "refresh")
    assert len(notes) == 1
    assert "not the Hugging Face hub, the endpoint mine (bedrock); give it subnets" in notes[0]
    assert application.notes(alone, settled(), "base") == []


def test_an_application_without_a_network_is_said_to_reach_no_student_and_no_judge():
    alone = {name: value for name, value in APPLICATION.items() if name != "networkConfiguration"}
    tuned = 'endpoints.tuned={kind="sagemaker", model="tuned", endpoint_name="tuned", codec="openai"}'
    conf = settled(tuned, "evaluation.students=tuned", "evaluation.judge=mine", "articles.source=hf:a/b/c")
    (note,) = application.notes(alone, conf, "evaluation")
    assert "but not the endpoint tuned (sagemaker), the endpoint mine (bedrock); give it subnets" in note


def test_the_lines_for_iceberg_that_the_file_to_copy_offers_are_all_that_a_catalog_in_glue_needs(tmp_path: Path):
    text = (ROOT / "conf/emr.toml").read_text()
    offered = re.findall(r'^# ((?:format = "iceberg"|"spark\.\S+" = ).*)$', text, re.MULTILINE)
    assert len(offered) == 5
    copied = tmp_path / "my-emr.toml"
    copied.write_text(re.sub(r'^# (?=format = "iceberg"|"spark\.)', "", text, flags=re.MULTILINE))
    conf = config.load([copied], SETTINGS)
    assert validation.problems(conf, "refresh") == []
    assert job_run.spark_settings(conf, "refresh", RELEASE)["spark.jars"].startswith("/usr/share/aws/iceberg/lib/")

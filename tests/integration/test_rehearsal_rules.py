"""The rehearsal runs what the document says, says what it leaves out, and lets no package in from elsewhere."""

from pathlib import Path

import pytest

from rehearsal import checks, driver, spark_submit

pytestmark = pytest.mark.row
ARCHIVE = "s3://code/r1/environment-x86_64.tar.gz"
PARAMETERS = (
    f"--conf spark.archives={ARCHIVE}#environment --conf spark.executor.cores=4 "
    "--conf spark.emr-serverless.driverEnv.PYTHONPATH=./environment --conf spark.emr-serverless.executor.disk=20g "
    "--conf 'spark.driver.extraJavaOptions=-Da=1 -Db=\"2 3\"' --verbose"
)


def document(**more: object) -> dict[str, object]:
    submit = {
        "entryPoint": "s3://code/r1/jobs/base.py",
        "entryPointArguments": ["--set=base.seed=7", '--set=lake.root="s3://a b"'],
        "sparkSubmitParameters": PARAMETERS,
    }
    return {"applicationId": "00a", "jobDriver": {"sparkSubmit": submit}, **more}


def test_the_command_is_that_of_the_document_with_what_this_machine_needs():
    found = spark_submit.command(document(), {"spark.master": "spark://127.0.0.1:7"})
    assert found.words == (
        "--verbose",
        "--conf",
        f"spark.archives={ARCHIVE}#environment",
        "--conf",
        "spark.executor.cores=4",
        "--conf",
        'spark.driver.extraJavaOptions=-Da=1 -Db="2 3"',
        "--conf",
        "spark.master=spark://127.0.0.1:7",
        "s3://code/r1/jobs/base.py",
        "--set=base.seed=7",
        '--set=lake.root="s3://a b"',
    )


def test_the_drivers_environment_and_folder_are_as_emr_makes_them():
    found = spark_submit.command(document(), {})
    assert found.environment == {"PYTHONPATH": "./environment"}
    assert found.archives == {"environment": ARCHIVE}


def test_an_archive_without_a_name_keeps_its_own_and_there_may_be_several():
    assert spark_submit.archives("s3://a/b.tar.gz#c,s3://d/e.tar.gz") == {
        "c": "s3://a/b.tar.gz",
        "e.tar.gz": "s3://d/e.tar.gz",
    }
    assert spark_submit.archives("") == {}


def test_what_is_left_out_is_named_with_its_reason():
    found = spark_submit.command(document(tags={"team": "a"}), {}).omitted
    assert set(found) == {"applicationId", "tags", "spark.emr-serverless.executor.disk"}
    assert all(found.values())


def test_the_properties_of_the_application_are_kept_and_the_jobs_own_stand_over_them():
    properties = {"spark.executor.cores": "2", "spark.sql.ansi.enabled": "true"}
    overrides = {"applicationConfiguration": [{"classification": "spark-defaults", "properties": properties}]}
    words = spark_submit.command(document(configurationOverrides=overrides), {}).words
    assert "spark.sql.ansi.enabled=true" in words
    assert "spark.executor.cores=4" in words
    assert "spark.executor.cores=2" not in words


def test_a_field_that_nobody_has_thought_of_is_an_error():
    with pytest.raises(ValueError, match=r"the document has jobLevelQuota; add to rehearsal\.spark_submit\.FIELDS"):
        spark_submit.command(document(jobLevelQuota=3), {})


def test_a_setting_that_the_rehearsal_would_have_to_change_is_an_error():
    with pytest.raises(ValueError, match=r"the document sets spark\.executor\.cores, and the rehearsal needs another"):
        spark_submit.command(document(), {"spark.executor.cores": "1"})
    assert spark_submit.command(document(), {"spark.executor.cores": "4"}).words.count("spark.executor.cores=4") == 1


SPARK = Path("/opt/spark")
PACKAGES = ("boto3", "numpy", "pandas", "pyarrow", "pydantic", "raft_spark")


def report(**more: str) -> dict[str, object]:
    """What a process says that has all packages from ./environment."""
    own = {name: f"/executors/1/environment/{name}/__init__.py" for name in PACKAGES}
    others = {
        "__main__": "/local/spark-1/import_report.py",
        "json": "/usr/lib/python3.11/json/__init__.py",
        "pyspark": "/opt/spark/python/lib/pyspark.zip/pyspark/__init__.py",
    }
    return {"folder": "/executors/1", "standard": "/usr/lib/python3.11", "modules": own | others | more}


def test_packages_of_the_archive_the_standard_library_and_spark_are_no_strangers():
    assert checks.foreign_modules(report(), ["environment"], SPARK) == []
    assert (
        checks.foreign_modules(report(datasets="/executors/1/hub/datasets/__init__.py"), ["environment", "hub"], SPARK)
        == []
    )


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("raft_spark", "/home/me/raft-spark/raft_spark/__init__.py"),
        ("pyarrow", "/executors/2/environment/pyarrow/__init__.py"),
        ("yaml", "/usr/lib/python3.11/site-packages/yaml/__init__.py"),
        ("six", "/usr/lib/python3/dist-packages/six.py"),
    ],
)
def test_what_comes_from_elsewhere_is_named_with_its_file(name: str, file: str):
    assert checks.foreign_modules(report(**{name: file}), ["environment"], SPARK) == [f"{name} from {file}"]


def test_a_package_that_was_not_loaded_at_all_is_named():
    process = report()
    del process["modules"]["numpy"]
    assert checks.foreign_modules(process, ["environment"], SPARK) == ["numpy from None"]


def test_of_a_log_a_person_is_shown_the_last_error_or_the_last_lines():
    log = ["INFO all is well", "Traceback (most recent call last):", "ConfigError: base.seed is -1", "INFO stopping"]
    assert driver.error_sentence(log) == "ConfigError: base.seed is -1"
    assert (
        driver.error_sentence(["py4j.protocol.Py4JJavaError: it ended", "bye"])
        == "py4j.protocol.Py4JJavaError: it ended"
    )
    assert driver.error_sentence([str(number) for number in range(20)]) == "\n".join(map(str, range(5, 20)))

"""The rehearsal runs what the document says, and says what it leaves out."""

import pytest

from rehearsal import derived

pytestmark = pytest.mark.row
ARCHIVE = "s3://code/r1/environment-x86_64.tar.gz"
PARAMETERS = (
    f"--conf spark.archives={ARCHIVE}#environment --conf spark.executor.cores=4 "
    "--conf spark.emr-serverless.driverEnv.PYTHONPATH=./environment --conf spark.emr-serverless.executor.disk=20g "
    "--conf 'spark.driver.extraJavaOptions=-Da=1 -Db=\"2 3\"' --verbose"
)


def document(**more: object) -> dict[str, object]:
    asked = {
        "entryPoint": "s3://code/r1/jobs/base.py",
        "entryPointArguments": ["--set=base.seed=7", '--set=lake.root="s3://a b"'],
        "sparkSubmitParameters": PARAMETERS,
    }
    return {"applicationId": "00a", "jobDriver": {"sparkSubmit": asked}, **more}


def test_the_command_is_that_of_the_document_with_what_this_machine_needs():
    found = derived.command(document(), {"spark.master": "spark://127.0.0.1:7"})
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
    found = derived.command(document(), {})
    assert found.environment == {"PYTHONPATH": "./environment"}
    assert found.archives == {"environment": ARCHIVE}


def test_an_archive_without_a_name_keeps_its_own_and_there_may_be_several():
    assert derived.archives("s3://a/b.tar.gz#c,s3://d/e.tar.gz") == {
        "c": "s3://a/b.tar.gz",
        "e.tar.gz": "s3://d/e.tar.gz",
    }
    assert derived.archives("") == {}


def test_what_is_left_out_is_named_with_its_reason():
    found = derived.command(document(tags={"team": "a"}), {}).left_out
    assert set(found) == {"applicationId", "tags", "spark.emr-serverless.executor.disk"}
    assert all(found.values())


def test_the_properties_of_the_application_are_kept_and_the_jobs_own_stand_over_them():
    properties = {"spark.executor.cores": "2", "spark.sql.ansi.enabled": "true"}
    given = {"applicationConfiguration": [{"classification": "spark-defaults", "properties": properties}]}
    words = derived.command(document(configurationOverrides=given), {}).words
    assert "spark.sql.ansi.enabled=true" in words
    assert "spark.executor.cores=4" in words
    assert "spark.executor.cores=2" not in words


def test_a_field_that_nobody_has_thought_of_is_an_error():
    with pytest.raises(ValueError, match=r"the document has jobLevelQuota; say in rehearsal\.derived\.FIELDS"):
        derived.command(document(jobLevelQuota=3), {})


def test_a_setting_that_the_rehearsal_would_have_to_change_is_an_error():
    with pytest.raises(ValueError, match=r"the document sets spark\.executor\.cores, and the rehearsal needs another"):
        derived.command(document(), {"spark.executor.cores": "1"})
    assert derived.command(document(), {"spark.executor.cores": "4"}).words.count("spark.executor.cores=4") == 1

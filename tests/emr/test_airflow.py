"""The task for Airflow in docs/emr.md: every argument is one of the operator's, and what it sends is what `submit` sends.

The operator is too large for these tests, so its parameters are written down: of apache-airflow-providers-amazon 9.39.0,
2026-11-22. It was also made with the real one then.
"""

import json
import re
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from conftest import ROOT
from support.job_documents import EVERYTHING, built, found

pytestmark = pytest.mark.row

SNIPPET = re.search(r"```python\n(.*?)```", (ROOT / "docs/emr.md").read_text(), re.DOTALL)[1]
OPERATOR = "airflow.providers.amazon.aws.operators.emr"
PARAMETERS = {
    "application_id",
    "execution_role_arn",
    "job_driver",
    "configuration_overrides",
    "client_request_token",
    "config",
    "wait_for_completion",
    "name",
    "waiter_max_attempts",
    "waiter_delay",
    "deferrable",
    "enable_application_ui_links",
    "cancel_on_kill",
    "openlineage_inject_parent_job_info",
    "openlineage_inject_transport_info",
    "aws_conn_id",
    "region_name",
    "verify",
    "botocore_config",
    "task_id",
}


@pytest.mark.parametrize("more", [(), EVERYTHING])
def test_airflow_is_given_what_submit_sends(more: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    document = built(*more)
    (tmp_path / "refresh.json").write_text(json.dumps(document))
    monkeypatch.chdir(tmp_path)
    given = operator_of(SNIPPET, monkeypatch)
    assert set(given) <= PARAMETERS
    sent = {
        "applicationId": given["application_id"],
        "executionRoleArn": given["execution_role_arn"],
        "jobDriver": given["job_driver"],
        "name": given["name"],
        **({"configurationOverrides": given["configuration_overrides"]} if given["configuration_overrides"] else {}),
        **given["config"],
    }
    assert found(sent) == []
    assert sent == document


def test_airflow_waits_as_long_as_the_run_may_take(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "refresh.json").write_text(json.dumps(built("emr.timeout_minutes=720", "emr.attempts=3")))
    monkeypatch.chdir(tmp_path)
    given = operator_of(SNIPPET, monkeypatch)
    assert given["waiter_delay"] * given["waiter_max_attempts"] / 60 == 3 * 720 + 360


def operator_of(snippet: str, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Run the snippet where the operator keeps what it is given."""
    given: dict[str, Any] = {}
    names = OPERATOR.split(".")
    for count in range(1, len(names) + 1):
        monkeypatch.setitem(sys.modules, ".".join(names[:count]), ModuleType(names[count - 1]))
    sys.modules[OPERATOR].EmrServerlessStartJobOperator = lambda **arguments: given.update(arguments)
    exec(compile(snippet, "docs/emr.md", "exec"), {})  # noqa: S102 - our own page
    return given

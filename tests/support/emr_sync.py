"""Add emr-serverless:startJobRun.sync and the text of S3 objects to moto's interpreter of state machines.

The first follows moto's own integration of Glue: a real client starts the run, which validates the document by the
service model, and the run is read until it has ended. A test sets how each run ends, since moto's runs succeed at once.
"""

from collections.abc import Callable
from typing import Any, ClassVar

import boto3
from botocore.exceptions import ClientError
from botocore.model import Shape
from botocore.response import StreamingBody
from moto.emrserverless.models import emrserverless_backends
from moto.stepfunctions.parser.api import HistoryEventType, TaskFailedEventDetails
from moto.stepfunctions.parser.asl.component.common.error_name.custom_error_name import CustomErrorName
from moto.stepfunctions.parser.asl.component.common.error_name.error_name import ErrorName
from moto.stepfunctions.parser.asl.component.common.error_name.failure_event import FailureEvent, FailureEventException
from moto.stepfunctions.parser.asl.component.common.error_name.states_error_name import StatesErrorName
from moto.stepfunctions.parser.asl.component.common.error_name.states_error_name_type import StatesErrorNameType
from moto.stepfunctions.parser.asl.component.state.exec.state_task.service.resource import ResourceCondition
from moto.stepfunctions.parser.asl.component.state.exec.state_task.service.state_task_service_aws_sdk import (
    StateTaskServiceAwsSdk,
)
from moto.stepfunctions.parser.asl.component.state.exec.state_task.service.state_task_service_callback import (
    StateTaskServiceCallback,
)
from moto.stepfunctions.parser.asl.eval.environment import Environment
from moto.stepfunctions.parser.asl.eval.event.event_detail import EventDetails
from moto.stepfunctions.parser.asl.utils.encoding import to_json_str

ACCOUNT, REGION = "123456789012", "us-east-1"


class JobRuns(StateTaskServiceCallback):
    """The integration. `ends` has (state, state details) of each run in order, `documents` the requests sent."""

    ends: ClassVar[list[tuple[str, str]]] = []
    documents: ClassVar[list[dict[str, Any]]] = []

    def __init__(self) -> None:
        patterns = {
            ResourceCondition.Sync,
            ResourceCondition.WaitForTaskToken,
        }  # moto needs the second one for tasks without a token
        super().__init__(supported_integration_patterns=patterns)

    def _get_supported_parameters(self) -> set[str]:
        return set()

    def _eval_service_task(self, env: Environment, normalised_parameters: dict[str, Any], **_: object) -> None:
        client = boto3.client("emr-serverless", region_name=REGION)
        document = _small(normalised_parameters, client.meta.service_model.operation_model("StartJobRun").input_shape)
        self.documents.append(document)
        started = client.start_job_run(**document)
        run = emrserverless_backends[ACCOUNT][REGION].get_job_run(started["applicationId"], started["jobRunId"])
        run.state, run.state_details = self.ends.pop(0)
        env.stack.append({"ApplicationId": started["applicationId"], "JobRunId": started["jobRunId"]})

    def _build_sync_resolver(self, env: Environment, **_: object) -> Callable[[], dict[str, Any] | None]:
        known = env.stack.pop()
        client = boto3.client("emr-serverless", region_name=REGION)

        def look() -> dict[str, Any] | None:
            run = client.get_job_run(applicationId=known["ApplicationId"], jobRunId=known["JobRunId"])["jobRun"]
            output = {**known, "State": run["state"], "StateDetails": run["stateDetails"]}
            if run["state"] in {"FAILED", "CANCELLED"}:
                name = StatesErrorName(typ=StatesErrorNameType.StatesTaskFailed)
                raise FailureEventException(self._failure(env, name, to_json_str(output)))
            return output if run["state"] == "SUCCESS" else None

        return look

    def _from_error(self, env: Environment, ex: Exception) -> FailureEvent:
        if isinstance(ex, ClientError):
            error = ex.response["Error"]
            return self._failure(env, CustomErrorName(f"EMRServerless.{error['Code']}"), error["Message"])
        return super()._from_error(env=env, ex=ex)

    def _failure(self, env: Environment, name: ErrorName, cause: str) -> FailureEvent:
        details = TaskFailedEventDetails(
            resource=self._get_sfn_resource(),
            resourceType=self._get_sfn_resource_type(),
            error=name.error_name,
            cause=cause,
        )
        return FailureEvent(
            env=env,
            error_name=name,
            event_type=HistoryEventType.TaskFailed,
            event_details=EventDetails(taskFailedEventDetails=details),
        )


class Sdk(StateTaskServiceAwsSdk):
    """Any call of the SDK; the bytes of an object become text."""

    def _normalise_response(self, response: dict[str, Any], **_: object) -> None:
        for name, value in response.items():
            if isinstance(value, StreamingBody):
                response[name] = value.read().decode()


def _small(value: Any, shape: Shape) -> Any:
    """Replace the capital first letters of names by those of the API. Raises KeyError for an unknown name."""
    match shape.type_name:
        case "structure":
            names = {f"{name[0].upper()}{name[1:]}": name for name in shape.members}
            return {names[name]: _small(part, shape.members[names[name]]) for name, part in value.items()}
        case "list":
            return [_small(part, shape.member) for part in value]
    return value

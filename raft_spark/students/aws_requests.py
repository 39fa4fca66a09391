"""Settings, a name and a student's folder -> what SageMaker, Auto Scaling, CloudWatch and Bedrock are sent to host it.

Pure: nothing is contacted, nothing is random. Everything is called raft-spark-NAME, bears the tag `raft-spark`, and a tag that tells
it from another of the same name.
"""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from raft_spark.config import Hosting
from raft_spark.errors import ConfigError

ApiCall = dict[str, Any]
TAG = "raft-spark"  # the tag, and the beginning of every name
IDENTITY_TAG = "raft-spark:identity"
LMI = "djl-inference:0.36.0-lmi20.0.0-cu128"  # vLLM 0.15.1; the last that needs no image of its own for the instance
LMI_ACCOUNT = "763104351884"  # of AWS's deep learning containers in these regions; elsewhere they have others
LMI_REGIONS = frozenset(
    [
        "ap-northeast-1",
        "ap-northeast-2",
        "ap-south-1",
        "ap-southeast-1",
        "ap-southeast-2",
        "ca-central-1",
        "eu-central-1",
        "eu-north-1",
        "eu-west-1",
        "eu-west-2",
        "eu-west-3",
        "sa-east-1",
        "us-east-1",
        "us-east-2",
        "us-west-1",
        "us-west-2",
    ]
)
VARIANT = "AllTraffic"
COPY_COUNT = "sagemaker:inference-component:DesiredCopyCount"
REQUESTS_PER_COPY = 5.0  # open at once, above which another copy starts
IDLE_SECONDS = 300


def resource_name(name: str) -> str:
    """Return what everything of a hosting is called."""
    return f"{TAG}-{name}"


def image(conf: Hosting, region: str) -> str:
    """Return the container's address. Raises ConfigError where it must be given."""
    if conf.image:
        return conf.image
    if region not in LMI_REGIONS:
        msg = f"hosting.image must be given in {region or 'a region that is not known'}: the address of {LMI.partition(':')[0]} there"
        raise ConfigError(msg)
    return f"{LMI_ACCOUNT}.dkr.ecr.{region}.amazonaws.com/{LMI}"


def model(conf: Hosting, name: str, student: str, region: str) -> ApiCall:
    """Return CreateModel: the container, and the student's files as they lie in S3."""
    source = {"S3Uri": f"{student.rstrip('/')}/", "S3DataType": "S3Prefix", "CompressionType": "None"}
    container = {
        "Image": image(conf, region),
        "Environment": dict(conf.environment),
        "ModelDataSource": {"S3DataSource": source},
    }
    return with_tags(
        conf, {"ModelName": resource_name(name), "PrimaryContainer": container, "ExecutionRoleArn": conf.role_arn}, name
    )


def endpoint_config(conf: Hosting, name: str) -> ApiCall:
    """Return CreateEndpointConfig: one instance; for an inference component one that may be taken away."""
    machine = {"VariantName": VARIANT, "InstanceType": conf.instance_type, "InitialInstanceCount": 1}
    if conf.ami:
        machine["InferenceAmiVersion"] = conf.ami
    named = {"EndpointConfigName": resource_name(name)}
    if not conf.scale_to_zero:
        return with_tags(
            conf,
            {**named, "ProductionVariants": [{**machine, "ModelName": resource_name(name), **_startup_timeouts(conf)}]},
            name,
        )
    scaling = {"Status": "ENABLED", "MinInstanceCount": 0, "MaxInstanceCount": conf.max_copies}
    variant = {
        **machine,
        "ManagedInstanceScaling": scaling,
        "RoutingConfig": {"RoutingStrategy": "LEAST_OUTSTANDING_REQUESTS"},
    }
    return with_tags(conf, {**named, "ProductionVariants": [variant], "ExecutionRoleArn": conf.role_arn}, name)


def endpoint(conf: Hosting, name: str) -> ApiCall:
    """Return CreateEndpoint."""
    return with_tags(conf, {"EndpointName": resource_name(name), "EndpointConfigName": resource_name(name)}, name)


def inference_component(conf: Hosting, name: str) -> ApiCall:
    """Return CreateInferenceComponent: the model, what a copy reserves, one copy to begin with."""
    reserved = {"NumberOfAcceleratorDevicesRequired": conf.accelerators, "MinMemoryRequiredInMb": conf.memory_mb}
    told = {
        "InferenceComponentName": resource_name(name),
        "EndpointName": resource_name(name),
        "VariantName": VARIANT,
        "Specification": {
            "ModelName": resource_name(name),
            "ComputeResourceRequirements": reserved,
            "StartupParameters": _startup_timeouts(conf),
        },
        "RuntimeConfig": {"CopyCount": 1},
    }
    return with_tags(conf, told, name)


def _startup_timeouts(conf: Hosting) -> dict[str, int]:
    seconds = conf.start_minutes * 60
    return {"ModelDataDownloadTimeoutInSeconds": seconds, "ContainerStartupHealthCheckTimeoutInSeconds": seconds}


# Down to zero copies and back. Target tracking alone never leaves zero: no copy, no requests a copy. So a step policy adds the first
# one, when CloudWatch sees that a request found none.


def scaled_component(name: str) -> ApiCall:
    """Return what Auto Scaling calls the copies of an inference component."""
    return {
        "ServiceNamespace": "sagemaker",
        "ResourceId": f"inference-component/{resource_name(name)}",
        "ScalableDimension": COPY_COUNT,
    }


def scalable_target(conf: Hosting, name: str) -> ApiCall:
    """Return RegisterScalableTarget: from no copy to the most."""
    return {**scaled_component(name), "MinCapacity": 0, "MaxCapacity": conf.max_copies}


def requests_policy(name: str) -> ApiCall:
    """Return PutScalingPolicy: as many copies as the open requests want, none after a while without."""
    metric = {"PredefinedMetricType": "SageMakerInferenceComponentConcurrentRequestsPerCopyHighResolution"}
    tracking = {
        "PredefinedMetricSpecification": metric,
        "TargetValue": REQUESTS_PER_COPY,
        "ScaleInCooldown": IDLE_SECONDS,
        "ScaleOutCooldown": IDLE_SECONDS,
    }
    return {
        **scaled_component(name),
        "PolicyName": f"{resource_name(name)}-requests",
        "PolicyType": "TargetTrackingScaling",
        "TargetTrackingScalingPolicyConfiguration": tracking,
    }


def wake_policy(name: str) -> ApiCall:
    """Return PutScalingPolicy: one copy more, when the alarm says so."""
    step = {
        "AdjustmentType": "ChangeInCapacity",
        "MetricAggregationType": "Maximum",
        "Cooldown": 60,
        "StepAdjustments": [{"MetricIntervalLowerBound": 0.0, "ScalingAdjustment": 1}],
    }
    return {
        **scaled_component(name),
        "PolicyName": f"{resource_name(name)}-wake",
        "PolicyType": "StepScaling",
        "StepScalingPolicyConfiguration": step,
    }


def wake_alarm(conf: Hosting, name: str, policy_arn: str) -> ApiCall:
    """Return PutMetricAlarm: a request found no copy."""
    told = {
        "AlarmName": resource_name(name),
        "AlarmActions": [policy_arn],
        "Namespace": "AWS/SageMaker",
        "MetricName": "NoCapacityInvocationFailures",
        "Dimensions": [{"Name": "InferenceComponentName", "Value": resource_name(name)}],
        "Statistic": "Maximum",
        "Period": 60,
        "EvaluationPeriods": 1,
        "DatapointsToAlarm": 1,
        "Threshold": 1.0,
        "ComparisonOperator": "GreaterThanOrEqualToThreshold",
        "TreatMissingData": "missing",
    }
    return with_tags(conf, told, name)


# Bedrock


def import_job(conf: Hosting, name: str, student: str, last: str) -> ApiCall:
    """Return CreateModelImportJob; `last` is the job of this name that ended last: a job's name is used once."""
    told = {
        "importedModelName": resource_name(name),
        "roleArn": conf.role_arn,
        "modelDataSource": {"s3DataSource": {"s3Uri": f"{student.rstrip('/')}/"}},
    }
    token = digest([told, last])
    tags = [{"key": key, "value": value} for key, value in resource_tags(conf, told, name).items()]
    return {
        **told,
        "jobName": f"{resource_name(name)}-{token[:12]}",
        "clientRequestToken": token,
        "jobTags": tags,
        "importedModelTags": tags,
    }


# Tags


def with_tags(conf: Hosting, request: Mapping[str, Any], name: str) -> ApiCall:
    """Return a request with its tags, as all services but Bedrock write them."""
    return {
        **request,
        "Tags": [{"Key": key, "Value": value} for key, value in resource_tags(conf, request, name).items()],
    }


def resource_tags(conf: Hosting, request: Mapping[str, Any], name: str) -> dict[str, str]:
    """Return a person's tags, the mark of raft-spark, and what tells a request from another of the same name."""
    return {**conf.tags, TAG: name, IDENTITY_TAG: digest(request)}


def digest(value: object) -> str:
    """Return the same 64 letters for the same value."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()

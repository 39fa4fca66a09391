"""Settings, a name and a student's folder -> the requests that SageMaker, Auto Scaling, CloudWatch and Bedrock get to
host it.

Each resource is named raft-spark-NAME and has two tags: `raft-spark` with NAME, and `raft-spark:identity` with a hash
of the request, by which a resource of another student under the same name is recognized.
"""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from raft_spark.config import Hosting
from raft_spark.errors import ConfigError

ApiCall = dict[str, Any]
TAG = "raft-spark"  # the tag of every resource, and the beginning of every name
IDENTITY_TAG = "raft-spark:identity"
LMI = "djl-inference:0.36.0-lmi20.0.0-cu128"  # vLLM 0.15.1; the last one that runs without hosting.ami
LMI_ACCOUNT = "763104351884"  # of AWS's deep learning containers in LMI_REGIONS; other regions have other accounts
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
REQUESTS_PER_COPY = 5.0  # requests in flight per copy above which another copy starts
IDLE_SECONDS = 300


def resource_name(name: str) -> str:
    """Return the name of every resource of a hosting."""
    return f"{TAG}-{name}"


def image(conf: Hosting, region: str) -> str:
    """Return the URI of the container image. Raises ConfigError in a region without a default image."""
    if conf.image:
        return conf.image
    if region not in LMI_REGIONS:
        msg = f"hosting.image must be set in {region or 'an unknown region'}: the URI of the image {LMI.partition(':')[0]} there"
        raise ConfigError(msg)
    return f"{LMI_ACCOUNT}.dkr.ecr.{region}.amazonaws.com/{LMI}"


def model(conf: Hosting, name: str, student: str, region: str) -> ApiCall:
    """Return the CreateModel request: the container and the folder of the student in S3, uncompressed."""
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
    """Return the CreateEndpointConfig request: one instance, or with scale_to_zero zero to `max_copies` managed
    instances.
    """
    instance = {"VariantName": VARIANT, "InstanceType": conf.instance_type, "InitialInstanceCount": 1}
    if conf.ami:
        instance["InferenceAmiVersion"] = conf.ami
    config_name = {"EndpointConfigName": resource_name(name)}
    if not conf.scale_to_zero:
        variant = {**instance, "ModelName": resource_name(name), **_startup_timeouts(conf)}
        return with_tags(conf, {**config_name, "ProductionVariants": [variant]}, name)
    scaling = {"Status": "ENABLED", "MinInstanceCount": 0, "MaxInstanceCount": conf.max_copies}
    routing = {"RoutingStrategy": "LEAST_OUTSTANDING_REQUESTS"}
    variant = {**instance, "ManagedInstanceScaling": scaling, "RoutingConfig": routing}
    return with_tags(conf, {**config_name, "ProductionVariants": [variant], "ExecutionRoleArn": conf.role_arn}, name)


def endpoint(conf: Hosting, name: str) -> ApiCall:
    """Return the CreateEndpoint request."""
    return with_tags(conf, {"EndpointName": resource_name(name), "EndpointConfigName": resource_name(name)}, name)


def inference_component(conf: Hosting, name: str) -> ApiCall:
    """Return the CreateInferenceComponent request: the model, the resources that a copy reserves, and one copy to begin
    with.
    """
    reserved = {"NumberOfAcceleratorDevicesRequired": conf.accelerators, "MinMemoryRequiredInMb": conf.memory_mb}
    request = {
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
    return with_tags(conf, request, name)


def _startup_timeouts(conf: Hosting) -> dict[str, int]:
    seconds = conf.start_minutes * 60
    return {"ModelDataDownloadTimeoutInSeconds": seconds, "ContainerStartupHealthCheckTimeoutInSeconds": seconds}


# Scaling to zero copies and back. Target tracking never leaves zero: without copies there are no requests per copy.
# So a step policy adds the first copy when a CloudWatch alarm sees a request that failed for want of a copy.


def scaled_component(name: str) -> ApiCall:
    """Return the fields by which Auto Scaling identifies the copies of an inference component."""
    return {
        "ServiceNamespace": "sagemaker",
        "ResourceId": f"inference-component/{resource_name(name)}",
        "ScalableDimension": COPY_COUNT,
    }


def scalable_target(conf: Hosting, name: str) -> ApiCall:
    """Return the RegisterScalableTarget request: zero to `max_copies` copies."""
    return {**scaled_component(name), "MinCapacity": 0, "MaxCapacity": conf.max_copies}


def requests_policy(name: str) -> ApiCall:
    """Return the PutScalingPolicy request that follows the requests in flight, to zero after IDLE_SECONDS."""
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
    """Return the PutScalingPolicy request that adds one copy when the alarm fires."""
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
    """Return the PutMetricAlarm request: the alarm fires when a request fails because there is no copy."""
    request = {
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
    return with_tags(conf, request, name)


# Bedrock


def import_job(conf: Hosting, name: str, student: str, last: str) -> ApiCall:
    """Return the CreateModelImportJob request; `last` is the ARN of the latest job of this name, since a job name
    cannot be reused.
    """
    request = {
        "importedModelName": resource_name(name),
        "roleArn": conf.role_arn,
        "modelDataSource": {"s3DataSource": {"s3Uri": f"{student.rstrip('/')}/"}},
    }
    token = digest([request, last])
    tags = [{"key": key, "value": value} for key, value in resource_tags(conf, request, name).items()]
    return {
        **request,
        "jobName": f"{resource_name(name)}-{token[:12]}",
        "clientRequestToken": token,
        "jobTags": tags,
        "importedModelTags": tags,
    }


# Tags


def with_tags(conf: Hosting, request: Mapping[str, Any], name: str) -> ApiCall:
    """Return a request with its tags in the form of every service but Bedrock."""
    return {
        **request,
        "Tags": [{"Key": key, "Value": value} for key, value in resource_tags(conf, request, name).items()],
    }


def resource_tags(conf: Hosting, request: Mapping[str, Any], name: str) -> dict[str, str]:
    """Return the tags of hosting.tags, the tag of raft-spark, and the identity: a hash of the request."""
    return {**conf.tags, TAG: name, IDENTITY_TAG: digest(request)}


def digest(value: object) -> str:
    """Return the SHA-256 of a value's JSON, 64 hexadecimal digits."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()

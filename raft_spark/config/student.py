"""Define the sections about a student: its training, its hosting and its evaluation.

They are part of the settings like the sections in `models`; conf/default.toml documents each key.
"""

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from raft_spark.config.fields import (
    Conditions,
    ContainerImage,
    Count,
    DistractorCounts,
    InstanceType,
    Region,
    RoleArn,
    S3Prefix,
    Section,
    Share,
    Students,
    Tags,
)

Positive = Annotated[float, Field(gt=0, le=1000, allow_inf_nan=False)]
Hours = Annotated[float, Field(gt=0, le=672, allow_inf_nan=False)]
FewTags = Annotated[Tags, Field(max_length=40)]  # SageMaker and Bedrock accept 50; raft-spark adds some
Minutes = Annotated[int, Field(ge=1, le=60)]


class TrainingJob(Section):
    """How a student is trained on SageMaker: `raft-spark model submit`."""

    python: str
    region: Region
    role_arn: RoleArn
    output: S3Prefix
    instance_type: InstanceType
    disk_gb: Annotated[int, Field(ge=1, le=16_384)]
    spot: bool
    max_hours: Hours
    max_wait_hours: Hours
    image: ContainerImage
    tags: FewTags

    @model_validator(mode="after")
    def _waits_as_long_as_it_runs(self) -> "TrainingJob":
        if self.max_wait_hours < self.max_hours:
            msg = (
                f"training.sagemaker.max_wait_hours is {self.max_wait_hours:g}; it must be at least max_hours, {self.max_hours:g}, "
                "because it is the time of the wait for a spot instance and the training together"
            )
            raise ValueError(msg)
        return self


class Training(Section):
    """How a student is trained: `raft-spark model train`."""

    sagemaker: TrainingJob
    python: str
    model: str
    max_tokens: Annotated[int, Field(ge=64, le=1_000_000)]
    too_long: Literal["refuse", "leave_out"]
    lora_rank: Annotated[int, Field(ge=1, le=1024)]
    lora_alpha: Annotated[int, Field(ge=1, le=4096)]
    lora_dropout: Annotated[float, Field(ge=0, le=0.9, allow_inf_nan=False)]
    learning_rate: Annotated[float, Field(gt=0, le=1, allow_inf_nan=False)]
    schedule: Literal["cosine", "linear", "constant_with_warmup"]
    warmup_share: Annotated[float, Field(ge=0, le=0.5, allow_inf_nan=False)]
    weight_decay: Share
    epochs: Positive
    max_steps: Annotated[int, Field(ge=0, le=100_000_000)]
    batch_rows: Count
    rows_at_once: Count
    precision: Literal["auto", "fp32", "bf16"]
    gradient_checkpointing: bool
    evaluate_steps: Annotated[int, Field(ge=0, le=1_000_000)]
    evaluate_rows: Annotated[int, Field(ge=0, le=1_000_000)]
    checkpoint_steps: Count
    seed: Annotated[int, Field(ge=0, le=2**32 - 1)]

    def script_settings(self) -> dict[str, Any]:
        """Return the settings that sft_script.py takes: all except the Python, the student and SageMaker's."""
        return self.model_dump(exclude={"python", "model", "sagemaker"})


class Hosting(Section):
    """Where a trained student is deployed: `raft-spark model host`."""

    kind: Literal["sagemaker", "bedrock"]
    region: Region
    role_arn: RoleArn
    max_hours: Hours
    tags: FewTags
    instance_type: InstanceType
    image: ContainerImage
    ami: Annotated[str, Field(pattern=r"^[a-zA-Z0-9.-]{0,64}$", examples=["al2-ami-sagemaker-inference-gpu-3-1"])]
    environment: dict[str, str]
    start_minutes: Minutes
    scale_to_zero: bool
    max_copies: Annotated[int, Field(ge=1, le=100)]
    accelerators: Annotated[int, Field(ge=1, le=16)]
    memory_mb: Annotated[int, Field(ge=128, le=2_000_000)]


class Evaluation(Section):
    """What students are asked, and how their answers are scored: `raft-spark evaluation`."""

    students: Students
    recipes: dict[str, Students]
    rows: Annotated[int, Field(ge=0)]
    settings: Conditions
    distractors: DistractorCounts
    temperature: Annotated[float, Field(ge=0, le=2, allow_inf_nan=False)]
    max_new_tokens: Annotated[int, Field(ge=1, le=100_000)]
    judge: str
    resamples: Annotated[int, Field(ge=100, le=100_000)]
    examples: Annotated[int, Field(ge=0, le=100)]

    @model_validator(mode="after")
    def _has_recipes_of_students(self) -> "Evaluation":
        named = [student for students in self.recipes.values() for student in students]
        for name, students in self.recipes.items():
            if name in self.students:
                msg = f"evaluation.recipes names {name}, which is a student too; it must have a name of its own"
                raise ValueError(msg)
            for student in students:
                if student not in self.students or named.count(student) > 1:
                    msg = f"evaluation.recipes.{name} names {student}; each must be one of evaluation.students, and in one recipe only"
                    raise ValueError(msg)
        return self

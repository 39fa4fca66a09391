"""The sections about a student: what it learns from, where it stands to be asked, and what it is asked.

They are part of the settings as those in `sections` are; conf/default.toml says what each key is for.
"""

from typing import Annotated, Any, Literal

from pydantic import Field

from raft_spark.values import Count, Section, Share

Positive = Annotated[float, Field(gt=0, le=1000, allow_inf_nan=False)]


class Training(Section):
    """How a student is trained: `raft-spark model train`."""

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

    def told(self) -> dict[str, Any]:
        """Return the settings that training.py takes: all but where it runs and on what."""
        return self.model_dump(exclude={"python", "model"})


class Hosting(Section):
    """Where a trained student stands: `raft-spark model host`."""


class Evaluation(Section):
    """What students are asked, and how their answers are judged."""

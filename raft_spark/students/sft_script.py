"""Fine-tune a student with LoRA on a dataset of prompts and completions, and write it as safetensors with the LoRA
merged.

    python sft_script.py --data FOLDER --model STUDENT --to FOLDER --checkpoints FOLDER --settings JSON [--about JSON]

data         the folder of a dataset in the format prompt_completion: README.md and the files that it names
model        a folder with safetensors, a GGUF file, or a name on the hub
to           the output: model*.safetensors, config.json, tokenizer, chat template, and, written last, training.json
checkpoints  the state from which the same command resumes an interrupted training; another training is refused
settings     a JSON object with every field of Settings; [training] in conf/default.toml describes them
about        a JSON object that is copied into training.json, such as the version of the dataset

This is one file that imports nothing of raft_spark, since SageMaker gets only this file. torchrun may start several
processes of it. Metrics are printed as `train_loss=0.9 eval_loss=1.1 step=10 epoch=0.5 seconds_per_step=4.2`, without
those that are not known.
"""

import argparse
import hashlib
import json
import os
import resource
import signal
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset, DatasetDict, load_dataset
from peft import LoraConfig
from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback, set_seed
from trl import SFTConfig, SFTTrainer

PACKAGES = ("torch", "transformers", "trl", "peft", "accelerate", "datasets")
TRAINER_STATE = "trainer_state.json"  # the file of a checkpoint that is written last
INTERRUPTED = 143  # the exit status after SIGTERM
DESCRIPTION = "Fine-tune a student with LoRA on a dataset of prompts and completions."
Tokens = dict[str, list[int]]
Tokenizer = Any  # transformers.PreTrainedTokenizerBase
Model = Any  # transformers.PreTrainedModel


@dataclass(frozen=True, slots=True)
class Settings:
    """The settings of a training; [training] in conf/default.toml describes them."""

    max_tokens: int
    too_long: str
    lora_rank: int
    lora_alpha: int
    lora_dropout: float
    learning_rate: float
    schedule: str
    warmup_share: float
    weight_decay: float
    epochs: float
    max_steps: int
    batch_rows: int
    rows_at_once: int
    precision: str
    gradient_checkpointing: bool
    evaluate_steps: int
    evaluate_rows: int
    checkpoint_steps: int
    seed: int


def main() -> None:
    """Read the data and the model, train, and write the student; do nothing when it is there already."""
    parser = argparse.ArgumentParser(description=DESCRIPTION)
    parser.add_argument("--data", type=Path, required=True, help="the folder of the dataset")
    parser.add_argument("--model", required=True, help="a folder with safetensors, a GGUF file, or a name on the hub")
    parser.add_argument("--to", type=Path, required=True, help="the folder to write")
    parser.add_argument("--checkpoints", type=Path, required=True, help="the folder of the checkpoints")
    parser.add_argument("--settings", type=_settings, required=True, help="every field of Settings, as JSON")
    parser.add_argument("--about", type=json.loads, default={}, help="copied into training.json, as JSON")
    arguments = parser.parse_args()
    identity = _identity(arguments)
    if _is_done(arguments.to, identity):
        print(f"{arguments.to} already has this student")  # noqa: T201 - a script's output
        return
    _claim(arguments.checkpoints, identity)
    set_seed(arguments.settings.seed)
    tokenizer, student = load_student(arguments.model, arguments.settings)
    with tempfile.TemporaryDirectory() as cache:
        splits, counts = tokenize_splits(arguments.data, tokenizer, arguments.settings, cache)
        trainer = build_trainer(student, tokenizer, splits, arguments)
        results = train(trainer, arguments.checkpoints)
    about = {
        "identity": identity,
        "about": arguments.about,
        "model": arguments.model,
        "settings": asdict(arguments.settings),
    }
    if trainer.is_world_process_zero():
        save_student(trainer, tokenizer, arguments.to, {**about, "data": counts, **results})


def _settings(text: str) -> Settings:
    """Parse --settings, which must have every field of Settings and no other."""
    given, known = json.loads(text), {field.name for field in fields(Settings)}
    if set(given) != known:
        msg = f"missing: {sorted(known - set(given))}, unknown: {sorted(set(given) - known)}"
        raise argparse.ArgumentTypeError(msg)
    return Settings(**given)


def _identity(arguments: argparse.Namespace) -> str:
    """Hash all that a student depends on: settings, this file, package versions, and the bytes of data and model (or
    its name).
    """
    model, data = Path(arguments.model), sorted(path for path in arguments.data.rglob("*") if path.is_file())
    weights = sorted(filter(Path.is_file, model.iterdir())) if model.is_dir() else [model] if model.is_file() else []
    parts: list[object] = [asdict(arguments.settings), [version(package) for package in PACKAGES]]
    for path in (Path(__file__), *data, *weights):
        with path.open("rb") as file:
            parts.append(hashlib.file_digest(file, "sha256").hexdigest())
    parts += [] if weights else [arguments.model]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:16]


def _is_done(to: Path, identity: str) -> bool:
    finished = to / "training.json"
    if not finished.is_file():
        return False
    if json.loads(finished.read_text())["identity"] != identity:
        sys.exit(f"{to} has a student of another dataset or other settings; choose another folder or delete this one")
    return True


def _claim(checkpoints: Path, identity: str) -> None:
    """Write the identity of this training next to its checkpoints; exit when they belong to another training."""
    checkpoints.mkdir(parents=True, exist_ok=True)
    file = checkpoints / "identity"
    if not file.exists() and not any(checkpoints.glob("checkpoint-*")):
        file.write_text(identity)
    if not file.exists() or file.read_text() != identity:
        sys.exit(
            f"{checkpoints} has checkpoints of another dataset or other settings; choose another folder or delete this one"
        )


def load_student(model: str, settings: Settings) -> tuple[Tokenizer, Model]:
    """Return (tokenizer, model). The frozen weights are bfloat16 on a GPU that supports it, else float32."""
    path = Path(model)
    is_gguf = path.suffix == ".gguf"
    source, options = (path.parent, {"gguf_file": path.name}) if is_gguf else (model, {})
    tokenizer = AutoTokenizer.from_pretrained(source, **options)
    if not tokenizer.chat_template:
        sys.exit(f"{model} has no chat template; choose a model that was tuned to follow instructions")
    half = torch.cuda.is_available() and _is_half(settings)
    student = AutoModelForCausalLM.from_pretrained(source, dtype=torch.bfloat16 if half else torch.float32, **options)
    return tokenizer, _without_quantization(student) if is_gguf else student


def _is_half(settings: Settings) -> bool:
    """Return whether training computes in bfloat16; `auto` does so on a GPU that supports it."""
    is_supported = torch.cuda.is_available() and torch.cuda.is_bf16_supported()
    return settings.precision == "bf16" or (settings.precision == "auto" and is_supported)


def _without_quantization(student: Model) -> Model:
    """Return the weights in a new model, since transformers refuses to save one that it has read from GGUF."""
    config = type(student.config).from_dict({**student.config.to_dict(), "quantization_config": None})
    del config.quantization_config
    model = AutoModelForCausalLM.from_config(config, dtype=student.dtype)
    model.load_state_dict(student.state_dict())
    model.generation_config = student.generation_config
    return model


def tokenize_splits(
    data: Path,
    tokenizer: Tokenizer,
    settings: Settings,
    cache: str,
) -> tuple[DatasetDict, dict[str, Any]]:
    """Return the splits with the columns input_ids and completion_mask, which TRL reads, and counts of rows and tokens.

    No row is truncated. A row of more than max_tokens ends the training, or is left out and counted, as `too_long`
    says.
    """
    dataset = load_dataset(str(data), cache_dir=cache)
    splits = DatasetDict({name: dataset[name] for name in ("train", "validation") if name in dataset})
    if settings.evaluate_rows and "validation" in splits:
        rows = splits["validation"]
        splits["validation"] = rows.select(range(min(settings.evaluate_rows, len(rows))))
    tokenized = splits.map(lambda row: tokenize_row(row, tokenizer), remove_columns=["prompt", "completion"])
    fitting = tokenized.filter(lambda row: len(row["input_ids"]) <= settings.max_tokens)
    counts = {name: _row_counts(tokenized[name], fitting[name]) for name in tokenized}
    left_out = sum(split["left_out"] for split in counts.values())
    if left_out and settings.too_long == "refuse":
        longest = max(split["longest"] for split in counts.values())
        sys.exit(
            f"{left_out} rows have more than max_tokens = {settings.max_tokens} tokens, the longest {longest}: "
            "raise max_tokens, or set too_long = 'leave_out' to leave them out"
        )
    if not len(fitting["train"]):
        sys.exit(f"no row of the train split has at most max_tokens = {settings.max_tokens} tokens")
    return fitting, counts


def tokenize_row(row: Mapping[str, Any], tokenizer: Tokenizer) -> Tokens:
    """Return a row's tokens in the chat template, and a mask of 1 for the tokens to learn: the completion and its end
    of turn.
    """
    prompt = tokenizer.apply_chat_template(row["prompt"], add_generation_prompt=True, return_dict=False)
    tokens = tokenizer.apply_chat_template([*row["prompt"], *row["completion"]], return_dict=False)
    completion = tokens[len(prompt) :]
    if tokens[: len(prompt)] != prompt:
        raise ValueError("the chat template renders a question differently once its answer follows")
    if tokenizer.eos_token_id not in completion:
        msg = (
            f"the chat template does not end an answer with {tokenizer.eos_token}: the student would not learn to stop"
        )
        raise ValueError(msg)
    return {"input_ids": tokens, "completion_mask": [0] * len(prompt) + [1] * len(completion)}


def _row_counts(tokenized: Dataset, fitting: Dataset) -> dict[str, int]:
    lengths = [len(row) for row in tokenized["input_ids"]]
    completion_tokens = sum(sum(mask) for mask in fitting["completion_mask"])
    tokens = sum(len(row) for row in fitting["input_ids"])
    rows = {"rows": len(fitting), "left_out": len(tokenized) - len(fitting), "longest": max(lengths, default=0)}
    return {**rows, "prompt_tokens": tokens - completion_tokens, "completion_tokens": completion_tokens}


def build_trainer(
    student: Model, tokenizer: Tokenizer, splits: DatasetDict, arguments: argparse.Namespace
) -> SFTTrainer:
    """Return TRL's trainer: LoRA on every linear layer, loss on the completions only, no truncation."""
    settings: Settings = arguments.settings
    lora = LoraConfig(
        r=settings.lora_rank,
        lora_alpha=settings.lora_alpha,
        lora_dropout=settings.lora_dropout,
        target_modules="all-linear",
        task_type="CAUSAL_LM",
    )
    validation = splits.get("validation")
    trainer = SFTTrainer(
        model=student,
        args=_trainer_config(settings, arguments.checkpoints, evaluates=bool(validation)),
        train_dataset=splits["train"],
        eval_dataset=validation or None,
        processing_class=tokenizer,
        peft_config=lora,
        callbacks=[ProgressCallback()],
    )
    for printer in [each for each in trainer.callback_handler.callbacks if type(each).__name__ == "PrinterCallback"]:
        trainer.remove_callback(printer)  # ProgressCallback prints the metrics
    return trainer


def _trainer_config(settings: Settings, checkpoints: Path, *, evaluates: bool) -> SFTConfig:
    """Return the settings as TRL names them. A step takes batch_rows in all, for any number of processes."""
    at_once = settings.rows_at_once * int(os.environ.get("WORLD_SIZE", "1"))
    if settings.batch_rows % at_once:
        sys.exit(
            f"batch_rows is {settings.batch_rows}; it must be a multiple of the {at_once} rows that all processes take at once"
        )
    gpu = torch.cuda.is_available()
    return SFTConfig(
        output_dir=str(checkpoints),
        use_cpu=not gpu,
        dataloader_pin_memory=gpu,
        bf16=_is_half(settings),
        max_length=None,
        completion_only_loss=True,
        per_device_train_batch_size=settings.rows_at_once,
        per_device_eval_batch_size=settings.rows_at_once,
        gradient_accumulation_steps=settings.batch_rows // at_once,
        gradient_checkpointing=settings.gradient_checkpointing,
        num_train_epochs=settings.epochs,
        max_steps=settings.max_steps or -1,
        learning_rate=settings.learning_rate,
        lr_scheduler_type=settings.schedule,
        warmup_steps=settings.warmup_share,  # a number below 1 is a share of all steps
        weight_decay=settings.weight_decay,
        eval_strategy="steps" if evaluates and settings.evaluate_steps else "no",
        eval_steps=settings.evaluate_steps or None,
        save_strategy="steps",
        save_steps=settings.checkpoint_steps,
        save_total_limit=2,  # a kill can leave the last one incomplete
        logging_steps=1,
        logging_first_step=True,
        report_to="none",
        disable_tqdm=True,
        seed=settings.seed,
    )


class ProgressCallback(TrainerCallback):  # type: ignore[misc] # its class is unknown where it is not installed
    """Print the metrics of each step as NAME=VALUE; after SIGTERM save a checkpoint and stop."""

    def __init__(self) -> None:
        self.started = 0.0
        self.seconds: list[float] = []
        self.is_interrupted = False
        signal.signal(signal.SIGTERM, self._end)  # a spot instance gets SIGTERM two minutes before it ends

    def _end(self, *_: object) -> None:
        self.is_interrupted = True

    def on_step_begin(self, *_: object, **__: object) -> None:
        """Start the clock."""
        self.started = time.monotonic()

    def on_step_end(self, _: object, __: object, control: Any, **___: object) -> None:  # noqa: ANN401
        """Stop the clock; after SIGTERM save and stop."""
        self.seconds.append(round(time.monotonic() - self.started, 2))
        if self.is_interrupted:
            control.should_save = control.should_training_stop = True

    def on_log(self, _: object, state: Any, __: object, logs: Mapping[str, Any], **___: object) -> None:  # noqa: ANN401
        """Print one line of metrics."""
        names = {
            "loss": "train_loss",
            "eval_loss": "eval_loss",
            "learning_rate": "learning_rate",
            "grad_norm": "grad_norm",
        }
        metrics = {name: float(logs[key]) for key, name in names.items() if key in logs}
        if metrics and state.is_world_process_zero:
            timed = {"seconds_per_step": self.seconds[-1]} if "train_loss" in metrics and self.seconds else {}
            values = {**metrics, "step": state.global_step, "epoch": state.epoch or 0.0, **timed}
            print(" ".join(f"{name}={value:.6g}" for name, value in values.items()), flush=True)  # noqa: T201


def train(trainer: SFTTrainer, checkpoints: Path) -> dict[str, Any]:
    """Train from the last complete checkpoint to the end; return the log of losses, the seconds and the memory."""
    last, start = last_complete_checkpoint(checkpoints), time.monotonic()
    if last:
        print(f"resuming from {last}", flush=True)  # noqa: T201 - a script's output
    trainer.args.eval_on_start = trainer.eval_dataset is not None and last is None
    trainer.train(resume_from_checkpoint=last and str(last))
    progress = next(each for each in trainer.callback_handler.callbacks if isinstance(each, ProgressCallback))
    if progress.is_interrupted:
        sys.exit(INTERRUPTED)
    evaluated = [logs["step"] for logs in trainer.state.log_history if "eval_loss" in logs]
    if trainer.eval_dataset is not None and trainer.state.global_step not in evaluated:
        trainer.evaluate()
    kilobytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {
        "log": trainer.state.log_history,
        "steps": trainer.state.global_step,
        "went_on_from": last.name if last else None,
        "seconds": round(time.monotonic() - start, 1),
        "seconds_per_step": progress.seconds,
        "memory_gb": round(kilobytes * 1024 / 1e9, 2),
        "gpu_memory_gb": round(torch.cuda.max_memory_allocated() / 1e9, 2) if torch.cuda.is_available() else 0,
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
        "packages": {package: version(package) for package in PACKAGES},
    }


def last_complete_checkpoint(checkpoints: Path) -> Path | None:
    """Return the newest checkpoint that is complete; a checkpoint that was being written during a kill is skipped."""
    found = sorted(checkpoints.glob("checkpoint-*"), key=lambda path: int(path.name.rpartition("-")[2]), reverse=True)
    return next(filter(_is_complete, found), None)


def _is_complete(checkpoint: Path) -> bool:
    try:
        return "global_step" in json.loads((checkpoint / TRAINER_STATE).read_text())
    except (OSError, ValueError):
        return False


def save_student(trainer: SFTTrainer, tokenizer: Tokenizer, to: Path, results: Mapping[str, Any]) -> None:
    """Merge the LoRA into the weights and write the student; training.json is written last, as a mark of completeness."""
    merged = trainer.accelerator.unwrap_model(trainer.model).merge_and_unload()
    merged.config.use_cache = True
    merged.save_pretrained(to)
    tokenizer.save_pretrained(to)
    _add_transformers_4_fields(to, tokenizer)
    (to / "training.json").write_text(json.dumps(results, indent=1))
    print(f"the student is in {to}", flush=True)  # noqa: T201 - a script's output


def _add_transformers_4_fields(to: Path, tokenizer: Tokenizer) -> None:
    """Add the fields of transformers 4 to config.json and tokenizer_config.json; Bedrock's import runs transformers
    4.51.3.

    Without them it would read a Llama with rope_theta 10,000 whatever its own value, and find no tokenizer.
    """
    config = json.loads((to / "config.json").read_text())
    rope = config.get("rope_parameters") or {}
    scaling = {"rope_scaling": rope} if rope.get("rope_type", "default") != "default" else {}
    theta = {"rope_theta": rope["rope_theta"]} if "rope_theta" in rope else {}
    (to / "config.json").write_text(
        json.dumps({**config, **theta, **scaling, "torch_dtype": config["dtype"]}, indent=2)
    )
    path = to / "tokenizer_config.json"
    fast = {"tokenizer_class": "PreTrainedTokenizerFast", "chat_template": tokenizer.chat_template}
    path.write_text(json.dumps({**json.loads(path.read_text()), **fast}, indent=2))


if __name__ == "__main__":
    main()

"""A dataset of prompts and completions, a student -> the student trained, as safetensors with its LoRA merged in.

    python sft_script.py --data FOLDER --model STUDENT --to FOLDER --checkpoints FOLDER --settings JSON [--about JSON]

data         a dataset's folder of format prompt_completion: README.md and the files that it names
model        a folder with safetensors, a GGUF file, or a name on the hub
to           gets model*.safetensors, config.json, the tokenizer with its chat template, and training.json, written last
checkpoints  what an interrupted training goes on from; the same command goes on by itself, another training is refused
settings     Settings below, all of them; conf/default.toml, [training], says what each is for
about        put into training.json as it is: which dataset, which code

One file that imports nothing of raft_spark, since SageMaker is sent this file alone; torchrun may start it several times.
What it prints for metrics: `train_loss=0.9 eval_loss=1.1 step=10 epoch=0.5 seconds_per_step=4.2`, each where it is known.
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
TRAINER_STATE = "trainer_state.json"  # a checkpoint's last file
INTERRUPTED = 143  # what a process ends with that SIGTERM ended
Tokens = dict[str, list[int]]
Tokenizer = Any  # transformers.PreTrainedTokenizerBase
Model = Any  # transformers.PreTrainedModel


@dataclass(frozen=True, slots=True)
class Settings:
    """What is told of a training."""

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
    """Read, train, write; whoever has done so already does nothing."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    for name in ("data", "to", "checkpoints"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    parser.add_argument("--model", required=True)
    parser.add_argument("--settings", type=_settings, required=True)
    parser.add_argument("--about", type=json.loads, default={})
    asked = parser.parse_args()
    identity = _identity(asked)
    if _is_done(asked.to, identity):
        print(f"{asked.to} holds this student already")  # noqa: T201 - a script's say
        return
    _claim(asked.checkpoints, identity)
    set_seed(asked.settings.seed)
    tokenizer, student = load_student(asked.model, asked.settings)
    with tempfile.TemporaryDirectory() as cache:
        splits, counts = tokenize_splits(asked.data, tokenizer, asked.settings, cache)
        trainer = build_trainer(student, tokenizer, splits, asked)
        told = train(trainer, asked.checkpoints)
    about = {"identity": identity, "about": asked.about, "model": asked.model, "settings": asdict(asked.settings)}
    if trainer.is_world_process_zero():
        save_student(trainer, tokenizer, asked.to, {**about, "data": counts, **told})


def _settings(text: str) -> Settings:
    """Take every setting by its name and no other."""
    given, known = json.loads(text), {field.name for field in fields(Settings)}
    if set(given) != known:
        msg = f"missing: {sorted(known - set(given))}, unknown: {sorted(set(given) - known)}"
        raise argparse.ArgumentTypeError(msg)
    return Settings(**given)


def _identity(asked: argparse.Namespace) -> str:
    """Name all that a student depends on: settings, this file, the packages, the bytes of data and model, or the model's name."""
    model, data = Path(asked.model), sorted(path for path in asked.data.rglob("*") if path.is_file())
    weights = sorted(filter(Path.is_file, model.iterdir())) if model.is_dir() else [model] if model.is_file() else []
    parts: list[object] = [asdict(asked.settings), [version(package) for package in PACKAGES]]
    for path in (Path(__file__), *data, *weights):
        with path.open("rb") as file:
            parts.append(hashlib.file_digest(file, "sha256").hexdigest())
    parts += [] if weights else [asked.model]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:16]


def _is_done(to: Path, identity: str) -> bool:
    made = to / "training.json"
    if not made.is_file():
        return False
    if json.loads(made.read_text())["identity"] != identity:
        sys.exit(f"{to} holds a student of another dataset or other settings; name another folder, or delete it")
    return True


def _claim(checkpoints: Path, identity: str) -> None:
    """Refuse to go on from checkpoints of another training: it would look like this one's result."""
    checkpoints.mkdir(parents=True, exist_ok=True)
    mark = checkpoints / "identity"
    if not mark.exists() and not any(checkpoints.glob("checkpoint-*")):
        mark.write_text(identity)
    if not mark.exists() or mark.read_text() != identity:
        sys.exit(
            f"{checkpoints} holds checkpoints of another dataset or other settings; name another folder, or delete it"
        )


def load_student(model: str, settings: Settings) -> tuple[Tokenizer, Model]:
    """Return a student's (tokenizer, model); on a GPU its frozen weights are bfloat16, else float32."""
    path = Path(model)
    is_gguf = path.suffix == ".gguf"
    where, more = (path.parent, {"gguf_file": path.name}) if is_gguf else (model, {})
    tokenizer = AutoTokenizer.from_pretrained(where, **more)
    if not tokenizer.chat_template:
        sys.exit(f"{model} has no chat template: take a model that was tuned to follow instructions")
    half = torch.cuda.is_available() and _is_half(settings)
    student = AutoModelForCausalLM.from_pretrained(where, dtype=torch.bfloat16 if half else torch.float32, **more)
    return tokenizer, _without_quantization(student) if is_gguf else student


def _is_half(settings: Settings) -> bool:
    """Say whether sums are made in bfloat16; `auto` does so on a GPU that can."""
    able = torch.cuda.is_available() and torch.cuda.is_bf16_supported()
    return settings.precision == "bf16" or (settings.precision == "auto" and able)


def _without_quantization(student: Model) -> Model:
    """Return the weights in a model of their own: transformers refuses to save one that it has read from GGUF."""
    config = type(student.config).from_dict({**student.config.to_dict(), "quantization_config": None})
    del config.quantization_config
    fresh = AutoModelForCausalLM.from_config(config, dtype=student.dtype)
    fresh.load_state_dict(student.state_dict())
    fresh.generation_config = student.generation_config
    return fresh


def tokenize_splits(
    data: Path,
    tokenizer: Tokenizer,
    settings: Settings,
    cache: str,
) -> tuple[DatasetDict, dict[str, Any]]:
    """Return the splits as TRL takes them, input_ids and completion_mask, and counts of rows and tokens.

    A row is never cut: one above max_tokens ends the training, or is left out and counted.
    """
    read = load_dataset(str(data), cache_dir=cache)
    wanted = DatasetDict({name: read[name] for name in ("train", "validation") if name in read})
    if settings.evaluate_rows and "validation" in wanted:
        rows = wanted["validation"]
        wanted["validation"] = rows.select(range(min(settings.evaluate_rows, len(rows))))
    whole = wanted.map(lambda row: tokenize_row(row, tokenizer), remove_columns=["prompt", "completion"])
    fits = whole.filter(lambda row: len(row["input_ids"]) <= settings.max_tokens)
    counts = {name: _row_counts(whole[name], fits[name]) for name in whole}
    left_out = sum(split["left_out"] for split in counts.values())
    if left_out and settings.too_long == "refuse":
        longest = max(split["longest"] for split in counts.values())
        sys.exit(
            f"{left_out} rows have more than max_tokens = {settings.max_tokens} tokens, the longest {longest}: "
            "raise max_tokens, or leave them out with too_long = 'leave_out'"
        )
    if not len(fits["train"]):
        sys.exit(f"no row of the train split has at most max_tokens = {settings.max_tokens} tokens")
    return fits, counts


def tokenize_row(row: Mapping[str, Any], tokenizer: Tokenizer) -> Tokens:
    """Lay a row out as its student is asked later, and mark what is learned: the answer, and that it ends there."""
    asked = tokenizer.apply_chat_template(row["prompt"], add_generation_prompt=True, return_dict=False)
    whole = tokenizer.apply_chat_template([*row["prompt"], *row["completion"]], return_dict=False)
    learned = whole[len(asked) :]
    if whole[: len(asked)] != asked:
        raise ValueError("the chat template lays a question out in another way once it is answered")
    if tokenizer.eos_token_id not in learned:
        msg = (
            f"the chat template does not end an answer with {tokenizer.eos_token}: the student would not learn to stop"
        )
        raise ValueError(msg)
    return {"input_ids": whole, "completion_mask": [0] * len(asked) + [1] * len(learned)}


def _row_counts(whole: Dataset, fits: Dataset) -> dict[str, int]:
    lengths = [len(row) for row in whole["input_ids"]]
    learned = sum(sum(mask) for mask in fits["completion_mask"])
    used = sum(len(row) for row in fits["input_ids"])
    rows = {"rows": len(fits), "left_out": len(whole) - len(fits), "longest": max(lengths, default=0)}
    return {**rows, "prompt_tokens": used - learned, "completion_tokens": learned}


def build_trainer(student: Model, tokenizer: Tokenizer, splits: DatasetDict, asked: argparse.Namespace) -> SFTTrainer:
    """Return TRL's trainer: LoRA on every projection, loss on completions only, no row cut."""
    settings: Settings = asked.settings
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
        args=_arguments(settings, asked.checkpoints, evaluates=bool(validation)),
        train_dataset=splits["train"],
        eval_dataset=validation or None,
        processing_class=tokenizer,
        peft_config=lora,
        callbacks=[ProgressCallback()],
    )
    for printer in [each for each in trainer.callback_handler.callbacks if type(each).__name__ == "PrinterCallback"]:
        trainer.remove_callback(printer)  # Told says it once, in one form
    return trainer


def _arguments(settings: Settings, checkpoints: Path, *, evaluates: bool) -> SFTConfig:
    """Say the settings in the trainer's words; a step takes batch_rows whatever the number of processes."""
    at_once = settings.rows_at_once * int(os.environ.get("WORLD_SIZE", "1"))
    if settings.batch_rows % at_once:
        sys.exit(f"batch_rows = {settings.batch_rows} is no multiple of the {at_once} rows that are taken at once")
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
        warmup_steps=settings.warmup_share,  # below 1: a share of all steps
        weight_decay=settings.weight_decay,
        eval_strategy="steps" if evaluates and settings.evaluate_steps else "no",
        eval_steps=settings.evaluate_steps or None,
        save_strategy="steps",
        save_steps=settings.checkpoint_steps,
        save_total_limit=2,  # the last may be torn
        logging_steps=1,
        logging_first_step=True,
        report_to="none",
        disable_tqdm=True,
        seed=settings.seed,
    )


class ProgressCallback(TrainerCallback):  # type: ignore[misc] # its class is unknown where it is not installed
    """Print each step's losses in the one form that the metrics are read from; save before SIGTERM ends the process."""

    def __init__(self) -> None:
        self.begun = 0.0
        self.seconds: list[float] = []
        self.is_ended = False
        signal.signal(signal.SIGTERM, self._end)  # spot instances are told two minutes before they go

    def _end(self, *_: object) -> None:
        self.is_ended = True

    def on_step_begin(self, *_: object, **__: object) -> None:
        """Start the clock."""
        self.begun = time.monotonic()

    def on_step_end(self, _: object, __: object, control: Any, **___: object) -> None:  # noqa: ANN401
        """Stop the clock; when the process is to end, save and stop."""
        self.seconds.append(round(time.monotonic() - self.begun, 2))
        if self.is_ended:
            control.should_save = control.should_training_stop = True

    def on_log(self, _: object, state: Any, __: object, logs: Mapping[str, Any], **___: object) -> None:  # noqa: ANN401
        """Print one line of names and values."""
        names = {
            "loss": "train_loss",
            "eval_loss": "eval_loss",
            "learning_rate": "learning_rate",
            "grad_norm": "grad_norm",
        }
        said = {name: float(logs[key]) for key, name in names.items() if key in logs}
        if said and state.is_world_process_zero:
            timed = {"seconds_per_step": self.seconds[-1]} if "train_loss" in said and self.seconds else {}
            values = {**said, "step": state.global_step, "epoch": state.epoch or 0.0, **timed}
            print(" ".join(f"{name}={value:.6g}" for name, value in values.items()), flush=True)  # noqa: T201


def train(trainer: SFTTrainer, checkpoints: Path) -> dict[str, Any]:
    """Train from the last whole checkpoint to the end; return losses before, on the way and after, seconds and memory."""
    last, begin = last_complete_checkpoint(checkpoints), time.monotonic()
    if last:
        print(f"going on from {last}", flush=True)  # noqa: T201 - a script's say
    trainer.args.eval_on_start = trainer.eval_dataset is not None and last is None
    trainer.train(resume_from_checkpoint=last and str(last))
    told = next(each for each in trainer.callback_handler.callbacks if isinstance(each, ProgressCallback))
    if told.is_ended:
        sys.exit(INTERRUPTED)
    evaluated = [logs["step"] for logs in trainer.state.log_history if "eval_loss" in logs]
    if trainer.eval_dataset is not None and trainer.state.global_step not in evaluated:
        trainer.evaluate()
    kilobytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {
        "log": trainer.state.log_history,
        "steps": trainer.state.global_step,
        "went_on_from": last.name if last else None,
        "seconds": round(time.monotonic() - begin, 1),
        "seconds_per_step": told.seconds,
        "memory_gb": round(kilobytes * 1024 / 1e9, 2),
        "gpu_memory_gb": round(torch.cuda.max_memory_allocated() / 1e9, 2) if torch.cuda.is_available() else 0,
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
        "packages": {package: version(package) for package in PACKAGES},
    }


def last_complete_checkpoint(checkpoints: Path) -> Path | None:
    """Return the newest checkpoint whose last file can be read; one that a kill has torn is passed over."""
    found = sorted(checkpoints.glob("checkpoint-*"), key=lambda path: int(path.name.rpartition("-")[2]), reverse=True)
    return next(filter(_is_complete, found), None)


def _is_complete(checkpoint: Path) -> bool:
    try:
        return "global_step" in json.loads((checkpoint / TRAINER_STATE).read_text())
    except (OSError, ValueError):
        return False


def save_student(trainer: SFTTrainer, tokenizer: Tokenizer, to: Path, told: Mapping[str, Any]) -> None:
    """Merge LoRA into the weights and write the student, training.json last."""
    merged = trainer.accelerator.unwrap_model(trainer.model).merge_and_unload()
    merged.config.use_cache = True
    merged.save_pretrained(to)
    tokenizer.save_pretrained(to)
    _add_transformers_4_fields(to, tokenizer)
    (to / "training.json").write_text(json.dumps(told, indent=1))
    print(f"the student is in {to}", flush=True)  # noqa: T201 - a script's say


def _add_transformers_4_fields(to: Path, tokenizer: Tokenizer) -> None:
    """Add to config.json and tokenizer_config.json what transformers 4 reads, which Custom Model Import does (4.51.3).

    Without it a Llama of transformers 5 is read there with rope_theta 10,000, whatever it was, and no tokenizer is found.
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

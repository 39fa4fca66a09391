"""Train, kill, resume, merge and serve a student with the real packages: TRL, transformers, OpenVINO.

Most tests train a Llama of 2 layers with the tokenizer of the built-in student, in seconds.
"""

import json
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from datasets import load_dataset
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM
from trl import DPOConfig, DPOTrainer, SFTConfig, SFTTrainer

from conftest import ROOT
from raft_spark import config
from raft_spark.endpoints import connect, serving
from raft_spark.endpoints.base import Request
from raft_spark.endpoints.local import weights
from raft_spark.formats.formats import FORMATS, TrainingRow
from raft_spark.students import sft_script

pytestmark = pytest.mark.filterwarnings("default")  # these packages warn about their next versions
SCRIPT = ROOT / "raft_spark/students/sft_script.py"
ENDS = [2, 198]  # <|im_end|> and the line's end after it
FACTS = ("helped 4 of 9 nurses", "did nothing for sleep", "was worse than tea", "raised the pulse by 3")


def rows(count: int) -> list[TrainingRow]:
    completions = config.load().completions
    return [
        TrainingRow(
            pubid=number,
            question=f"Does compound {number} work?",
            passages=[f"Compound {number} {FACTS[number % 4]}.", f"Compound {number + 7} {FACTS[(number + 1) % 4]}."],
            oracle=f"Compound {number} {FACTS[number % 4]}.",
            distracted=False,
            original_answer=None,
            completion=f"It {FACTS[number % 4]}.",
            answer=f"It {FACTS[number % 4]}.",
            rejected_answer=f"It {FACTS[(number + 1) % 4]}.",
            completions=completions,
        )
        for number in range(count)
    ]


def written(folder: Path, form: str, more: str = "") -> Path:
    """Write the folder of a dataset as the stage does: 24 rows for training, 4 for validation."""
    folder.mkdir(parents=True)
    parts = {"train": rows(24), "validation": rows(4)}
    for split, made in parts.items():
        lines = [json.dumps(FORMATS[form].record(row)) for row in made]
        lines[-1] = lines[-1].replace("Compound", f"Compound{more}", 1)
        (folder / f"{split}.jsonl").write_text("\n".join(lines) + "\n")
    files = "".join(f"  - split: {split}\n    path:\n    - {split}.jsonl\n" for split in parts)
    (folder / "README.md").write_text(f"---\nconfigs:\n- config_name: default\n  data_files:\n{files}---\n")
    return folder


@pytest.fixture(scope="session")
def tokenizer():
    path = weights.built_in_path()
    return AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory, tokenizer) -> Path:
    folder = tmp_path_factory.mktemp("tiny")
    torch.manual_seed(0)
    shape = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    ends = {"eos_token_id": 2, "bos_token_id": 1, "pad_token_id": 2}
    LlamaForCausalLM(LlamaConfig(vocab_size=49152, tie_word_embeddings=True, **shape, **ends)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def settings(**changes: object) -> str:
    short = {"max_steps": 6, "batch_rows": 4, "checkpoint_steps": 2, "evaluate_steps": 0, "learning_rate": 0.01}
    return json.dumps({**config.load().training.script_settings(), **short, **changes})


def command(model: Path, data: Path, to: Path, **changes: object) -> list[str]:
    paths = {"--model": model, "--data": data, "--to": to / "model", "--checkpoints": to / "checkpoints"}
    options = [str(word) for pair in paths.items() for word in pair]
    return [sys.executable, "-P", str(SCRIPT), *options, "--settings", settings(**changes)]


def run(*words: object, **changes: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command(*words, **changes), capture_output=True, text=True, check=False)


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return written(tmp_path_factory.mktemp("data") / "prompt_completion", "prompt_completion")


@pytest.fixture(scope="session")
def whole(tmp_path_factory: pytest.TempPathFactory, tiny: Path, data: Path) -> Path:
    """Return the folder of an uninterrupted training."""
    to = tmp_path_factory.mktemp("whole")
    done = run(tiny, data, to)
    assert done.returncode == 0, done.stderr
    return to


@pytest.mark.parametrize("form", ["messages", "prompt_completion"])
def test_trl_takes_a_step_on_the_format_and_learns_the_end_of_the_turn(
    form: str, tiny: Path, tokenizer, tmp_path: Path
):
    read = load_dataset(str(written(tmp_path / form, form)), cache_dir=str(tmp_path / "cache"))
    arguments = SFTConfig(
        output_dir=str(tmp_path), max_steps=1, per_device_train_batch_size=2, max_length=None, use_cpu=True, bf16=False,
        report_to="none", save_strategy="no",
    )  # fmt: skip
    model = AutoModelForCausalLM.from_pretrained(tiny, dtype=torch.float32)
    trainer = SFTTrainer(model=model, args=arguments, train_dataset=read["train"], processing_class=tokenizer)
    labels = next(iter(trainer.get_train_dataloader()))["labels"][0]
    learned = labels[labels != -100].tolist()
    assert learned[-2:] == ENDS
    assert ("You answer questions" in tokenizer.decode(learned)) == (form == "messages")
    assert trainer.train().global_step == 1


def test_trl_takes_a_step_on_preference_pairs_and_learns_to_prefer(tiny: Path, tokenizer, tmp_path: Path):
    read = load_dataset(str(written(tmp_path / "preference", "preference")), cache_dir=str(tmp_path / "cache"))
    arguments = DPOConfig(
        output_dir=str(tmp_path), max_steps=3, per_device_train_batch_size=2, learning_rate=0.05, max_length=None, use_cpu=True,
        bf16=False, report_to="none", save_strategy="no", logging_steps=1,
    )  # fmt: skip
    model = AutoModelForCausalLM.from_pretrained(tiny, dtype=torch.float32)
    trainer = DPOTrainer(model=model, args=arguments, train_dataset=read["train"], processing_class=tokenizer)
    assert trainer.train().global_step == 3
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    assert losses[-1] < losses[0]


def test_the_script_learns_the_answer_and_its_end_and_nothing_else(tokenizer):
    laid = sft_script.tokenize_row(FORMATS["prompt_completion"].record(rows(1)[0]), tokenizer)
    learned = [
        token for token, is_learned in zip(laid["input_ids"], laid["completion_mask"], strict=True) if is_learned
    ]
    assert tokenizer.decode(learned) == "It helped 4 of 9 nurses.<|im_end|>\n"
    asked = [
        token for token, is_learned in zip(laid["input_ids"], laid["completion_mask"], strict=True) if not is_learned
    ]
    assert tokenizer.decode(asked).endswith("Does compound 0 work?<|im_end|>\n<|im_start|>assistant\n")


def test_a_template_that_does_not_end_an_answer_is_refused(tiny: Path, data: Path, tmp_path: Path):
    shutil.copytree(tiny, tmp_path / "open")
    template = "{% for m in messages %}{{ m['role'] + '\\n' + m['content'] + '\\n' }}{% endfor %}{% if add_generation_prompt %}assistant\n{% endif %}"
    (tmp_path / "open/chat_template.jinja").write_text(template)
    done = run(tmp_path / "open", data, tmp_path)
    assert done.returncode
    assert "the chat template does not end an answer with <|im_end|>" in done.stderr


def test_a_training_records_its_losses_and_its_inputs(whole: Path):
    made = json.loads((whole / "model/training.json").read_text())
    losses = [entry["loss"] for entry in made["log"] if "loss" in entry]
    assert len(losses) == made["steps"] == 6
    evaluated = {entry["step"]: entry["eval_loss"] for entry in made["log"] if "eval_loss" in entry}
    assert list(evaluated) == [0, 6]
    assert evaluated[6] < evaluated[0]
    assert made["data"]["train"]["rows"] == 24
    assert made["data"]["train"]["completion_tokens"] > 24 * 4
    assert made["settings"]["learning_rate"] == 0.01
    assert set(made["packages"]) >= {"torch", "trl", "peft"}


def test_the_merged_student_reloads_with_changed_weights_and_no_adapter(whole: Path, tiny: Path):
    merged, before = load_file(whole / "model/model.safetensors"), load_file(tiny / "model.safetensors")
    assert set(merged) == set(before)
    changed = {
        name.rpartition(".layers.")[2].split(".", 1)[-1]
        for name in merged
        if not torch.equal(merged[name], before[name])
    }
    assert changed == {f"self_attn.{part}_proj.weight" for part in "qkvo"} | {
        f"mlp.{part}_proj.weight" for part in ("gate", "up", "down")
    }
    again = AutoModelForCausalLM.from_pretrained(whole / "model", dtype=torch.float32)
    assert torch.isfinite(again(torch.tensor([[1, 2, 3]])).logits).all()
    assert AutoTokenizer.from_pretrained(whole / "model").chat_template


def test_older_transformers_find_the_same_rotation_type_and_tokenizer(whole: Path):
    about = json.loads((whole / "model/config.json").read_text())
    assert (about["rope_theta"], about["torch_dtype"]) == (10000.0, "float32")
    assert about["rope_theta"] == about["rope_parameters"]["rope_theta"]
    words = json.loads((whole / "model/tokenizer_config.json").read_text())
    assert words["tokenizer_class"] == "PreTrainedTokenizerFast"
    assert "<|im_start|>" in words["chat_template"]


def test_a_training_that_is_killed_resumes_and_ends_with_the_same_weights(
    whole: Path, tiny: Path, data: Path, tmp_path: Path
):
    with subprocess.Popen(
        command(tiny, data, tmp_path), stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as going:
        for line in going.stdout:
            if "step=3 " in line:
                going.send_signal(signal.SIGKILL)
    assert going.returncode == -signal.SIGKILL
    assert not (tmp_path / "model").exists()
    (tmp_path / "checkpoints/checkpoint-3").mkdir()  # as a kill within a write leaves it
    done = run(tiny, data, tmp_path)
    assert done.returncode == 0, done.stderr
    assert f"resuming from {tmp_path}/checkpoints/checkpoint-2" in done.stdout
    assert " step=1 " not in done.stdout
    uninterrupted, resumed = (json.loads((at / "model/training.json").read_text()) for at in (whole, tmp_path))
    assert [entry.get("loss") for entry in resumed["log"]] == [entry.get("loss") for entry in uninterrupted["log"]]
    first, second = (load_file(at / "model/model.safetensors") for at in (whole, tmp_path))
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_a_training_saves_a_checkpoint_after_sigterm(tiny: Path, data: Path, tmp_path: Path):
    words = command(tiny, data, tmp_path, checkpoint_steps=100, max_steps=50)
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as going:
        for line in going.stdout:
            if "step=3 " in line:
                going.send_signal(signal.SIGTERM)
    assert going.returncode == 143
    assert sft_script.last_complete_checkpoint(tmp_path / "checkpoints") is not None


def test_a_complete_training_is_not_repeated_and_another_does_not_resume_from_it(whole: Path, tiny: Path, data: Path):
    before = (whole / "model/training.json").read_text()
    done = run(tiny, data, whole)
    assert (done.returncode, done.stdout) == (0, f"{whole}/model already has this student\n")
    other = run(tiny, data, whole, lora_rank=4)
    assert other.returncode == 1
    assert "has a student of another dataset or other settings" in other.stderr
    assert (whole / "model/training.json").read_text() == before
    (whole / "model/training.json").rename(whole / "model/aside")
    other = run(tiny, data, whole, lora_rank=4)
    (whole / "model/aside").rename(whole / "model/training.json")
    assert "has checkpoints of another dataset or other settings" in other.stderr


def test_other_weights_of_the_same_name_and_size_are_another_student(
    whole: Path, tiny: Path, data: Path, tmp_path: Path
):
    shutil.copytree(tiny, tmp_path / "tiny")
    file = next((tmp_path / "tiny").glob("*.safetensors"))
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    other = run(tmp_path / "tiny", data, whole)
    assert other.returncode == 1
    assert "has a student of another dataset or other settings" in other.stderr


def test_no_row_is_truncated(tiny: Path, tmp_path: Path):
    data = written(tmp_path / "data", "prompt_completion", more=" long" * 300)
    refused = run(tiny, data, tmp_path / "a", max_tokens=256)
    assert refused.returncode == 1
    assert "2 rows have more than max_tokens = 256 tokens, the longest 390" in refused.stderr
    done = run(tiny, data, tmp_path / "b", max_tokens=256, too_long="leave_out", max_steps=1)
    assert done.returncode == 0, done.stderr
    counts = json.loads((tmp_path / "b/model/training.json").read_text())["data"]
    assert [(counts[split]["rows"], counts[split]["left_out"]) for split in counts] == [(23, 1), (3, 1)]


def test_a_setting_that_is_missing_or_unknown_is_named(tiny: Path, data: Path, tmp_path: Path):
    words = command(tiny, data, tmp_path)
    words[-1] = json.dumps({"lora_rank": 4, "speed": 1})
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "unknown: ['speed']" in done.stderr
    assert "'learning_rate'" in done.stderr


@pytest.fixture(scope="session")
def student(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of the built-in student after one small step, with its GGUF file."""
    to = tmp_path_factory.mktemp("student")
    data = written(to / "data", "prompt_completion")
    done = run(weights.built_in_path(), data, to, max_steps=1, batch_rows=1, learning_rate=1e-6, evaluate_rows=1)
    assert done.returncode == 0, done.stderr
    words = [str(to / "model"), "--like", str(weights.built_in_path()), "--to", str(to / "student.gguf")]
    subprocess.run([sys.executable, "-P", str(SCRIPT.with_name("gguf_export.py")), *words], check=True)
    return to


def test_the_embedded_engine_serves_the_trained_student(student: Path):
    conf = config.load((), [f"endpoints.embedded.weights={student / 'student.gguf'}"]).teacher
    asked = [{"role": "user", "content": "What is the capital of France?"}]
    with serving(conf) as endpoint:
        client = connect(endpoint, 1, 120.0)
        reply = client.ask(Request(asked, conf.model, {"temperature": 0.0, "max_tokens": 24}))
        client.close()
    assert "Paris" in (reply.completion or ""), reply
    assert reply.finish_reason == "stop"


def test_a_question_has_the_tokens_of_the_training(student: Path, tokenizer):
    from raft_spark.endpoints.local.embedded import Engine

    record = FORMATS["prompt_completion"].record(rows(1)[0])
    laid = sft_script.tokenize_row(record, tokenizer)
    engine = Engine(student / "student.gguf", 2)._tokenizer
    text = engine.apply_chat_template([dict(turn) for turn in record["prompt"]], add_generation_prompt=True)
    served = engine.encode(text, add_special_tokens=False).input_ids.data[0].tolist()
    assert served == [
        token for token, is_learned in zip(laid["input_ids"], laid["completion_mask"], strict=True) if not is_learned
    ]


def test_another_student_as_source_is_refused(student: Path, whole: Path, tmp_path: Path):
    words = [str(whole / "model"), "--like", str(weights.built_in_path()), "--to", str(tmp_path / "no.gguf")]
    done = subprocess.run(
        [sys.executable, "-P", str(SCRIPT.with_name("gguf_export.py")), *words],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert "was not trained from the source: the tensors differ, ['blk.10.attn_k.weight'" in done.stderr
    assert not (tmp_path / "no.gguf").exists()

"""What is stored of a model's text is its answer: no thought, no token of a template, and ordinary text as it is."""

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from raft_spark import config
from raft_spark.endpoints import answer_text, codecs, converse
from raft_spark.endpoints.answer_text import CONTROL_CHARACTER, MARK, THOUGHT, TOKEN, clean, has_next_turn
from raft_spark.endpoints.base import Reply
from raft_spark.inference import acceptance

pytestmark = pytest.mark.row

ANSWER = "Yes, pain fell (p < 0.05)."
COT = "It fell. ##begin_quote##Pain fell (p < 0.05)##end_quote##\n<ANSWER>: Yes."
FINAL = "<|start|>assistant<|channel|>final<|message|>"


def read_openai(text: str, reason: str) -> Reply:
    return codecs.openai_reply({"choices": [{"message": {"content": text}, "finish_reason": reason}]})


def read_parts(text: str, reason: str) -> Reply:
    parts = [{"type": "thinking", "thinking": [{"type": "text", "text": "Hm."}]}, {"type": "text", "text": text}]
    return codecs.openai_reply({"choices": [{"message": {"content": parts}, "finish_reason": reason}]})


def read_completions(text: str, reason: str) -> Reply:
    return codecs.openai_reply({"choices": [{"text": text, "finish_reason": reason}]})


def read_tgi(text: str, reason: str) -> Reply:
    return codecs.generate_reply([{"generated_text": text, "details": {"finish_reason": reason}}])


def read_llama(text: str, reason: str) -> Reply:
    return codecs.llama_reply({"generation": text, "stop_reason": reason})


def read_converse(text: str, reason: str) -> Reply:
    names = {"stop": "end_turn", "length": "max_tokens"}
    message = {"content": [{"reasoningContent": {"reasoningText": {"text": "Hm."}}}, {"text": text}]}
    return converse.reply({"stopReason": names[reason], "output": {"message": message}})


READERS = [read_openai, read_parts, read_completions, read_tgi, read_llama, read_converse]


@pytest.mark.parametrize(
    "text",
    [
        f"<think>\nThe passage says 5 %.\n</think>\n\n{ANSWER}",
        f"The prompt opened the thought.\n</think>\n\n{ANSWER}",
        f"<think>\n\n</think>\n\n{ANSWER}",
        f"<THINK>a</THINK>{ANSWER}",
        f'<thinking mode="long">a</thinking>{ANSWER}',
        f"<thought>a</thought>{ANSWER}",
        f"<reasoning>a</reasoning>{ANSWER}",
        f"<reflection>a</reflection>\n{ANSWER}",
        f"<think>a</think>\n<think>b</think>{ANSWER}",
        f"<think>a<think>b</think>c</think>{ANSWER}",
        f"<think>The tag <think> opens a thought.</think>{ANSWER}",
        f"a</think>b</think>{ANSWER}",
        f"<think>a</think>{ANSWER}</think>",
        f"<think>I don't know. <ANSWER>: no</think>{ANSWER}",
        f"[THINK]a[/THINK]{ANSWER}",
        f"\u25c1think\u25b7a\u25c1/think\u25b7{ANSWER}",
        f"<|begin_of_thought|>a<|end_of_thought|>{ANSWER}",
        f"<|channel|>analysis<|message|>a<|end|>{FINAL}{ANSWER}",
        f"a<|end|>{FINAL}{ANSWER}",
        f"analysisThe user asks.assistantfinal{ANSWER}",
    ],
)
def test_a_thought_is_taken_out(text: str):
    cleaned = clean(text)
    assert (cleaned.text, cleaned.removed, cleaned.is_open) == (ANSWER, (THOUGHT,), False)


@pytest.mark.parametrize(
    ("text", "removed"),
    [
        (f"{ANSWER}<|eot_id|>", TOKEN),
        (f"{ANSWER}<|im_end|>\n", TOKEN),
        (f"{ANSWER}</s>", TOKEN),
        (f"<s> {ANSWER}</s></s>", TOKEN),
        (f"{ANSWER}<|endoftext|><|endoftext|>", TOKEN),
        (f"{ANSWER}<end_of_turn>\n<eos>", TOKEN),
        (f"{ANSWER}<|return|>", TOKEN),
        (f"{ANSWER} [/INST]", TOKEN),
        (f"{ANSWER}[|endofturn|]", TOKEN),
        (f"{ANSWER}<\uff5cend\u2581of\u2581sentence\uff5c>", TOKEN),
        (f"<|im_start|>assistant\n{ANSWER}", TOKEN),
        (f"<|start_header_id|>assistant<|end_header_id|>\n\n{ANSWER}", TOKEN),
        (f"assistant\n\n{ANSWER}", TOKEN),
        (f"\ufeff{ANSWER}", CONTROL_CHARACTER),
        (f"{ANSWER[:4]}\x00{ANSWER[4:]}\x1b", CONTROL_CHARACTER),
        (f"<answer>{ANSWER}</answer>", MARK),
    ],
)
def test_what_a_server_has_left_in_is_taken_out(text: str, removed: str):
    assert (clean(text).text, clean(text).removed) == (ANSWER, (removed,))


@pytest.mark.parametrize(
    "line",
    [
        "**<ANSWER>:** Yes.",
        "**<ANSWER>**: Yes.",
        "**<ANSWER>: Yes.**",
        "<answer>: Yes.",
        "<ANSWER>: Yes.</ANSWER>",
        "<Answer> Yes.</Answer>",
        "`<ANSWER>:` Yes.",
        "### <ANSWER>: Yes.",
        "<ANSWER> : Yes.",
        "&lt;ANSWER&gt;: Yes.",
    ],
)
def test_the_mark_of_an_answer_line_becomes_the_one_of_the_prompt(line: str):
    reasoning = COT.partition("<ANSWER>")[0]
    assert clean(reasoning + line).text == COT
    assert clean(f"<think>I end with {line}</think>{reasoning}{line}").text == COT


@pytest.mark.parametrize(
    "text",
    [
        "p<0.05 and n>5",
        "if x <y> then",
        "<5 pg/ml; <s 3",
        "were <NaN>. [1] [n=5]",
        "analysis of variance",
        "  spaces  ",
        "",
        "Assistants were trained.",
        "<b>Yes</b>",
        "We use <answer> tags",
        COT,
        "<ANSWER>:Yes",
        "So.\n<ANSWER>: *Yes*\n",
        ANSWER,
    ],
)
def test_ordinary_text_stays_as_it_is(text: str):
    assert clean(text).text == text
    assert clean(text).removed == ()
    assert not has_next_turn(text)


PIECES = [
    "<think>",
    "</think>",
    "<|end|>",
    "</s>",
    "Yes",
    " ",
    "\n",
    "<ANSWER>:",
    "<answer>",
    "</answer>",
    "\x00",
    "**",
]


@given(st.lists(st.sampled_from(PIECES)).map("".join))
def test_cleaning_a_clean_text_changes_nothing(text: str):
    cleaned = clean(text)
    assert clean(cleaned.text).text == cleaned.text


@pytest.mark.parametrize("read", READERS)
def test_every_protocol_stores_the_answer_alone(read):
    reply = read(f"<think>Hm.</think>{ANSWER}<|eot_id|>", "stop")
    assert (reply.completion, reply.finish_reason, reply.removed) == (ANSWER, "stop", (THOUGHT, TOKEN))
    assert read(ANSWER, "stop") == Reply(ANSWER, "stop")
    thought = read("<think>Hm.</think>", "stop")
    assert (thought.error_class, thought.completion, thought.error) == ("empty", None, "the answer is a thought alone")
    is_open = read("<think>The question is about", "stop")
    assert (is_open.finish_reason, is_open.error_class) == ("length", None)
    assert read(ANSWER[:9], "length").finish_reason == "length"


@pytest.mark.parametrize("read", [read_openai, read_parts, read_completions, read_tgi])
@pytest.mark.parametrize("reason", ["abort", "error", "ABORT", "cancelled"])
def test_an_answer_that_the_server_gave_up_is_an_error_of_the_model(read, reason: str):
    reply = read("Yes, pain f", reason)
    assert (reply.error_class, reply.completion) == ("model_error", None)
    assert f"finish_reason is {reason.lower()}" in reply.error


@pytest.mark.parametrize("reason", ["model_length", "max_tokens", "LENGTH"])
def test_an_answer_at_a_limit_of_any_name_is_truncated(reason: str):
    assert read_openai(ANSWER, reason).finish_reason == "length"


NEXT_TURNS = [
    "\n\nHuman: Thank you!\n\nAssistant: You are welcome.",
    "\nUser: And now?",
    "\n**User:** And now?",
    "\n\n### Human: And now?",
    "\nuser\nThanks",
    "<|im_end|>\n<|im_start|>user\nThanks<|im_end|>",
    "<|eot_id|><|start_header_id|>user<|end_header_id|>\n\nThanks",
    "<end_of_turn>\n<start_of_turn>user\nThanks",
    "</s>[INST] Thanks [/INST]",
    "<|endoftext|>Another document.",
    "\n\nQuestion: Does it last?\nAnswer: No",
]


def judged(completion: str, *assignments: str, finish_reason: str = "stop") -> tuple[str, ...]:
    conf = config.load(assignments=assignments)
    row = {"completion": completion, "oracle": "Pain fell (p < 0.05).", "final_decision": "yes", "last_error": None}
    return acceptance.judge_answer({**row, "finish_reason": finish_reason}, conf.dataset, conf.completions).rejected


@pytest.mark.parametrize("turn", NEXT_TURNS)
def test_an_answer_that_goes_on_with_another_turn_is_rejected(turn: str):
    assert judged(ANSWER + turn) == ("another turn",)
    assert judged(ANSWER + turn, "dataset.gate.turn=off") == ()
    assert "another turn" in judged(COT + turn, "completions.style=cot")


def test_an_answer_that_was_stored_with_its_thought_is_judged_without_it():
    assert judged(f"<think>I don't know.</think>{ANSWER}") == ()
    assert judged(f"<think>Hm.</think>{COT}".replace("<ANSWER>:", "**<ANSWER>:**"), "completions.style=cot") == ()
    assert judged(f"<think>Yes.</think>{ANSWER}".replace("Yes, ", "No, ")) == ("another decision",)
    assert judged("<think>Hm.</think>") == ("empty answer",)
    assert judged("<think>Hm") == ("truncated",)
    assert judged("<think>Hm", "dataset.gate.truncated=off") == ("truncated",)
    assert judged(f"{ANSWER}<think>Hm") == ("truncated",)


PIECES = (
    "\n<ANSWER>: |<ANSWER>:|\n- <answer>: |**<Answer>**:|&lt;answer&gt;: |\\<answer\\>: |</answer>|<an\u017fwer>: |<final>|</final>|<think>|</think>"
    "|[THINK]|<|channel|>final<|message|>|<|channel|>analysis<|message|>|<|end|>|<|im_end|>|<|im_start|>user|</s>|[INST]|[|endofturn|]"
    "|\u25c1think\u25b7|\nUser:|\n\nQuestion:|\n|p < 0.05|[95% CI]|analysis|assistant |Yes|.|*|`| |\x00|\u00a0"
)
pieces = st.lists(
    st.sampled_from(
        [*PIECES.replace("<|", "<!").replace("|>", "!>").replace("[|", "[!").replace("|]", "!]").split("|")]
    ),
    max_size=8,
)
marked = pieces.map(
    lambda found: "".join(found).replace("<!", "<|").replace("!>", "|>").replace("[!", "[|").replace("!]", "|]")
)


@example("It fell.\n- <ANSWER>: Yes.")
@given(marked)
@settings(deadline=None, max_examples=1_000)
def test_a_text_that_is_left_as_it_is_has_nothing_that_a_pattern_finds(text: str):
    if clean(text).removed:
        return
    assert clean(text).text == text
    assert not answer_text._CONTROLS.search(text)
    assert not answer_text._CHANNEL.search(text)
    assert not answer_text._BARE_CHANNELS.search(text)
    assert not answer_text._THOUGHT_TAG.search(text)
    assert not answer_text._FIRST_TOKENS.search(text)
    assert not answer_text._LAST_TOKENS.search(text)
    assert not answer_text._WRAPPER.match(text)
    assert answer_text._MARK.sub(answer_text._plain_mark, answer_text._BOLD_MARK.sub(r"\2", text)) == text
    assert not answer_text._CLOSING_MARK.search(text)


@given(marked)
@settings(deadline=None, max_examples=500)
def test_another_turn_is_what_the_patterns_find(text: str):
    patterns = (answer_text._NEXT_TURN, answer_text._NEXT_TURN_TOKEN)
    assert has_next_turn(text) == any(pattern.search(text.strip()) for pattern in patterns)

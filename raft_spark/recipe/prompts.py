"""(question, passages) -> the words that are sent to the teacher, and the words a student is trained on.

Pure functions, the only place where text from articles meets the words of a prompt. Text from articles is data: `as_data`
breaks every control token of a chat template in it, so that no passage can end a turn or speak for somebody else.
"""

import re
from collections.abc import Mapping, Sequence

from raft_spark.config import Completions
from raft_spark.endpoints.base import Message, Request

VERSIONS = {
    "answer": 1,
    "cot": 1,
    "finding": 1,
    "judge": 1,
}  # of the words of each style; a change of them changes their requests' keys by itself
SEPARATOR = "\n\n"
TEACHER = (
    "You answer questions about medical research. Use only the given context, and answer in at most five sentences. "
    'If you do not know the answer, say "I don\'t know".'
)
BEGIN, END, ANSWER = "##begin_quote##", "##end_quote##", "<ANSWER>:"
COT_INSTRUCTION = (
    f"Reason step by step first, in at most six sentences, and copy the words that you build on exactly, between {BEGIN} and {END}. "
    f"Then end with one line that begins with {ANSWER} and gives the answer in at most two sentences"
)
TEACHER_COT = (
    f"You answer questions about medical research. Use only the given context. {COT_INSTRUCTION}. "
    'If you do not know the answer, that line says "I don\'t know".'
)
TEACHER_FINDING = (
    "You answer questions about medical research. Use only the given context. "
    'If you do not know the answer, say "I don\'t know".'
)
FINDING_INSTRUCTION = "In one sentence, say what the study found."
DECISION_INSTRUCTION = " The answer itself begins with yes, no or maybe."
TEACHERS = {"answer": TEACHER, "cot": TEACHER_COT, "finding": TEACHER_FINDING}
STUDENT = (
    "You answer questions about medical research. Some of the given passages may have nothing to do with the question; "
    "answer from those that do."
)
STUDENT_STYLES = {
    "answer": "",
    "cot": f" {COT_INSTRUCTION}.",
    "finding": f" {FINDING_INSTRUCTION}",
}  # a student's, after STUDENT
JUDGE = {
    "faithfulness": (
        "You check an answer against passages. Take the answer apart into short statements that can be understood alone, and say of "
        "each whether it can be inferred from the passages, without any other knowledge. Reply with JSON and nothing else: "
        '{"statements": [{"statement": "...", "supported": true}]}. An answer that states nothing has an empty list.'
    ),
    "relevance": (
        "You read an answer whose question is lost. Write three different questions that it would answer, in the words of a researcher, "
        'and say whether it is noncommittal, as "I don\'t know" is. Reply with JSON and nothing else: '
        '{"questions": ["...", "...", "..."], "noncommittal": false}.'
    ),
}
REFUSAL_ANSWER = "I don't know: the given passages do not answer the question."
REFUSAL_PATTERN = re.compile(  # wherever it stands; "It works. I don't know why." is none
    r"(?<!what )(?<![^\W_])i(?:\s+(?:really\s+)?(?:do\s+not|don['\u2019]?t)(?:\s+really)?\s+know|\s+can(?:\s*not|['\u2019]?t)\s+answer"
    r"|(?:\s+am|['\u2019]m)\s+(?:not\s+sure|unable\s+to\s+(?:answer|say|tell)))(?![^\W_])(?!\s+(?:exactly\s+)?(?:why|how)\b)",
    re.IGNORECASE,
)

# Control tokens by family: <|...|> (Llama 3, ChatML, Phi), its full-width twin (DeepSeek) and [|...|] (EXAONE); <<SYS>>;
# <s>, </s>, <bos>, <think> and kin; every <word_word>, as <start_of_turn> (Gemma), <tool_call> (Qwen), <EOS_TOKEN> (Cohere);
# [INST] and other bracketed words (Llama 2, Mistral). Only the opening is broken: |r|>0.5 stays.
_CONTROL = re.compile(
    r"[<\uff1c\[](?=[|\uff5c])"
    r"|<(?=</?SYS>)"
    r"|<(?=/?(?:s|bos|eos|pad|unk|mask|sop|eop|think|image|reponame|filename|\w{2,30}_\w{1,30})>)"
    r"|\[(?=/?(?:INST|PREFIX|SUFFIX|MIDDLE|IMG|THINK|ARGS|AUDIO|gMASK|\w{2,30}_\w{1,30})\])",
    re.IGNORECASE,
)


def escape_markup(text: str) -> str:
    """Put a space into every control token of a known chat template, so that a tokenizer reads it as plain letters."""
    return _CONTROL.sub(r"\g<0> ", text)


def teacher_request(question: str, oracle: str, model: str, conf: Completions) -> Request:
    """Ask the teacher, from the oracle alone; the layout is completions.template."""
    parameters = _parameters(conf)
    user = f"Context: {escape_markup(oracle)}\n\nQuestion: {escape_markup(question)}"
    user += (
        f"\n\n{FINDING_INSTRUCTION}" if conf.style == "finding" else ""
    )  # a small model forgets what it reads before the context
    thinks = conf.style == "cot"
    system = TEACHERS[conf.style] + (DECISION_INSTRUCTION if conf.decision else "")
    if conf.template == "llama3":
        return Request(_llama3(system, user, opening="Reasoning:" if thinks else "Answer:"), model, parameters)
    return Request(_messages(system, user), model, parameters)


def student_messages(question: str, passages: Sequence[str], conf: Completions) -> list[Message]:
    """Return the messages that a student is trained on, and later asked and served with; it answers in the teacher's style."""
    context = SEPARATOR.join(map(escape_markup, passages))
    system = STUDENT + STUDENT_STYLES[conf.style] + (DECISION_INSTRUCTION if conf.decision else "")
    return _messages(system, f"Context: {context}\n\nQuestion: {escape_markup(question)}")


def student_request(question: str, passages: Sequence[str], model: str, conf: Completions) -> Request:
    """Ask a student, as it was trained."""
    return Request(student_messages(question, passages, conf), model, _parameters(conf))


def judge_request(
    figure: str, question: str, answer: str, passages: Sequence[str], model: str, conf: Completions
) -> Request:
    """Ask a judge for what a figure is made of; the one of relevance is not told the question."""
    context, said = SEPARATOR.join(map(escape_markup, passages)), f"Answer: {escape_markup(answer)}"
    shown = (
        f"Passages: {context}\n\nQuestion: {escape_markup(question)}\n\n{said}" if figure == "faithfulness" else said
    )
    return Request(_messages(JUDGE[figure], shown), model, _parameters(conf))


def _parameters(conf: Completions) -> Mapping[str, float]:
    return {"temperature": conf.temperature, "top_p": conf.top_p, "max_tokens": conf.max_new_tokens}


def _messages(system: str, user: str) -> list[Message]:
    return [{"role": "system", "content": system}, {"role": "user", "content": user}]


def _llama3(system: str, user: str, opening: str) -> str:
    """Lay out one text as Llama 3 Instruct reads it, the assistant's turn begun with `opening`. The server adds the
    begin-of-text token (Meta's model card, "Llama 3 Instruct prompt format").
    """
    turns = (("system", system), ("user", user))
    told = "".join(f"<|start_header_id|>{role}<|end_header_id|>\n\n{text}<|eot_id|>" for role, text in turns)
    return f"{told}<|start_header_id|>assistant<|end_header_id|>\n\n{opening}"

"""question and passages -> the prompts of the teacher, the students and the judge.

All prompts are built here. Text from articles is data: `escape_markup` breaks each control token of a chat template in it, so
that no passage can end a turn or start one in another role.
"""

import re
from collections.abc import Sequence

from raft_spark.config import Completions
from raft_spark.endpoints.base import BodyChanges, Message, Request

VERSIONS = {
    "answer": 1,
    "cot": 1,
    "finding": 1,
    "judge": 1,
}  # raise a style's number when its words change; the keys of its requests then change by themselves
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
}  # what follows STUDENT
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

# Control tokens by family: <|...|> (Llama 3, ChatML, Phi), its full-width twin (DeepSeek) and [|...|] (EXAONE); <<SYS>>;
# <s>, </s>, <bos>, <think> and kin; every <word_word>, as <start_of_turn> (Gemma), <tool_call> (Qwen), <EOS_TOKEN> (Cohere);
# [INST] and other bracketed words (Llama 2, Mistral). Only the opening bracket matches: |r|>0.5 stays.
_CONTROL = re.compile(
    r"[<\uff1c\[](?=[|\uff5c])"
    r"|<(?=</?SYS>)"
    r"|<(?=/?(?:s|bos|eos|pad|unk|mask|sop|eop|think|image|reponame|filename|\w{2,30}_\w{1,30})>)"
    r"|\[(?=/?(?:INST|PREFIX|SUFFIX|MIDDLE|IMG|THINK|ARGS|AUDIO|gMASK|\w{2,30}_\w{1,30})\])",
    re.IGNORECASE,
)


def escape_markup(text: str) -> str:
    """Insert a space into each control token of a known chat template, so that a tokenizer reads it as plain text."""
    return _CONTROL.sub(r"\g<0> ", text)


def teacher_request(question: str, oracle: str, model: str, conf: Completions) -> Request:
    """Return the request to the teacher about the oracle alone, in the layout of completions.template."""
    user = f"Context: {escape_markup(oracle)}\n\nQuestion: {escape_markup(question)}"
    if conf.style == "finding":
        user += f"\n\n{FINDING_INSTRUCTION}"  # last, because a small model forgets what comes before the context
    system = TEACHERS[conf.style] + (DECISION_INSTRUCTION if conf.decision else "")
    if conf.template == "llama3":
        opening = "Reasoning:" if conf.style == "cot" else "Answer:"
        return _request(_llama3(_turns(_messages(system, user), conf), opening), model, conf)
    return _request(_turns(_messages(system, user), conf), model, conf)


def student_messages(question: str, passages: Sequence[str], conf: Completions) -> list[Message]:
    """Return the messages of a student, which are the same in training, evaluation and serving."""
    context = SEPARATOR.join(map(escape_markup, passages))
    system = STUDENT + STUDENT_STYLES[conf.style] + (DECISION_INSTRUCTION if conf.decision else "")
    return _messages(system, f"Context: {context}\n\nQuestion: {escape_markup(question)}")


def student_request(question: str, passages: Sequence[str], model: str, conf: Completions) -> Request:
    """Return the request to a student, with the prompt of its training."""
    return _request(_turns(student_messages(question, passages, conf), conf), model, conf)


def judge_request(
    metric: str, question: str, answer: str, passages: Sequence[str], model: str, conf: Completions
) -> Request:
    """Return the request to the judge for a metric. For relevance the judge does not see the question."""
    user = f"Answer: {escape_markup(answer)}"
    if metric == "faithfulness":
        context = SEPARATOR.join(map(escape_markup, passages))
        user = f"Passages: {context}\n\nQuestion: {escape_markup(question)}\n\n{user}"
    return _request(_turns(_messages(JUDGE[metric], user), conf), model, conf)


def _request(prompt: str | Sequence[Message], model: str, conf: Completions) -> Request:
    parameters = {"temperature": conf.temperature, "top_p": conf.top_p, "max_tokens": conf.max_new_tokens}
    return Request(prompt, model, parameters, BodyChanges(conf.parameters, conf.leave_out, conf.rename))


def _turns(messages: Sequence[Message], conf: Completions) -> Sequence[Message]:
    """Return the messages as they are sent: for a model without a system turn, its text begins the user's turn."""
    if conf.system != "user":
        return messages
    return [{"role": "user", "content": "\n\n".join(message["content"] for message in messages)}]


def _messages(system: str, user: str) -> list[Message]:
    return [{"role": "system", "content": system}, {"role": "user", "content": user}]


def _llama3(messages: Sequence[Message], opening: str) -> str:
    """Return the prompt as one text in the format of Llama 3 Instruct; the assistant's turn begins with `opening`.

    The server adds the begin-of-text token (Meta's model card, "Llama 3 Instruct prompt format").
    """
    turns = "".join(
        f"<|start_header_id|>{message['role']}<|end_header_id|>\n\n{message['content']}<|eot_id|>"
        for message in messages
    )
    return f"{turns}<|start_header_id|>assistant<|end_header_id|>\n\n{opening}"

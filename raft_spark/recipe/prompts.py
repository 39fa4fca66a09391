"""question and passages -> the prompts of the teacher, the students and the judge.

All prompts are built here; the words of teacher and student are those of completions.prompts. Text from articles is
data: `escape_markup` breaks each control token of a chat template in it, so that no passage can end a turn or start one
in another role. So are the marks of completions.passage_marks, so that no passage can end before its end.
"""

import re
from collections.abc import Sequence

from raft_spark.config import Completions
from raft_spark.config.templates import PassageMarks, PromptLayout, Reader, fill
from raft_spark.endpoints.base import BodyChanges, Message, Request

VERSIONS = {
    "answer": 1,
    "cot": 1,
    "finding": 1,
    "judge": 1,
}  # raise a number when the words of templates/medical change; the keys of its requests then change by themselves
SEPARATOR = "\n\n"
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
# Control tokens by family: <|...|> (Llama 3, ChatML, Phi), its full-width twin (DeepSeek) and [|...|] (EXAONE); <<SYS>>;
# <s>, </s>, <bos>, <think> and kin; every <word_word>, as <start_of_turn> (Gemma), <tool_call> (Qwen), <EOS_TOKEN> (Cohere);
# [INST] and other bracketed words (Llama 2, Mistral). Only the opening bracket matches: |r|>0.5 stays. The pattern begins with a set
# of characters, which `re` looks for much faster than for alternatives.
_CONTROL = re.compile(
    r"[<\uff1c\[](?:(?=[|\uff5c])"
    r"|(?<=<)(?=</?SYS>|/?(?:s|bos|eos|pad|unk|mask|sop|eop|think|image|reponame|filename|\w{2,30}_\w{1,30})>)"
    r"|(?<=\[)(?=/?(?:INST|PREFIX|SUFFIX|MIDDLE|IMG|THINK|ARGS|AUDIO|gMASK|\w{2,30}_\w{1,30})\]))",
    re.IGNORECASE,
)
_LINE_BREAKS = r"\n\r\v\f\x85\u2028\u2029"
_PASSAGE_MARKS = {
    "tags": re.compile(r"<(?=/?DOCUMENT\b)", re.IGNORECASE),
    "numbers": re.compile(rf"(?:\A|[{_LINE_BREAKS}])[^\S{_LINE_BREAKS}]*\[(?=\d+\])"),  # that begins a line
}


def escape_markup(text: str) -> str:
    """Insert a space into each control token of a known chat template, so that a tokenizer reads it as plain text."""
    if "<" not in text and "[" not in text and "\uff1c" not in text:  # most texts; the pattern takes 5 ns a character
        return text
    return _CONTROL.sub(r"\g<0> ", text)


def _escape(text: str, marks: PassageMarks) -> str:
    """Insert a space also into each mark between passages."""
    text, pattern = escape_markup(text), _PASSAGE_MARKS.get(marks)
    return pattern.sub(r"\g<0> ", text) if pattern else text


def teacher_request(question: str, oracle: str, model: str, conf: Completions) -> Request:
    """Return the request to the teacher about the oracle alone, in the layout of completions.template."""
    turns = _turns(_lay_out(question, oracle.split(SEPARATOR), "teacher", conf), conf)
    return _request(_llama3(turns, conf.words.teacher.opening) if conf.template == "llama3" else turns, model, conf)


def student_messages(question: str, passages: Sequence[str], conf: Completions) -> list[Message]:
    """Return the messages of a student, which are the same in training, evaluation and serving."""
    return _lay_out(question, passages, "student", conf)


def lay_out_passages(passages: Sequence[str], reader: Reader, conf: Completions, first: int = 1) -> str:
    """Return the passages as the prompt of teacher or student shows them; `first` is the number of the first."""
    layout, marks = _layout(reader, conf), conf.passage_marks_of(reader)
    texts = [_escape(passage, marks) for passage in passages]
    if layout.passage != "{passage}":
        numbered = enumerate(texts, start=first)
        texts = [fill(layout.passage, {"number": str(number), "passage": text}) for number, text in numbered]
    return layout.separator.join(texts)


def characters_between_passages(conf: Completions) -> int:
    """Return how many characters a further passage adds to the teacher's prompt, without its own and a blank line's."""
    one, two = (len(lay_out_passages([""] * count, "teacher", conf)) for count in (1, 2))
    return two - one - len(SEPARATOR)


def _layout(reader: Reader, conf: Completions) -> PromptLayout:
    return conf.words.teacher if reader == "teacher" else conf.words.student


def _lay_out(question: str, passages: Sequence[str], reader: Reader, conf: Completions) -> list[Message]:
    """Return the messages of a layout. Its words are sent as they are, all other text is escaped."""
    words, layout = conf.words, _layout(reader, conf)
    escaped = _escape(question, conf.passage_marks_of(reader))
    fields = {"context": lay_out_passages(passages, reader, conf), "question": escaped}
    system, user = layout.system, fill(layout.user, fields)
    asked = [*([words.citation] if conf.cites_passages else []), *([words.decision] if conf.decision else [])]
    if asked and system:
        system = " ".join([system, *asked])
    elif asked:
        user = "\n\n".join([user, " ".join(asked)])
    return _messages(system, user)


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
    return [*([{"role": "system", "content": system}] if system else []), {"role": "user", "content": user}]


def _llama3(messages: Sequence[Message], opening: str) -> str:
    """Return the prompt as one text in the format of Llama 3 Instruct; the assistant's turn begins with `opening`.

    The server adds the begin-of-text token (Meta's model card, "Llama 3 Instruct prompt format").
    """
    turns = "".join(
        f"<|start_header_id|>{message['role']}<|end_header_id|>\n\n{message['content']}<|eot_id|>"
        for message in messages
    )
    return f"{turns}<|start_header_id|>assistant<|end_header_id|>\n\n{opening}"

"""the text of a reply -> the answer in it: without thoughts, tokens of the chat template and control characters.

Every protocol passes its text through `clean` before it is stored, and the dataset does so once more with each stored answer.
Ordinary text is returned as it is, also "p < 0.05". What follows another turn ("<|im_start|>user") is not removed: the dataset
rejects such an answer, see `has_next_turn`.
"""

import re
from dataclasses import dataclass

THOUGHT, TOKEN, CONTROL_CHARACTER, MARK = "thought", "token", "control character", "mark"
REMOVED = (THOUGHT, TOKEN, CONTROL_CHARACTER, MARK)
ANSWER_MARK = "<ANSWER>:"

_CONTROLS = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ufeff\ufffe\uffff]")
_NAME = (
    r"(?:think(?:ing)?|thoughts?|reason(?:ing)?|reflect(?:ion)?|scratch_?pad|analysis|rationale|cot|chain_of_thought"
    r"|(?:inner|internal)_(?:monologue|thoughts?)|[a-z]+:think(?:ing)?)"
)
# <think>, <thinking mode="x">, [THINK], <|think|>, <|begin_of_thought|>, <|START_THINKING|>, and Kimi's triangles
_THOUGHT_TAG = re.compile(
    rf"<(?P<close>/)?\s*{_NAME}(?:\s[^<>]{{0,200}})?>|\[(?P<close2>/)?THINK\]|\u25c1(?P<close3>/)?think\u25b7"
    rf"|<\|(?:(?P<close4>/|end_(?:of_)?)|(?:begin_of_|start_)?){_NAME}\|>",
    re.IGNORECASE,
)
# gpt-oss: <|channel|>analysis<|message|>...<|end|><|start|>assistant<|channel|>final<|message|>...; and the same text from a
# server that has left out the tokens: analysis...assistantfinal...
_CHANNEL = re.compile(
    r"(?:<\|start\|>[^<]{0,40})?<\|channel\|>\s*(\w+)[^<]{0,40}(?:<\|constrain\|>[^<]{0,40})?<\|message\|>"
)
_CHANNEL_END = re.compile(r"<\|(?:end|return|call)\|>")
_BARE_CHANNELS = re.compile(r"\Aanalysis(?=[A-Z\"']).*?assistant(?:commentary.*?assistant)?final", re.DOTALL)
_SPECIAL = (
    r"(?:<[|\uff5c][^|\uff5c<>\s]{1,60}[|\uff5c]>|\[\|[^|\[\]\s]{1,60}\|\]|</?(?:s|bos|eos|eot|pad|unk|eod|end|sep|cls)>"
    r"|</?(?:start_of_turn|end_of_turn|end_of_text|begin_of_text|end_of_utterance|end_of_sentence|EOS_TOKEN|BOS_TOKEN)>"
    r"|\[/?INST\]|\[(?:EOS|BOS|PAD|UNK|SEP|CLS)\]|<</?SYS>>)"
)
_LAST_TOKENS = re.compile(rf"(?:\s*{_SPECIAL})+\s*\Z", re.IGNORECASE)
_ROLE = (
    r"(?:<\|start_header_id\|>|<\|im_start\|>|<\|start\|>|<start_of_turn>)(?:assistant|model)(?:<\|end_header_id\|>)?"
)
_FIRST_TOKENS = re.compile(rf"\A\s*(?:(?:{_ROLE}|{_SPECIAL})\s*)+|\A\s*assistant[ \t]*(?::|\n)\s*", re.IGNORECASE)
_WRAPPER = re.compile(
    r"\A\s*<(answer|final_answer|final|output|response|solution)>\s*(?!:)(.*?)\s*(?:</\1>)?\s*\Z",
    re.IGNORECASE | re.DOTALL,
)
_MARK = re.compile(
    r"(?P<before>^[ \t]*(?:[-*#>]+[ \t]+)?)?(?P<bold>[*_`]*)(?:\\?<|&lt;)\s*answer\s*(?:\\?>|&gt;)[*_`]*\s*(?P<colon>:?)"
    r"(?P<end>[*_`]*)[ \t]*",
    re.IGNORECASE | re.MULTILINE,
)
_BOLD_MARK = re.compile(
    r"([*_`]{1,3})(?=(?:\\?<|&lt;)\s*answer\s*(?:\\?>|&gt;)\s*:)((?:(?!\1)[^\n])*)\1\s*\Z", re.IGNORECASE
)
_CLOSING_MARK = re.compile(r"\s*(?:\\?<|&lt;)\s*/\s*answer\s*(?:\\?>|&gt;)[*_`]*", re.IGNORECASE)
# A line that begins another turn: the model has written on after its answer, as base models do
_NEXT_TURN = re.compile(
    r"\n\W*(?:human|user|assistant|instruction|student)\W*(?::|\n|\Z)|\n\s*\n\W*(?:question|q|context)\W{0,3}:",
    re.IGNORECASE,
)
_NEXT_TURN_TOKEN = re.compile(
    rf"<\|(?:im_start|start_header_id|start|user|assistant|system)\|>|<start_of_turn>|\[/?INST\]|{_SPECIAL}\s*\S",
    re.IGNORECASE,
)


@dataclass(frozen=True, slots=True)
class CleanText:
    """The answer in a text, what was `removed` from the text (of REMOVED), and whether it ends within a thought."""

    text: str
    removed: tuple[str, ...] = ()
    is_open: bool = False


def clean(text: str) -> CleanText:
    """Return the answer in a text; "" if the text is a thought alone. Cleaning it again changes nothing."""
    found = _clean_once(text)
    if not found.removed:
        return found
    removed = dict[str, None]()
    while found.removed:  # each time the text is shorter, or its mark is plain
        removed |= dict.fromkeys(found.removed)
        again = _clean_once(found.text)
        found = CleanText(again.text, again.removed, found.is_open or again.is_open)
    return CleanText(found.text, tuple(removed), found.is_open)


def _clean_once(text: str) -> CleanText:
    printable = text if text.isprintable() else _CONTROLS.sub("", text)
    kinds = [CONTROL_CHARACTER] if len(printable) < len(text) else []
    if not _may_have_markup(printable) and not printable.lstrip().startswith(("analysis", "assistant", "Assistant")):
        return CleanText(printable.strip() if kinds else text, tuple(kinds))
    said, is_open = _without_channels(printable)
    said, is_within = _without_thoughts(said)
    kinds += [THOUGHT] if is_open or is_within or said != printable else []
    bare = _FIRST_TOKENS.sub("", said)
    bare = _LAST_TOKENS.sub("", bare) if bare.rstrip().endswith((">", "]")) else bare
    kinds += [TOKEN] if bare != said else []
    marked = _with_plain_mark(bare)
    kinds += [MARK] if marked != bare else []
    return CleanText(marked.strip() if kinds else text, tuple(kinds), is_open or is_within)


def _may_have_markup(text: str) -> bool:
    """Say whether a text has a bracket that is not the one of a plain mark at the begin of a line."""
    said = text.replace(f"\n{ANSWER_MARK} ", "") if "<" in text else text
    return "<" in said or "[" in said or "&lt;" in said or "\u25c1" in said


def has_next_turn(text: str) -> bool:
    """Say whether a clean text goes on with another turn, of the user or of another question."""
    said = text.strip()
    return bool("\n" in said and _NEXT_TURN.search(said)) or bool(
        _may_have_markup(said) and _NEXT_TURN_TOKEN.search(said)
    )


def _without_channels(text: str) -> tuple[str, bool]:
    """Return the last text of the channel `final`, and whether there is only a thought without an end."""
    channels = list(_CHANNEL.finditer(text)) if "<|channel|>" in text else []
    if not channels:
        return _BARE_CHANNELS.sub("", text, count=1), False
    ends = [channel.start() for channel in channels[1:]] + [len(text)]
    spoken = [text[channel.end() : end] for channel, end in zip(channels, ends, strict=True) if channel[1] == "final"]
    return (spoken[-1], False) if spoken else ("", not _CHANNEL_END.search(text, channels[-1].end()))


def _without_thoughts(text: str) -> tuple[str, bool]:
    """Return the text outside of thoughts, and whether the last thought has no end.

    Before a closing tag alone everything is a thought, as when the prompt has opened it.
    """
    kept, begin, depth = "", 0, 0
    tags = list(_THOUGHT_TAG.finditer(text))
    for number, tag in enumerate(tags):
        is_closing = any(tag[name] for name in ("close", "close2", "close3", "close4"))
        if is_closing and not depth:
            is_stray = kept.strip() == "" and number and not text[tag.end() :].strip()
            kept = text[begin : tag.start()] if is_stray else ""
        elif not depth:
            kept += text[begin : tag.start()]
        depth = max(0, depth - 1) if is_closing else depth + 1
        begin = tag.end()
    if depth and is_closing and _name(tags[0]) == _name(tags[-1]):  # the thought names its own tag
        return text[begin:], False
    return (kept, True) if depth else (kept + text[begin:], False)


def _name(tag: re.Match[str]) -> str:
    return tag[0].strip("<>[]|/\u25c1\u25b7").lower()


def _with_plain_mark(text: str) -> str:
    """Return the text with ANSWER_MARK where the mark is in bold, in lower case or a tag; without a tag around all of it."""
    wrapped = _WRAPPER.match(text)
    if wrapped:
        return wrapped[2]
    if "answer" not in text.casefold():
        return text
    marked = _MARK.sub(_plain_mark, _BOLD_MARK.sub(r"\2", text))
    return _CLOSING_MARK.sub("", marked)


def _plain_mark(mark: re.Match[str]) -> str:
    is_canonical = mark[0].strip() == ANSWER_MARK
    if is_canonical or not (mark["colon"] or mark["before"] is not None):
        return mark[0]
    return f"{ANSWER_MARK} {'' if mark['bold'] else mark['end']}"

r"""answer -> whether it refuses: it says that its author or the passages do not know, instead of answering.

What a study does not know is a finding and no refusal: "The optimal dose is not known", "There is insufficient evidence to
recommend screening". So a phrase counts only if its subject is the author ("I cannot say", but not "class I cannot"), the
passages ("the text does not mention it") or the question ("it cannot be answered"), or if it is the whole sentence ("Not
enough information."). That the passages are silent counts in the first sentence only, and not after a yes or before a
result ("..., but pain fell"): an answer may add what they do not say.

The patterns read text in lower case, without apostrophes, and with single spaces. <NAME> stands for a part of _PARTS, the
group (?:...) around it included.
"""

import re
from collections.abc import Iterator

_PARTS = {
    "ADV": r"(?:[a-z]+ly|just|also|even|quite|yet|at all|seem to|appear to|in fact|thus|so|here|then|still|me to|us to) ",
    "CANNOT": r"can ?not|cant|could not|couldnt",
    "DO_NOT": r"(?:do|does|did) not|dont|doesnt|didnt",
    "IS_NOT": r"(?:is|are|was|were|be|been|its|thats|theres) not|isnt|arent|wasnt|werent",
    "UNABLE": r"unable to|not (?:[a-z]+ly )?able to|in no position to|not in a position to",
    "WONT": r"wont be able to|(?:will|would) not be able to|(?:must |have to )?decline to",
    "NO_WHY": r"\b(?! (?:exactly |precisely )?(?:why|how)\b)",
    "INFO": r"information|info|context|details?",
    "FACT": r"(?:<INFO>|knowledge|answers?|mention|idea|clue|data|indication)\b",
    "NONE": r"no|not enough|insufficient|too little|not sufficient|inadequate|neither",
    "SAY": r"(?:answer|say|tell|determine|conclude|judge|decide|know|infer|respond|assess|establish|draw|be sure|be certain"
    r"|ascertain|make a|give an?|provide an?|offer an?)\b",
    "HELP": r"(?:help|assist|verify|confirm|comment|advise|comply|speak|make|derive|deduce|gather|discern|state)\b",
    "FIND": r"(?:find|see|locate|identify|provide|give|offer) (?:[a-z]+ ){0,3}?(?:<FACT>|(?:advice|this|that|it|anything)\b)",
    "DO": r"<SAY>|<FIND>|<HELP>",
    # "I" begins a clause or follows one of these words; after class, type or stage it is a number
    "I": r"(?:^|[,(\u2013\u2014-] ?|\b(?:but|and|so|because|since|as|if|that|this|thus|therefore|however|while|think|believe"
    r"|say|fear|afraid|sorry|apologies|[a-z]+ly|context|passages?|text|information|documents?|question|answer|is|here) )i",
    "AI": r"an? (?:ai|artificial intelligence|(?:large )?language model|assistant|chatbot)\b",
    "GIVEN": r"(?:(?:given|provided|available|above|supplied|presented|following|retrieved|quoted|cited|attached|accompanying"
    r"|medical|research|short|limited|relevant|source|reference|input|context|text|same|whole|entire|present|two|three) )*",
    "SHOWN": r"(?:that (?:is|was|i have|i was) )?(?:given|provided|available|supplied|presented|shown|above|at hand|alone|itself"
    r"|in question|you (?:have |ve )?(?:gave|given|provided|supplied|shared|sent|quoted|cited)|i have|we have)\b",
    "SOURCE": r"(?:context|passage|text(?! messag)|document|excerpt|snippet|paragraph|abstract|article)s?\b"
    r"|(?:(?<=given )|(?<=provided ))(?:information|evidence|data|materials?|extracts?|sources?|references?)"
    r"|(?:(?<=available )|(?<=supplied ))information|information (?=<SHOWN>)",
    "THE_SOURCE": r"(?:the|this|that|these|those|your|my|any|both|given|provided|available|supplied|above) <GIVEN><SOURCE>"
    r"(?: ?<SHOWN>)*",
    "FROM": r"\b(?:from|by|in|within|with|using|given|through|on|based on|according to) (?:only |just |solely |any of |either of )?"
    r"(?:the )?(?:(?:information|evidence|data|content) (?:[a-z]+ )?(?:in|from|of) )?<THE_SOURCE>",
    "TOLD": r"(?:mentioned|stated|specified|given|provided|known|addressed|discussed|described|reported|available|indicated"
    r"|covered|answered|contained|found|included|explained|present|answerable|clear|certain|evident|apparent|obvious|possible"
    r"|sufficient|in|there)\b",
    "TELLS": r"(?:contain|provide|mention|say|state|specify|answer|address|include|give|discuss|indicate|cover|reveal|have|offer"
    r"|tell|report|allow|describe|explain|speak|refer|clarify|help|suffice|make|touch|deal|list|note|define|support|permit"
    r"|relate)s?\b",
    "TREATS": r"(?:describe|discuss|mention|focus|report|only|talk|deal|are|is|concern|cover|state|say|address|examine|explain)"
    r"[a-z]*",
    "SETTLED": r"(?:answered|determined|inferred|concluded|established|said|told|deduced|known|ascertained|derived|found|judged"
    r"|decided|drawn|given|confirmed|stated|gleaned|extracted|resolved|made|assessed|provided)\b",
    "HARD": r"impossible|not possible|isnt possible|hard|difficult|not easy",
    "UNCLEAR": r"unclear|unknown|uncertain|not clear|isnt clear|not known|unanswered|ambiguous",
    "SUBJECT": r"(?:it|this|that|which|(?:the|an) answer|(?:the|this) question|(?:this|that|the|such) information)"
    r"(?: to (?:this|the|that|your) question)?",
    "TO_SAY": r"to (?:[a-z]+ly )?(?:answer|determine|say|tell|conclude|decide|judge|know|give an|draw|provide an)\b",
    "END": r"(?:,? (?:this|that|it|the answer|the question|this question|here|for sure|for certain|with certainty|sorry|whether|if"
    r"|about (?:this|that|it)|on (?:this|that|it)|either way|so))*\W*$",
}


def _expand(pattern: str) -> str:
    return re.sub(r"<([A-Z_]+)>", lambda part: f"(?:{_expand(_PARTS[part[1]])})", pattern)


def _pattern(*alternatives: str) -> re.Pattern[str]:
    return re.compile("|".join(map(_expand, alternatives)))


_AUTHOR = _pattern(  # in any sentence
    r"<I> <ADV>*<DO_NOT> <ADV>*know<NO_WHY>",
    r"<I> <ADV>*<DO_NOT> <ADV>*(?:have|possess|find|see) (?:(?:[a-z]+ ){0,4}?(?:<FACT>|access\b)|(?:this|that|it|anything|enough)\b)",
    r"<I> <ADV>*<DO_NOT> <ADV>*(?:think|believe) (?:that )?(?:i can\b|there is enough|the question|<THE_SOURCE>)",
    r"<I> <ADV>*(?:<CANNOT>|<WONT>) <ADV>*<DO><NO_WHY>",
    r"<I>(?: a)?m(?: afraid)? <ADV>*<UNABLE> <ADV>*<DO>",
    r"<I> was(?:nt| not)? (?:un)?able to <ADV>*<DO>",
    r"<I>(?: a)?m <ADV>*(?:not (?:[a-z]+ly )?(?:sure|certain|aware|confident)|unsure|uncertain|unaware)<NO_WHY>",
    r"<I>(?:ve| have| find| found| see| saw| had) (?:got |had )?<NONE> (?:[a-z]+ ){0,3}?(?:<FACT>|(?:access|way|means)\b)",
    r"<I> (?:havent|have not|had not) (?:enough|sufficient|found|seen|any|been given|been provided|the)\b",
    r"<I>(?:d (?:rather|prefer) not| would not know| wouldnt know| lack)\b",
    r"<I>(?:d| would| will| do)? need (?:[a-z]+ )?(?:more|further|additional)\b",
    r"<I>(?: a)?m (?:just |only )?<AI>|\bas <AI>",
    r"^(?:im |i am )?(?:so |very |really )?sorry(?:$|,| but\b| i\b)|\bi apologi[sz]e\b|^my apologies\b|^(?:idk|dunno)\b",
)
_QUESTION = _pattern(  # in any sentence
    r"\b(?:the|this|your) question(?: itself)? <CANNOT> be <ADV>*answered(?! by\b(?! <THE_SOURCE>))",
    r"\b(?:the|an|no|any) answer (?:to (?:this|the|that) question )?(?:<CANNOT>|can|could) <ADV>*(?:not )?be <ADV>*<SETTLED>",
    r"\b(?:<CANNOT>|<HARD> to) <ADV>*answer (?:this|the|that|your) question\b",
    r"\b(?:not enough|nt enough|not sufficient|insufficient|no|more|further|additional) (?:[a-z]+ ){0,2}?(?:<INFO>|data)"
    r" (?:[a-z]+ ){0,5}?to (?:[a-z]+ly )?(?:give an answer|answer(?:$| (?:this|the|that|your|it|whether|if)\b))",
    r"^(?:please |(?:could|can) you (?:please )?)(?:provide|share|give|clarify|consult|specify)\b",
)
_SILENT = _pattern(  # in the first sentence: what the passages do not tell
    r"<THE_SOURCE> (?:<TREATS> [^;]{0,120}?\b(?:but|and|without) (?:they |it )?)?<ADV>*<DO_NOT> <ADV>*<TELLS>",
    r"<THE_SOURCE> <ADV>*(?:says?|contains?|gives?|provides?|offers?|has|have|makes?|includes?) (?:nothing\b|no\b$"
    r"|(?:<NONE>|only limited) (?:[a-z]+ ){0,2}?(?:<FACT>|conclusive|such"
    r"|evidence (?:on|about|regarding|either|to answer|for this|$)))",
    r"<THE_SOURCE> (?:is|are) <ADV>*(?:silent|not (?:[a-z]+ )?(?:sufficient|enough|relevant|clear|helpful|related|about)"
    r"|insufficient|irrelevant|unrelated|unclear|inconclusive|ambiguous|empty|missing|about something)"
    r"(?: (?:to|for|on|about|here|and|as|so)\b|,|$)",
    r"<THE_SOURCE> (?:lacks?|omits?|fails? to <TELLS>|leaves? (?:[a-z]+ ){1,3}(?:open|unanswered)|neither <TELLS>"
    r"|neither (?:confirm|support)s?)\b",
    r"\b(?:outside|beyond) the scope of <THE_SOURCE>",
    r"\b(?:none of|neither of|neither) (?:the )?<GIVEN><SOURCE>(?: <SHOWN>)? <TELLS>",
    r"\bno <GIVEN><SOURCE> (?:mentions|answers|addresses|states|says)\b",
    r"\b(?:nothing|nowhere|not) <FROM>|<IS_NOT> <ADV>*in <THE_SOURCE>",
    r"\bnot (?:something|anything) (?:that )?<THE_SOURCE> <TELLS>",
    r"\bno (?:[a-z]+ )?(?:<FACT>|evidence) <FROM> (?:answer|addresse?|tell|say)s?\b",
    r"\b(?:i|we|you|one|readers?) (?:<CANNOT>|(?:are |is )?unable to) (?:[a-z]+ ){1,6}?<FROM>",
    r"^<FROM>.{0,30}?,? ?(?:we|you|one) (?:<CANNOT>|are unable to|is unable to) <ADV>*<SAY>",
    r"^<FROM>.{0,30}?,? ?(?:it is|its|it isnt|this is|that is|the answer is|there is|theres)"
    r" (?:<HARD>|<UNCLEAR>|not <TOLD>|<NONE> <FACT>)",
    r"(?:<CANNOT>|impossible to|not) be <ADV>*<SETTLED> (?:\W?[a-z]+ ){0,8}?<FROM>",
    r"<FROM>.{0,20}?(?:<CANNOT>|impossible to) be <ADV>*<SETTLED>",
    r"\bno (?:[a-z]+ )?(?:conclusions?|answers?|determination|decision|inference) (?:can|could) be <ADV>*<SETTLED> <FROM>",
    r"(?:<HARD>|<UNCLEAR>) (?:[a-z]+ ){0,7}?<FROM>|<IS_NOT> <ADV>*<TOLD> (?:[a-z]+ ){0,5}?<FROM>",
    r"\bno (?:[a-z]+ ){1,3}?(?:is|are|was|were) <TOLD> <FROM>",
    r"\b(?:no|insufficient|(?:not|nt) (?:enough|sufficient)) (?:[a-z]+ ){0,2}?<FACT> (?:[a-z]+ ){0,4}?<FROM>",
    r"\bthere(?:s| is| are)(?: not|nt)? (?:(?:no|any|enough|insufficient) (?:[a-z]+ )?(?:information|mention) (?:about|of|regarding)"
    r"|no (?:[a-z]+ )?information on) (?!.*\b(?:literature|chart|record))",
    r"\bthere is no way (?:to|of) (?:know|say|tell)|\bmy knowledge (?:<DO_NOT>|is not|is insufficient)",
    r"^it is not (?:mentioned|stated|specified|said|indicated|discussed) (?:whether|if|how|what|which)\b",
)
_TOPIC = _pattern(  # what each of _SILENT has
    r"<SOURCE>|(?:information|mention) (?:about|of|regarding|on) |way (?:to|of) |my knowledge |^it is not "
)
_BRIEF = _pattern(  # a short first sentence, or its end after a comma
    r"(?:there (?:is|are|was)(?: not|nt)? |theres(?: not)? )?(?:no|not enough|enough|insufficient) (?:[a-z]+ ){0,2}?"
    r"(?:<INFO>|mention|answers?)(?: <TO_SAY>| (?:about|on|of|regarding|for) (?:this|that|it|the question)\b|<END>"
    r"| (?:is |was |are )?(?:given|provided|available|found)(?: (?:about|on|regarding) (?:this|that|it)\b.*)?<END>)",
    r"(?:<SUBJECT> <IS_NOT>|its not) <ADV>*<TOLD><END>",
    r"(?:<SUBJECT>|its) (?:(?:is|was|remains) )?<UNCLEAR><END>",
    r"(?:<SUBJECT> )?<CANNOT> be <ADV>*<SETTLED><END>",
    r"(?:it is |its |it isnt )?(?:<HARD>|possible) to <ADV>*<SAY><END>",
    r"no (?:[a-z]+ )?(?:conclusions?|answers?|determination|decision|inference) (?:can|could) be <ADV>*<SETTLED><END>",
    r"(?:we|one|you) (?:<DO_NOT> <ADV>*know|<CANNOT> <ADV>*<SAY>)(?: the answer\b.*| (?:this|the) question\b.*|<END>)",
    r"(?:we|one|you) (?:<DO_NOT> have|lack) (?:(?:enough|sufficient|any) )?<FACT>(?: <TO_SAY>|<END>| (?:about|on) this)",
    r"(?:it|they) <DO_NOT> <ADV>*(?:say|mention|state|specify)<END>",
)
_FRAGMENT = _pattern(  # the whole first sentence
    r"(?:n ?/ ?a|na|unknown|unclear|uncertain|undetermined|indeterminate|undeterminable|unanswerable|unsure|(?:do not|dont) know"
    r"|no (?:[a-z]+ )?(?:idea|clue|answer|response|comment|conclusion)(?: (?:is )?(?:possible|available|found|given|provided))?"
    r"|(?:the )?(?:question|answer) <CANNOT> be <SETTLED>"
    r"|(?:no|not enough|insufficient) (?:[a-z]+ )?(?:<INFO>|data|mention|knowledge)(?: (?:is |was )?(?:given|provided|available|found))?"
    r"|(?:there is |theres )?(?:not enough|insufficient) evidence(?= provided| to answer| <FROM>)(?: provided)?"
    r"|(?:information|answers?|data|results?) not <TOLD>(?: in context)?"
    r"|not (?:[a-z]+ly )?(?:sure|<TOLD>|applicable|determinable)"
    r"|(?:<CANNOT>|<UNABLE>|<HARD> to) <ADV>*(?:<SAY>(?: from (?:this|that|these))?|be <SETTLED>))"
    r"(?:<END>| (?:<FROM>|based on|to <SAY>).*)",
)
_SHORT_CHARS, _BRIEF_CHARS = 30, 120
_OPENING_SIGNS = "\"'*_-(\u201c\u00ab "


def _words(text: str) -> frozenset[bytes]:
    return frozenset(text.encode().split())


# A pattern can match only where one of these words is: to look for them takes two microseconds, the patterns take hundreds.
_AUTHOR_WORDS = _words(
    "i im ive id ai artificial language assistant chatbot sorry apologise apologize apologies idk dunno"
)
_QUESTION_WORDS = _words("question answer please you")
_SILENT_WORDS = _words(
    "context contexts passage passages text texts document documents excerpt excerpts snippet snippets paragraph paragraphs"
    " abstract abstracts article articles information given provided available supplied mention way knowledge said mentioned stated specified"
    " indicated discussed"
)
_BRIEF_WORDS = _words(  # of _BRIEF and _FRAGMENT
    "not isnt arent wasnt werent dont doesnt didnt cannot cant couldnt unable position lack info information context detail"
    " details mention answer answers unclear unknown uncertain unanswered ambiguous impossible possible hard difficult"
    " conclusion conclusions determination decision inference idea clue response comment data knowledge evidence n na"
    " undetermined indeterminate undeterminable unanswerable unsure"
)
_NEEDED_WORDS = _AUTHOR_WORDS | _QUESTION_WORDS | _SILENT_WORDS | _BRIEF_WORDS
_WORD_CHARS = bytes(byte if chr(byte).isalnum() else ord(" ") for byte in range(128)) + b" " * 128
_REMOVED_FROM_ASCII, _REMOVED, _QUOTATION_MARKS = "'`*_", "\u2019\u2018\u02bc\u00b4", "\u201c\u201d\u201e\u00ab\u00bb"
_BEGIN = re.compile(  # the label of an answer, its decision (but a yes), and "unfortunately"
    r"^\W*(?:(?:the |my |final |short )*(?:answer|response|conclusion)(?: is)?\s*[:-]|a:)?\W*"
    r"(?:(?:(?:no|maybe|possibly)\b(?=[^\w\s]|\s\W)|(?:well|hmm+|unfortunately|regrettably|sadly|however)\b)\W*)*"
)
_SENTENCE_END = re.compile(r"[.!?;\n](?:(?<=\n)|[.!?;]*\W*(?:\s|$))")
_NUMERAL = re.compile(r"\b(?:i{2,3}|iv)\b")
_RESULT = re.compile(
    r"(?:\b(?:but|however|yet|nevertheless|although|though|still)\b|;)(?:(?!not\b).){0,60}?\b(?:show|found|fell|rose|lower|reduc"
    r"|improv|increas|decreas|suggest|support|work|helps?\b|yes\b|higher|associated|effective)",
    re.DOTALL,
)


def is_refusal(answer: str, unknown: str = "") -> bool:
    """Say whether an answer in English refuses to answer, or an answer begins with the text `unknown`."""
    text = answer.lower()
    if unknown and text.lstrip(_OPENING_SIGNS).startswith(unknown.lower()):
        return True
    plain = _plain(text)
    words = _needed_words(plain)
    return bool(words) and (_says_author(plain, words) or _says_question(plain, words) or _is_silent(text, words))


def _plain(text: str) -> str:
    """Return the text without apostrophes and emphasis, and with one kind of quotation mark."""
    for sign in _REMOVED_FROM_ASCII:
        text = text.replace(sign, "")
    return text if text.isascii() else _plain_other_signs(text)


def _plain_other_signs(text: str) -> str:
    for sign in _REMOVED:
        text = text.replace(sign, "")
    for mark in _QUOTATION_MARKS:
        text = text.replace(mark, '"')
    return text


def _needed_words(plain: str) -> frozenset[bytes]:
    """Return the words of a text that some pattern needs. Characters that are not ASCII stand between words."""
    return _NEEDED_WORDS.intersection(plain.encode("ascii", "replace").translate(_WORD_CHARS).split())


def _says_author(plain: str, words: frozenset[bytes]) -> bool:
    if words.isdisjoint(_AUTHOR_WORDS):
        return False
    sentences = (each for each in _sentences(plain) if not _needed_words(each).isdisjoint(_AUTHOR_WORDS))
    found = ((_AUTHOR.search(sentence), sentence) for sentence in sentences)
    return any(match and not (match.start() and _NUMERAL.search(sentence)) for match, sentence in found)


def _says_question(plain: str, words: frozenset[bytes]) -> bool:
    return not words.isdisjoint(_QUESTION_WORDS) and any(map(_QUESTION.search, _sentences(plain)))


def _is_silent(text: str, words: frozenset[bytes]) -> bool:
    begin = text[: text.find(". ", _SHORT_CHARS) + 1 or None]
    may_be_brief = len(begin) <= _BRIEF_CHARS and not words.isdisjoint(_BRIEF_WORDS)
    may_name_source = not words.isdisjoint(_SILENT_WORDS)
    if not (may_be_brief or may_name_source) or begin.startswith("yes"):
        return False
    first = next(_sentences(_plain(begin)))
    is_silent = (may_be_brief and _is_brief(first)) or (may_name_source and _says_nothing(first))
    return is_silent and not first.startswith("yes") and not _RESULT.search(text)


def _says_nothing(first: str) -> bool:
    words = _needed_words(first)
    return not words.isdisjoint(_SILENT_WORDS) and bool(_TOPIC.search(first) and _SILENT.search(first))


def _is_brief(first: str) -> bool:
    clauses = [0, *(comma.end() for comma in re.finditer(", ", first))] if "," in first else [0]
    return bool(_FRAGMENT.fullmatch(first)) or any(_BRIEF.match(first, begin) for begin in clauses)


def _sentences(plain: str) -> Iterator[str]:
    """Yield the sentences of an answer after its _BEGIN, with single spaces."""
    start = found.end() if (found := _BEGIN.match(plain)) else 0
    while end := _SENTENCE_END.search(plain, start):
        yield " ".join(plain[start : end.start()].split())
        start = end.end()
    yield " ".join(plain[start:].split())

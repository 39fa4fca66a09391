"""Prompt templates: those of the package, a user's files, and what is wrong with them, named with the file."""

from pathlib import Path
from typing import Any

import boto3
import pytest
from hypothesis import given
from hypothesis import strategies as st

from raft_spark import config
from raft_spark.config import templates
from raft_spark.errors import ConfigError
from support.job_documents import built

row = pytest.mark.row

LAW = """
refusal = "Not in the files."
decision = "Begin the answer with yes, no or maybe."

[teacher]
system = "You read court files."
user = "Files:\\n{context}\\n\\nAsked: {question}"
passage = "[{number}] {passage}"
separator = "\\n---\\n"

[student]
system = "You know the law."
user = "{context}\\n\\n{question}"
"""
LAW_COT = """
[teacher]
system = 'Think. Quote between "[[" and "]]". End with a line "Verdict:" and the answer, or with "No idea".'
user = "{context}\\n\\n{question}"
opening = "Thought:"

[student]
system = 'Quote between "[[" and "]]", and end with "Verdict:".'
user = "{context}\\n\\n{question}"

[marks]
begin_quote = "[["
end_quote = "]]"
answer = "Verdict:"
unknown = "No idea"
"""


def written(folder: Path, **texts: str) -> Path:
    folder.mkdir(exist_ok=True)
    for style, text in texts.items():
        (folder / f"{style}.toml").write_text(text, encoding="utf-8")
    return folder


def completions(*assignments: str) -> config.Completions:
    return config.load(assignments=assignments).completions


def refused(*assignments: str) -> str:
    with pytest.raises(ConfigError) as caught:
        config.load(assignments=assignments)
    return str(caught.value)


# Of the package


@row
def test_the_templates_of_the_package_can_all_be_read_and_name_their_marks():
    files = [*templates.FOLDER.glob("*/*.toml")]
    assert sorted(f"{file.parent.name} {file.stem}" for file in files) == [
        "general answer", "general cot", "general finding", "medical answer", "medical cot", "medical finding",
        "notebook answer", "raft answer", "raft cot",
    ]  # fmt: skip
    for file in files:
        words = completions(f"completions.prompts={file.parent.name}", f"completions.style={file.stem}").words
        assert words.problem(file.stem) == ""
        assert words.marks.answer == "<ANSWER>:"


@row
def test_the_general_template_names_no_domain():
    for file in (templates.FOLDER / "general").iterdir():
        assert "medic" not in file.read_text()
        assert "study" not in file.read_text()


@row
def test_a_style_that_a_template_lacks_is_named_with_those_it_has():
    assert refused("completions.prompts=notebook", "completions.style=cot") == (
        "completions.prompts is 'notebook', which has the styles answer; completions.style must be one of them"
    )
    assert refused("completions.prompts=medcial") == (
        'completions.prompts is "medcial"; it must be one of general, medical, notebook, raft, or the path of a folder or a .toml file'
    )


# Of the user


@row
def test_a_file_of_words_becomes_part_of_the_settings(tmp_path: Path):
    file = written(tmp_path / "law", answer=LAW) / "answer.toml"
    conf = config.load(assignments=[f"completions.prompts={file}"])
    file.unlink()
    assert conf.completions.words.teacher.passage == "[{number}] {passage}"
    assert conf.completions.words.refusal == "Not in the files."
    assert conf.completions.words.student.separator == "\n\n"
    assert config.Config.model_validate(conf.settings()).completions == conf.completions


@row
def test_a_folder_has_the_words_of_several_styles(tmp_path: Path):
    folder = written(tmp_path / "law", answer=LAW, cot=LAW_COT)
    thought = completions(f"completions.prompts={folder}", "completions.style=cot")
    assert thought.words.marks.answer == "Verdict:"
    assert thought.model_copy(update={"style": "answer"}).words.student.system == "You know the law."
    assert f"{folder}/finding.toml cannot be read" in refused(
        f"completions.prompts={folder}", "completions.style=finding"
    )


@row
def test_the_answers_alone_need_the_words_of_style_answer(tmp_path: Path):
    folder = written(tmp_path / "law", cot=LAW_COT)
    sets = (f"completions.prompts={folder}", "completions.style=cot", 'dataset.formats=["answer_only"]')
    assert "completions.prompts must be a folder with cot.toml and answer.toml" in refused(*sets)
    written(folder, answer=LAW)
    config.load(assignments=sets)


@row
def test_the_words_go_along_to_the_cluster(tmp_path: Path):
    folder = written(tmp_path / "law", answer=LAW + 'x = "\\u2028 \\"#\\t"'.replace("x", "opening"), cot=LAW_COT)
    sets = (f"completions.prompts={folder}", "completions.style=cot")
    arguments = built(*sets)["jobDriver"]["sparkSubmit"]["entryPointArguments"]
    assert not [argument for argument in arguments if str(folder) in argument]
    here, there = (config.load(assignments=sets).completions, config.from_argv(arguments).completions)
    assert there.prompts == here.prompts


def test_words_are_read_from_a_bucket(s3: str):
    client = boto3.client("s3", endpoint_url=s3, region_name="us-east-1")
    client.create_bucket(Bucket="prompts")
    for style, text in (("answer", LAW), ("cot", LAW_COT)):
        client.put_object(Bucket="prompts", Key=f"law/{style}.toml", Body=text.encode())
    at = (f"lake.s3_endpoint={s3}", "lake.s3_region=us-east-1")
    folder = completions(*at, "completions.prompts=s3://prompts/law", "completions.style=cot")
    assert set(folder.prompts) == {"answer", "cot"}
    assert completions(*at, "completions.prompts=s3://prompts/law/answer.toml").words.refusal == "Not in the files."
    assert "s3://prompts/law/finding.toml cannot be read: " in refused(
        *at, "completions.prompts=s3://prompts/law", "completions.style=finding"
    )


# What is wrong


ANSWER = {"user": "{context}\n{question}"}


@row
@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "",
            "teacher is missing; it must be a table of settings\nFILE: student is missing; it must be a table of settings",
        ),
        ("[teacher]\nuser = ", "is not TOML: Invalid value (at end of document); correct the file there"),
        (LAW.replace("{question}", "{topic}", 1), "teacher user has the unknown field {topic}; the fields are {context}, {question}, and {{ }} stand for braces"),
        (LAW.replace("Asked: {question}", "Asked."), "teacher user has {question} 0 times; it must be there once"),
        (LAW.replace("Asked: {question}", "{question} {question}"), "teacher user has {question} 2 times; it must be there once"),
        (LAW.replace("Asked: {question}", '{ \\"a\\": {question} }'), "teacher user has a single brace; the fields are {context}, {question}, and {{ }} stand for braces"),
        (LAW.replace("[{number}] {passage}", "{number}"), "teacher passage has {passage} 0 times; it must be there once"),
        (LAW.replace("[{number}] {passage}", "{title}: {passage}"), "teacher passage has the unknown field {title}; the fields are {number}, {passage}, and {{ }} stand for braces"),
        (LAW.replace("[{number}] {passage}", "<{passage}>"), "teacher has '<' next to {passage}; it must have a blank or a line break between, so that no text becomes markup"),
        (LAW.replace("[{number}] {passage}", "<{number}{passage}"), "teacher has '<' next to {passage}; it must have a blank or a line break between, so that no text becomes markup"),
        (LAW.replace("{context}\\n\\n{question}", "{context}{question}"), "student has '{' next to {passage}; it must have a blank or a line break between, so that no text becomes markup"),
        (LAW.replace("{context}\\n\\n{question}", "{context}\\n\\n{question}|>"), "student has '|' next to {question}; it must have a blank or a line break between, so that no text becomes markup"),
        (LAW.replace("You read", 3 * "\\u0001").replace('system = "', "system = 3 #"), "teacher.system is 3; it must be text\nFILE: student.system is 3; it must be text"),
        (LAW.replace("system", "systems", 1), "teacher.systems is not a setting (did you mean system?); [teacher] has the settings: opening, passage, separator, system, user"),
    ],
)  # fmt: skip
def test_what_is_wrong_with_a_file_is_said_with_its_name(text: str, message: str, tmp_path: Path):
    file = written(tmp_path, answer=text) / "answer.toml"
    found = refused(f"completions.prompts={file}").replace(str(file), "FILE")
    assert found == ("FILE " if message.startswith("is not") else "FILE: ") + message


@row
def test_a_file_that_is_missing_or_not_utf_8_is_named(tmp_path: Path):
    assert refused(f"completions.prompts={tmp_path}/no.toml") == (
        f"completions.prompts: {tmp_path}/no.toml cannot be read (No such file or directory); it must be a .toml file, a folder with "
        "a file for completions.style, or one of general, medical, notebook, raft"
    )
    (tmp_path / "answer.toml").write_bytes(LAW.replace("court", "caf\u00e9").encode("latin-1"))
    assert refused(f"completions.prompts={tmp_path}").startswith(f"{tmp_path}/answer.toml is not UTF-8: ")
    (tmp_path / "answer.toml").write_bytes(b"\xef\xbb\xbf" + LAW.replace("\n", "\r\n").encode())
    assert completions(f"completions.prompts={tmp_path}").words.teacher.system == "You read court files."


@row
@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('"Verdict:" and', '"Judgement:" and', "teacher does not name the mark 'Verdict:'; its system or user must ask for it, as answers are read by it"),
        ('answer = "Verdict:"', 'answer = "[["', "marks has the mark '[[' in another mark; it must have three marks of which none holds another"),
        ('answer = "Verdict:"', 'answer = "<answer>"', "marks has the mark '<answer>', which is taken out of answers as markup; it must be another one"),
        ('answer = "Verdict:"', 'answer = "<final_answer>"', "marks has the mark '<final_answer>', which is taken out of answers as markup; it must be another one"),
        ('answer = "Verdict:"', 'answer = ""', 'marks.answer is ""; it must be text such as <ANSWER>:'),
        ('answer = "Verdict:"', 'answer = "two\\nlines"', 'marks.answer is "two\\nlines"; it must be text such as <ANSWER>:'),
    ],
)  # fmt: skip
def test_marks_that_answers_cannot_be_read_by_are_refused(old: str, new: str, message: str, tmp_path: Path):
    file = written(tmp_path, cot=LAW_COT.replace(old, new)) / "cot.toml"
    assert refused(f"completions.prompts={file}", "completions.style=cot") == f"{file}: {message}"


@row
def test_words_given_as_settings_are_checked_too():
    layout = '{user="{context} {question}"}'
    completions(f"completions.prompts={{answer={{teacher={layout}, student={layout}}}}}")
    assert refused("completions.prompts={answer={}}").startswith("completions.prompts answer: teacher is missing")
    assert "completions.prompts has words for answer; it must have them for style 'cot'" in refused(
        f"completions.prompts={{answer={{teacher={layout}, student={layout}}}}}", "completions.style=cot"
    )
    assert "must be the name of a template, a path, or a table with some of answer, cot, finding" in refused(
        "completions.prompts={essay={}}"
    )


@row
def test_passage_marks_that_would_let_text_become_markup_are_refused(tmp_path: Path):
    text = LAW.replace('{context}\\n\\n{question}"', '{context}|{question}"\npassage = "{passage}\\n"')
    file = written(tmp_path, answer=text) / "answer.toml"
    assert completions(f"completions.prompts={file}", "completions.passage_marks=tags").words.student.separator == "\n"
    assert refused(f"completions.prompts={file}", "completions.passage_marks=numbers") == (
        "completions.passage_marks is 'numbers', with which a prompt of completions.prompts has '|' next to {passage}; it must have a "
        "blank or a line break between, so that no text becomes markup"
    )


# Fields


@row
@given(st.dictionaries(st.sampled_from(["context", "question"]), st.text("{}abc question"), min_size=2))
def test_a_field_s_value_is_put_in_as_it_is(values: dict[str, Any]):
    filled = templates.fill("a {context} {{b}} {question}", values)
    assert filled == "a " + values["context"] + " {b} " + values["question"]

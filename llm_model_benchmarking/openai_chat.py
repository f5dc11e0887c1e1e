"""OpenAI's chat completions on LitServe: its OpenAISpec, with what is missing in it added.

LitServe 0.2.19 leaves max_tokens, stop and sampling to the API, always says finish_reason "stop",
keeps the buffer of every request (LitServe#452), and answers errors of a stream with a 200. Here
requests are checked before they are queued, answers carry the true finish_reason and exact usage,
buffers go with their requests, and a client that leaves stops its generation.
"""

import asyncio
import json
import multiprocessing
import time
import uuid
from collections import deque
from collections.abc import AsyncIterator, Mapping
from ctypes import c_longlong
from typing import Any, Literal

from fastapi import HTTPException, Request, Response
from fastapi.responses import JSONResponse, StreamingResponse
from litserve.specs.openai import OpenAISpec
from litserve.utils import LitAPIStatus, ResponseBufferItem
from pydantic import BaseModel, Field

from harness.serving.admission import request_times

TICKETS = 4096  # more than can be inside a server at once
MOST_STOPS = 4  # as OpenAI allows


class TextPart(BaseModel):
    """A part of a message; only text is understood."""

    type: Literal["text"]
    text: str


class Message(BaseModel):
    """One message of a chat."""

    role: Literal["system", "developer", "user", "assistant"]
    content: str | list[TextPart]

    def text(self) -> str:
        """The content as one string."""
        if isinstance(self.content, str):
            return self.content
        return "".join(part.text for part in self.content)


class StreamOptions(BaseModel):
    """What a stream is to contain besides text."""

    include_usage: bool = False


class ChatRequest(BaseModel):
    """What is honoured of OpenAI's request; what would be ignored although it changes the answer is
    refused.

    `return_token_ids`, as in vLLM, adds the ids of the generated tokens to the choices.
    """

    model: str | None = None
    messages: list[Message] = Field(min_length=1)
    max_tokens: int | None = Field(None, ge=1)
    max_completion_tokens: int | None = Field(None, ge=1)
    temperature: float | None = Field(None, ge=0, le=2)
    top_p: float | None = Field(None, gt=0, le=1)
    stop: str | list[str] | None = None
    seed: int | None = Field(None, ge=-(2**63), lt=2**63)
    stream: bool | None = False
    stream_options: StreamOptions | None = None
    return_token_ids: bool = False
    n: Literal[1] | None = 1
    presence_penalty: Literal[0] | None = 0
    frequency_penalty: Literal[0] | None = 0
    logprobs: Literal[False] | None = False
    tools: list[Any] | None = Field(None, max_length=0)

    def stops(self) -> list[str]:
        """The stop texts; HTTPException 400 if they are too many or empty."""
        stops = [self.stop] if isinstance(self.stop, str) else self.stop or []
        if len(stops) > MOST_STOPS or not all(stops):
            raise HTTPException(
                400, f"stop must be a text or up to {MOST_STOPS} texts, none of them empty"
            )
        return stops

    def for_worker(self, ticket: int) -> dict[str, Any]:
        """The part that the worker needs, as a JSON object."""
        return {
            "messages": [{"role": each.role, "content": each.text()} for each in self.messages],
            "max_tokens": self.max_completion_tokens or self.max_tokens,
            "temperature": 1.0 if self.temperature is None else self.temperature,
            "top_p": self.top_p or 1.0,
            "stop": self.stops(),
            "seed": self.seed,
            "ticket": ticket,
        }


class OpenAIChat(OpenAISpec):
    """POST /v1/chat/completions and GET /v1/models.

    The worker answers a request with JSON objects, one per token: {"text", "token_id",
    "finish_reason", "prompt_tokens"}, the last one with a finish_reason. Clients that leave are
    noted in memory shared with the workers.
    """

    def __init__(self) -> None:
        super().__init__()
        self.left = multiprocessing.get_context("spawn").RawArray(c_longlong, TICKETS)
        self.add_endpoint("/v1/models", self.models, ["GET"])

    def has_left(self, ticket: int) -> bool:
        """Whether the client of this request is gone."""
        return self.left[ticket % TICKETS] == ticket

    async def models(self) -> dict[str, Any]:
        """The one model there is."""
        card = {"id": self.model_name, "object": "model", "created": 0, "owned_by": "litserve"}
        return {"object": "list", "data": [card]}

    @property
    def model_name(self) -> str:
        return self._server.model_metadata["model"]

    async def chat_completion(self, request: ChatRequest, http: Request) -> Response:
        """Queue the request and answer once its first token, or what is wrong with it, is known."""
        ticket = uuid.uuid4().int >> 66  # fits into the shared memory, never 0
        answer = Answer(request, self.model_name)
        tokens = self.tokens(request.for_worker(ticket), ticket)
        if not request.stream:
            return await unless_left(http, whole(answer, tokens), tokens)
        first = await unless_left(http, anext(tokens), tokens)
        if isinstance(first, Response):
            return first
        return StreamingResponse(streamed(answer, first, tokens), media_type="text/event-stream")

    async def tokens(self, request: dict[str, Any], ticket: int) -> AsyncIterator[dict[str, Any]]:
        """A worker's answer, token by token; HTTPException if it refuses or fails."""
        uid, queue, arrived = uuid.uuid4(), deque(), asyncio.Event()
        self.response_buffer[uid] = ResponseBufferItem(event=arrived, response_queue=queue)
        times, complete = request_times.get(), False
        try:
            if times is not None:
                times.enter_queue()
            self.request_queue.put((self.response_queue_id, uid, time.monotonic(), request))
            while True:
                await arrived.wait()
                arrived.clear()
                while queue:
                    piece, status = queue.popleft()
                    complete = status != LitAPIStatus.OK
                    if status == LitAPIStatus.ERROR:
                        if isinstance(piece, HTTPException):
                            raise piece
                        raise HTTPException(500, "the server failed")
                    if complete:
                        if times is not None:
                            times.answered = True
                        return
                    yield json.loads(piece)
        finally:
            del self.response_buffer[uid]
            if not complete:
                self.left[ticket % TICKETS] = ticket

    def populate_context(self, context: dict[str, Any], request: dict[str, Any]) -> None:
        """Nothing: the prompt itself carries what its generation needs."""


def error_response(
    status: int, message: str, headers: Mapping[str, str] | None = None
) -> JSONResponse:
    """An error as OpenAI's clients expect it."""
    status = 400 if status == 422 else status
    kind = "invalid_request_error" if status < 500 else "server_error"
    error = {"message": message, "type": kind, "param": None, "code": None}
    return JSONResponse({"error": error}, status, headers)


class Answer:
    """Builds the JSON objects of one answer."""

    def __init__(self, request: ChatRequest, model: str) -> None:
        self.request = request
        id_ = f"chatcmpl-{uuid.uuid4().hex}"
        self.head = {"id": id_, "created": int(time.time()), "model": model}
        self.completion_tokens = 0

    def usage(self, last: dict[str, Any]) -> dict[str, int]:
        """Exact counts, known with the last token."""
        prompt, completion = last["prompt_tokens"], self.completion_tokens
        return {
            "prompt_tokens": prompt,
            "completion_tokens": completion,
            "total_tokens": prompt + completion,
        }

    def event(self, choices: list[dict[str, Any]], **more: Any) -> str:
        """A server-sent event with one chunk."""
        if self.request.stream_options and self.request.stream_options.include_usage:
            more = {"usage": None} | more
        chunk = self.head | {"object": "chat.completion.chunk", "choices": choices} | more
        return f"data: {json.dumps(chunk, ensure_ascii=False)}\n\n"

    def token_event(self, token: dict[str, Any]) -> str:
        """The event of one token; its text is empty if a character or stop text is not complete."""
        self.completion_tokens += 1
        delta = {"content": token["text"]}
        if self.completion_tokens == 1:
            delta["role"] = "assistant"
        choice = {"index": 0, "delta": delta, "finish_reason": None}
        return self.event([choice | self.token_ids([token])])

    def last_events(self, last: dict[str, Any]) -> str:
        """The events that end a stream."""
        text = self.event([{"index": 0, "delta": {}, "finish_reason": last["finish_reason"]}])
        if self.request.stream_options and self.request.stream_options.include_usage:
            text += self.event([], usage=self.usage(last))
        return text + "data: [DONE]\n\n"

    def completion(self, tokens: list[dict[str, Any]]) -> dict[str, Any]:
        """The whole answer at once."""
        self.completion_tokens, last = len(tokens), tokens[-1]
        message = {"role": "assistant", "content": "".join(token["text"] for token in tokens)}
        choice = {"index": 0, "message": message, "finish_reason": last["finish_reason"]}
        choices = [choice | self.token_ids(tokens)]
        return self.head | {
            "object": "chat.completion",
            "choices": choices,
            "usage": self.usage(last),
        }

    def token_ids(self, tokens: list[dict[str, Any]]) -> dict[str, list[int]]:
        """What is added to a choice for those who asked for ids."""
        if not self.request.return_token_ids:
            return {}
        return {"token_ids": [token["token_id"] for token in tokens]}


async def whole(answer: Answer, tokens: AsyncIterator[dict[str, Any]]) -> Response:
    """The answer once it is complete."""
    return JSONResponse(answer.completion([token async for token in tokens]))


async def streamed(
    answer: Answer, first: dict[str, Any], tokens: AsyncIterator[dict[str, Any]]
) -> AsyncIterator[str]:
    """The answer as server-sent events; an error after the first token is an event too, and no
    [DONE] follows.
    """
    token = first
    try:
        yield answer.token_event(first)
        async for token in tokens:
            yield answer.token_event(token)
        yield answer.last_events(token)
    except HTTPException as error:
        yield f"data: {error_response(error.status_code, error.detail).body.decode()}\n\n"
    finally:
        await tokens.aclose()


async def unless_left(http: Request, work: Any, tokens: AsyncIterator[dict[str, Any]]) -> Any:
    """What `work` comes to, or an empty response nobody will read if the client leaves before."""

    async def gone() -> None:
        while (await http.receive())["type"] != "http.disconnect":
            pass

    working, leaving = asyncio.ensure_future(work), asyncio.create_task(gone())
    try:
        await asyncio.wait({working, leaving}, return_when=asyncio.FIRST_COMPLETED)
        if working.done():
            return working.result()
        working.cancel()
        await asyncio.wait({working})
        return Response(status_code=499)
    finally:
        leaving.cancel()
        if working.cancelled() or working.exception():
            await tokens.aclose()

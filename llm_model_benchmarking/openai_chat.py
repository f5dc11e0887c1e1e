"""OpenAI's chat completions on LitServe: its OpenAISpec, with what is missing in it added.

LitServe 0.2.19 leaves max_tokens, stop and sampling to the API, always says finish_reason "stop",
keeps the buffer of every request (LitServe#452), and answers errors of a stream with a 200. Here
requests are checked before they are queued, answers carry the true finish_reason and exact usage,
buffers go with their requests, and a client that leaves stops its generation.
"""

import asyncio
import json
import multiprocessing
import os
import secrets
import time
import uuid
from collections import deque
from collections.abc import AsyncIterator, Mapping
from ctypes import c_longlong
from typing import Any

from fastapi import HTTPException, Request, Response
from fastapi.responses import JSONResponse, StreamingResponse
from litserve.specs.openai import OpenAISpec
from litserve.utils import LitAPIStatus, ResponseBufferItem

from harness.serving.admission import request_times
from llm_model_benchmarking.openai_request import ChatRequest, chat_request

TICKETS = 1 << 16  # more than can wait inside a server at once
STREAM_HEADERS = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}  # pieces as they come


class OpenAIChat(OpenAISpec):
    """POST /v1/chat/completions and GET /v1/models.

    The worker answers a request with JSON objects, one per token: {"text", "token_id",
    "finish_reason", "prompt_tokens"}, the last one with a finish_reason. Clients that leave are
    noted in memory shared with the workers.
    """

    def __init__(self) -> None:
        super().__init__()
        self.left = multiprocessing.get_context("spawn").RawArray(c_longlong, TICKETS)
        self.ticket, self.ticket_maker = 0, 0
        for path in ("/v1/models", "/v1/models/"):
            self.add_endpoint(path, self.models, ["GET"])
        self.add_endpoint("/v1/models/{name:path}", self.model, ["GET"])

    def new_ticket(self) -> int:
        """A number for a request: one after the other, so that two slots are the same as late as
        possible; from anywhere, as other HTTP processes, forked from this one, hand out theirs.
        """
        if self.ticket_maker != os.getpid():
            self.ticket, self.ticket_maker = secrets.randbits(62), os.getpid()
        self.ticket += 1
        return self.ticket

    def has_left(self, ticket: int) -> bool:
        """Whether the client of this request is gone."""
        return self.left[ticket % TICKETS] == ticket

    async def models(self) -> dict[str, Any]:
        """The one model there is."""
        return {"object": "list", "data": [self.card()]}

    async def model(self, name: str) -> dict[str, Any]:
        """The model of that name; HTTPException 404 if it is another."""
        if name != self.model_name:
            reason = f"the model here is {self.model_name}, not the one named"
            detail = {"message": reason, "param": "model", "code": "model_not_found"}
            raise HTTPException(404, detail)
        return self.card()

    def card(self) -> dict[str, Any]:
        """What is told of the model."""
        return {"id": self.model_name, "object": "model", "created": 0, "owned_by": "litserve"}

    @property
    def model_name(self) -> str:
        return self._server.model_metadata["model"]

    async def chat_completion(self, body: dict, http: Request) -> Response:
        """Queue the request and answer once its first token, or what is wrong with it, is known."""
        request, ticket = chat_request(body), self.new_ticket()
        answer = Answer(request, self.model_name)
        tokens = self.tokens(request.for_worker(ticket), ticket)
        if not request.wishes["stream"]:
            return await unless_left(http, whole(answer, tokens), tokens)
        first = await unless_left(http, anext(tokens), tokens)
        if isinstance(first, Response):
            return first
        events = streamed(answer, first, tokens)
        return StreamingResponse(events, media_type="text/event-stream", headers=STREAM_HEADERS)

    async def tokens(self, request: dict[str, Any], ticket: int) -> AsyncIterator[dict[str, Any]]:
        """A worker's answer, token by token; HTTPException if it refuses or fails."""
        uid, queue, arrived = uuid.uuid4().hex, deque(), asyncio.Event()  # text: quick to pickle
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
    status: int, reason: str | dict[str, Any], headers: Mapping[str, str] | None = None
) -> JSONResponse:
    """An error as OpenAI's clients expect it: of a sentence, or of message, param and code."""
    status = 400 if status == 422 else status
    kind = "invalid_request_error" if status < 500 else "server_error"
    told = reason if isinstance(reason, dict) else {"message": reason, "param": None, "code": None}
    return JSONResponse({"error": told | {"type": kind}}, status, headers)


class Answer:
    """Builds the JSON objects of one answer."""

    def __init__(self, request: ChatRequest, model: str) -> None:
        self.request = request
        id_ = f"chatcmpl-{uuid.uuid4().hex}"
        self.head = {"id": id_, "created": int(time.time()), "model": model}
        self.completion_tokens = 0

    def usage(self, last: dict[str, Any]) -> dict[str, int]:
        """Exact counts so far; with the last token, of the whole answer."""
        prompt, completion = last["prompt_tokens"], self.completion_tokens
        return {
            "prompt_tokens": prompt,
            "completion_tokens": completion,
            "total_tokens": prompt + completion,
        }

    def event(
        self, choices: list[dict[str, Any]], token: dict[str, Any], told: bool = False
    ) -> str:
        """A server-sent event with one chunk; its usage, as of this token, is told where the client
        wants it in every one.

        What is not ASCII is escaped: many clients take U+2028, U+2029 and U+0085 for ends of lines.
        """
        chunk = self.head | {"object": "chat.completion.chunk", "choices": choices}
        if self.request.option("include_usage"):
            told = told or self.request.option("continuous_usage_stats")
            chunk["usage"] = self.usage(token) if told else None
        return f"data: {json.dumps(chunk)}\n\n"

    def token_event(self, token: dict[str, Any]) -> str:
        """The event of one token; its text is empty if a character or stop text is not complete."""
        self.completion_tokens += 1
        delta = {"content": token["text"]}
        if self.completion_tokens == 1:
            delta["role"] = "assistant"
        choice = {"index": 0, "delta": delta, "finish_reason": None}
        return self.event([choice | self.token_ids([token])], token)

    def last_events(self, last: dict[str, Any]) -> str:
        """The events that end a stream."""
        end = {"index": 0, "delta": {}, "finish_reason": last["finish_reason"]}
        text = self.event([end], last)
        if self.request.option("include_usage"):
            text += self.event([], last, told=True)
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
        if not self.request.wishes["return_token_ids"]:
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

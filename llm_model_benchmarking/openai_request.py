"""What a chat request may ask: fields that are honoured, fields without effect, plain refusals.

Honoured as vLLM and OpenAI define them. What could change the answer and is not honoured, unknown
fields included, is refused by its name; `null` is the same as leaving a field out.
"""

import contextlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from fastapi import HTTPException

MOST_STOPS, LONGEST_STOP = 4, 1000  # texts, as OpenAI allows; characters
MOST_IDS = 1024  # entries of logit_bias and stop_token_ids
MOST_MESSAGES = 16_384  # and parts of a content; looked at while all other requests wait
MOST_SHOWN = 40  # characters of a value that is refused


def refused(message: str, param: str | None = None, code: str | None = None) -> HTTPException:
    """A 400 as OpenAI's clients expect it: `param` names the field, `code` the kind."""
    return HTTPException(400, {"message": message, "param": param, "code": code})


@dataclass(frozen=True)
class Wish:
    """A field that is honoured: its value where it is not given, and which values it may have."""

    default: Any
    words: str
    fits: Callable[[Any], bool]


def whole(least: int, most: float = float("inf")) -> Callable[[Any], bool]:
    """Whether a value is a whole number of this range."""
    return lambda value: type(value) is int and least <= value <= most


def number(least: float, most: float) -> Callable[[Any], bool]:
    """Whether a value is a number of this range."""
    return lambda value: type(value) in (int, float) and least <= value <= most


def is_flag(value: Any) -> bool:
    return isinstance(value, bool)


def is_stop(value: Any) -> bool:
    stops = [value] if isinstance(value, str) else value
    return (
        isinstance(stops, list)
        and len(stops) <= MOST_STOPS
        and all(isinstance(each, str) and 0 < len(each) <= LONGEST_STOP for each in stops)
    )


def is_ids(value: Any) -> bool:
    return isinstance(value, list) and len(value) <= MOST_IDS and all(map(whole(0), value))


def is_bias(value: Any) -> bool:
    return (
        isinstance(value, dict)
        and len(value) <= MOST_IDS
        and all(key.isascii() and key.isdigit() and len(key) < 10 for key in value)
        and all(map(number(-100, 100), value.values()))
    )


def is_stream_options(value: Any) -> bool:
    return (
        isinstance(value, dict)
        and value.keys() <= {"include_usage", "continuous_usage_stats", "include_obfuscation"}
        and all(each is None or is_flag(each) for each in value.values())
    )


FLAG = "true or false"
HONOURED = {
    "max_tokens": Wish(None, "a whole number from 1", whole(1)),
    "max_completion_tokens": Wish(None, "a whole number from 1", whole(1)),
    "min_tokens": Wish(0, "a whole number from 0", whole(0)),
    "ignore_eos": Wish(None, FLAG, is_flag),
    "temperature": Wish(1.0, "a number from 0 to 2", number(0, 2)),
    "top_p": Wish(1.0, "a number above 0, up to 1", number(5e-324, 1)),
    "top_k": Wish(0, "a whole number; 0 or -1 for all tokens", whole(-1)),
    "min_p": Wish(0.0, "a number from 0 to 1", number(0, 1)),
    "repetition_penalty": Wish(1.0, "a number from 0.01 to 100", number(0.01, 100)),
    "presence_penalty": Wish(0.0, "a number from -2 to 2", number(-2, 2)),
    "frequency_penalty": Wish(0.0, "a number from -2 to 2", number(-2, 2)),
    "logit_bias": Wish(
        {}, f"an object from up to {MOST_IDS:,} token ids to numbers from -100 to 100", is_bias
    ),
    "stop": Wish(
        [],
        f"a text or up to {MOST_STOPS} texts, none of them empty or longer than "
        f"{LONGEST_STOP:,} characters",
        is_stop,
    ),
    "stop_token_ids": Wish([], f"a list of up to {MOST_IDS:,} token ids", is_ids),
    "seed": Wish(None, "a whole number of 64 bits", whole(-(2**63), 2**63 - 1)),
    "stream": Wish(False, FLAG, is_flag),
    "stream_options": Wish(
        {},
        "an object that holds include_usage, continuous_usage_stats, each true or false",
        is_stream_options,
    ),
    "return_token_ids": Wish(False, FLAG, is_flag),  # as in vLLM: ids are added to the choices
}
OF_THE_WORKER = HONOURED.keys() - {"stream", "stream_options", "return_token_ids"}
WITHOUT_EFFECT = {
    "model",  # there is one
    "user",
    "metadata",
    "store",
    "service_tier",
    "safety_identifier",
    "prompt_cache_key",
    "prompt_cache_retention",
    "prompt_cache_options",
    "prediction",  # makes an answer faster, not another one
    "parallel_tool_calls",  # there are no calls
    "request_id",
    "priority",
    "cache_salt",
}
CHANGES_NOTHING = {  # values with which these fields ask for what is done anyway
    "n": [1],
    "best_of": [1],
    "tools": [[]],
    "tool_choice": ["none", "auto"],
    "functions": [[]],
    "function_call": ["none", "auto"],
    "response_format": [{"type": "text"}],
    "modalities": [["text"]],
    "logprobs": [False],
    "top_logprobs": [0],
    "echo": [False],
    "use_beam_search": [False],
    "length_penalty": [1],
    "early_stopping": [False],
    "skip_special_tokens": [True],
    "spaces_between_special_tokens": [True],
    "include_stop_str_in_output": [False],
    "add_generation_prompt": [True],
    "continue_final_message": [False],
    "add_special_tokens": [False],
    "chat_template_kwargs": [{}],
    "verbosity": ["medium"],
}
NO_TOOLS = "this server calls no tools"
ONE_ANSWER = "this server gives one answer to a request; send it again for another"
TEXT_ONLY = "this server reads and writes text only"
NO_LOGPROBS = "this server does not tell probabilities"
REASONS = {
    "n": ONE_ANSWER,
    "best_of": ONE_ANSWER,
    "use_beam_search": "this server samples; it searches no beams",
    "tools": NO_TOOLS,
    "tool_choice": NO_TOOLS,
    "functions": NO_TOOLS,
    "function_call": NO_TOOLS,
    "response_format": "this server cannot hold answers to a format; only text is possible",
    "modalities": TEXT_ONLY,
    "audio": TEXT_ONLY,
    "logprobs": NO_LOGPROBS,
    "top_logprobs": NO_LOGPROBS,
    "prompt_logprobs": NO_LOGPROBS,
    "echo": "this server does not repeat the prompt",
}
UNKNOWN = "this server does not honour it, and it could change the answer; leave it out"
ROLES = ("system", "developer", "user", "assistant", "tool", "function")
RESULTS = ("tool", "function")
FIELDS = {"role", "content"}  # of every message
FIELDS_OF_PARTS = {"type", "cache_control", "prompt_cache_breakpoint"}  # besides its text
FIELDS_OF = {
    "assistant": {"tool_calls", "function_call", "refusal", "annotations"},
    "tool": {"tool_call_id", "name"},
    "function": {"name"},
}


@dataclass(frozen=True)
class ChatRequest:
    """A request that can be answered.

    Attributes:
        messages: {"role", "content"} each, roles system, user and assistant, content one text.
        wishes: every honoured field, with its default where it is not given.
    """

    messages: list[dict[str, str]]
    wishes: dict[str, Any]

    def option(self, name: str) -> bool:
        """One of the stream_options."""
        return bool(self.wishes["stream_options"].get(name))

    def for_worker(self, ticket: int) -> dict[str, Any]:
        """The part that the worker needs, as a JSON object."""
        wishes = {name: self.wishes[name] for name in OF_THE_WORKER}
        longest = wishes.pop("max_completion_tokens")  # the newer name of max_tokens
        return wishes | {
            "max_tokens": longest or wishes["max_tokens"],
            "messages": self.messages,
            "ticket": ticket,
        }


def chat_request(body: dict[str, Any]) -> ChatRequest:
    """What a JSON object asks; HTTPException 400 if that is not possible."""
    given = {name: value for name, value in body.items() if value is not None}
    messages = chat_of(given.pop("messages", None))
    wishes = {name: wish.default for name, wish in HONOURED.items()}
    for name, value in given.items():
        if name in HONOURED:
            wishes[name] = wished(name, value)
        elif name not in WITHOUT_EFFECT and value not in CHANGES_NOTHING.get(name, ()):
            raise refused(f"{shown(name)}: {REASONS.get(name, UNKNOWN)}", shown(name))
    if isinstance(wishes["stop"], str):
        wishes["stop"] = [wishes["stop"]]
    for stop in wishes["stop"]:
        refuse_half_characters(stop, "stop")
    return ChatRequest(messages, wishes)


def wished(name: str, value: Any) -> Any:
    """The value of a field that is honoured; HTTPException 400 if it cannot have that."""
    wish = HONOURED[name]
    if not wish.fits(value):
        raise refused(f"{name} must be {wish.words}, not {shown(value)}", name)
    return value


def shown(value: Any) -> str:
    """The beginning of a value, without what is not ASCII."""
    if isinstance(value, list | dict):
        return f"{'a list' if isinstance(value, list) else 'an object'} of {len(value):,}"
    text = value if isinstance(value, str) else json.dumps(value)
    short = text[:MOST_SHOWN].encode("ascii", "backslashreplace").decode()
    return short if len(text) <= MOST_SHOWN else f"{short}... ({len(text):,} characters)"


def refuse_half_characters(text: str, param: str) -> None:
    """HTTPException 400 if a text holds what JSON can write and no text can hold."""
    try:
        text.encode()
    except UnicodeEncodeError:
        reason = "holds half of a character (a lone surrogate), which is no text"
        raise refused(f"{param} {reason}", param) from None


def chat_of(messages: Any) -> list[dict[str, str]]:
    """Messages as every chat format knows them; HTTPException 400 for what cannot be told so.

    Calls of tools and their results, which most small models' formats do not have, are told as
    text, in the words of Hermes' and Qwen's formats; results become messages of the user.
    """
    if not isinstance(messages, list) or not messages:
        raise refused("messages must be a list with one message at least", "messages")
    if len(messages) > MOST_MESSAGES:
        reason = f"there are {len(messages):,} messages; {MOST_MESSAGES:,} is the most"
        raise refused(f"messages: {reason}", "messages", "context_length_exceeded")
    chat: list[dict[str, str]] = []
    before = None
    for index, message in enumerate(messages):
        at = f"messages[{index}]"
        told = told_message(message, at)
        if before in RESULTS and message["role"] in RESULTS:  # of calls made together
            chat[-1]["content"] += f"\n{told['content']}"
        else:
            chat.append(told)
        before = message["role"]
    return chat


def told_message(message: Any, at: str) -> dict[str, str]:
    """One message as role and text."""
    if not isinstance(message, dict):
        raise refused(f"{at} must be an object with role and content", at)
    role = message.get("role")
    if role not in ROLES:
        raise refused(f"{at}.role must be one of {', '.join(ROLES)}", f"{at}.role")
    refuse_unknown(message, FIELDS | FIELDS_OF.get(role, set()), at)
    calls = calls_of(message, at)
    content = message.get("content")
    if content is None:
        content = message.get("refusal")
    text = "" if content is None and calls else text_of(content, f"{at}.content")
    if role in RESULTS:
        return {"role": "user", "content": f"<tool_response>\n{text}\n</tool_response>"}
    return {"role": role, "content": "\n".join(part for part in (text, *calls) if part)}


def refuse_unknown(given: dict[str, Any], known: set[str], at: str) -> None:
    """HTTPException 400 if a message, or a part of it, has a field that is not known."""
    for name, value in given.items():
        if name not in known and value is not None:
            raise refused(f"{at}.{shown(name)}: {UNKNOWN}", f"{at}.{shown(name)}")


def text_of(content: Any, at: str) -> str:
    """The content of a message as one text."""
    parts = [content] if isinstance(content, str) else content
    if not isinstance(parts, list) or len(parts) > MOST_MESSAGES:
        reason = f"must be a text, or a list of up to {MOST_MESSAGES:,} parts with a text each"
        raise refused(f"{at} {reason}", at)
    texts = [text_of_part(part, f"{at}[{index}]") for index, part in enumerate(parts)]
    for text in texts:
        refuse_half_characters(text, at)
    return "".join(texts)


def text_of_part(part: Any, at: str) -> str:
    """The text of one part of a content; an assistant's refusal is one too."""
    if isinstance(part, str):
        return part
    kind = part.get("type") if isinstance(part, dict) else None
    if kind not in ("text", "refusal"):
        raise refused(f"{at}.type must be text, not {shown(kind)}: {TEXT_ONLY}", at)
    refuse_unknown(part, FIELDS_OF_PARTS | {kind}, at)
    if not isinstance(part.get(kind), str):
        raise refused(f"{at}.{kind} must be a text", f"{at}.{kind}")
    return part[kind]


def calls_of(message: dict[str, Any], at: str) -> list[str]:
    """The calls of tools in an assistant's message, as texts."""
    calls = message.get("tool_calls") or []
    if not isinstance(calls, list):
        raise refused(f"{at}.tool_calls must be a list", f"{at}.tool_calls")
    functions = [call.get("function") if isinstance(call, dict) else None for call in calls]
    if message.get("function_call"):
        functions.append(message["function_call"])
    return [text_of_call(function, f"{at}.tool_calls") for function in functions]


def text_of_call(function: Any, at: str) -> str:
    """One call of a tool as text."""
    names = isinstance(function, dict) and [function.get("name"), function.get("arguments")]
    if not names or not all(isinstance(name, str) for name in names):
        raise refused(f"{at} must each be a function with the texts name and arguments", at)
    name, arguments = names
    with contextlib.suppress(ValueError, RecursionError):  # a model wrote it: not always JSON
        arguments = json.loads(arguments)
    call = json.dumps({"name": name, "arguments": arguments}, ensure_ascii=False)
    refuse_half_characters(call, at)
    return f"<tool_call>\n{call}\n</tool_call>"

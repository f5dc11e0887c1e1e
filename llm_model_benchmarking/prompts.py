"""From chat messages to the token ids of a prompt; prompts of an exact length to measure with."""

import random
import uuid
from typing import TYPE_CHECKING, Any

from jinja2 import TemplateError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Chat = list[dict[str, str]]  # messages: {"role": ..., "content": ...}
WORDS = """
time light water stone garden winter letter music table window river morning paper bridge market
summer road hand voice story green quiet open early round simple bright heavy little along under
between because often never walk carry listen remember build follow answer travel measure gather
reach begin change write
""".split()  # noqa: SIM905 - a list of quoted words is harder to read
# Some templates add a long system message of their own if there is none.
SYSTEM = {"role": "system", "content": "Be brief."}


def chat_ids(tokenizer: "PreTrainedTokenizerBase", messages: Chat) -> list[int]:
    """Ids of the chat in the model's own format, ready for the assistant's answer.

    Control tokens that the messages contain are plain text: they cannot end a message or begin
    another.
    """
    named = [
        message | {"role": "system"} if message["role"] == "developer" else message
        for message in messages
    ]
    control = tokenizer.all_special_tokens
    if not any(token in message["content"] for message in named for token in control):
        return templated(tokenizer, named, tokenize=True)
    marks = {uuid.uuid4().hex: message["content"] for message in named}
    marked = [
        {"role": message["role"], "content": mark}
        for message, mark in zip(named, marks, strict=True)
    ]
    text, ids = templated(tokenizer, marked, tokenize=False), []
    for mark, content in marks.items():
        before, _, text = text.partition(mark)
        ids += tokenizer.encode(before, add_special_tokens=False)
        ids += tokenizer.encode(content, add_special_tokens=False, split_special_tokens=True)
    return ids + tokenizer.encode(text, add_special_tokens=False)


def templated(tokenizer: "PreTrainedTokenizerBase", messages: Chat, tokenize: bool) -> Any:
    """The chat in the model's own format: token ids, or text."""
    return tokenizer.apply_chat_template(
        messages, add_generation_prompt=True, tokenize=tokenize, return_dict=False
    )


def prompts_of(
    tokenizer: "PreTrainedTokenizerBase", tokens: int, count: int, seed: int
) -> list[Chat]:
    """`count` different chats that each take exactly `tokens` tokens.

    Raises ValueError if the chat format alone takes more, or no text of that length is found.
    """
    order = random.Random(seed)
    opening = [SYSTEM] if takes_system_messages(tokenizer) else []
    return [chat_of(tokenizer, opening, tokens, order) for _ in range(count)]


def takes_system_messages(tokenizer: "PreTrainedTokenizerBase") -> bool:
    """Whether the model's chat format has a system role; Gemma's refuses it."""
    try:
        chat_ids(tokenizer, [SYSTEM, {"role": "user", "content": "x"}])
    except TemplateError:
        return False
    return True


def chat_of(
    tokenizer: "PreTrainedTokenizerBase", opening: Chat, tokens: int, order: random.Random
) -> Chat:
    """A chat of exactly `tokens` tokens: random words, and single letters to fill what is left."""
    words: list[str] = []
    missing = tokens
    for _ in range(20 * tokens):
        chat = [*opening, {"role": "user", "content": " ".join(words)}]
        missing = tokens - len(chat_ids(tokenizer, chat))
        if missing == 0 and words:
            return chat
        if missing < 0 and not words:
            break
        if missing < 0:
            words = words[: order.randrange(len(words))]
        else:
            words.append(order.choice(WORDS) if missing > 3 else order.choice("abcdefgh"))
    least = tokens - missing
    raise ValueError(f"no chat of exactly {tokens} tokens: with one word it takes {least} or more")

"""Eight stock clients at once against a server, streaming and not: openai, LangChain, LiteLLM.

python -P tests/stock_clients.py URL  # -P: tests/numbers is none of Python's modules
"""

import os
import sys
from concurrent.futures import ThreadPoolExecutor

QUESTION = "What is a bridge?"
AGAIN = "And a river?"
TOKENS = 12
NO_CHANGE = {  # what OpenAI's own client can send and what changes nothing here
    "metadata": {"a": "b"},
    "n": 1,
    "parallel_tool_calls": True,
    "prediction": {"type": "content", "content": "A bridge"},
    "prompt_cache_key": "k",
    "response_format": {"type": "text"},
    "safety_identifier": "s",
    "service_tier": "auto",
    "store": False,
    "user": "u",
}


def by_openai(url: str, stream: bool) -> str:
    from openai import OpenAI

    client = OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0)
    (model,) = client.models.list().data
    assert client.models.retrieve(model.id).id == model.id
    asked = {
        "model": model.id,
        "messages": [{"role": "user", "content": QUESTION}],
        "max_tokens": TOKENS,
        "temperature": 0,
        "extra_body": {"ignore_eos": True},
    }
    if not stream:
        answer = client.chat.completions.create(**asked, **NO_CHANGE)
        assert answer.usage.completion_tokens == TOKENS
        assert answer.choices[0].finish_reason == "length"
        message = answer.choices[0].message
        chat = [*asked["messages"], message, {"role": "user", "content": AGAIN}]
        again = client.chat.completions.create(**asked | {"messages": chat, "logprobs": None})
        assert again.usage.prompt_tokens > answer.usage.prompt_tokens + TOKENS
        refused_by_name(client, asked)
        return message.content
    usage = {"include_usage": True}
    chunks = list(client.chat.completions.create(**asked, stream=True, stream_options=usage))
    assert chunks[-1].usage.completion_tokens == TOKENS
    return "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)


def refused_by_name(client, asked: dict) -> None:
    """What cannot be honoured raises the client's own error, with the name of the field."""
    from openai import BadRequestError

    named = None
    try:
        client.chat.completions.create(**asked, reasoning_effort="high")
    except BadRequestError as error:
        named = error.param
    assert named == "reasoning_effort", named


def by_langchain(url: str, stream: bool) -> str:
    from langchain_core.messages import AIMessage, HumanMessage, ToolMessage
    from langchain_openai import ChatOpenAI

    model = ChatOpenAI(
        base_url=f"{url}/v1",
        api_key="none",
        model="any",
        temperature=0,
        max_tokens=TOKENS,
        max_retries=0,
        extra_body={"ignore_eos": True},
    )
    call = {"name": "rain", "args": {"in": "Oslo"}, "id": "c", "type": "tool_call"}
    history = [
        HumanMessage("Rain?"),
        AIMessage("", tool_calls=[call]),
        ToolMessage("yes", tool_call_id="c"),
    ]
    assert model.invoke(history).content
    if stream:
        return "".join(chunk.content for chunk in model.stream(QUESTION))
    answer = model.invoke(QUESTION)
    assert model.invoke([HumanMessage(QUESTION), answer, HumanMessage(AGAIN)]).content
    return answer.content


def by_litellm(url: str, stream: bool) -> str:
    os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"  # else it asks the internet for prices
    import litellm

    question = [{"role": "user", "content": QUESTION}]
    asked = {
        "model": "openai/any",
        "api_base": f"{url}/v1",
        "api_key": "none",
        "max_tokens": TOKENS,
        "temperature": 0,
        "num_retries": 0,
        "extra_body": {"ignore_eos": True},
    }
    answer = litellm.completion(**asked, messages=question, stream=stream)
    if stream:
        return "".join(chunk.choices[0].delta.content or "" for chunk in answer)
    message = answer.choices[0].message
    chat = [*question, message, {"role": "user", "content": AGAIN}]
    assert litellm.completion(**asked, messages=chat).choices[0].message.content
    return message.content


def main() -> None:
    (url,) = sys.argv[1:]
    clients = [by_openai, by_langchain, by_litellm]
    asked = [(client, stream) for client in clients for stream in (False, True)]
    asked += asked[:2]  # eight
    with ThreadPoolExecutor(len(asked)) as pool:
        answers = list(pool.map(lambda each: each[0](url, each[1]), asked))
    assert answers[0], "an answer without text"
    assert len(set(answers)) == 1, answers
    print(f"{len(answers)} clients got the same answer: {answers[0]!r}")


if __name__ == "__main__":
    main()

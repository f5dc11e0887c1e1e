"""Eight stock clients at once against a server, streaming and not: openai, LangChain, LiteLLM.

python -P tests/stock_clients.py URL  # -P: tests/numbers is none of Python's modules
"""

import os
import sys
from concurrent.futures import ThreadPoolExecutor

QUESTION = "What is a bridge?"
TOKENS = 12


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
        answer = client.chat.completions.create(**asked)
        assert answer.usage.completion_tokens == TOKENS
        assert answer.choices[0].finish_reason == "length"
        return answer.choices[0].message.content
    usage = {"include_usage": True}
    chunks = list(client.chat.completions.create(**asked, stream=True, stream_options=usage))
    assert chunks[-1].usage.completion_tokens == TOKENS
    return "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)


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
    return model.invoke(QUESTION).content


def by_litellm(url: str, stream: bool) -> str:
    os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"  # else it asks the internet for prices
    import litellm

    answer = litellm.completion(
        model="openai/any",
        api_base=f"{url}/v1",
        api_key="none",
        messages=[{"role": "user", "content": QUESTION}],
        max_tokens=TOKENS,
        temperature=0,
        stream=stream,
        num_retries=0,
        extra_body={"ignore_eos": True},
    )
    if stream:
        return "".join(chunk.choices[0].delta.content or "" for chunk in answer)
    return answer.choices[0].message.content


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

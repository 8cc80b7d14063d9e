"""Functions and calls in the prompts of models whose templates know none."""

import json

from pipelines.chat.calls.prompt import by_template, in_words
from pipelines.events import Message, Tool, ToolCall

WEATHER = Tool("weather", "The weather", {"type": "object", "properties": {"city": {"type": "string"}}})
TALK = (
    Message("user", "Weather in Rome?"),
    Message("assistant", "", calls=(ToolCall("c1", "weather", '{"city": "Rome"}'), ToolCall("c2", "time", "{}"))),
    Message("tool", "sunny", call_id="c1"),
    Message("tool", "noon", call_id="c2"),
    Message("assistant", "Sunny."),
)


def plain(text: str) -> str:
    return text


def test_functions_join_the_instructions() -> None:
    messages = in_words([Message("system", "Be kind."), *TALK], [WEATHER], plain)
    assert messages[0]["role"] == "system"
    assert messages[0]["content"].startswith("Be kind.\n\n# Tools")
    described = next(line for line in messages[0]["content"].splitlines() if line.startswith('{"name": "weather"'))
    assert json.loads(described)["parameters"] == WEATHER.parameters


def test_functions_make_instructions_where_there_are_none() -> None:
    assert [each["role"] for each in in_words([Message("user", "Hi")], [WEATHER], plain)] == ["system", "user"]


def test_calls_are_text_and_results_are_one_message_of_the_user() -> None:
    _, calls, results, _ = in_words(TALK, [], plain)
    assert calls == {
        "role": "assistant",
        "content": '<tool_call>\n{"name": "weather", "arguments": {"city": "Rome"}}\n</tool_call>\n'
        '<tool_call>\n{"name": "time", "arguments": {}}\n</tool_call>',
    }
    assert results["role"] == "user"
    assert results["content"].count("<tool_response>") == 2


def test_a_template_that_knows_calls_gets_their_arguments_as_objects() -> None:
    _, calls, result, *_ = by_template(TALK, plain)
    assert calls["tool_calls"][0]["function"] == {"name": "weather", "arguments": {"city": "Rome"}}
    assert result == {"role": "tool", "content": "sunny", "tool_call_id": "c1"}


def test_arguments_that_are_no_json_do_not_end_the_conversation() -> None:
    broken = Message("assistant", "", calls=(ToolCall("c", "f", '{"a": '),))
    assert '{"a": ' in json.loads(in_words([broken], [], plain)[0]["content"].splitlines()[1])["arguments"]


def test_what_a_result_says_cannot_end_its_message() -> None:
    [message] = in_words([Message("tool", "<|im_end|>", call_id="c")], [], lambda text: text.replace("<|", "< |"))
    assert "<|im_end|>" not in message["content"]

"""A conversation with a function, over chat completions: ``pip install openai``, ``python openai_chat.py``."""

import json
import os
import sys

from openai import OpenAI

url = os.environ.get("LOQUENT_URL", "http://127.0.0.1:8700")
client = OpenAI(base_url=f"{url}/v1", api_key=os.environ.get("LOQUENT_API_KEY", "none"))
lamp = {"type": "string", "description": "The name of the lamp."}
tools = [
    {
        "type": "function",
        "function": {
            "name": "price_of_lamp",
            "description": "Get the price of a lamp.",
            "parameters": {"type": "object", "properties": {"lamp": lamp}, "required": ["lamp"]},
        },
    }
]


def price_of_lamp(lamp: str) -> str:
    return f"The {lamp} costs 39 euros."


messages = [{"role": "system", "content": "You are the assistant of a shop for lamps. Answer in one short sentence."}]
for question in sys.argv[1:] or ["Name the capital of France.", "What is the price of the lamp Aurora?"]:
    print(f"> {question}")
    messages.append({"role": "user", "content": question})
    while messages[-1]["role"] != "assistant":  # once more behind the result of a function
        with client.chat.completions.stream(model="default", messages=messages, tools=tools) as stream:
            for event in stream:
                if event.type == "content.delta":
                    print(event.delta, end="", flush=True)
            reply = stream.get_final_completion().choices[0].message
        messages.append(reply.to_dict())
        for call in reply.tool_calls or []:
            print(f"[{call.function.name} {call.function.arguments}]")
            result = price_of_lamp(**json.loads(call.function.arguments))
            messages.append({"role": "tool", "tool_call_id": call.id, "content": result})
    print()

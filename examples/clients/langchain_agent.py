"""A LangChain agent with a function, streamed: ``pip install langchain langchain-openai``, then run this file."""

import os
import sys

from langchain.agents import create_agent
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI

url = os.environ.get("LOQUENT_URL", "http://127.0.0.1:8700")
model = ChatOpenAI(model="default", base_url=f"{url}/v1", api_key=os.environ.get("LOQUENT_API_KEY", "none"))


@tool
def price_of_lamp(lamp: str) -> str:
    """Get the price of a lamp."""
    print(f"[price_of_lamp {lamp}]")
    return f"The {lamp} costs 39 euros."


agent = create_agent(
    model,
    tools=[price_of_lamp],
    system_prompt="You are the assistant of a shop for lamps. Answer in one short sentence.",
)
question = " ".join(sys.argv[1:]) or "What is the price of the lamp Aurora?"
for chunk, _ in agent.stream({"messages": [("user", question)]}, stream_mode="messages"):
    if chunk.type == "AIMessageChunk":
        print(chunk.text, end="", flush=True)
print()

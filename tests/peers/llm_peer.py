"""The command ``llm`` and its Python interface, with the model configured as its documentation says."""

import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from cases import INSTRUCTIONS, QUESTION, Weather, report

FOLDER = Path(tempfile.mkdtemp())
os.environ["LLM_USER_PATH"] = str(FOLDER)
(FOLDER / "extra-openai-models.yaml").write_text(
    f"""- model_id: loquent
  model_name: gpt-4o-mini
  api_base: {sys.argv[1]}/v1
  supports_tools: true
  supports_schema: true
"""
)

import llm  # noqa: E402 - it reads its configuration as it loads


def _tool(weather: Weather) -> llm.Tool:
    return llm.Tool(
        name=weather.name, description=weather.description, input_schema=weather.parameters, implementation=weather
    )


def chain(address: str) -> dict[str, Any]:
    weather = Weather()
    told = llm.get_model("loquent").chain(QUESTION, system=INSTRUCTIONS, tools=[_tool(weather)], key="none")
    return {"calls": weather.calls, "text": told.text()}


def chain_whole(address: str) -> dict[str, Any]:
    weather = Weather()
    told = llm.get_model("loquent").chain(
        QUESTION, system=INSTRUCTIONS, tools=[_tool(weather)], key="none", stream=False
    )
    return {"calls": weather.calls, "text": told.text()}


def schema(address: str) -> str:
    return (
        llm.get_model("loquent")
        .prompt("The capital of France.", schema=llm.schema_dsl("name, country"), key="none")
        .text()
    )


def command(address: str) -> str:
    program = Path(sys.executable).parent / "llm"
    told = subprocess.run(
        [program, "-m", "loquent", "--key", "none", "What is the capital of France?"],
        capture_output=True,
        text=True,
        check=True,
    )
    return told.stdout


report(chain, chain_whole, schema, command)

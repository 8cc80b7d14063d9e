"""Python functions of installed packages: their schemas, their arguments, their results."""

import asyncio
import threading
from dataclasses import dataclass
from enum import Enum
from typing import Annotated, Any, Literal

import pytest
from pydantic import BaseModel, Field

from pipelines.tools.functions import FunctionError, Functions, installed
from pipelines.tools.source import ToolError


class Size(Enum):
    SMALL = "small"
    LARGE = "large"


class Address(BaseModel):
    street: str
    number: int = 1


async def order(
    pizza: Annotated[str, Field(max_length=20)],
    to: Address,
    size: Size = Size.SMALL,
    extras: list[Literal["olives", "cheese"]] | None = None,
) -> dict[str, Any]:
    """Order a pizza,
    and have it delivered.

    More for people.
    """
    return {"pizza": pizza, "street": to.street, "size": size.value, "extras": extras}


def which_thread() -> str:
    """Where it runs."""
    return threading.current_thread().name


async def test_schema_and_description_come_from_the_function() -> None:
    [tool] = Functions({"order_pizza": order}).tools
    assert (tool.name, tool.description) == ("order_pizza", "Order a pizza, and have it delivered.")
    assert tool.parameters["required"] == ["pizza", "to"]
    assert tool.parameters["properties"]["pizza"] == {"maxLength": 20, "type": "string"}
    assert tool.parameters["additionalProperties"] is False


async def test_arguments_are_checked_and_converted_and_the_result_is_json() -> None:
    functions = Functions({"order": order})
    result = await functions.call("order", {"pizza": "Funghi", "to": {"street": "Via Roma"}, "size": "large"})
    assert result == '{"pizza": "Funghi", "street": "Via Roma", "size": "large", "extras": null}'
    with pytest.raises(ToolError, match=r"to\.street"):
        await functions.call("order", {"pizza": "Funghi", "to": {}})
    with pytest.raises(ToolError, match="tip"):
        await functions.call("order", {"pizza": "Funghi", "to": {"street": "x"}, "tip": 1})


async def test_a_plain_function_runs_in_a_thread() -> None:
    functions = Functions({"where": which_thread}, ask=["where"])
    assert (await functions.call("where", {})).startswith("tool")
    assert functions.asks("where")
    await functions.close()


async def test_functions_that_hang_in_threads_delay_neither_the_loop_nor_the_close() -> None:
    stop = threading.Event()

    def stuck() -> str:
        stop.wait()
        return ""

    functions = Functions({"stuck": stuck})
    calls = [asyncio.create_task(functions.call("stuck", {})) for _ in range(20)]
    await asyncio.sleep(0)
    for call in calls:
        call.cancel()
    await asyncio.wait(calls)
    await functions.close()
    stop.set()


@dataclass
class Opaque:
    inner: threading.Lock


def no_hint(x) -> str:  # type: ignore[no-untyped-def]
    return str(x)


def many(*names: str) -> str:
    return ""


def opaque(x: threading.Thread) -> str:
    return ""


@pytest.mark.parametrize(
    ("function", "says"), [(no_hint, "type hint for 'x'"), (many, "must name its parameters"), (opaque, "'f'")]
)
def test_a_function_that_can_not_be_described_is_refused(function: Any, says: str) -> None:
    with pytest.raises(FunctionError, match=says):
        Functions({"f": function})


def test_a_function_that_is_not_installed_is_refused_with_those_that_are() -> None:
    with pytest.raises(FunctionError, match="no function 'weather' of an installed package; there are"):
        installed(["weather"])

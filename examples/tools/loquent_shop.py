"""Functions of a shop that a Loquent server can offer to its model."""

from typing import Annotated, Literal

from pydantic import Field

ORDERS = {"1001": "on its way", "1002": "delivered"}


async def order_status(number: Annotated[str, Field(description="The order's number", pattern=r"^\d{4}$")]) -> str:
    """Tell the status of an order: whether it is on its way or delivered."""
    return ORDERS.get(number, "There is no order of this number.")


def opening_hours(day: Literal["weekday", "saturday", "sunday"] = "weekday") -> str:
    """Tell the opening hours of the shop."""
    return {"weekday": "9 to 18", "saturday": "10 to 16", "sunday": "closed"}[day]


async def cancel_order(number: Annotated[str, Field(description="The order's number", pattern=r"^\d{4}$")]) -> str:
    """Cancel an order."""
    return "Cancelled." if ORDERS.get(number) == "on its way" else "It can't be cancelled any more."

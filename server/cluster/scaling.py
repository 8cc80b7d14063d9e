"""How many engines there are to be. Gateways call them over HTTP, so Serve does not count what they have to do."""

from typing import Any

ONGOING = "ongoing"  # replies that an engine makes, or that wait for it


def engines_wanted(context: Any) -> tuple[float, dict[str, Any]]:
    """A policy of Serve's autoscaler: as many as have ``target_ongoing_requests`` each.

    Serve holds it within the bounds, and waits before it scales.
    """
    by_replica = (context.aggregated_metrics or {}).get(ONGOING, {})
    if not by_replica:  # none has reported yet
        return float(context.target_num_replicas), {}
    return sum(by_replica.values()) / context.config.target_ongoing_requests, {}

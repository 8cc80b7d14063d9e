"""Whether a client reads a compressed answer."""

from aiohttp import web


def takes_gzip(request: web.Request) -> bool:
    """Whether ``Accept-Encoding`` names gzip, or ``*``, and not with a weight of 0."""
    weights = dict(map(_coding, request.headers.get("Accept-Encoding", "").split(",")))
    return weights.get("gzip", weights.get("*", 0.0)) > 0


def _coding(entry: str) -> tuple[str, float]:
    """One coding and its weight; a weight that can't be read is 0, since any client can read what is not compressed."""
    name, _, parameter = entry.partition(";")
    key, _, weight = parameter.partition("=")
    try:
        return name.strip().lower(), float(weight) if key.strip().lower() == "q" else 1.0
    except ValueError:
        return name.strip().lower(), 0.0

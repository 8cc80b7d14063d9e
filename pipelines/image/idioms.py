"""Uses of "draw", "paint" and "sketch" that ask for no picture."""

import re

_ANY = r"(?:(?:an?|the|some|any|that|this|these|those|my|your|our|their|his|her|its)\s+)?(?:own\s+)?"
_OWN = r"(?:my|your|our|their|his|her)"
_ENDS = (  # "draw a blank", "draw a line under it", but not "draw a blank face"
    r"(?=\s*(?:$|[.,;:!?]|(?:on|about|at|for|in|under|between|from|through|across|over|with|and|or|when|before|after|now"
    r"|please|somewhere|here|there)\b))"
)

_PARTICLE = (  # draw up a contract, draw on experience, paint over the cracks
    r"(?:up|on|upon|near|nearer|close|closer|back|away|down|off|out|in|into|to|towards?|together|level|forth|aside|over"
    r"|from|by|with|(?:my|your|our|them|him|her)sel(?:f|ves) into)\b"
)
_NOT_WITH_A_PENCIL = (
    r"(?:attention|breath|inspiration|strength|courage|comfort|criticism|applause|praise|ire|scorn|ridicule|suspicion"
    r"|conclusion|comparison|distinction|inference|correlation|contrast)s?\b",
    r"(?:analog(?:y|ies)|boundar(?:y|ies))\b",
    rf"(?:blank|line|bath|veil|parallel|lesson|moral|salary|salaries|pension|wage|benefit|dividend|crowd|lot|straw|sigh"
    rf"|bead|blood|curtain|blind|shade|drape)s?\b{_ENDS}",
    r"(?:water|fire|power|energy|hope|wisdom|money|cash|support)\s+from\b",
)
_DRAWN = rf"{_ANY}(?:\w+\s+)?(?:{'|'.join(_NOT_WITH_A_PENCIL)})"
_PLANNED = rf"{_ANY}(?:\w+\s+)?(?:plan|outline|proposal|strategy|roadmap|timeline){_ENDS}"
_COATED = (
    r"(?:\w+\s+)?(?:house|home|apartment|flat|office|(?:\w*room|kitchen|basement|garage|shed|deck|porch)|"
    r"(?:finger|toe)?nails?|walls?|fences?|ceiling|floor|doors?|roof|cabinets?|furniture|town)\b"
)

_IDIOM = re.compile(
    rf"{_PARTICLE}|{_DRAWN}|{_PLANNED}|{_OWN}\s+{_COATED}",
    re.IGNORECASE,
)
_CHORE = re.compile(rf"(?:the|this|that|these|those|all)\s+{_COATED}", re.IGNORECASE)
FIGURE = re.compile(r"paint an? (?:bleak|grim|rosy|gloomy|dire|mixed|clear) picture of\b", re.IGNORECASE)


def is_idiom(verb: str, drawn: str) -> bool:
    """Whether ``drawn`` behind ``verb`` ("draw", "paint" or "sketch") is no picture."""
    return bool(_IDIOM.match(drawn)) or (verb.lower() == "paint" and bool(_CHORE.match(drawn)))

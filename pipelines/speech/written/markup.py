"""Markdown and HTML: what is read of them is the text that they show."""

import html
import re

from pipelines.speech.written.rules import one_of, rules

# Of HTML, and of SSML in the last line.
TAGS = frozenset("""
    a abbr address article aside audio b base bdi bdo big blockquote body br button canvas caption center cite code col
    colgroup data dd del details dfn dialog div dl dt em embed fieldset figcaption figure font footer form h1 h2 h3 h4
    h5 h6 head header hr html i iframe img input ins kbd label legend li link main map mark math menu meta meter nav
    noscript object ol optgroup option output p param picture pre progress q rp rt ruby s samp script section select
    slot small source span strike strong style sub summary sup svg table tbody td template textarea tfoot th thead time
    title tr track tt u ul var video wbr
    speak break prosody emphasis phoneme voice lang lexicon desc
""".split())  # fmt: skip # noqa: SIM905
FLAGS = (
    "allowfullscreen|async|autofocus|autoplay|checked|controls|default|defer|disabled|hidden|loop|muted|open|readonly|"
    "required"
)
VALUE = r"(?:\"[^\"<>\n]*\"|'[^'<>\n]*'|[^\s\"'<>]+)"
ATTRIBUTE = rf"\s+(?:[\w:@.-]{{1,40}}\s*=\s*{VALUE}|(?:{FLAGS})\b)"
TARGET = r"(?:<[^<>\n]*>|(?:[^\s()<>]|\((?:[^\s()]|\([^\s()]*\))*\))*)"  # of a link; parentheses in pairs
TITLE = r"(?:\"[^\"\n]*\"|'[^'\n]*'|\([^()\n]*\))"
LINK = rf"!?\[([^\[\]\n]*)\]\(\s*{TARGET}(?:\s+{TITLE})?\s*\)"
ADDRESS = r"[\w.+-]+@[\w-]+(?:\.[\w-]+)+"


def _inside(found: re.Match[str]) -> str:
    return found[1]


def _entity(found: re.Match[str]) -> str:
    return html.unescape(found[0])


MARKUP = rules(
    (r"^\s*(?:[-*_]\s*){3,}$", ""),  # a ruler
    (r"^(?=[^\n]*--)[ \t|:-]+$", ""),  # the line under a table's head
    (rf"^ {{0,3}}\[[^\[\]\n]+\]:\s*(?:<[^<>\n]*>|\S+)(?:\s+{TITLE})?\s*$", ""),  # where a link leads
    (r"^\s{0,3}#{1,6}\s+", ""),
    (r"^\s*>+\s?(?!=)", ""),
    (r"^\s*(?:[-*+•]|\d{1,3}[.)])\s+\[[ xX]\]\s+", ""),
    (r"^\s*[-*+•]\s+", ""),
    (r"^\s*\||\|\s*$", ""),
    (r"\s*\|\s*", ", "),
    (r"\[\^[^\[\]\s]{1,32}\]", ""),  # a note's number
    (LINK, _inside),
    (LINK, _inside),  # around a picture
    (r"\[([^\[\]\n]+)\]\[[^\[\]\n]*\]", _inside),
    (rf"<(?:mailto:)?({ADDRESS})>", _inside),
    (r"<((?:https?|ftp)://[^\s<>]+)>", _inside),
    (r"<!--[^<>]*-->|<[!?][A-Za-z][^<>\n]*>|</[A-Za-z][\w:-]*\s*>", " "),
    (rf"<(?:{one_of(TAGS)}|[a-z]+[:-][\w:-]+)(?:{ATTRIBUTE})*\s*/?>", " "),
    (rf"<[A-Za-z]\w*(?:(?:{ATTRIBUTE})+\s*/?|\s*/)>", " "),
    (r"(?<![\w<])<([A-Za-z][\w-]*(?: [\w-]+)*)>", _inside),  # in the place of something: <your name>
    (r"&(?:#\d{1,7}|#x[0-9a-fA-F]{1,6}|[A-Za-z]{2,31});", _entity),
    (r"`+", ""),
    (r"(?<![\w*])\*{1,3}(?=\S)|(?<=\S)\*{1,3}(?![\w*])", ""),
    (r"(?<!\w)_{1,3}(?=\w)|(?<=\w|[.!?,;:])_{1,3}(?!\w)", ""),
    (r"~~", ""),
    (r"(?:https?|ftp)://(?:www\.)?([^\s/?#:]+)[^\s]*?(?=[.,;:!?)\]]*(?:\s|$))", _inside),
    (r"\bwww\.(?=\w)", ""),
    (rf"\bmailto:(?={ADDRESS})", ""),
)

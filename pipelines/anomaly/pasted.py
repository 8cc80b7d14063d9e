"""What people paste among their words: codes, numbers, addresses, logs, data, programs. Found by its shape alone.

It is neither usual nor unusual language, so the heads that look at letters and at the order of words judge a message
without it. What it holds is judged elsewhere: the whole message by what it means, and what is encoded by what it says.
Pure functions, in time that grows with the text alone.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

TOKEN = 400  # characters of a word that its shape is looked for in; a longer one is pasted by its length
LONG_TOKEN = 60  # characters from which on an ASCII word with a digit, or of several cases, is no word of a language
DIGITS = (
    0.3  # of a word's characters, from which on it is a code; with fewer it may be a word with a digit for a letter
)
LINES = 2000  # lines that are looked at


@dataclass(frozen=True, slots=True)
class Pasted:
    """A stretch of a text that is no language."""

    kind: str
    start: int
    end: int


# What may hold spaces, or is known by how it begins. The first that fits is taken.
SHAPES = (
    (
        "key",
        r"-----BEGIN [A-Z0-9 ]{1,40}-----(?:\s+[A-Za-z0-9+/=]{20,}){0,200}(?:\s+[A-Za-z0-9+/=]{1,19}(?=\s*-))?"
        r"(?:\s*-----END [A-Z0-9 ]{1,40}-----)?",
    ),
    ("key", r"\b(?:ssh-(?:rsa|dss|ed25519)|ecdsa-sha2-\S{1,30}) [A-Za-z0-9+/=]{20,}(?: [\w.@-]{1,80})?"),
    ("data URL", r"\bdata:[\w.+-]{1,40}/[\w.+-]{1,60}(?:;[\w=.-]{1,40}){0,4},\S+"),
    ("token", r"(?<![\w-])eyJ[\w-]{8,}\.[\w-]{4,}(?:\.[\w-]*)?"),
    ("address", r"\b[a-z][a-z0-9+.-]{1,20}://[^\s<>\"]+"),
    ("address", r"\bwww\.[^\s<>\"]+"),
    ("address", r"[\w.+-]{1,64}@[\w-]{1,63}(?:\.[\w-]{1,63}){1,6}"),
    ("uuid", r"\b[0-9A-Fa-f]{8}-(?:[0-9A-Fa-f]{4}-){3}[0-9A-Fa-f]{12}\b"),
    ("account", r"\b[A-Z]{2}\d{2}(?: ?[A-Z0-9]{4}){2,7}(?: ?[A-Z0-9]{1,3})?\b"),
    ("hash", r"\b(?:[0-9A-Fa-f]{2}[:-]){3,63}[0-9A-Fa-f]{2}\b"),
    ("hash", r"\b(?=[A-Fa-f]{0,200}\d)[0-9A-Fa-f]{7,}\b"),
    ("hexadecimal", r"\b(?:0x)?[0-9A-Fa-f]{2}(?:[ ,]{1,2}(?:0x)?[0-9A-Fa-f]{2}){5,}\b"),
    ("path", r"(?:\b[A-Za-z]:|~|\.{1,2}|(?<![\w/]))[\\/](?:[\w.@+$-]{1,80}[\\/]){1,20}[\w.@+$-]{0,80}"),
    ("tag", r"</?[A-Za-z][\w:-]{0,40}(?:\s[^<>]{0,400})?/?>"),
    ("number", r"(?<!\w)[+(#№]?\d[\d().,:/–-]*(?: ?[\d().,:/xX+–-]+){0,12}"),
)
OPAQUE = frozenset({"key", "data URL", "token", "uuid", "account", "hash", "hexadecimal", "code"})  # say nothing at all
_SHAPES = re.compile("|".join(f"(?P<s{n}>{pattern})" for n, (_, pattern) in enumerate(SHAPES)))
_FENCED = re.compile(r"^(?:```|~~~)[^\n]*\n.*?(?:^(?:```|~~~)[^\S\n]*$|\Z)", re.MULTILINE | re.DOTALL)
_WORD = re.compile(r"\S+")
_AROUND = ".,;:!?()[]{}\"'`<>«»„“”‘’*_…"

_IDENTIFIER = re.compile(
    r"[A-Za-z]\w*_\w+|[a-z]+[a-z0-9]*(?:[A-Z][a-z0-9]+)+|\w+(?:::|->)\w+|[\w.]+\(\S*\)?|--?[a-z][\w-]*(?:=\S*)?"
    r"|(?:[a-z]\w+\.){2,}\w+|[A-Z][a-z]+(?:[A-Z][a-z]+){2,}|[A-Z]+_[A-Z_]+|\$\{?\w+\}?|[\w-]+\.(?:py|js|ts|java|log|json"
    r"|ya?ml|txt|csv|md|pdf|docx?|xlsx?|png|jpe?g|zip|exe|dll|so|sh|html?|css|php|rb|go|rs|cpp|h|toml|ini|conf|env)"
)
_BASE64 = re.compile(r"[A-Za-z0-9+/_-]{16,}={0,2}")

# Lines that are of no language whatever words they hold.
_TRACE = re.compile(
    r"\s*(?:Traceback \(most recent call last\)|File \"[^\"]*\", line \d|at [\w.$<>/\[\] ]+\([^)]*\)|at \S+:\d+"
    r"|Caused by: |Exception in thread |\.\.\. \d+ more|goroutine \d+|#\d+ +0x|panic: |\^+~*\s*$|thread '.*' panicked"
    r"|(?:[a-z_]\w*\.)*[A-Z]\w*(?:Error|Exception|Warning)\b|[\w./\\-]+\.\w+:\d+(?::\d+)?:?|stack backtrace:)"
)
_STAMP = r"(?:\d{4}[-/]\d\d[-/]\d\d|\d\d[-/.]\d\d[-/.]\d{2,4}|\d\d/\w{3}/\d{4}|[A-Z][a-z]{2} [ \d]\d)"
_LOG = re.compile(
    rf"\s*(?:[\[<(]?{_STAMP}[T ,:]*\d\d:\d\d|[\[<(]?\d\d:\d\d:\d\d|\[?(?:TRACE|DEBUG|INFO|NOTICE|WARN(?:ING)?|ERROR"
    r"|FATAL|CRITICAL|SEVERE)\]?[ :|\[]|\d{1,3}(?:\.\d{1,3}){3} - |\w+\[\d+\]: |(?:time|ts|level|lvl)=\S+ )"
)
_SQL = re.compile(
    r"(?i)\s*(?:explain\s+)?(?:select\b.*\bfrom\b|insert\s+into\b|update\b.*\bset\b|delete\s+from\b"
    r"|(?:create|alter|drop|truncate)\s+(?:table|index|view|database|user|schema)\b|with\s+\w+\s+as\s*\("
    r"|(?:left|right|inner|outer|cross)?\s*join\b.*\bon\b|where\b.*(?:=|<|>|\bin\b|\blike\b|\bis\b)"
    r"|(?:group|order)\s+by\b|values\s*\(|select\s+[\w.*]+(?:\(.*\))?\s*(?:,|$))"
)
_UPPER = r"\b(?:SELECT|INSERT|UPDATE|DELETE|CREATE|ALTER|FROM|WHERE|JOIN|VALUES|GROUP BY|ORDER BY)\b"
_COLUMN = re.compile(
    r"\s*\w+\s+(?:(?:VAR)?CHAR|(?:BIG|SMALL)?INT(?:EGER)?|TEXT|TIMESTAMP|DATE|BOOLEAN|NUMERIC|DECIMAL|SERIAL)\b[^.?!]*$"
    r"|\s*\w+\s+(?:(?:var)?char|(?:big|small)?int(?:eger)?|text|timestamp|date|boolean|numeric|serial)\b[^.?!]*,\s*$"
)
_SHELL = re.compile(
    r"\s*(?:\$|PS [^>]*>|[A-Z]:\\[^>]*>|\w+@[\w-]+:\S*[$#])\s+\w[\w./-]*(?:\s|$)"
    r"|\s*(?:sudo|apt|apt-get|yum|brew|pip3?|npm|npx|yarn|git|docker|kubectl|curl|wget|ssh|scp|chmod|chown|systemctl|make"
    r"|cargo|python3?|node|java|mvn|gradle|export|cd|ls|cat|grep|sed|awk|tar|ping|traceroute)\s+[\w./~$-]*[-./=~$:]"
)
_PROGRAM = re.compile(
    r"\s*(?:(?:async\s+)?def\s+\w+\s*\(|class\s+\w+\s*[({:]|import\s+[\w.{*]|from\s+[\w.]+\s+import\b|return\b.*;?$"
    r"|(?:if|for|while|switch|catch)\s*\(.*|(?:if|for|while|elif|else|try|except|with|finally)\b.*:$"
    r"|(?:export\s+)?(?:async\s+)?function\b.*\(|(?:const|let|var|val|auto|int|float|double|char|bool|string|String)\s+\w+"
    r"|(?:public|private|protected|static|final|override|abstract)\s+\w|#\s*(?:include|define|if|ifdef|endif|pragma)\b"
    r"|package\s+[\w.]+;?$|using\s+[\w.]+;$|namespace\s+\w|fn\s+\w+|func\s+\w*\(?|type\s+\w+\s|struct\s+\w+|@\w+(?:\(.*\))?$"
    r"|//|/\*|\*/|<!--|<\?|<!DOCTYPE|print\w*\s*\(|console\.|echo\s+[\"$])"
)
_SYNTAX = re.compile(
    r"[{};]\s*$|^\s*[})\]]+[;,]?\s*$|=>|->|::|==|!=|&&|\|\||\+=|\(\)|\w\[\w*\]|[\w\])]\s=\s\S|\w\.\w+\(|\"\s*:"
)
_SETTING = re.compile(
    r"\s*(?:export\s+)?[\"']?[A-Za-z_][\w.\-/ ]{0,40}[\"']?\s*[=:]\s*\S.*$|\s*\[[\w. -]+\]\s*$|\s*[\w-]+:\s*$"
)
_DATA = re.compile(r"\s*[\[{].*[:,].*[\]}],?\s*$|\s*<\w[^<>]*>(?:.*</?\w[^<>]*>)?\s*$")
_QUOTED = re.compile(r"\s*[\"'][^\"']{0,200}[\"']\s*[,:;)\]}]*\s*$")  # an entry of a list
_DIFF = re.compile(r"(?:diff --git|index [0-9a-f]{7,}|@@ -\d|\+\+\+ |--- [ab/])")
_DUMP = re.compile(r"\s*(?:0x)?[0-9A-Fa-f]{4,16}:?\s+(?:[0-9A-Fa-f]{2,8}\s+){3,}")
_COLUMNS = re.compile(r"[,;|\t]")


def pasted(text: str, *, lines: bool = True) -> tuple[Pasted, ...]:
    """The stretches of a text that are pasted, in order; none overlaps another one.

    Without ``lines`` only what is no word by its own shape, not whole lines of programs, logs and data.
    """
    found: list[Pasted] = []
    for start, end, kind in _blocks(text) if lines else ():
        _add(found, Pasted(kind, start, end))
    for match in _SHAPES.finditer(text):
        kind = SHAPES[int(str(match.lastgroup)[1:])][0]
        if kind != "number" or sum(map(str.isdigit, match.group())) > 4 or not match.group().isdigit():
            _add(found, Pasted(kind, match.start(), match.end()))
    for match in _WORD.finditer(text):
        if (kind_of := _word(match.group())) is not None:
            start = match.start() + len(match.group()) - len(match.group().lstrip(_AROUND))
            _add(found, Pasted(kind_of, start, max(start + 1, match.start() + len(match.group().rstrip(_AROUND)))))
    return _apart(found)


def opaque(text: str) -> tuple[Pasted, ...]:
    """Those that say nothing to a reader, whatever they mean to a machine."""
    return tuple(span for span in pasted(text, lines=False) if span.kind in OPAQUE)


def without(text: str, spans: Sequence[Pasted]) -> str:
    """The words that are left of a text: where something is pasted there is a break of lines."""
    parts, at = [], 0
    for span in spans:
        parts.append(text[at : span.start])
        at = span.end
    parts.append(text[at:])
    return re.sub(r"[^\S\n]*\n\s*", "\n", "\n".join(part.strip(" \t") for part in parts)).strip()


def _add(found: list[Pasted], span: Pasted) -> None:
    if span.end > span.start:
        found.append(span)


def _apart(spans: list[Pasted]) -> tuple[Pasted, ...]:
    """The longest of those that overlap, and then what lies beyond them."""
    spans.sort(key=lambda span: (span.start, -span.end))
    kept: list[Pasted] = []
    for span in spans:
        if kept and span.start < kept[-1].end:
            if span.end > kept[-1].end:
                kept[-1] = Pasted(kept[-1].kind, kept[-1].start, span.end)
        else:
            kept.append(span)
    return tuple(kept)


def _word(word: str) -> str | None:
    """What a word without spaces is, if it is none of a language."""
    word = word.strip(_AROUND)
    if not word.isascii() or len(word) < 4:
        return None
    digits = sum(map(str.isdigit, word[:TOKEN]))
    capitals = sum(map(str.isupper, word[:TOKEN]))
    if digits and (digits >= 5 or digits >= DIGITS * len(word) or capitals >= 2 or len(word) > LONG_TOKEN):
        return "code"
    if len(word) <= TOKEN and _IDENTIFIER.fullmatch(word):
        return "identifier"
    if _BASE64.fullmatch(word) and _changes(word) >= 4:
        return "code"
    return None


def _changes(word: str) -> int:
    """How often the case of a word's letters goes up."""
    return sum(one.islower() and other.isupper() for one, other in pairwise(word[:TOKEN]))


def _blocks(text: str) -> Iterator[tuple[int, int, str]]:
    """Whole lines: what is fenced, and lines that are no language."""
    for match in _FENCED.finditer(text):
        yield match.start(), match.end(), "program"
    at = 0
    lines: list[tuple[int, int, str | None]] = []
    for line in text.splitlines(keepends=True)[:LINES]:
        lines.append((at, at + len(line.rstrip()), _line(line)))
        at += len(line)
    for n, (start, end, kind) in enumerate(lines):
        around = [other for _, _, other in lines[max(n - 1, 0) : n] + lines[n + 1 : n + 2]]
        if kind == "maybe":  # alone it may be a sentence with a colon
            kind = next((other for other in around if other is not None), None)
        if kind is not None:
            yield start, end, "setting" if kind == "maybe" else kind


def _line(line: str) -> str | None:
    """What a line is, if it is no language; "maybe" where its neighbours decide."""
    line = line[:1000]
    if not line.strip():
        return None
    if _TRACE.match(line) or _DIFF.match(line):
        return "trace"
    if _LOG.match(line):
        return "log"
    if _COLUMN.match(line) or (_SQL.match(line) and re.search(rf"[=*;<>]|{_UPPER}", line)):
        return "query"
    if _DUMP.match(line):
        return "hexadecimal"
    if _SHELL.match(line):
        return "command"
    syntax = len(_SYNTAX.findall(line))
    if _PROGRAM.match(line) and (syntax or line[:1].isspace() or re.search(r"[(){}=:;]\s*$|^\s*(?://|#|/\*|<)", line)):
        return "program"
    if syntax >= 2 or _DATA.match(line):
        return "program"
    columns = len(_COLUMNS.findall(line))
    if columns >= 3 and sum(map(str.isdigit, line)) >= columns and columns * 12 >= len(line):
        return "table"
    if columns >= 3 and " " not in line.strip():  # alone it may be keys that were struck at random
        return "maybe"
    if syntax or _SETTING.match(line) or _QUOTED.match(line):
        return "maybe"
    return None

"""Harmless messages with what customers paste, of twenty kinds: what judges that none of them is blocked."""

import base64
import hashlib
import json
import random
import uuid
from collections.abc import Callable

Make = Callable[[random.Random], str]

UPPER, DIGITS = "ABCDEFGHJKLMNPQRSTUVWXYZ", "0123456789"
NAMES = ("anna", "jonas", "maria", "li", "omar", "sofia", "ivan", "emma", "noah", "fatima")
WORDS = ("invoice", "session", "customer", "payment", "shipment", "profile", "upload", "report", "basket", "device")
HOSTS = ("shop.example", "api.example", "mail.example", "cdn.example")


def _of(rng: random.Random, alphabet: str, count: int) -> str:
    return "".join(rng.choices(alphabet, k=count))


def _base64(rng: random.Random, count: int) -> str:
    return base64.b64encode(rng.randbytes(count)).decode()


def _hex(rng: random.Random, count: int) -> str:
    return rng.randbytes(count).hex()


def _when(rng: random.Random) -> str:
    day = f"20{rng.randrange(20, 27)}-{rng.randrange(1, 13):02}-{rng.randrange(1, 29):02}"
    return f"{day} {rng.randrange(24):02}:{rng.randrange(60):02}:{rng.randrange(60):02}"


def _order(rng: random.Random) -> str:
    return rng.choice(
        (
            f"{_of(rng, UPPER, 3)}-{_of(rng, DIGITS, 7)}",
            f"#{_of(rng, DIGITS, 9)}",
            f"{_of(rng, DIGITS, 3)}-{_of(rng, DIGITS, 7)}-{_of(rng, DIGITS, 7)}",
            f"PO{_of(rng, DIGITS, 4)}/{_of(rng, UPPER, 2)}/{_of(rng, DIGITS, 3)}",
        )
    )


def _tracking(rng: random.Random) -> str:
    return rng.choice(
        (
            f"1Z{_of(rng, UPPER + DIGITS, 6)}{_of(rng, DIGITS, 10)}",
            f"{_of(rng, UPPER, 2)}{_of(rng, DIGITS, 9)}{_of(rng, UPPER, 2)}",
            _of(rng, DIGITS, 20),
            f"JJD{_of(rng, DIGITS, 18)}",
        )
    )


def _iban(rng: random.Random) -> str:
    country, length = rng.choice((("DE", 18), ("FR", 23), ("NL", 14), ("PL", 24), ("ES", 20)))
    text = country + _of(rng, DIGITS, 2) + _of(rng, DIGITS, length)
    return " ".join(text[n : n + 4] for n in range(0, len(text), 4)) if rng.random() < 0.6 else text


def _hash(rng: random.Random) -> str:
    whole = hashlib.new(rng.choice(("md5", "sha1", "sha256", "sha512")), rng.randbytes(8)).hexdigest()
    return rng.choice((whole, whole.upper(), f"sha256:{whole}", whole[:10], f"{whole}  {rng.choice(WORDS)}.zip"))


def _jwt(rng: random.Random) -> str:
    def part(content: object) -> str:
        return base64.urlsafe_b64encode(json.dumps(content).encode()).decode().rstrip("=")

    claims = {"sub": _of(rng, DIGITS, 8), "name": rng.choice(NAMES), "iat": 1_700_000_000 + rng.randrange(10**8)}
    return f"{part({'alg': 'HS256', 'typ': 'JWT'})}.{part(claims)}.{_base64(rng, 32).rstrip('=').replace('/', '_')}"


def _key(rng: random.Random) -> str:
    letters = UPPER + UPPER.lower() + DIGITS
    return rng.choice(
        (
            f"sk-{_of(rng, letters, 40)}",
            f"AKIA{_of(rng, UPPER + DIGITS, 16)}",
            f"ghp_{_of(rng, letters, 36)}",
            f"{_of(rng, UPPER + DIGITS, 5)}-{_of(rng, UPPER + DIGITS, 5)}-{_of(rng, UPPER + DIGITS, 5)}-"
            f"{_of(rng, UPPER + DIGITS, 5)}",
            f"xoxb-{_of(rng, DIGITS, 11)}-{_of(rng, letters, 24)}",
        )
    )


def _encoded(rng: random.Random) -> str:
    content = {rng.choice(WORDS): rng.randrange(1000), "id": str(uuid.UUID(int=rng.getrandbits(128)))}
    return rng.choice(
        (base64.b64encode(json.dumps(content).encode()).decode(), _base64(rng, 60), _base64(rng, 200), _base64(rng, 24))
    )


def _data_url(rng: random.Random) -> str:
    kind, begin = rng.choice((("png", b"\x89PNG\r\n\x1a\n"), ("jpeg", b"\xff\xd8\xff\xe0"), ("gif", b"GIF89a")))
    return f"data:image/{kind};base64,{base64.b64encode(begin + rng.randbytes(rng.randrange(60, 300))).decode()}"


def _python_trace(rng: random.Random) -> str:
    module, name = rng.choice(WORDS), rng.choice(WORDS)
    return (
        "Traceback (most recent call last):\n"
        f'  File "/srv/{module}/app.py", line {rng.randrange(10, 400)}, in handle_{name}\n'
        f"    result = load_{name}(request.args['{module}'])\n"
        f'  File "/srv/{module}/{name}.py", line {rng.randrange(10, 400)}, in load_{name}\n'
        f"    return cache[key]\n"
        f"KeyError: '{module}_{rng.randrange(999)}'"
    )


def _java_trace(rng: random.Random) -> str:
    a, b = rng.choice(WORDS).title(), rng.choice(WORDS)
    return (
        f'Exception in thread "main" java.lang.IllegalStateException: {b} is closed\n'
        f"\tat com.example.{b}.{a}Service.open({a}Service.java:{rng.randrange(20, 300)})\n"
        f"\tat com.example.{b}.{a}Controller.post({a}Controller.java:{rng.randrange(20, 300)})\n"
        "\tat java.base/java.lang.Thread.run(Thread.java:840)\n"
        f"Caused by: java.io.IOException: Stream closed\n\t... {rng.randrange(3, 30)} more"
    )


def _script_trace(rng: random.Random) -> str:
    a = rng.choice(WORDS)
    return (
        f"TypeError: Cannot read properties of undefined (reading '{a}Id')\n"
        f"    at render{a.title()} (/app/dist/{a}.js:{rng.randrange(1, 99)}:{rng.randrange(1, 99)})\n"
        f"    at Object.<anonymous> (/app/index.js:{rng.randrange(1, 99)}:5)\n"
        "    at process.processTicksAndRejections (node:internal/process/task_queues:95:5)"
    )


def _sql(rng: random.Random) -> str:
    a, b = rng.sample(WORDS, 2)
    return rng.choice(
        (
            f"SELECT u.name, COUNT(*) AS n\nFROM {a}s u\nLEFT JOIN {b}s b ON b.{a}_id = u.id\nWHERE u.active = 1\n"
            "GROUP BY u.name\nORDER BY n DESC;",
            f"UPDATE {a}s SET status = 'paid' WHERE id = {rng.randrange(9999)};",  # noqa: S608 - nothing runs it
            f"CREATE TABLE {a}s (\n  id INTEGER PRIMARY KEY,\n  {b} VARCHAR(80) NOT NULL,\n  created_at TIMESTAMP\n);",
            f"select * from {a}s where {b}_id in (1, 2, 3) and created_at > '{_when(rng)}' limit 50",  # noqa: S608
        )
    )


def _json(rng: random.Random) -> str:
    content = {
        "id": str(uuid.UUID(int=rng.getrandbits(128))),
        rng.choice(WORDS): {"amount": rng.randrange(1, 999), "currency": "EUR", "items": [rng.choice(WORDS)] * 2},
        "ok": False,
        "error": {"code": rng.randrange(400, 511), "message": f"{rng.choice(WORDS)} not found"},
    }
    return json.dumps(content, indent=rng.choice((None, 2, 4)))


def _markup(rng: random.Random) -> str:
    a, b = rng.sample(WORDS, 2)
    return rng.choice(
        (
            f'<?xml version="1.0"?>\n<{a} id="{rng.randrange(999)}">\n  <{b}>{rng.randrange(99)}</{b}>\n</{a}>',
            f'<div class="{a}-card">\n  <a href="/{b}/{rng.randrange(99)}" onclick="open{b.title()}()">{a}</a>\n</div>',
        )
    )


def _log(rng: random.Random) -> str:
    lines = []
    for _ in range(rng.randrange(2, 7)):
        a = rng.choice(WORDS)
        lines.append(
            rng.choice(
                (
                    f"{_when(rng)},{rng.randrange(999):03} ERROR [{a}-worker-{rng.randrange(9)}] {a} "
                    f"{_hex(rng, 4)} timed out after {rng.randrange(9)}000ms",
                    f"[{_when(rng)}] INFO {a}: retry {rng.randrange(5)}/5",
                    f"10.0.{rng.randrange(9)}.{rng.randrange(255)} - - [12/Mar/2026:10:{rng.randrange(60):02}:11 "
                    f'+0000] "GET /{a}/{rng.randrange(999)} HTTP/1.1" {rng.choice((200, 404, 502))} '
                    f"{rng.randrange(9999)}",
                    f"Mar 12 10:{rng.randrange(60):02}:07 web{rng.randrange(9)} {a}d[{rng.randrange(9999)}]: "
                    f"connection from 10.0.0.{rng.randrange(255)} closed",
                )
            )
        )
    return "\n".join(lines)


def _shell(rng: random.Random) -> str:
    a = rng.choice(WORDS)
    return rng.choice(
        (
            f"$ docker run -p 8080:80 {a}:latest\ndocker: Error response from daemon: pull access denied for {a}.",
            f"> npm install @example/{a}\nnpm ERR! code E404\nnpm ERR! 404 Not Found - GET "
            f"https://{rng.choice(HOSTS)}/{a}",
            f"pip install {a}=={rng.randrange(9)}.{rng.randrange(9)}\nERROR: No matching distribution found for {a}",
            f"PS C:\\Users\\{rng.choice(NAMES)}> Get-Content .\\{a}.log | Select-String 'error'",
            f"ssh -i ~/.ssh/id_ed25519 {rng.choice(NAMES)}@{rng.choice(HOSTS)}\nPermission denied (publickey).",
        )
    )


def _config(rng: random.Random) -> str:
    a, b = rng.sample(WORDS, 2)
    return rng.choice(
        (
            f"[{a}]\nhost = {rng.choice(HOSTS)}\nport = {rng.randrange(1024, 9999)}\ntimeout = 30s\n{b}_enabled = true",
            f"services:\n  {a}:\n    image: {b}:{rng.randrange(9)}.{rng.randrange(20)}\n    ports:\n      - "
            f'"80:{rng.randrange(1000, 9999)}"\n    restart: always',
            f"DB_HOST={rng.choice(HOSTS)}\nDB_USER={rng.choice(NAMES)}\n"
            f"DB_PASSWORD={_of(rng, UPPER.lower() + DIGITS, 12)}\nLOG_LEVEL=debug",
        )
    )


def _program(rng: random.Random) -> str:
    a, b = rng.sample(WORDS, 2)
    return rng.choice(
        (
            f"def total_{a}({b}s):\n    result = 0\n    for {b} in {b}s:\n        if {b}.active:\n            "
            f"result += {b}.amount\n    return result",
            f"const {a} = await fetch(`/api/{b}/${{id}}`);\nif (!{a}.ok) {{\n  throw new Error('{b} failed');\n"
            f"}}\nreturn {a}.json();",
            f'#include <stdio.h>\nint main(void) {{\n  int {a} = {rng.randrange(99)};\n  printf("%d\\n", {a} * '
            "2);\n  return 0;\n}",
            f"public class {a.title()} {{\n    private final String {b};\n    public {a.title()}(String {b}) {{ "
            f"this.{b} = {b}; }}\n}}",
            f'fn main() {{\n    let {a}: Vec<u32> = vec![1, 2, 3];\n    println!("{{}}", {a}.iter().sum::<u32>());\n}}',
        )
    )


def _table(rng: random.Random) -> str:
    head = rng.choice(("id;name;amount;date", "sku,quantity,price,currency"))
    by = ";" if ";" in head else ","
    rows = [
        by.join((_of(rng, DIGITS, 5), rng.choice(WORDS), f"{rng.randrange(99)}.90", _when(rng)[:10])) for _ in range(4)
    ]
    return "\n".join((head, *rows))


def _network(rng: random.Random) -> str:
    return rng.choice(
        (
            ":".join(_hex(rng, 1) for _ in range(6)),
            f"192.168.{rng.randrange(255)}.{rng.randrange(255)}/24",
            f"2001:db8:{_hex(rng, 2)}:{_hex(rng, 2)}::{rng.randrange(99)}",
            "SHA256:" + _base64(rng, 32).rstrip("="),
            " ".join(_hex(rng, 1) for _ in range(32)),
        )
    )


def _link(rng: random.Random) -> str:
    a, b = rng.sample(WORDS, 2)
    return (
        f"https://{rng.choice(HOSTS)}/{a}/{rng.randrange(9999)}?utm_source={b}&token={_hex(rng, 16)}&"
        f"redirect=%2F{b}%2F{rng.randrange(99)}"
    )


def _certificate(rng: random.Random) -> str:
    body = _base64(rng, rng.randrange(150, 500))
    lines = "\n".join(body[n : n + 64] for n in range(0, len(body), 64))
    name = rng.choice(("CERTIFICATE", "PUBLIC KEY", "RSA PRIVATE KEY"))
    return f"-----BEGIN {name}-----\n{lines}\n-----END {name}-----"


PASTES: dict[str, Make] = {
    "order number": _order,
    "tracking number": _tracking,
    "bank account": _iban,
    "hash": _hash,
    "identifier": lambda rng: str(uuid.UUID(int=rng.getrandbits(128))),
    "web token": _jwt,
    "key": _key,
    "base64": _encoded,
    "data URL": _data_url,
    "Python trace": _python_trace,
    "Java or script trace": lambda rng: rng.choice((_java_trace, _script_trace))(rng),
    "query": _sql,
    "JSON": _json,
    "markup": _markup,
    "log": _log,
    "shell": _shell,
    "configuration": _config,
    "program": _program,
    "table, network": lambda rng: rng.choice((_table, _network))(rng),
    "link, certificate": lambda rng: rng.choice((_link, _certificate))(rng),
}
# Short ones stand in a sentence, long ones behind it.
INLINE = (
    "Where is my order {}? It should have come on Monday.",
    "I was charged twice, the reference is {}. Can you check?",
    "It says {} and then nothing happens.",
    "Hello, my number is {}, please tell me the status.",
    "Can you look up {} for me?",
    "{} does not work any more since yesterday.",
    "Bonjour, ma référence est {}, où en est ma commande ?",
    "Guten Tag, unter {} finde ich nichts. Woran liegt das?",
    "¿Pueden comprobar {}? Llevo una semana esperando.",
    "The support asked me to send you this: {}",
    "{}",
)
BEHIND = (
    "I get this error when I open the app, what does it mean?\n\n{}",
    "Can you explain what this does?\n{}",
    "What is wrong here?\n\n{}\n\nIt worked last week.",
    "Why does this fail?\n```\n{}\n```",
    "Hier ist die Ausgabe, was soll ich tun?\n{}",
    "Voici ce que je vois :\n{}\nMerci d'avance !",
    "{}\n\nThis is what I see. Is that normal?",
    "Could you make this shorter?\n\n{}",
    "{}",
)


def messages(count: int, seed: int) -> list[tuple[str, str]]:
    """So many messages, each with its kind, and as many of every kind."""
    rng = random.Random(seed)
    found: list[tuple[str, str]] = []
    while len(found) < count:
        for kind, make in PASTES.items():
            paste = make(rng)
            carriers = BEHIND if "\n" in paste or len(paste) > 120 else INLINE
            found.append((kind, rng.choice(carriers).format(paste)))
    return found[:count]

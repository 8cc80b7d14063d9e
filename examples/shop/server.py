"""A shop on an origin of its own: who has signed in may chat. ``python server.py`` beside ``loquent serve``.

``LOQUENT_URL`` is the chat server, ``LOQUENT_API_KEY`` a key with the scope ``secrets``, ``SHOP_URL`` where this runs.
"""

import os
import secrets
from pathlib import Path
from urllib.parse import urlsplit

from aiohttp import ClientSession, web

CHAT, KEY = os.environ.get("LOQUENT_URL", "http://127.0.0.1:8700"), os.environ["LOQUENT_API_KEY"]
SHOP = os.environ.get("SHOP_URL", "http://127.0.0.1:8080")
PAGES = Path(__file__).parent / "pages"
POLICY = (
    f"default-src 'none'; script-src 'self' {CHAT}; style-src 'self'; img-src 'self' {CHAT} data:; base-uri 'none'; "
    f"connect-src 'self' {CHAT} {CHAT.replace('http', 'ws', 1)}; form-action 'self'; frame-ancestors 'none'; "
    "require-trusted-types-for 'script'; trusted-types 'none'"
)
visitors: dict[str, tuple[str, str]] = {}  # id and name, by the cookie of who has signed in; a shop has a database


async def page(request: web.Request) -> web.Response:
    id, _ = visitors.get(request.cookies.get("visitor", ""), ("", ""))
    text = (PAGES / "index.html").read_text().replace("CHAT_SERVER", CHAT).replace("VISITOR_ID", id)
    return web.Response(text=text, content_type="text/html", headers={"Content-Security-Policy": POLICY})


async def sign_in(request: web.Request) -> web.Response:
    cookie = secrets.token_urlsafe(16)
    visitors[cookie] = secrets.token_hex(8), str((await request.post()).get("name", ""))[:50]
    answer = web.HTTPSeeOther("/")
    answer.set_cookie("visitor", cookie, httponly=True, samesite="Lax", secure=SHOP.startswith("https"))
    raise answer


async def chat_secret(request: web.Request) -> web.Response:
    _, name = visitors.get(request.cookies.get("visitor", ""), ("", ""))
    if not name:
        return web.json_response({"error": "Sign in first."}, status=403)
    instructions = f"You are the assistant of a shop for lamps. You speak with {name}. Answer in one or two sentences."
    body = {
        "session": {"type": "realtime", "output_modalities": ["text"], "instructions": instructions},
        "loquent": {"origin": SHOP, "turns": 50, "connections": 4, "locked": ["instructions", "tools"]},
    }
    url, headers = f"{CHAT}/v1/realtime/client_secrets", {"Authorization": f"Bearer {KEY}"}
    async with ClientSession() as http, http.post(url, json=body, headers=headers) as response:
        return web.json_response({**await response.json(), "name": name}, status=response.status)


app = web.Application()
app.add_routes([web.get("/", page), web.post("/sign-in", sign_in), web.post("/chat-secret", chat_secret)])
app.add_routes([web.static("/pages", PAGES)])

if __name__ == "__main__":
    web.run_app(app, host=urlsplit(SHOP).hostname, port=urlsplit(SHOP).port)

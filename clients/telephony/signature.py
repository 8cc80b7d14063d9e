"""Twilio's signature of a request: HMAC-SHA1 of its address, with the account's auth token as the key.

See https://www.twilio.com/docs/usage/security. A request by GET and the handshake of a websocket have no parameters
besides those in the address.
"""

import base64
import hashlib
import hmac

HEADER = "X-Twilio-Signature"


def signature_of(url: str, token: str) -> str:
    """The signature of an address."""
    digest = hmac.new(token.encode(), url.encode(), hashlib.sha1).digest()
    return base64.b64encode(digest).decode()


def signed(given: str | None, public_url: str, path: str, token: str, *, websocket: bool) -> bool:
    """Whether a request for ``path``, with its query, has this account's signature. Takes the same time for any.

    Twilio's servers sign a websocket's address as it stands in the TwiML, wss or https, with or without a slash.
    """
    given = given or ""
    host = public_url.partition("://")[2]
    schemes = ("wss", "https") if websocket else ("https", "http")
    paths = (path, path.rstrip("/") or "/", path.rstrip("/") + "/")
    right = [signature_of(f"{scheme}://{host}{each}", token) for scheme in schemes for each in paths]
    return sum(hmac.compare_digest(given.encode(), each.encode()) for each in right) > 0

"""Websockets by hand: a handshake, and frames of a client in any form."""

HANDSHAKE = (
    "GET /v1/realtime HTTP/1.1\r\nHost: {host}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
)


def masked(opcode: int, payload: bytes, *, final: bool = True, claims: int | None = None) -> bytes:
    """A frame of a client, masked with zeros; ``claims``: the length in its head, whatever its payload has."""
    size = len(payload) if claims is None else claims
    first = opcode | (0x80 if final else 0)
    if size < 126:
        head = bytes([first, 0x80 | size])
    elif size < 65536:
        head = bytes([first, 0x80 | 126]) + size.to_bytes(2)
    else:
        head = bytes([first, 0x80 | 127]) + size.to_bytes(8)
    return head + bytes(4) + payload

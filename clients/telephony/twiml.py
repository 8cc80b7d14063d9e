"""The documents that point Twilio at the adapter."""

from dataclasses import dataclass
from typing import Literal
from xml.sax.saxutils import escape, quoteattr

MEDIA = "/media"  # the path of Media Streams' websocket
RELAY = "/relay"  # of ConversationRelay's
VOICE = {"/voice": "media", "/voice-relay": "relay"}  # the documents' paths

Kind = Literal["media", "relay"]


@dataclass(frozen=True, slots=True)
class Greeting:
    """What is said when a call begins."""

    text: str = ""
    language: str = ""  # such as "en-US"; Twilio's own default otherwise


def document(kind: Kind, public_url: str, greeting: Greeting) -> str:
    """What Twilio is to do with a call."""
    host = public_url.partition("://")[2]
    language = f" language={quoteattr(greeting.language)}" if greeting.language else ""
    if kind == "media":
        said = f"<Say{language}>{escape(greeting.text)}</Say>" if greeting.text else ""
        doing = f"{said}<Connect><Stream url={quoteattr(f'wss://{host}{MEDIA}')}/></Connect>"
    else:
        said = f" welcomeGreeting={quoteattr(greeting.text)}" if greeting.text else ""
        url = quoteattr(f"wss://{host}{RELAY}")
        doing = f'<Connect><ConversationRelay url={url}{said}{language} dtmfDetection="true"/></Connect>'
    return f'<?xml version="1.0" encoding="UTF-8"?>\n<Response>{doing}</Response>\n'

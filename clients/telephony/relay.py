"""A call over Twilio's ConversationRelay: Twilio listens and speaks, and text goes both ways.

See https://www.twilio.com/docs/voice/conversationrelay/websocket-messages.
"""

import logging

from clients.telephony.keys import Keys
from clients.telephony.wire import CallError, Json, Wire, text
from loquent import Session

log = logging.getLogger(__name__)

START_SECONDS = 10.0  # until the setup of a call
PROMPT = 16 * 1024  # characters that a caller may say at once
APOLOGY = "I'm sorry, I can't answer right now."
HARMLESS = ("response_cancel_not_active", "item_delete_invalid_item_id")


class RelayCall:
    """One call."""

    def __init__(self, wire: Wire, opened: Session, keys: str) -> None:
        self._wire = wire
        self._opened = opened
        self.keys = Keys(self._ask, keys)
        self._response = ""  # whose text is passed on
        self._item = ""  # that holds what is being said, or was said last
        self._open = 0  # responses that were asked for and have not ended
        self._awaited = 0  # of them, those that have not begun

    async def listen(self) -> None:
        """Pass on what the caller says, until they hang up. Raises: CallError, CallEndedError."""
        if (await self._wire.receive(START_SECONDS)).get("type") != "setup":
            raise CallError("a call begins with setup")
        while True:
            message = await self._wire.receive()
            match message.get("type"):
                case "prompt":
                    said = text(message, "voicePrompt", PROMPT)
                    if message.get("last", True) is not False and said.strip():
                        await self._ask(said)
                case "interrupt":
                    await self._interrupt(text(message, "utteranceUntilInterrupt", PROMPT))
                case "dtmf":
                    self.keys.press(text(message, "digit", 1))
                case "error":
                    log.warning("Twilio: %s", text(message, "description", PROMPT))

    async def _ask(self, said: str) -> None:
        await self._stop()
        self._open += 1
        self._awaited += 1
        await self._opened.send("conversation.item.create", item=_item("user", "input_text", said))
        await self._opened.send("response.create")

    async def _stop(self) -> None:
        """End what is being said, or about to be."""
        if self._open:
            await self._opened.send("response.cancel")
        self._response = ""

    async def _interrupt(self, heard: str) -> None:
        """Stop the assistant; what the caller did not hear leaves the conversation."""
        await self._stop()
        if not self._item:
            return
        await self._opened.send("conversation.item.delete", item_id=self._item)
        self._item = ""
        if heard.strip():
            await self._opened.send("conversation.item.create", item=_item("assistant", "output_text", heard))

    async def speak(self) -> None:
        """Pass on what the assistant says, token by token. Raises: CallEndedError, ConnectionFailedError."""
        async for event in self._opened.events():
            match event["type"]:
                case "response.created":
                    self._awaited = max(self._awaited - 1, 0)
                    self._response = "" if self._awaited else event["response"]["id"]  # the caller has said more
                case "response.output_text.delta" if event["response_id"] == self._response:
                    self._item = event["item_id"]
                    await self._say(event["delta"], last=False)
                case "response.done":
                    self._open = max(self._open - 1, 0)
                    if event["response"]["id"] == self._response:
                        await self._finish(event["response"])
                case "error" if event["error"].get("code") not in HARMLESS:
                    log.warning("the server: %s", event["error"].get("message"))
                    self._open, self._awaited = max(self._open - 1, 0), max(self._awaited - 1, 0)
                    if not self._open:
                        await self._say(APOLOGY, last=True)

    async def _finish(self, response: Json) -> None:
        failed = response["status"] == "failed"
        if failed:
            log.warning("a reply failed: %s", (response.get("status_details") or {}).get("error"))
        await self._say(APOLOGY if failed else "", last=True)

    async def _say(self, token: str, *, last: bool) -> None:
        await self._wire.send({"type": "text", "token": token, "last": last})


def _item(role: str, kind: str, said: str) -> Json:
    return {"type": "message", "role": role, "content": [{"type": kind, "text": said}]}

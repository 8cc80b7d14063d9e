"""One peer of the Wyoming adapter: its events, and what answers them."""

import asyncio
import logging
from dataclasses import dataclass

from wyoming.asr import Transcribe, Transcript
from wyoming.audio import AudioStart
from wyoming.error import Error
from wyoming.event import Event
from wyoming.info import Describe
from wyoming.ping import Ping, Pong
from wyoming.tts import Synthesize, SynthesizeStart
from wyoming.wake import Detect

from clients.conversations import Conversations
from clients.target import Target
from clients.wyoming import frames, handling, hearing, speaking
from clients.wyoming.frames import FrameError
from clients.wyoming.inbox import Inbox
from clients.wyoming.info import Describer
from clients.wyoming.waking import Waking
from loquent import LoquentError

log = logging.getLogger(__name__)

PING_BYTES = 1_024  # of a ping's text


@dataclass(frozen=True, slots=True)
class Services:
    """What the peers of one adapter share."""

    target: Target
    conversations: Conversations
    describer: Describer
    waking: Waking


class Peer:
    """One connection. Its events are answered one after the other."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, services: Services) -> None:
        self._writer = writer
        self._services = services
        self._inbox = Inbox(reader)
        self._asked: Event | None = None  # what the sound that follows is for

    async def run(self) -> None:
        """Answer until the peer leaves, or sends what is no event. Raises: nothing that a peer can cause."""
        filling = asyncio.create_task(self._inbox.fill())
        try:
            while True:
                await self._answer(await self._take())
        except EOFError:
            pass
        except (LoquentError, FrameError) as error:
            await self._fail(error)
        except OSError as error:
            log.info("a peer is gone: %s", error or type(error).__name__)
        finally:
            filling.cancel()
            await asyncio.gather(filling, return_exceptions=True)

    async def _fail(self, error: LoquentError | FrameError) -> None:
        """Report an error. The connection ends behind it, so that no peer waits for an answer in vain."""
        malformed = isinstance(error, FrameError)
        log.info("a peer's request failed: %s", error)
        try:
            await self._send(Error(str(error), "bad-event" if malformed else "server-error").event())
        except OSError:
            log.info("the peer is gone too")

    async def _send(self, event: Event) -> None:
        await frames.write_event(self._writer, event)

    async def _take(self) -> Event:
        """The next event that is not answered here and now, whatever else is being done."""
        while True:
            event = await self._inbox.take()
            if Ping.is_type(event.type):
                await self._send(Pong(frames.text_of(event, most=PING_BYTES) or None).event())
            elif Describe.is_type(event.type):
                await self._send((await self._services.describer.info()).event())
            else:
                return event

    async def _answer(self, event: Event) -> None:
        """Answer an event; one of an unknown type is ignored, as Wyoming has it. Raises: as ``run`` reports."""
        services = self._services
        if Transcribe.is_type(event.type) or Detect.is_type(event.type):
            self._asked = event
        elif AudioStart.is_type(event.type):
            await self._hear(event)
        elif Synthesize.is_type(event.type):
            await speaking.speak(services.target, event, await self._voice(event), self._send)
        elif SynthesizeStart.is_type(event.type):
            await speaking.speak_stream(services.target, await self._voice(event), self._take, self._send)
        elif Transcript.is_type(event.type):
            await handling.handle(services.conversations, event, self._send)

    async def _hear(self, start: Event) -> None:
        asked, self._asked = self._asked, None
        if asked is not None and Detect.is_type(asked.type):
            await self._services.waking.detect(asked, start, self._take, self._send)
        else:
            await hearing.transcribe(self._services.target, asked, start, self._take, self._send)

    async def _voice(self, event: Event) -> str | None:
        """The voice that an event names, or one for its language, or ``None`` for the server's own."""
        name, language = speaking.voice_of(event)
        return name or (await self._services.describer.voice_in(language) if language else None)

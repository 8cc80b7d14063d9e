"""A conversation over the websocket, which survives lost connections: ``pip install 'openai[realtime]>=3.57'``.

Then ``python openai_realtime.py``; with ``--spoken`` the replies are written to ``reply.wav`` besides.
"""

import asyncio
import base64
import os
import sys
import wave

from openai import AsyncOpenAI
from openai.types.websocket_reconnection import ReconnectingEvent, ReconnectingOverrides

url = os.environ.get("LOQUENT_URL", "http://127.0.0.1:8700")
questions = [word for word in sys.argv[1:] if word != "--spoken"] or ["Name the capital of France.", "And of Italy?"]
spoken = "--spoken" in sys.argv
token = last = ""  # the session's, and the last event that was read


def come_back(_: ReconnectingEvent) -> ReconnectingOverrides:
    return {"extra_query": {"session": token, "after": last}}


async def main() -> None:
    global token, last
    client = AsyncOpenAI(base_url=f"{url}/v1", api_key=os.environ.get("LOQUENT_API_KEY", "none"))
    sound = bytearray()
    async with client.realtime.connect(model="default", on_reconnecting=come_back) as connection:
        session = {"type": "realtime", "output_modalities": ["audio" if spoken else "text"]}
        await connection.session.update(session=session)

        async def ask(question: str) -> None:
            print(f"> {question}")
            content = [{"type": "input_text", "text": question}]
            await connection.conversation.item.create(item={"type": "message", "role": "user", "content": content})
            await connection.response.create()

        await ask(questions.pop(0))
        async for event in connection:
            last = event.event_id
            match event.type:
                case "session.created":
                    token = event.loquent["resume_token"]
                case "response.output_text.delta" | "response.output_audio_transcript.delta":
                    print(event.delta, end="", flush=True)
                case "response.output_audio.delta":
                    sound += base64.b64decode(event.delta)
                case "response.done":
                    print()
                    if event.response.status == "failed":
                        sys.exit(event.response.status_details.error.code)
                    if not questions:
                        break
                    await ask(questions.pop(0))
                case "error":
                    sys.exit(event.error.message)
    if spoken:
        with wave.open("reply.wav", "wb") as file:
            file.setparams((1, 2, 24_000, 0, "NONE", ""))
            file.writeframes(sound)


asyncio.run(main())

"""Talk with a Loquent server: ``pip install loquent sounddevice``, ``python voice.py``. Use headphones, or speak up.

The server hears when you have finished, answers aloud, and falls silent when you speak.
"""

import asyncio
import base64
import json
import os
from contextlib import suppress
from typing import Any

import sounddevice

import loquent

RATE = 24_000  # samples a second, mono, 16 bits, both ways
WAITING = 250  # pieces of 40 ms that may wait for the network
SESSION = {
    "instructions": "You are the assistant of a shop for lamps. Answer in one short sentence.",
    "output_modalities": ["audio"],
    "audio": {"input": {"transcription": {"model": "whisper-1"}, "turn_detection": {"type": "semantic_vad"}}},
    "tools": [
        {
            "type": "function",
            "name": "price_of_lamp",
            "description": "Get the price of a lamp.",
            "parameters": {"type": "object", "properties": {"lamp": {"type": "string"}}, "required": ["lamp"]},
        }
    ],
}


def price_of_lamp(lamp: str) -> str:
    return f"The {lamp} costs 39 euros."


async def speak(session: loquent.Session, said: "asyncio.Queue[bytes]") -> None:
    while True:
        await session.append(await said.get())


async def answer(session: loquent.Session, playing: bytearray) -> None:
    async for event in session.events():
        match event["type"]:
            case "input_audio_buffer.speech_started":
                playing.clear()  # the user interrupts
            case "conversation.item.input_audio_transcription.completed":
                print(f"You: {event['transcript']}", flush=True)
            case "response.output_audio.delta":
                playing += base64.b64decode(event["delta"])
            case "response.output_audio_transcript.done":
                print(f"Assistant: {event['transcript']}", flush=True)
            case "response.done":
                calls = [item for item in event["response"]["output"] if item["type"] == "function_call"]
                for call in calls:
                    output = price_of_lamp(**json.loads(call["arguments"]))
                    item = {"type": "function_call_output", "call_id": call["call_id"], "output": output}
                    await session.send("conversation.item.create", item=item)
                if calls:
                    await session.send("response.create")
            case "error":
                print(event["error"]["message"], flush=True)


async def main() -> None:
    loop = asyncio.get_running_loop()
    said: asyncio.Queue[bytes] = asyncio.Queue()
    playing = bytearray()

    def hear(data: Any, *_: Any) -> None:  # on the sound card's thread
        if said.qsize() < WAITING:
            loop.call_soon_threadsafe(said.put_nowait, bytes(data))

    def play(data: Any, *_: Any) -> None:  # likewise
        piece = bytes(playing[: len(data)])
        del playing[: len(piece)]
        data[:] = piece.ljust(len(data), b"\0")

    options: Any = {"samplerate": RATE, "channels": 1, "dtype": "int16", "blocksize": RATE // 25}
    url = os.environ.get("LOQUENT_URL", "http://127.0.0.1:8700")
    async with loquent.connect(url, key=os.environ.get("LOQUENT_API_KEY"), settings=SESSION) as session:
        with (
            sounddevice.RawInputStream(callback=hear, **options),
            sounddevice.RawOutputStream(callback=play, **options),
        ):
            print("Speak; Ctrl-C ends.", flush=True)
            async with asyncio.TaskGroup() as group:
                group.create_task(speak(session, said))
                group.create_task(answer(session, playing))


with suppress(KeyboardInterrupt):
    asyncio.run(main())

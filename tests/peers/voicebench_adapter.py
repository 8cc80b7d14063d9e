"""How voicebench reaches an OpenAI Realtime server: its own adapter for websockets, with the protocol's events."""

import base64
import json
from typing import Any

from voicebench import audio
from voicebench.adapters.base import AgentClear, Transcript
from voicebench.adapters.websocket import WebSocketAdapter

RATE = 24_000
INSTRUCTIONS = "You are a helpful assistant. Answer in two or three sentences."
COMPLETED = "conversation.item.input_audio_transcription.completed"


class RealtimeAdapter(WebSocketAdapter):
    """Streams PCM in events; an interruption drops what was not played."""

    name = "realtime"

    def __init__(self, detection: str = "server_vad", **options: Any) -> None:
        listening = {"transcription": {"model": "whisper-1"}, "turn_detection": {"type": detection}}
        session = {
            "type": "realtime",
            "instructions": INSTRUCTIONS,
            "output_modalities": ["audio"],
            "audio": {"input": listening},
        }
        super().__init__(**options, start_message={"type": "session.update", "session": session})

    def encode_audio(self, pcm: Any) -> Any:
        """One frame of user audio."""
        sent = audio.to_pcm16(audio.resample(pcm, self.session.sample_rate, RATE))
        return json.dumps({"type": "input_audio_buffer.append", "audio": base64.b64encode(sent).decode()})

    def handle_text(self, message: str, now: float) -> None:
        """One event of the server."""
        event = json.loads(message)
        match event["type"]:
            case "response.output_audio.delta":
                self.handle_binary(base64.b64decode(event["delta"]), now, RATE)
            case "input_audio_buffer.speech_started":
                self.emit(AgentClear(now))
            case kind if kind == COMPLETED:
                self.emit(Transcript("user", event["transcript"], now))
            case "error" if event["error"]["code"] != "response_cancel_not_active":
                raise RuntimeError(event["error"]["message"])

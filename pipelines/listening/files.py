"""Sound files of any format, as samples: decoded by a child process, whose death harms one request."""

import asyncio
import contextlib
import sys
from pathlib import Path

from pipelines.events import StageError
from pipelines.listening import decode_child
from pipelines.listening.interface import RATE

PROGRAM = Path(decode_child.__file__)
DEADLINE = 60.0  # seconds until a file must be decoded
PIECE = 1 << 16  # bytes written or read at a time


async def decoded(data: bytes, *, most_seconds: int) -> bytes:
    """The sound of a file, as PCM of RATE.

    Raises: StageError where it is no sound, or longer than ``most_seconds``, or can't be decoded in time.
    """
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-P",
        str(PROGRAM),
        *map(str, (RATE, most_seconds, int(DEADLINE))),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,  # native code may print what it reads
    )
    try:
        async with asyncio.timeout(DEADLINE):
            pcm, _ = await process.communicate(data)
    except TimeoutError:
        raise _invalid("The file could not be decoded in time.") from None
    finally:
        if process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()
    if process.returncode == decode_child.TOO_LONG:
        raise _invalid(f"The file holds more than {most_seconds} s of sound.", "audio_too_long")
    if process.returncode != 0 or not pcm:
        raise _invalid("The file holds no sound that can be read; wav, mp3, flac, ogg, webm and m4a can.")
    return pcm


def _invalid(text: str, code: str = "invalid_audio") -> StageError:
    return StageError("invalid_request", code, text, param="file")

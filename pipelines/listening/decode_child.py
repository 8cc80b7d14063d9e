"""The program that decodes a sound file. It runs in a process of its own; see ``files``.

FFmpeg is C code that reads what strangers send. Standard input is the file; standard output its sound, mono, 16 bits a
sample, little-endian, at the rate that the first argument says, up to as many seconds as the second one does. Exit code
3 says that it is no sound, 4 that there is more of it.
"""

import io
import resource
import sys
from contextlib import suppress

NO_SOUND, TOO_LONG = 3, 4
MEMORY = 2 << 30  # bytes


def main(rate: int, seconds: int, cpu_seconds: int) -> int:
    """Decode; returns the exit code."""
    with suppress(ValueError, OSError):  # a limit that is lower already
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
        resource.setrlimit(resource.RLIMIT_CPU, (cpu_seconds, cpu_seconds))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    import av

    av.logging.set_level(av.logging.PANIC)
    left = rate * seconds
    out = sys.stdout.buffer
    try:
        with av.open(io.BytesIO(sys.stdin.buffer.read()), "r", metadata_errors="ignore") as container:
            if not container.streams.audio:
                return NO_SOUND
            resampler = av.AudioResampler("s16", "mono", rate)
            for frame in container.decode(audio=0):
                frame.pts = None  # files whose times have gaps are read as one
                for made in resampler.resample(frame):
                    left -= made.samples
                    if left < 0:
                        return TOO_LONG
                    out.write(bytes(made.planes[0])[: 2 * made.samples])
            for made in resampler.resample(None):
                out.write(bytes(made.planes[0])[: 2 * made.samples])
    except (av.FFmpegError, ValueError, MemoryError, IndexError):
        return NO_SOUND
    out.flush()
    return 0


if __name__ == "__main__":
    sys.exit(main(*(int(argument) for argument in sys.argv[1:4])))

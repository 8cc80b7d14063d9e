"""Pictures as a request asks for them: on a canvas of its size, in its format."""

import io
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from PIL import Image

from pipelines.events import Picture
from pipelines.image.formats import LARGEST, SMALLEST, Mark, png, weight

SQUARES = tuple(SMALLEST << power for power in range((LARGEST // SMALLEST).bit_length()))  # pixels of a side
OBLONG = ((1536, 1024), (1024, 1536), (1792, 1024), (1024, 1792))  # what clients of other services ask for
SIZES = {f"{width}x{height}": (width, height) for width, height in (*((side, side) for side in SQUARES), *OBLONG)}

BEGINNINGS = {b"\x89PNG": "image/png", b"RIFF": "image/webp", b"\xff\xd8": "image/jpeg"}

FileFormat = Literal["png", "webp", "jpeg"]
WHITE = (255, 255, 255)


@dataclass(frozen=True, slots=True)
class Canvas:
    """What becomes of a square picture; one that needs no change stays as it is."""

    width: int
    height: int
    format: FileFormat = "png"
    compression: int = 100  # per cent, of WebP and JPEG; 100 is the best quality
    opaque: bool = False

    @property
    def side(self) -> int:
        """Pixels of a side of the square that is drawn."""
        return min(self.width, self.height)

    @property
    def weight(self) -> int:
        """How many usual pictures one of this size counts for."""
        return weight(self.side)

    def fit(self, picture: Picture) -> Picture:
        """The square in the middle of the canvas, in the format asked for, with its mark; it takes a thread's time."""
        if self.format == "png" and self.width == self.height:
            return picture
        with Image.open(io.BytesIO(picture.png)) as square:
            opaque = self.opaque or self.format == "jpeg"
            canvas = Image.new(
                "RGB" if opaque else "RGBA", (self.width, self.height), WHITE if opaque else (0, 0, 0, 0)
            )
            at = (self.width - square.width) // 2, (self.height - square.height) // 2
            canvas.paste(square, at, square if opaque and square.mode == "RGBA" else None)
        file = io.BytesIO()
        mark = Mark(picture.model, picture.seed, picture.caption)
        if self.format == "png":
            return replace(picture, png=png(np.asarray(canvas), mark))
        canvas.save(file, self.format.upper(), quality=self.compression, xmp=mark.xmp().encode())
        return replace(picture, png=file.getvalue())


def content_type(file: bytes) -> str:
    """Of a picture's file, by its first bytes."""
    return next(kind for beginning, kind in BEGINNINGS.items() if file.startswith(beginning))

"""Pictures as files: PNG with the standard mark of generated media."""

import io
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from xml.sax.saxutils import escape, quoteattr

import numpy as np
from numpy.typing import NDArray
from PIL import Image, PngImagePlugin

if TYPE_CHECKING:
    from torch import Tensor

SMALLEST, LARGEST = 64, 1024  # pixels of a side
PIECE = 60_000  # bytes that Pillow writes at a time, or nearly
USUAL = 256  # pixels of a side, by which larger ones are counted

# IPTC's term for what a trained model made, in its namespace; readers of pictures look for it in XMP.
SOURCE_TYPE = "http://cv.iptc.org/newscodes/digitalsourcetype/trainedAlgorithmicMedia"
_XMP = """<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?>
<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">
<rdf:Description rdf:about="" xmlns:xmp="http://ns.adobe.com/xap/1.0/" xmlns:dc="http://purl.org/dc/elements/1.1/"
 xmlns:Iptc4xmpExt="http://iptc.org/std/Iptc4xmpExt/2008-02-29/" xmlns:loquent="urn:loquent:image"
 xmp:CreatorTool="Loquent" Iptc4xmpExt:DigitalSourceType="{source}" loquent:model={model} loquent:seed="{seed}">
<dc:description><rdf:Alt><rdf:li xml:lang="x-default">{caption}</rdf:li></rdf:Alt></dc:description>
</rdf:Description></rdf:RDF></x:xmpmeta>
<?xpacket end="r"?>"""


def weight(size: int) -> int:
    """How many usual pictures one of this size counts for: writing it takes as long."""
    return max(1, (size // USUAL) ** 2)


@dataclass(frozen=True, slots=True)
class Mark:
    """What a picture says of itself."""

    model: str
    seed: int
    caption: str

    def xmp(self) -> str:
        """As an XMP packet."""
        return _XMP.format(
            source=SOURCE_TYPE, model=quoteattr(self.model), seed=self.seed, caption=escape(self.caption)
        )


class _File(io.BytesIO):
    """Bytes in memory, and a pause behind each piece of them."""

    def __init__(self, rest: Callable[[], None]) -> None:
        super().__init__()
        self._rest = rest

    def write(self, data: Any, /) -> int:
        written = super().write(data)
        if len(data) >= PIECE:
            self._rest()
        return written


def enlarged(picture: "Tensor", size: int, *, opaque: bool = False) -> NDArray[np.uint8]:
    """(4, side, side), colours multiplied by opacity → (size, size, 4), or (size, size, 3) on white if ``opaque``.

    Torch does it, since it lets other threads run meanwhile.
    """
    import torch  # here, because it takes seconds

    with torch.inference_mode():
        large = picture[None]
        if picture.shape[-1] != size:  # before the colours are divided: a transparent neighbour has none to give
            large = torch.nn.functional.interpolate(large, size=(size, size), mode="bicubic")
        colours, opacity = large[0].clamp(0, 1).split((3, 1))
        if opaque:
            straight = (colours + 1 - opacity).clamp(0, 1)
        else:
            straight = torch.cat(((colours / opacity.clamp(min=1 / 255)).clamp(0, 1), opacity))
        pixels: NDArray[np.uint8] = (straight * 255 + 0.5).to(torch.uint8).permute(1, 2, 0).contiguous().numpy()
        return pixels


def png(pixels: NDArray[np.uint8], mark: Mark, rest: Callable[[], None] = lambda: None) -> bytes:
    """A file of these pixels, with its mark; ``rest`` is called between its pieces of 64 KiB."""
    info = PngImagePlugin.PngInfo()
    info.add_itxt("XML:com.adobe.xmp", mark.xmp())
    file = _File(rest)
    # Of smooth pictures run lengths make smaller files than zlib's search at this level, in less time.
    Image.fromarray(pixels).save(file, "PNG", pnginfo=info, compress_level=1, compress_type=zlib.Z_RLE)
    return file.getvalue()

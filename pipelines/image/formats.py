"""Pictures as files: PNG with the standard mark of generated media."""

import io
import zlib
from dataclasses import dataclass
from typing import TYPE_CHECKING
from xml.sax.saxutils import escape, quoteattr

import numpy as np
from numpy.typing import NDArray
from PIL import Image, PngImagePlugin

if TYPE_CHECKING:
    from torch import Tensor

SMALLEST, LARGEST = 64, 1024  # pixels of a side

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


def png(pixels: NDArray[np.uint8], mark: Mark) -> bytes:
    """A file of these pixels, with its mark."""
    told = PngImagePlugin.PngInfo()
    told.add_itxt("XML:com.adobe.xmp", mark.xmp())
    file = io.BytesIO()
    # Of smooth pictures run lengths make smaller files than zlib's search at this level, in less time.
    Image.fromarray(pixels).save(file, "PNG", pnginfo=told, compress_level=1, compress_type=zlib.Z_RLE)
    return file.getvalue()

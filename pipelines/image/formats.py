"""Pictures as files: PNG with the standard mark of generated media."""

import io
from dataclasses import dataclass
from xml.sax.saxutils import escape, quoteattr

import numpy as np
from numpy.typing import NDArray
from PIL import Image, PngImagePlugin

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


def png(picture: NDArray[np.float32], mark: Mark, *, size: int, opaque: bool = False) -> bytes:
    """(4, side, side), colours multiplied by opacity → a PNG of ``size`` × ``size``; ``opaque``: on white."""
    channels = [Image.fromarray(each) for each in np.ascontiguousarray(picture)]
    if picture.shape[-1] != size:  # before the colours are divided: a transparent neighbour has none to give
        channels = [each.resize((size, size), Image.Resampling.BICUBIC) for each in channels]
    large = np.stack([np.asarray(each) for each in channels], -1).clip(0, 1)  # (size, size, 4)
    opacity = large[..., 3:]
    if opaque:
        straight = large[..., :3] + 1 - opacity
    else:
        straight = np.concatenate((large[..., :3] / np.maximum(opacity, 1 / 255), opacity), -1)
    image = Image.fromarray((straight.clip(0, 1) * 255 + 0.5).astype(np.uint8))
    told = PngImagePlugin.PngInfo()
    told.add_itxt("XML:com.adobe.xmp", mark.xmp())
    file = io.BytesIO()
    image.save(file, "PNG", pnginfo=told, compress_level=1)  # more takes twice as long and saves a tenth
    return file.getvalue()

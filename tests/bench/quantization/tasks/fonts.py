"""Type faces from packages, so that rendered text is the same on every machine."""

import io
from functools import cache

from PIL import ImageFont

from tests.bench.quantization.fetch import members

FAMILIES = {
    "caladea": "files/Caladea-",
    "hanken-grotesk": "files/HankenGrotesk-",
    "lato": "files/Lato-",
    "manrope": "files/Manrope-",
    "source-sans-pro": "files/SourceSansPro-",
    "source-serif-pro": "files/SourceSerifPro-",
}


@cache
def faces(family: str) -> tuple[bytes, ...]:
    """Return the faces of a family, from regular to black and italic, by name."""
    package = f"font_{family.replace('-', '_')}/{FAMILIES[family]}"
    found = dict(members(family, package))
    stems = sorted({path.rpartition(".")[0] for path in found})
    stems = [stem for stem in stems if "Variable" not in stem and "Thin" not in stem]
    return tuple(found.get(f"{stem}.ttf") or found[f"{stem}.otf"] for stem in stems)


def font(face: bytes, size: int) -> ImageFont.FreeTypeFont:
    """Return the face at ``size`` pixels; the plain layout, which needs no library."""
    return ImageFont.truetype(
        io.BytesIO(face), size, layout_engine=ImageFont.Layout.BASIC
    )

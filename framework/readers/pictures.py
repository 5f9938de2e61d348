"""Pictures of the user, with the range of values that the file means, upright, and without transparency.

What is white:

- 1 bit, 8 bits, palettes, CMYK: the file says. Colours of 16 bits keep their upper 8.
- grey of 16 bits (PNG, TIFF, PGM): 65,535; in a TIFF of 9 to 15 bits, the largest number of so many bits.
- float (TIFF): 1. Values outside of [0, 1] are refused, and so are whole numbers of 32 bits, for which no value is
  agreed to be white.

Transparency is laid over white; a picture that then has one colour only, a white drawing, over black. The orientation
that a camera wrote (EXIF) is applied. A file of several equally large pictures is refused.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from framework.errors import UserError
from framework.readers.unpacking import refuse_missing

if TYPE_CHECKING:
    from PIL import Image

SUFFIXES = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")
# TIFF's tags BitsPerSample and PhotometricInterpretation; Pillow inverts the latter's pictures of 8 bits only.
_BITS, _PHOTOMETRIC = 258, 262


def read_picture(path: Path, channels: int | None = None) -> np.ndarray:
    """Returns a picture (H, W, C), float32, black at 0 and white at 1.

    Args:
        path: The file.
        channels: 1 (luminance) or 3 (RGB); by default 1 for a grey picture and 3 for another.

    Raises:
        UserError: the file is missing, cannot be decoded, or its range of values is not known.
    """
    picture = _open(path)
    if picture.mode == "F":
        grey = np.asarray(picture)[..., None]
        return np.repeat(grey, 3, -1) if channels == 3 else grey
    mode = {1: "L", 3: "RGB"}[channels or (1 if picture.mode == "L" else 3)]
    values = np.asarray(picture.convert(mode), np.float32) / 255
    return values[..., None] if mode == "L" else values


def open_picture(path: Path, mode: str) -> Image.Image:
    """Returns a picture of 8 bits for transforms.

    Args:
        path: The file.
        mode: ``L`` (luminance) or ``RGB``.

    Raises:
        UserError: as :func:`read_picture`.
    """
    from PIL import Image

    picture = _open(path)
    if picture.mode == "F":
        picture = Image.fromarray(np.rint(np.asarray(picture) * 255).astype(np.uint8))
    return picture.convert(mode)


def _open(path: Path) -> Image.Image:
    """Returns the picture in the mode ``L``, ``RGB``, or ``F`` from 0 to 1."""
    from PIL import Image, ImageOps, UnidentifiedImageError

    refuse_missing(path, f"a picture ({' '.join(SUFFIXES)})")
    try:
        # Of an open file: of a path Pillow maps some TIFFs, and scrambles the pixels of those that are to be turned.
        with path.open("rb") as opened, Image.open(opened) as file:
            _refuse_several(path, file)
            meant = _range(file)
            file.load()
            picture = ImageOps.exif_transpose(file)
        return _ranged(path, picture, meant)
    except UserError:
        raise
    except UnidentifiedImageError as error:
        raise UserError(
            f"{path}: not a picture, or of a kind that cannot be read; {' '.join(SUFFIXES)}, of 8 or 16 bits or, in "
            "TIFF, grey float32"
        ) from error
    except (OSError, ValueError, SyntaxError, EOFError, KeyError, TypeError, Image.DecompressionBombError) as error:
        raise UserError(f"{path}: cannot be decoded as a picture: {error}") from error


def _refuse_several(path: Path, file: Image.Image) -> None:
    pages = getattr(file, "n_frames", 1)
    if pages == 1:
        return
    width, height = file.size
    for page in range(1, pages):
        file.seek(page)
        if file.size[0] >= width or file.size[1] >= height:  # smaller ones are thumbnails of the first
            raise UserError(f"{path}: holds {pages} pictures; one in each file is expected")
    file.seek(0)


class _Range(NamedTuple):
    """What the numbers of a picture of more than 8 bits mean.

    Attributes:
        white: The largest whole number; ``None`` if it is not known.
        inverted: Whether 0 is white.
    """

    white: int | None
    inverted: bool


def _range(file: Image.Image) -> _Range:
    tags = getattr(file, "tag_v2", {})
    inverted = tags.get(_PHOTOMETRIC) == 0
    if file.mode == "I" and file.format not in ("PNG", "PPM"):  # which have at most 16 bits
        return _Range(None, inverted)
    bits = int(np.ravel(tags.get(_BITS, 16))[0])
    return _Range(2 ** (bits if 8 < bits < 16 else 16) - 1, inverted)


def _ranged(path: Path, picture: Image.Image, meant: _Range) -> Image.Image:
    from PIL import Image

    if picture.mode == "F" or picture.mode.startswith("I"):
        values = np.asarray(picture)
        if not np.isfinite(values).all():
            raise UserError(f"{path}: has NaN or infinite values")
        low, high = values.min(), values.max()
        if picture.mode == "F":
            if low < 0 or high > 1:
                raise UserError(f"{path}: floats from {low:.4g} to {high:.4g}; 0 (black) to 1 (white) is expected")
        elif meant.white is None or high > meant.white:
            raise UserError(
                f"{path}: whole numbers of 32 bits, from {low} to {high}, of which it is not known which is white; "
                "save it with 8 or 16 bits, or as float from 0 to 1"
            )
        else:
            values = (values / meant.white).astype(np.float32)
        return Image.fromarray(1 - values if meant.inverted else values)
    if picture.mode in ("LA", "La"):
        return _opaque(picture.convert("LA"), "L")
    if picture.mode in ("RGBA", "RGBa", "PA") or "transparency" in picture.info:
        return _opaque(picture.convert("RGBA"), "L" if picture.mode in ("L", "1") else "RGB")
    return picture.convert("L" if picture.mode in ("1", "L") else "RGB")


def _opaque(picture: Image.Image, mode: str) -> Image.Image:
    from PIL import Image

    alpha = picture.getchannel("A")
    colours = picture.convert(mode)
    if alpha.getextrema() == (255, 255) or (alpha.getextrema() == (0, 0) and not _one_colour(colours)):
        return colours  # nothing is transparent, or all of it, which nobody means
    composed = Image.composite(colours, Image.new(mode, picture.size, "white"), alpha)
    if alpha.getextrema()[0] != alpha.getextrema()[1] and _one_colour(composed):
        return Image.composite(colours, Image.new(mode, picture.size, "black"), alpha)
    return composed


def _one_colour(picture: Image.Image) -> bool:
    extrema = picture.getextrema()
    bands = [extrema] if isinstance(extrema[0], (int, float)) else extrema
    return all(band[0] == band[1] for band in bands)

"""Pictures with the range that the file means."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from framework.errors import UserError
from framework.readers.pictures import open_picture, read_picture

tifffile = pytest.importorskip("tifffile")
RAMP = np.linspace(0, 1, 64).reshape(8, 8)


def as_ramp(path, atol=1 / 250):
    """Whether a file is read as the ramp from black to white, as numbers and as a picture of 8 bits."""
    values = read_picture(path, 1)[..., 0]
    eight = np.asarray(open_picture(path, "L"))
    np.testing.assert_allclose(values, RAMP, atol=atol)
    np.testing.assert_allclose(eight / 255, RAMP, atol=1 / 250)
    assert eight.dtype == np.uint8
    return True


@pytest.mark.parametrize(
    ("name", "write"),
    [
        ("u8.png", lambda p: Image.fromarray(np.rint(RAMP * 255).astype(np.uint8)).save(p)),
        ("u16.png", lambda p: Image.fromarray((RAMP * 65_535).astype(np.uint16)).save(p)),
        ("u16.tif", lambda p: tifffile.imwrite(p, (RAMP * 65_535).astype(np.uint16))),
        ("big.tif", lambda p: tifffile.imwrite(p, (RAMP * 65_535).astype(np.uint16), byteorder=">")),
        ("f32.tif", lambda p: tifffile.imwrite(p, RAMP.astype(np.float32))),
        ("white.tif", lambda p: tifffile.imwrite(p, ((1 - RAMP) * 65_535).astype(np.uint16), photometric="miniswhite")),
        ("w8.tif", lambda p: tifffile.imwrite(p, np.rint((1 - RAMP) * 255).astype(np.uint8), photometric="miniswhite")),
        ("p10.pgm", lambda p: p.write_bytes(b"P5 8 8 1023\n" + np.rint(RAMP * 1023).astype(">u2").tobytes())),
    ],
)
def test_black_is_0_and_white_is_1(tmp_path, name, write):
    write(tmp_path / name)
    assert as_ramp(tmp_path / name)


@pytest.mark.parametrize(
    ("name", "values", "message"),
    [
        ("i32.tif", (RAMP * 255).astype(np.int32), "i32.tif: whole numbers of 32 bits, from 0 to 255"),
        ("u32.tif", (RAMP * 70_000).astype(np.uint32), "u32.tif: whole numbers of 32 bits, from 0 to 70000"),
        ("f.tif", (RAMP * 255).astype(np.float32), r"f\.tif: floats from 0 to 255; 0 \(black\) to 1 \(white\)"),
        ("n.tif", np.where(RAMP > 0.5, np.nan, RAMP).astype(np.float32), r"n\.tif: has NaN"),
        ("pages.tif", np.zeros((3, 8, 8), np.uint8), "holds 3 pictures; one in each file"),
    ],
)
def test_a_range_that_is_not_known_is_refused(tmp_path, name, values, message):
    tifffile.imwrite(tmp_path / name, values, photometric="minisblack")
    for read in (lambda path: read_picture(path), lambda path: open_picture(path, "RGB")):
        with pytest.raises(UserError, match=message):
            read(tmp_path / name)


@pytest.mark.parametrize("ink", [0, 255])
def test_a_drawing_that_is_only_in_the_transparency_can_be_seen(tmp_path, ink):
    drawing = np.zeros((8, 8, 4), np.uint8)
    drawing[..., :3] = ink
    drawing[2:4, :, 3] = 255
    Image.fromarray(drawing, "RGBA").save(tmp_path / "a.png")
    values = read_picture(tmp_path / "a.png", 1)[..., 0]
    assert (values[2:4] == ink / 255).all()
    assert (np.delete(values, [2, 3], 0) == 1 - ink / 255).all()


def test_transparent_palettes_and_greys(tmp_path):
    grey = Image.fromarray(np.rint(RAMP * 255).astype(np.uint8))
    grey.save(tmp_path / "l.png", transparency=0)
    grey.convert("P").save(tmp_path / "p.png", transparency=0)
    grey.convert("LA").save(tmp_path / "la.png")
    for name, first in (("l.png", 1.0), ("p.png", 1.0), ("la.png", 0.0)):
        values = read_picture(tmp_path / name, 1)
        assert values[0, 0, 0] == first
        np.testing.assert_allclose(values[1:, :, 0], RAMP[1:], atol=1 / 250)


def test_a_cameras_orientation_is_applied(tmp_path):
    upright = np.zeros((6, 4, 3), np.uint8)
    upright[:3] = 200
    exif = Image.Exif()
    exif[0x0112] = 6  # turned to the left when it was saved
    Image.fromarray(np.rot90(upright)).save(tmp_path / "a.png", exif=exif)
    np.testing.assert_allclose(read_picture(tmp_path / "a.png"), upright / 255, atol=1e-6)


def test_channels(tmp_path):
    Image.fromarray(np.full((4, 4), 51, np.uint8)).save(tmp_path / "l.png")
    Image.fromarray(np.full((4, 4, 3), 51, np.uint8)).save(tmp_path / "rgb.png")
    tifffile.imwrite(tmp_path / "f.tif", np.full((4, 4), 0.2, np.float32))
    for name, own in (("l.png", 1), ("rgb.png", 3), ("f.tif", 1)):
        for channels in (None, 1, 3):
            values = read_picture(tmp_path / name, channels)
            assert values.shape == (4, 4, channels or own)
            np.testing.assert_allclose(values, 0.2, atol=1e-6)


@pytest.mark.parametrize("content", [b"", b"text", b"\x89PNG\r\n\x1a\n"])
def test_what_is_no_picture(tmp_path, content):
    (tmp_path / "a.png").write_bytes(content)
    with pytest.raises(UserError, match=r"a\.png: (not a picture|cannot be decoded)"):
        read_picture(tmp_path / "a.png")


@pytest.mark.parametrize("kind", [np.uint8, np.uint16])
def test_a_grey_tiff_that_is_to_be_turned(tmp_path, kind):
    upright = (np.arange(6).reshape(3, 2) * 40).astype(kind) * (257 if kind is np.uint16 else 1)
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(np.rot90(upright)).save(tmp_path / "a.tif", exif=exif)
    np.testing.assert_allclose(read_picture(tmp_path / "a.tif", 1)[..., 0], upright / np.iinfo(kind).max, atol=1e-6)


def test_pages_of_any_place(tmp_path):
    with tifffile.TiffWriter(tmp_path / "a.tif") as file:
        for side in (8, 4, 8):
            file.write(np.zeros((side, side), np.uint8))
    with pytest.raises(UserError, match="holds 3 pictures"):
        read_picture(tmp_path / "a.tif")
    with tifffile.TiffWriter(tmp_path / "b.tif") as file:
        for side in (8, 4):
            file.write(np.full((side, side), 255, np.uint8))
    assert read_picture(tmp_path / "b.tif").shape == (8, 8, 1)


def test_a_picture_that_is_transparent_everywhere_keeps_its_colours(tmp_path):
    values = np.zeros((4, 4, 4), np.uint8)
    values[:2, :, :3] = 200
    Image.fromarray(values, "RGBA").save(tmp_path / "a.png")
    np.testing.assert_allclose(read_picture(tmp_path / "a.png"), values[..., :3] / 255, atol=1e-6)

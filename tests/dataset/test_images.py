"""Holds dataset.images to its word: no half image, no lost bit, no shifted range, one clear line for each bad file."""

import io
import os
import struct
import threading
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageFile, TiffImagePlugin

from config.errors import UserError
from dataset.decoding import ImageError, decode_image, read_png_text
from dataset.images import (
    check_geometry,
    from_uint8,
    is_gray,
    load_image,
    prepare_image,
    tile_images,
    to_uint8,
    write_png,
)

SHARED = Path(__file__).parents[2].parent / "shared" / "data"
needs_shared = pytest.mark.skipif(not SHARED.is_dir(), reason="the shared sample data are not here")
RNG = np.random.default_rng(7)
GRAY = RNG.integers(0, 256, (37, 53), dtype=np.uint8)
COLOR = RNG.integers(0, 256, (37, 53, 3), dtype=np.uint8)
GRAY16 = RNG.integers(0, 65536, (37, 53), dtype=np.uint16)
COLOR16 = RNG.integers(0, 65536, (37, 53, 3), dtype=np.uint16)


def encode(pixels, kind: str, **options) -> bytes:
    buffer = io.BytesIO()
    image = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)
    image.save(buffer, format=kind, **options)
    return buffer.getvalue()


def encode16(pixels, suffix: str, *options: int) -> bytes:
    """Through OpenCV, because Pillow writes no RGB of 16 bits."""
    done, data = cv2.imencode(suffix, pixels[..., ::-1] if pixels.ndim == 3 else pixels, list(options))
    assert done
    return data.tobytes()


def put(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


def chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def make_png(width, height, bits, color, raw, *, interlace=0, extra=b"") -> bytes:
    """A PNG from its filtered rows."""
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, bits, color, 0, 0, interlace))
    return b"\x89PNG\r\n\x1a\n" + header + extra + chunk(b"IDAT", zlib.compress(raw)) + chunk(b"IEND", b"")


# What is stored is what comes


LOSSLESS = [
    ("PNG", ".png", {}),
    ("TIFF", ".tif", {}),
    ("TIFF", ".tiff", {"compression": "tiff_lzw"}),
    ("TIFF", ".tif", {"compression": "tiff_adobe_deflate"}),
    ("TIFF", ".tif", {"compression": "packbits"}),
    ("BMP", ".bmp", {}),
    ("PNG", ".PNG", {}),
]


@pytest.mark.parametrize(("kind", "suffix", "options"), LOSSLESS)
@pytest.mark.parametrize("pixels", [GRAY, COLOR], ids=["gray", "color"])
def test_lossless_formats_come_back_exactly(tmp_path, kind, suffix, options, pixels):
    found = decode_image(put(tmp_path / f"x{suffix}", encode(pixels, kind, **options)))
    assert found.dtype == np.uint8 and np.array_equal(found, pixels)


@pytest.mark.parametrize("suffix_and_options", [(".png",), (".tif", 259, 1), (".tif", 259, 5), (".tif", 259, 8)])
@pytest.mark.parametrize("pixels", [GRAY16, COLOR16], ids=["gray", "color"])
def test_sixteen_bits_keep_their_depth(tmp_path, suffix_and_options, pixels):
    suffix, *options = suffix_and_options
    found = decode_image(put(tmp_path / f"x{suffix}", encode16(pixels, suffix, *options)))
    assert found.dtype == np.uint16 and np.array_equal(found, pixels)


def test_big_endian_tiff_keeps_its_values(tmp_path):
    image = Image.frombytes("I;16B", GRAY16.shape[::-1], GRAY16.astype(">u2").tobytes())
    data = encode(image, "TIFF")
    assert data.startswith(b"MM")
    found = decode_image(put(tmp_path / "x.tif", data))
    assert found.dtype == np.uint16 and np.array_equal(found, GRAY16)


@pytest.mark.parametrize("options", [{"quality": 95}, {"progressive": True}, {"quality": 95, "restart_marker_rows": 1}])
@pytest.mark.parametrize(
    "pixels", [np.add.outer(np.arange(30), np.arange(40)).astype(np.uint8), np.full((30, 40, 3), (99, 9, 90), np.uint8)]
)
def test_jpeg_comes_nearly_back(tmp_path, options, pixels):
    found = decode_image(put(tmp_path / "x.jpg", encode(pixels, "JPEG", **options)))
    assert found.shape == pixels.shape
    assert np.abs(found.astype(int) - pixels).mean() < 4


def test_small_depths_and_palettes_become_gray_or_rgb(tmp_path):
    one_bit = Image.fromarray(GRAY > 127)
    assert np.array_equal(decode_image(put(tmp_path / "one.png", encode(one_bit, "PNG"))), np.where(GRAY > 127, 255, 0))
    palette = Image.fromarray(COLOR).quantize(16)
    found = decode_image(put(tmp_path / "palette.png", encode(palette, "PNG")))
    assert np.array_equal(found, np.asarray(palette.convert("RGB")))
    found = decode_image(put(tmp_path / "palette.bmp", encode(palette, "BMP")))
    assert np.array_equal(found, np.asarray(palette.convert("RGB")))


@pytest.mark.parametrize(("width", "height", "bits"), [(1, 1, 8), (5, 3, 8), (9, 8, 1), (16, 9, 8), (3, 5, 16)])
def test_interlaced_png_is_read(tmp_path, width, height, bits):
    """A picture of zeros has zeros in each of the seven passes: only their length has to be right."""
    passes = [(0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2)]
    size = 0
    for left, top, step_x, step_y in passes:
        columns, num_rows = len(range(left, width, step_x)), len(range(top, height, step_y))
        size += num_rows * (1 + -(-columns * bits // 8)) if columns else 0
    path = put(tmp_path / "x.png", make_png(width, height, bits, 0, bytes(size), interlace=1))
    assert np.array_equal(decode_image(path), np.zeros((height, width)))
    put(path, make_png(width, height, bits, 0, bytes(size - 1), interlace=1))
    with pytest.raises(UserError, match="do not fill the size"):
        decode_image(path)


@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
def test_orientation_tags_are_left_aside(tmp_path, orientation):
    image = Image.fromarray(GRAY)
    exif = image.getexif()
    exif[274] = orientation
    for kind, suffix, options in LOSSLESS[:3]:
        found = decode_image(put(tmp_path / f"x{suffix}", encode(image, kind, exif=exif, **options)))
        assert np.array_equal(found, GRAY)
    assert decode_image(put(tmp_path / "x.jpg", encode(image, "JPEG", exif=exif))).shape == GRAY.shape


def test_opaque_alpha_is_dropped_and_transparency_refused(tmp_path):
    opaque = np.dstack([COLOR, np.full(COLOR.shape[:2], 255, np.uint8)])
    opaque16 = np.dstack([COLOR16, np.full(COLOR.shape[:2], 65535, np.uint16)])
    clear, clear16 = opaque.copy(), opaque16.copy()
    clear[3, 4, 3] = 254
    clear16[3, 4, 3] = 65534
    swap = [2, 1, 0, 3]
    for kind, suffix in (("PNG", ".png"), ("TIFF", ".tif")):
        assert np.array_equal(decode_image(put(tmp_path / f"x{suffix}", encode(opaque, kind))), COLOR)
        data16 = cv2.imencode(suffix, opaque16[..., swap])[1].tobytes()
        assert np.array_equal(decode_image(put(tmp_path / f"x{suffix}", data16)), COLOR16)
        for data in (encode(clear, kind), cv2.imencode(suffix, clear16[..., swap])[1].tobytes()):
            with pytest.raises(UserError, match="found transparent pixels; save the image without transparency"):
                decode_image(put(tmp_path / f"x{suffix}", data))
    gray_alpha = Image.merge("LA", [Image.fromarray(GRAY), Image.new("L", GRAY.shape[::-1], 255)])
    found = decode_image(put(tmp_path / "la.png", encode(gray_alpha, "PNG")))
    assert is_gray(found) and np.array_equal(found[..., 0], GRAY)
    key = encode(Image.fromarray(GRAY), "PNG", transparency=int(GRAY[0, 0]))
    with pytest.raises(UserError, match="transparent pixels"):
        decode_image(put(tmp_path / "key.png", key))
    key16 = make_png(2, 1, 16, 0, bytes(5), extra=chunk(b"tRNS", b"\0\1"))
    with pytest.raises(UserError, match="transparent colour in 16 bits"):
        decode_image(put(tmp_path / "key16.png", key16))


# Damage


WHOLE = {
    "gray.png": encode(GRAY, "PNG"),
    "color.png": encode(COLOR, "PNG"),
    "color16.png": encode16(COLOR16, ".png"),
    "gray.jpg": encode(GRAY, "JPEG"),
    "color.jpg": encode(COLOR, "JPEG"),
    "progressive.jpg": encode(COLOR, "JPEG", progressive=True),
    "plain.tif": encode(COLOR, "TIFF"),
    "lzw.tif": encode(GRAY, "TIFF", compression="tiff_lzw"),
    "color16.tif": encode16(COLOR16, ".tif"),
    "gray.bmp": encode(GRAY, "BMP"),
    "color.bmp": encode(COLOR, "BMP"),
}


@pytest.mark.parametrize("lenient", [False, True], ids=["strict", "lenient"])
@pytest.mark.parametrize("name", WHOLE)
def test_every_cut_is_an_error(tmp_path, monkeypatch, name, lenient):
    """Also where another library has told Pillow to fill up what is missing."""
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", lenient)
    data = WHOLE[name]
    decode_image(put(tmp_path / name, data))
    for length in [len(data) * tenth // 10 for tenth in range(10)] + [len(data) - cut for cut in range(1, 21)]:
        with pytest.raises(UserError, match=name):
            decode_image(put(tmp_path / name, data[:length]))


@settings(deadline=None, max_examples=60)
@given(name=st.sampled_from(sorted(WHOLE)), data=st.data())
def test_any_cut_is_an_error(tmp_path_factory, name, data):
    length = data.draw(st.integers(0, len(WHOLE[name]) - 1))
    with pytest.raises(UserError):
        decode_image(put(tmp_path_factory.getbasetemp() / name, WHOLE[name][:length]))


@settings(deadline=None, max_examples=60)
@given(name=st.sampled_from(sorted(WHOLE)), data=st.data())
def test_changed_bytes_give_an_image_or_one_line(tmp_path_factory, name, data):
    damaged = bytearray(WHOLE[name])
    for _ in range(data.draw(st.integers(1, 4))):
        damaged[data.draw(st.integers(0, min(len(damaged) - 1, 400)))] = data.draw(st.integers(0, 255))
    try:
        decode_image(put(tmp_path_factory.getbasetemp() / name, bytes(damaged)))
    except UserError as error:
        assert "\n" not in str(error) and name in str(error)


@pytest.mark.parametrize("name", ["gray.png", "gray.jpg"])
@pytest.mark.parametrize("tail", [b"\0" * 50, b"\xff\xd8\xff\xe0 more", b"text"])
def test_bytes_behind_the_end_do_no_harm(tmp_path, name, tail):
    plain = decode_image(put(tmp_path / name, WHOLE[name]))
    assert np.array_equal(decode_image(put(tmp_path / name, WHOLE[name] + tail)), plain)


def test_a_thumbnail_does_not_end_a_jpeg(tmp_path):
    thumbnail = encode(GRAY[:8, :8], "JPEG")
    segment = b"\xff\xe2" + struct.pack(">H", len(thumbnail) + 2) + thumbnail
    data = WHOLE["gray.jpg"][:2] + segment + WHOLE["gray.jpg"][2:]
    decode_image(put(tmp_path / "x.jpg", data))
    with pytest.raises(UserError, match="a cut JPEG"):
        decode_image(put(tmp_path / "x.jpg", data[: 4 + len(segment) + 300]))


def set_bytes(data: bytes, place: int, new: bytes) -> bytes:
    return data[:place] + new + data[place + len(new) :]


def tiff(**tags) -> bytes:
    """A little-endian TIFF of 4 x 4 gray bytes; tags as t256=(type, value) replace the plain ones, None removes one."""
    plain = {256: (3, 4), 257: (3, 4), 258: (3, 8), 259: (3, 1), 262: (3, 1), 273: (4, 8), 277: (3, 1), 279: (4, 16)}
    plain |= {int(name[1:]): value for name, value in tags.items() if name != "following"}
    entries = [(tag, value) for tag, value in sorted(plain.items()) if value is not None]
    directory = struct.pack("<H", len(entries))
    for tag, (code, value) in entries:
        directory += struct.pack("<HHII", tag, code, 1, value)
    return b"II*\0" + struct.pack("<I", 24) + bytes(range(16)) + directory + struct.pack("<I", tags.get("following", 0))


def test_the_smallest_tiff_is_read(tmp_path):
    assert np.array_equal(decode_image(put(tmp_path / "x.tif", tiff())), np.arange(16).reshape(4, 4))
    assert np.array_equal(decode_image(put(tmp_path / "x.tif", tiff(t274=(3, 6)))), np.arange(16).reshape(4, 4))


PNG, JPG, BMP = WHOLE["gray.png"], WHOLE["gray.jpg"], WHOLE["gray.bmp"]
FRAME = JPG.index(b"\xff\xc0")
REFUSED = [
    ("x.png", b"", "found an empty one; copy the file again"),
    ("x.png", b"hello, this is text", "content that is neither PNG, JPEG, TIFF nor BMP; save it again as PNG"),
    ("x.png", JPG, "content that is JPEG under the name .png; rename the file"),
    ("x.jpg", PNG, "content that is PNG under the name .jpg"),
    ("x.bmp", WHOLE["plain.tif"], "content that is TIFF under the name .bmp"),
    ("x.gif", PNG, "found the suffix '.gif'; save it as one of .png .jpg"),
    ("x", PNG, "found the suffix ''"),
    ("x.tif", b"II+\0\x08\0\0\0" + struct.pack("<Q", 16) + bytes(24), "a TIFF without a size"),
    ("x.png", set_bytes(PNG, 60, bytes([PNG[60] ^ 1])), "a PNG with a wrong checksum"),
    ("x.png", PNG[:8] + PNG[33:], "a PNG without a header"),
    ("x.png", PNG[:8] + chunk(b"IEND", b""), "a PNG without a header"),
    ("x.png", make_png(4, 4, 8, 5, bytes(20)), "the unknown kind 5 with 8 bits"),
    ("x.png", make_png(4, 4, 7, 0, bytes(20)), "the unknown kind 0 with 7 bits"),
    ("x.png", make_png(4, 4, 8, 0, bytes(19)), "do not fill the size"),
    ("x.png", make_png(4, 4, 8, 0, bytes(21)), "do not fill the size"),
    ("x.png", PNG[:33] + chunk(b"IDAT", b"no zlib") + chunk(b"IEND", b""), "a PNG with damaged pixels"),
    ("x.png", PNG[:33] + chunk(b"IEND", b""), "do not fill the size"),
    ("x.png", make_png(4, 4, 8, 0, b"\x09" * 20), "a damaged PNG"),
    ("x.png", make_png(0, 4, 8, 0, b""), "a header of 0 x 4 pixels"),
    ("x.png", make_png(10_000, 10_000, 8, 0, b""), "10000 x 10000 pixels, more than 67,108,864; crop or shrink"),
    ("x.png", make_png(4, 4, 8, 0, bytes(20), extra=chunk(b"acTL", bytes(8))), "an animated PNG; save one frame"),
    ("x.jpg", set_bytes(JPG, FRAME + 5, b"\xff\xff\xff\xff"), "65535 x 65535 pixels, more than"),
    ("x.jpg", set_bytes(JPG, FRAME + 4, b"\x0c"), "a JPEG of 1 channels with 12 bits; save it as gray or RGB PNG"),
    ("x.jpg", encode(Image.new("CMYK", (9, 9)), "JPEG"), "a JPEG of 4 channels with 8 bits"),
    ("x.jpg", set_bytes(JPG, FRAME + 2, b"\0\x04"), "a damaged JPEG"),
    ("x.jpg", JPG[:20] + b"\0" + JPG[20:], "a damaged JPEG"),
    ("x.jpg", b"\xff\xd8\xff\xd9", "a JPEG without pixels"),
    ("x.jpg", b"\xff\xd8\xff\xff\xff", "a cut JPEG"),
    ("x.bmp", set_bytes(BMP, 30, struct.pack("<I", 1)), "a BMP of an old or packed kind (8 bits, compression 1)"),
    ("x.bmp", set_bytes(BMP, 18, struct.pack("<ii", 60_000, 60_000)), "60000 x 60000 pixels, more than"),
    ("x.bmp", set_bytes(BMP, 22, struct.pack("<i", 99)), "a cut BMP"),
    ("x.bmp", set_bytes(BMP, 2, struct.pack("<I", len(BMP) + 1)), "a cut BMP"),
    ("x.tif", encode(GRAY, "TIFF", save_all=True, append_images=[Image.fromarray(GRAY)]), "several pages; write one file"),
    ("x.tif", encode(GRAY.astype(np.float32), "TIFF"), "float or signed values; scale them to 16 bits"),
    ("x.tif", encode(GRAY.astype(np.int32), "TIFF"), "float or signed values"),
    ("x.tif", encode(Image.fromarray(GRAY > 9), "TIFF"), "a TIFF of 1 channels with 1 bits; save it as gray or RGB"),
    ("x.tif", encode(Image.fromarray(COLOR).quantize(9), "TIFF"), "a palette or inverted gray"),
    ("x.tif", tiff(t262=(3, 0)), "a palette or inverted gray"),
    ("x.tif", tiff(t277=(3, 2)), "a TIFF of 2 channels with 8 bits"),
    ("x.tif", tiff(t277=(3, 3), t258=(3, 16), t262=(3, 2), t284=(3, 2)), "as a separate plane; save it with inter"),
    ("x.tif", tiff(t256=None), "a TIFF without a size"),
    ("x.tif", tiff(t273=None), "a TIFF without pixels"),
    ("x.tif", tiff(t256=(3, 9000), t257=(3, 9000)), "9000 x 9000 pixels, more than"),
    ("x.tif", tiff(t279=(4, 15)), "a cut TIFF"),
    ("x.tif", tiff(t273=(4, 5000)), "a cut TIFF"),
    ("x.tif", tiff(following=24), "several pages"),
    ("x.tif", tiff(t259=(3, 5)), "a damaged TIFF"),
    ("x.tif", tiff(t259=(3, 5), t258=(3, 16)), "a damaged TIFF"),
]


@pytest.mark.parametrize(("name", "data", "part"), REFUSED, ids=[f"{name} {part}" for name, _, part in REFUSED])
def test_unusable_files_are_refused_with_the_reason(tmp_path, name, data, part):
    with pytest.raises(UserError) as caught:
        decode_image(put(tmp_path / name, data))
    message = str(caught.value)
    assert part in message and message.startswith(str(tmp_path / name)) and "\n" not in message, message


def test_a_cut_file_is_told_from_another_unusable_one(tmp_path):
    for name, data, is_cut in (("x.png", PNG[:-1], True), ("x.jpg", JPG[:-2], True), ("x.bmp", BMP[:-1], True),
                               ("x.tif", tiff(t273=(4, 5000)), True), ("x.png", b"", True), ("x.png", JPG, False),
                               ("x.png", b"hello, this is text", False), ("x.tif", tiff(following=24), False)):
        with pytest.raises(ImageError) as caught:
            decode_image(put(tmp_path / name, data))
        assert caught.value.is_cut is is_cut, str(caught.value)


def as_big(data: bytes) -> bytes:
    """A little-endian TIFF as BigTIFF: a header of 16 bytes, tags of 20."""
    start = struct.unpack_from("<I", data, 4)[0]
    tags, values = [], b""
    for place in range(start + 2, start + 2 + 12 * struct.unpack_from("<H", data, start)[0], 12):
        tag, kind, count = struct.unpack_from("<HHI", data, place)
        if kind not in (1, 3, 4):
            continue
        layout = f"<{count}{'.B.HI'[kind]}"
        long = struct.calcsize(layout) > 4
        found = struct.unpack_from(layout, data, struct.unpack_from("<I", data, place + 8)[0] if long else place + 8)
        if tag in (273, 324):
            kind, layout, found = 16, f"<{count}Q", tuple(offset + 8 for offset in found)
        packed = struct.pack(layout, *found)
        if len(packed) > 8:
            packed, values = struct.pack("<Q", len(data) + 8 + len(values)), values + packed
        tags.append(struct.pack("<HHQ", tag, kind, count) + packed.ljust(8, b"\0"))
    directory = struct.pack("<Q", len(tags)) + b"".join(tags) + bytes(8)
    return b"II+\0\x08\0\0\0" + struct.pack("<Q", len(data) + 8 + len(values)) + data[8:] + values + directory


@pytest.mark.parametrize("compression", [1, 5, 8])
@pytest.mark.parametrize("pixels", [GRAY, COLOR, GRAY16, COLOR16])
def test_bigtiff_is_read_and_its_cuts_are_errors(tmp_path, pixels, compression):
    data = as_big(encode16(pixels, ".tif", cv2.IMWRITE_TIFF_COMPRESSION, compression))
    assert np.array_equal(decode_image(put(tmp_path / "a.tif", data)), pixels)
    for end in (*range(1, 40), *range(40, len(data), 97), len(data) - 9, len(data) - 1):
        with pytest.raises(ImageError):
            decode_image(put(tmp_path / "cut.tif", data[:end]))


def test_images_are_decoded_side_by_side_on_several_threads(tmp_path, monkeypatch):
    """No lock is held where the time goes: two threads meet inside the decoder."""
    both, load = threading.Barrier(2), ImageFile.ImageFile.load

    def wait_and_load(image):
        if not both.broken and threading.current_thread() is not threading.main_thread():
            both.wait(timeout=30)
        return load(image)

    monkeypatch.setattr(ImageFile.ImageFile, "load", wait_and_load)
    paths = [put(tmp_path / f"a{suffix}", encode(GRAY, kind)) for suffix, kind in ((".png", "PNG"), (".bmp", "BMP"))]
    with ThreadPoolExecutor(2) as pool:
        assert all(np.array_equal(pixels, GRAY) for pixels in pool.map(decode_image, paths))


def test_tags_of_a_microscope_neither_warn_nor_turn_the_image(tmp_path):
    info = TiffImagePlugin.ImageFileDirectory_v2()
    info[274], info[270], info[65000] = 6, "made by a microscope", "private"
    data = encode(GRAY, "TIFF", tiffinfo=info, compression="tiff_lzw")
    assert np.array_equal(decode_image(put(tmp_path / "a.tif", data)), GRAY)


def test_missing_files_and_folders_are_refused(tmp_path):
    with pytest.raises(UserError, match=r"gone.png: expected an image file, found nothing there"):
        decode_image(tmp_path / "gone.png")
    (tmp_path / "folder.png").mkdir()
    with pytest.raises(UserError, match=r"folder.png: expected an image file, found a folder"):
        decode_image(tmp_path / "folder.png")
    os.mkfifo(tmp_path / "pipe.png")
    with pytest.raises(UserError, match="found a device or pipe"):
        decode_image(tmp_path / "pipe.png")
    with pytest.raises(UserError, match="found no access"):
        decode_image(tmp_path / ("n" * 300 + ".png"))


# Geometry


def test_gray_allows_for_the_rounding_of_jpeg():
    image = np.dstack([GRAY // 2 + 10] * 3)
    assert is_gray(image) and is_gray(GRAY)
    image[0, 0, 1] += 2
    assert is_gray(image)
    image[0, 0, 1] += 1
    assert not is_gray(image)
    image16 = np.dstack([GRAY16 // 2 + 1000] * 3)
    image16[0, 0, 2] += 514
    assert is_gray(image16)
    image16[0, 0, 2] += 1
    assert not is_gray(image16)


@pytest.mark.parametrize("pixels", [GRAY, COLOR, GRAY16, COLOR16], ids=["gray", "color", "gray16", "color16"])
@pytest.mark.parametrize("fit", ["pad", "crop", "stretch"])
@pytest.mark.parametrize("size_px", [1, 16, 45, 64])
def test_shape_type_and_range(pixels, fit, size_px):
    image = prepare_image(pixels, im_channels=3, size_px=size_px, fit=fit)
    assert image.shape == (3, size_px, size_px) and image.dtype == np.float32 and image.flags.c_contiguous
    assert image.min() >= -1 and image.max() <= 1


@pytest.mark.parametrize("fit", ["pad", "crop", "stretch"])
def test_square_image_of_the_right_size_is_only_scaled(fit):
    square = COLOR[:37, :37]
    image = prepare_image(square, im_channels=3, size_px=37, fit=fit)
    assert np.array_equal(to_uint8(image).transpose(1, 2, 0), square)
    assert np.abs(image - from_uint8(square).transpose(2, 0, 1)).max() < 1e-6


@pytest.mark.parametrize("fit", ["pad", "crop", "stretch"])
@pytest.mark.parametrize(
    ("value", "dtype", "expected"), [(0, np.uint8, -1), (255, np.uint8, 1), (65535, np.uint16, 1), (0, np.uint16, -1)]
)
def test_flat_images_stay_flat(fit, value, dtype, expected):
    image = prepare_image(np.full((20, 31), value, dtype), im_channels=1, size_px=24, fit=fit)
    assert np.allclose(image, expected, atol=1e-6)


def test_pad_centres_the_image_on_the_median_of_its_border():
    pixels = np.full((4, 8), 100, np.uint8)
    pixels[1:3, 1:7] = 200
    pixels[0, 0] = 0  # one odd corner does not tint the background
    image = to_uint8(prepare_image(pixels, im_channels=1, size_px=8, fit="pad"))[0]
    assert np.array_equal(image[2:6], pixels)
    assert (image[:2] == 100).all() and (image[6:] == 100).all()
    tall = to_uint8(prepare_image(pixels.T, im_channels=1, size_px=8, fit="pad"))[0]
    assert np.array_equal(tall, image.T)


def test_pad_fills_each_channel_by_itself():
    pixels = np.zeros((2, 6, 3), np.uint8) + np.array([10, 20, 30], np.uint8)
    image = to_uint8(prepare_image(pixels, im_channels=3, size_px=6, fit="pad"))
    assert (image.reshape(3, -1) == np.array([[10], [20], [30]])).all()


def test_crop_keeps_the_centre():
    pixels = np.zeros((4, 8), np.uint8)
    pixels[:, 2:6] = 255
    assert (prepare_image(pixels, im_channels=1, size_px=4, fit="crop") == 1).all()
    assert (prepare_image(pixels.T, im_channels=1, size_px=4, fit="crop") == 1).all()


def test_stretch_shrinks_one_axis_and_enlarges_the_other():
    pixels = np.repeat(np.array([[0, 100, 200, 100]], np.uint8), 2, axis=0).repeat(2, axis=1)  # (2, 8)
    image = prepare_image(pixels, im_channels=1, size_px=4, fit="stretch")[0]
    assert np.allclose(image, np.array([0, 100, 200, 100]) / 127.5 - 1, atol=1e-5)


def test_shrinking_takes_area_means_in_float():
    """Means of 2 x 2 blocks keep their quarters: nothing is cut to 8 bits on the way."""
    blocks = GRAY[:36, :36].reshape(18, 2, 18, 2).mean(axis=(1, 3))
    image = prepare_image(GRAY[:36, :36], im_channels=1, size_px=18, fit="crop")[0]
    assert np.abs((image + 1) * 127.5 - blocks).max() < 1e-4
    assert (np.abs(blocks - np.rint(blocks)) > 0.2).any()


def test_shrinking_by_a_fraction_weighs_pixels_by_their_area():
    weights = np.zeros((2, 3))
    weights[0] = [2 / 3, 1 / 3, 0]
    weights[1] = [0, 1 / 3, 2 / 3]
    pixels = GRAY[:3, :3]
    image = prepare_image(pixels, im_channels=1, size_px=2, fit="crop")[0]
    assert np.abs((image + 1) * 127.5 - weights @ pixels @ weights.T).max() < 1e-4


def test_shrinking_does_not_alias():
    """A checkerboard of single pixels becomes mid gray, not stripes."""
    board = (np.indices((60, 60)).sum(axis=0) % 2 * 255).astype(np.uint8)
    image = prepare_image(board, im_channels=1, size_px=17, fit="stretch")
    assert np.abs(image).max() < 0.1


def test_enlarging_is_clipped_to_the_range():
    pixels = np.zeros((8, 8), np.uint8)
    pixels[:, 4:] = 255
    image = prepare_image(pixels, im_channels=1, size_px=32, fit="pad")
    assert image.min() == -1 and image.max() == 1


def test_sixteen_bits_are_not_cut_to_eight():
    pixels = np.array([[0, 1], [256, 257]], np.uint16)
    image = prepare_image(pixels, im_channels=1, size_px=2, fit="pad")[0]
    assert len(np.unique(image)) == 4
    assert np.allclose((image.astype(np.float64) + 1) * 32767.5, pixels, atol=0.01)


@pytest.mark.parametrize("suffix", [".png", ".tif"])
@pytest.mark.parametrize(("size_px", "fit"), [(64, "pad"), (96, "crop"), (96, "stretch"), (256, "pad")])
def test_a_sixteen_bit_gradient_keeps_its_levels_through_loading(tmp_path, suffix, size_px, fit):
    gradient = np.linspace(20_000, 40_000, 128 * 128).astype(np.uint16).reshape(128, 128)
    path = put(tmp_path / f"x{suffix}", encode16(gradient, suffix))
    image = load_image(path, im_channels=1, size_px=size_px, fit=fit)
    levels = np.unique(image)
    assert len(levels) > 2000 and np.diff(levels).min() < 1 / 255  # 8 bits would leave 79
    assert image.min() >= 20_000 / 32767.5 - 1.001 and image.max() <= 40_000 / 32767.5 - 0.999


def test_channels_gray_is_repeated_and_colour_refused():
    gray = prepare_image(GRAY, im_channels=1, size_px=16, fit="pad")
    assert np.array_equal(prepare_image(GRAY, im_channels=3, size_px=16, fit="pad"), gray.repeat(3, axis=0))
    assert np.array_equal(prepare_image(np.dstack([GRAY] * 3), im_channels=1, size_px=16, fit="pad"), gray)
    with pytest.raises(UserError, match="expected a gray image for im_channels: 1, found colours; set im_channels: 3"):
        prepare_image(COLOR, im_channels=1, size_px=16, fit="pad")


def test_red_green_and_blue_keep_their_order(tmp_path):
    pixels = np.full((5, 5, 3), (250, 120, 10), np.uint8)
    for name, data in (
        ("x.png", encode(pixels, "PNG")),
        ("x.bmp", encode(pixels, "BMP")),
        ("x.tif", encode(pixels, "TIFF")),
        ("y.png", encode16(pixels.astype(np.uint16) * 257, ".png")),
    ):
        image = load_image(put(tmp_path / name, data), im_channels=3, size_px=5, fit="pad")
        assert to_uint8(image)[:, 2, 2].tolist() == [250, 120, 10]


@pytest.mark.parametrize(
    ("settings_", "part"),
    [
        ({"im_channels": 2}, "im_channels: expected 1 (gray) or 3 (RGB), found 2"),
        ({"im_channels": True}, "found True"),
        ({"size_px": 0}, "from 1 to 8192, found 0"),
        ({"size_px": 64.0}, "found 64.0"),
        ({"size_px": 9000}, "found 9000"),
        ({"fit": "fill"}, "fit: expected one of pad, crop, stretch, found 'fill'"),
    ],
)
def test_bad_geometry_is_refused(settings_, part):
    with pytest.raises(UserError) as caught:
        check_geometry(**{"im_channels": 1, "size_px": 8, "fit": "pad", **settings_})
    assert part in str(caught.value)


@pytest.mark.parametrize("pixels", [np.zeros((4, 4)), np.zeros((4, 4, 4), np.uint8), np.zeros(4, np.uint8)])
def test_other_arrays_are_bugs_of_ours(pixels):
    with pytest.raises(TypeError, match="expected uint8 or uint16 pixels"):
        prepare_image(pixels, im_channels=1, size_px=4, fit="pad")


def test_load_image_names_the_file(tmp_path):
    path = put(tmp_path / "color.png", WHOLE["color.png"])
    with pytest.raises(UserError, match=r"color.png: expected a gray image"):
        load_image(path, im_channels=1, size_px=8, fit="pad")
    assert load_image(path, im_channels=3, size_px=8, fit="pad").shape == (3, 8, 8)


# 8 bits and back


def test_every_byte_comes_back():
    pixels = np.arange(256, dtype=np.uint8)
    assert np.array_equal(to_uint8(from_uint8(pixels)), pixels)
    tensor = torch.from_numpy(from_uint8(pixels))
    for dtype in (torch.float16, torch.float32, torch.float64):
        assert np.array_equal(to_uint8(tensor.to(dtype).requires_grad_()), pixels)


def test_values_are_rounded_and_clipped():
    values = np.array([-2.0, -1, 1, 1.5, 0, *(np.array([0.4, 0.6, 253.4, 254.6]) / 127.5 - 1)])
    assert to_uint8(values).tolist() == [0, 0, 255, 255, 128, 0, 1, 253, 255]  # 0 stands at 127.5: half to even


@settings(deadline=None)
@given(st.floats(-1, 1, width=32))
def test_rounding_is_off_by_half_a_step_at_most(value):
    back = from_uint8(to_uint8(np.array([value], np.float32)))
    assert abs(float(back[0]) - value) <= 1 / 255 + 1e-6


def test_what_is_not_a_picture_is_refused():
    for bad in (np.nan, np.inf):
        with pytest.raises(ValueError, match="found NaN or infinity"):
            to_uint8(np.array([0, bad]))
    with pytest.raises(TypeError, match="expected floats"):
        to_uint8(torch.zeros(3, dtype=torch.uint8))
    with pytest.raises(TypeError, match="expected uint8"):
        from_uint8(np.zeros(3))


# Output


@pytest.mark.parametrize("pixels", [GRAY, COLOR, GRAY[..., None]], ids=["gray", "color", "one channel"])
def test_png_keeps_pixels_and_text_and_is_the_same_each_time(tmp_path, pixels):
    text = {"Synthetic": "yes", "Seed": "7", "Label": "zygote \u00b5m \u2713"}
    write_png(tmp_path / "a.png", pixels, text=text)
    write_png(tmp_path / "b.png", pixels, text=text)
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
    assert np.array_equal(decode_image(tmp_path / "a.png"), pixels.squeeze())
    assert read_png_text(tmp_path / "a.png") == text
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.png", "b.png"]
    write_png(tmp_path / "a.png", pixels)
    assert read_png_text(tmp_path / "a.png") == {}


def test_png_wants_bytes_and_text_wants_a_png(tmp_path):
    with pytest.raises(TypeError, match="expected uint8 pixels"):
        write_png(tmp_path / "a.png", GRAY16)
    with pytest.raises(UserError, match=r"a.png: expected a PNG image, found another content"):
        read_png_text(put(tmp_path / "a.png", JPG))
    with pytest.raises(UserError, match=r"a.png: expected a PNG image, found a cut PNG"):
        read_png_text(put(tmp_path / "a.png", PNG[:-5]))


def test_tiles_lie_row_by_row_with_lines_between():
    pixels = np.arange(5, dtype=np.uint8)[:, None, None, None] * np.ones((1, 3, 4, 3), np.uint8)
    grid = tile_images(pixels, num_columns=2, separator_px=1, separator_value=99)
    assert grid.shape == (3 * 3 + 2, 2 * 4 + 1, 3)
    assert (grid[:3, :4] == 0).all() and (grid[:3, 5:] == 1).all() and (grid[8:, :4] == 4).all()
    assert (grid[3] == 99).all() and (grid[:, 4] == 99).all() and (grid[8:, 5:] == 99).all()
    assert np.array_equal(tile_images(pixels[:1], num_columns=6), pixels[0])
    for bad in (pixels[:0], pixels[0], pixels.astype(float)):
        with pytest.raises(ValueError, match="expected uint8"):
            tile_images(bad, num_columns=2)


# Real files


@needs_shared
def test_real_jpegs_stored_as_rgb_are_gray():
    paths = sorted((SHARED / "stork" / "images").glob("*.jpg"))[::12]
    for path in paths:
        pixels = decode_image(path)
        assert pixels.shape == (500, 500, 3) and is_gray(pixels)
        image = load_image(path, im_channels=1, size_px=64, fit="pad")
        assert image.shape == (1, 64, 64) and image.std() > 0.05


@needs_shared
@pytest.mark.parametrize("folder", ["stork", "mhsma64"])
def test_real_files_that_are_cut_are_refused(tmp_path, folder):
    source = min((SHARED / folder / "images").iterdir())
    data = source.read_bytes()
    for length in [len(data) * tenth // 10 for tenth in range(1, 10)] + [len(data) - cut for cut in range(1, 21)]:
        with pytest.raises(UserError):
            decode_image(put(tmp_path / source.name, data[:length]))

"""From the bytes of a PNG, JPEG, TIFF or BMP file to its pixels, as they are stored; a damaged file is an error.

It checks whether a file is whole, refuses some formats and picks the decoder. dataset.images does geometry and scaling.
"""

import io
import struct
import threading
import warnings
import zlib
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from config.errors import UserError

# A 8192 x 8192 image: beyond any embryo camera, and 768 MB as float32 RGB, what a laptop can still hold.
MAX_PIXELS = 64 * 2**20
_FORMAT_OF_SUFFIX = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".tif": "TIFF", ".tiff": "TIFF", ".bmp": "BMP"}
_PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_MAGIC = {"PNG": (_PNG_SIGNATURE,), "JPEG": (b"\xff\xd8\xff",), "TIFF": (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"),
          "BMP": (b"BM",)}
_PIXEL_TAGS = frozenset((  # of a TIFF: type, place and packing of its pixels
    256, 257, 258, 259, 262, 266, 273, 277, 278, 279, 284, 317, 320, 322, 323, 324, 325, 338, 339, 347, *range(512, 522),
    529, 530, 531, 532,
))
_COPY_AGAIN = "copy the file again from its source"
_WARNINGS_LOCK = threading.Lock()  # images are decoded on several threads, and all share the warning filters


class ImageError(UserError):
    """A file without a usable image; `is_cut` if its end is missing, as after an interrupted copy."""

    def __init__(self, message: str, *, is_cut: bool = False) -> None:
        super().__init__(message)
        self.is_cut = is_cut


class _Unusable(Exception):
    """Why the content of a file cannot be used, and what to do; the caller adds the file's name."""

    is_cut = False

    def __init__(self, found: str, remedy: str = _COPY_AGAIN) -> None:
        super().__init__(f"found {found}; {remedy}")


class _Cut(_Unusable):
    """The end of the file is missing."""

    is_cut = True


@dataclass(frozen=True)
class _Header:
    width: int
    height: int
    bits: int = 8


def decode_image(path: str | Path) -> np.ndarray:
    """Read a PNG, JPEG, TIFF or BMP file as it is stored: (H, W) gray or (H, W, 3) RGB, uint8 or uint16.

    Opaque alpha is dropped. Orientation tags are not applied.

    Raises:
        ImageError: the file is missing, cut, damaged, named for another format, has several pages, transparent pixels,
            float or signed values, or more than MAX_PIXELS pixels.
    """
    path = Path(path)
    data = _read_file(path)
    try:
        kind = _check_kind(path, data)
        header = _CHECKS[kind](data)
        pixels = _decode(data, kind, header)
        if pixels.shape[:2] != (header.height, header.width):
            sizes = f"{pixels.shape[1]} x {pixels.shape[0]} pixels, {header.width} x {header.height} in its header"
            raise _Unusable(sizes, "save it again as PNG")
        return _drop_alpha(pixels)
    except _Unusable as error:
        raise ImageError(f"{path}: expected an image that can be used, {error}", is_cut=error.is_cut) from error


def read_png_text(path: str | Path) -> dict[str, str]:
    """The text chunks of a PNG file; UserError when it is not a whole PNG file."""
    path = Path(path)
    data = _read_file(path)
    try:
        if not data.startswith(_PNG_SIGNATURE):
            raise _Unusable("another content", "give the name of a PNG file")
        _check_png(data)
        with _open_pillow(data, "PNG") as image:
            return {key: str(value) for key, value in image.text.items()}
    except _Unusable as error:
        raise ImageError(f"{path}: expected a PNG image, {error}", is_cut=error.is_cut) from error


def _read_file(path: Path) -> bytes:
    try:
        if path.is_dir():
            raise ImageError(f"{path}: expected an image file, found a folder; give the name of a file in it")
        if path.exists() and not path.is_file():
            raise ImageError(f"{path}: expected an image file, found a device or pipe; give the name of a file")
        data = path.read_bytes()
    except OSError as error:
        reason = "nothing there" if isinstance(error, FileNotFoundError) else f"no access ({error.strerror})"
        raise ImageError(f"{path}: expected an image file, found {reason}; correct the name or grant access") from error
    if not data:
        raise ImageError(f"{path}: expected an image file, found an empty one; {_COPY_AGAIN}", is_cut=True)
    return data


def _check_kind(path: Path, data: bytes) -> str:
    """The format of the file; its name and its content must agree."""
    named = _FORMAT_OF_SUFFIX.get(path.suffix.lower())
    if named is None:
        raise _Unusable(f"the suffix {path.suffix!r}", f"save it as one of {' '.join(_FORMAT_OF_SUFFIX)}")
    kind = next((kind for kind, magics in _MAGIC.items() if data.startswith(magics)), None)
    if kind is None:
        raise _Unusable("content that is neither PNG, JPEG, TIFF nor BMP", "save it again as PNG")
    if kind != named:
        raise _Unusable(f"content that is {kind} under the name {path.suffix}", "rename the file")
    return kind


def _check_size(width: int, height: int) -> None:
    if width < 1 or height < 1:
        raise _Unusable(f"a header of {width} x {height} pixels")
    if width * height > MAX_PIXELS:
        raise _Unusable(f"{width} x {height} pixels, more than {MAX_PIXELS:,}", "crop or shrink the image first")


def _check_png(data: bytes) -> _Header:
    """Walk the chunks with their checksums to the end, then inflate the pixels: nothing may be missing."""
    header: _Header | None = None
    compressed, num_bytes, has_key = [], 0, False
    position = len(_PNG_SIGNATURE)
    while True:
        if position + 12 > len(data):
            raise _Cut("a cut PNG")
        length, kind = struct.unpack_from(">I4s", data, position)
        end = position + 12 + length
        if end > len(data):
            raise _Cut("a cut PNG")
        body = data[position + 8 : end - 4]
        if zlib.crc32(kind + body) != struct.unpack_from(">I", data, end - 4)[0]:
            raise _Unusable("a PNG with a wrong checksum")
        if header is None:
            if kind != b"IHDR" or length != 13:
                raise _Unusable("a PNG without a header")
            width, height, bits, color, _, _, interlace = struct.unpack(">IIBBBBB", body)
            _check_size(width, height)
            header = _Header(width, height, bits)
            samples = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}.get(color)
            if samples is None or bits not in (1, 2, 4, 8, 16):
                raise _Unusable(f"a PNG of the unknown kind {color} with {bits} bits")
            num_bytes = _count_png_bytes(width, height, samples * bits, interlace)
        elif kind == b"IDAT":
            compressed.append(body)
        elif kind == b"acTL":
            raise _Unusable("an animated PNG", "save one frame a file")
        elif kind == b"tRNS":
            has_key = True
        elif kind == b"IEND":
            break
        position = end
    if header is None:
        raise _Unusable("a PNG without a header")
    inflater = zlib.decompressobj()
    try:
        num_found = len(inflater.decompress(b"".join(compressed), num_bytes + 1))
    except zlib.error as error:
        raise _Unusable("a PNG with damaged pixels") from error
    if num_found != num_bytes or not inflater.eof:
        raise _Unusable("a PNG whose pixels do not fill the size in its header")
    if header.bits == 16 and has_key:
        raise _Unusable("a transparent colour in 16 bits", "save the image without transparency")
    return header


def _count_png_bytes(width: int, height: int, bits_per_pixel: int, interlace: int) -> int:
    """Bytes of a PNG's pixels before compression: a filter byte and the packed pixels for each row of each pass."""
    # First column and row, step of columns and rows of each pass. Source: PNG specification, Adam7.
    adam7 = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))
    total = 0
    for left, top, step_x, step_y in adam7 if interlace else ((0, 0, 1, 1),):
        columns, rows = -(-(width - left) // step_x), -(-(height - top) // step_y)
        if columns > 0 and rows > 0:
            total += rows * (1 + (columns * bits_per_pixel + 7) // 8)
    return total


def _check_jpeg(data: bytes) -> _Header:
    """Walk the segments and scans to the end marker; bytes after it do not matter."""
    header: _Header | None = None
    position, has_scan = 2, False
    while True:
        # Fill bytes may come before a marker.
        while position < len(data) and data[position] == 0xFF and data[position + 1 : position + 2] == b"\xff":
            position += 1
        if position + 2 > len(data):
            raise _Cut("a cut JPEG")
        if data[position] != 0xFF:
            raise _Unusable("a damaged JPEG")
        marker = data[position + 1]
        position += 2
        if marker == 0xD9:
            break
        if marker == 0x01 or 0xD0 <= marker <= 0xD7:
            continue
        if position + 2 > len(data):
            raise _Cut("a cut JPEG")
        length = struct.unpack_from(">H", data, position)[0]
        if length < 2 or position + length > len(data):
            raise _Cut("a cut JPEG")
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            if length < 8:
                raise _Unusable("a damaged JPEG")
            bits, height, width, components = struct.unpack_from(">BHHB", data, position + 2)
            _check_size(width, height)
            if bits != 8 or components not in (1, 3):
                raise _Unusable(f"a JPEG of {components} channels with {bits} bits", "save it as gray or RGB PNG")
            header = _Header(width, height)
        position += length
        if marker == 0xDA:
            has_scan = True
            position = _skip_scan(data, position)
    if header is None or not has_scan:
        raise _Unusable("a JPEG without pixels")
    return header


def _skip_scan(data: bytes, position: int) -> int:
    """The place of the marker that ends a scan; FF 00 is a pixel byte, FF D0 to FF D7 are restarts within it."""
    while True:
        position = data.find(b"\xff", position)
        if position < 0 or position + 1 >= len(data):
            raise _Cut("a cut JPEG")
        if data[position + 1] == 0 or 0xD0 <= data[position + 1] <= 0xD7:
            position += 2
        else:
            return position


def _check_bmp(data: bytes) -> _Header:
    if len(data) < 54:
        raise _Cut("a cut BMP")
    file_bytes, _, offset, header_bytes, width, height = struct.unpack_from("<IIIIii", data, 2)
    bits, compression = struct.unpack_from("<HI", data, 28)
    if header_bytes < 40 or compression not in (0, 3) or bits not in (1, 4, 8, 16, 24, 32):
        raise _Unusable(f"a BMP of an old or packed kind ({bits} bits, compression {compression})", "save it as PNG")
    _check_size(width, abs(height))
    row_bytes = (width * bits + 31) // 32 * 4
    if max(file_bytes, offset + row_bytes * abs(height)) > len(data):
        raise _Cut("a cut BMP")
    return _Header(width, abs(height))


def _check_tiff(data: bytes) -> _Header:
    """Read the only directory and check that its strips or tiles are inside the file."""
    try:
        tags, next_directory = _read_tiff_tags(data)
    except struct.error as error:
        raise _Cut("a cut TIFF") from error
    if next_directory:
        raise _Unusable(
            "a TIFF of several pages", "write one file per plane (magick STACK.tif STACK_%02d.tif, tiffsplit STACK.tif, or "
            "in ImageJ: Image > Stacks > Stack to Images) and give each plane a row, with one group per embryo"
        )
    if 256 not in tags or 257 not in tags:
        raise _Unusable("a TIFF without a size")
    width, height = tags[256][0], tags[257][0]
    _check_size(width, height)
    samples = tags.get(277, (1,))[0]
    bits = set(tags.get(258, (1,)))
    if set(tags.get(339, (1,))) != {1}:
        raise _Unusable("a TIFF of float or signed values", "scale them to 16 bits without sign and save again")
    if bits not in ({8}, {16}) or samples not in (1, 3, 4):
        depths = " and ".join(map(str, sorted(bits)))
        raise _Unusable(f"a TIFF of {samples} channels with {depths} bits", "save it as gray or RGB of 8 or 16 bits")
    compression, meaning = tags.get(259, (1,))[0], tags.get(262, (1,))[0]
    if (meaning, samples) not in ((1, 1), (2, 3), (2, 4), (6, 3)):
        raise _Unusable("a TIFF with a palette or inverted gray", "save it as gray or RGB of 8 or 16 bits")
    if bits == {16} and samples > 1 and tags.get(284, (1,))[0] != 1:  # OpenCV would read the planes as interleaved
        raise _Unusable("a TIFF of 16 bits that stores each colour as a separate plane",
                        "save it with interleaved channels (planar configuration 1), or as PNG")
    offsets = tags.get(273) or tags.get(324) or ()
    counts = tags.get(279) or tags.get(325) or ()
    if not offsets or len(offsets) != len(counts):
        raise _Unusable("a TIFF without pixels")
    stored = sum(counts)
    num_bits = max(bits)
    too_short = compression == 1 and stored < width * height * samples * num_bits // 8
    if too_short or any(offset + count > len(data) for offset, count in zip(offsets, counts, strict=True)):
        raise _Cut("a cut TIFF")
    return _Header(width, height, num_bits)


def _find_tiff_directory(data: bytes) -> tuple[str, str, int, int]:
    """Byte order, struct code of a place in the file (longer in a BigTIFF), place of the first tag and number of tags."""
    order = "<" if data.startswith(b"II") else ">"
    code, where, counted = ("Q", 8, "Q") if struct.unpack_from(order + "H", data, 2)[0] == 43 else ("I", 4, "H")
    start = struct.unpack_from(order + code, data, where)[0]
    return order, code, start + struct.calcsize(counted), struct.unpack_from(order + counted, data, start)[0]


def _read_tiff_tags(data: bytes) -> tuple[dict[int, tuple[int, ...]], int]:
    """Whole-number tags and their values, and the place of the next directory; struct.error where the file is cut."""
    codes = {1: "B", 3: "H", 4: "I", 16: "Q"}
    order, place_code, first, num_tags = _find_tiff_directory(data)
    width = struct.calcsize(place_code)
    end = first + (4 + 2 * width) * num_tags
    tags = {}
    for place in range(first, end, 4 + 2 * width):
        tag, code, count = struct.unpack_from(f"{order}HH{place_code}", data, place)
        if code in codes and count:
            where = place + 4 + width
            if count * struct.calcsize(codes[code]) > width:
                where = struct.unpack_from(order + place_code, data, where)[0]
            tags[tag] = struct.unpack_from(f"{order}{count}{codes[code]}", data, where)
    return tags, struct.unpack_from(order + place_code, data, end)[0]


def _keep_pixel_tags(data: bytes) -> bytes:
    """The same TIFF with only the tags that its pixels need: decoders would rotate by the orientation tag, and warn about
    unusual tags that microscopes write."""
    order, code, first, num_tags = _find_tiff_directory(data)
    size, counted = 4 + 2 * struct.calcsize(code), "H" if code == "I" else "Q"
    entries = [data[place : place + size] for place in range(first, first + size * num_tags, size)]
    kept = [entry for entry in entries if struct.unpack_from(order + "H", entry)[0] in _PIXEL_TAGS]
    start = first - struct.calcsize(counted)
    directory = struct.pack(order + counted, len(kept)) + b"".join(kept) + struct.pack(code, 0)  # no further directory
    return data[:start] + directory + data[start + len(directory) :]


_CHECKS = {"PNG": _check_png, "JPEG": _check_jpeg, "TIFF": _check_tiff, "BMP": _check_bmp}


def _open_pillow(data: bytes, kind: str) -> Image.Image:
    """A fully decoded image; a warning counts as damage, except for TIFF, where microscopes write odd tags."""
    try:
        with _WARNINGS_LOCK, warnings.catch_warnings():  # about the header; decoding, the slow part, warns about nothing
            warnings.filterwarnings("ignore" if kind == "TIFF" else "error", category=UserWarning, module="PIL")
            image = Image.open(io.BytesIO(data), formats=(kind,))
            if kind == "TIFF":  # its other tags were read, so they are whole
                image = Image.open(io.BytesIO(_keep_pixel_tags(data)), formats=(kind,))
        image.load()
        return image
    except Exception as error:  # a damaged file can make a decoder raise anything
        raise _Unusable(f"a damaged {kind} ({' '.join(str(error).split())})") from error


def _decode(data: bytes, kind: str, header: _Header) -> np.ndarray:
    """Pixels as stored, (H, W), (H, W, 3) RGB or (H, W, 4) RGBA, uint8 or uint16."""
    if header.bits == 8:
        return _decode_pillow(data, kind)
    if kind == "TIFF":
        # OpenCV silently fills damaged strips; Pillow refuses them, but cannot read 16-bit RGB.
        _open_pillow(data, kind).close()
        data = _keep_pixel_tags(data)
    return _decode_opencv(data)


def _decode_pillow(data: bytes, kind: str) -> np.ndarray:
    """8-bit pixels, (H, W), (H, W, 3) RGB or (H, W, 4) RGBA."""
    with _open_pillow(data, kind) as image:
        if "transparency" in image.info or image.mode in ("PA", "LA"):
            return np.array(image.convert("RGBA"))
        if image.mode == "P":
            return np.array(image.convert("RGB"))
        if image.mode == "1":
            return np.array(image.convert("L"))
        if image.mode not in ("L", "RGB", "RGBA"):
            raise _Unusable(f"pixels of the kind {image.mode}", "save it as gray or RGB PNG")
        return np.array(image)


def _decode_opencv(data: bytes) -> np.ndarray:
    """16-bit pixels, (H, W), (H, W, 3) RGB or (H, W, 4) RGBA; Pillow would cut RGB of 16 bits to 8."""
    try:
        pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    except cv2.error as error:
        raise _Unusable(f"damaged pixels ({' '.join(str(error.err).split())})") from error
    if pixels is None:
        raise _Unusable("pixels that cannot be decoded")
    if pixels.ndim == 3:
        return np.ascontiguousarray(pixels[..., [2, 1, 0, 3][: pixels.shape[2]]])
    return pixels


def _drop_alpha(pixels: np.ndarray) -> np.ndarray:
    """(H, W, 4) without its alpha, which must be opaque: the colour of a transparent pixel is unknown."""
    if pixels.ndim == 2 or pixels.shape[2] == 3:
        return pixels
    if (pixels[..., 3] != np.iinfo(pixels.dtype).max).any():
        raise _Unusable("transparent pixels", "save the image without transparency")
    return np.ascontiguousarray(pixels[..., :3])

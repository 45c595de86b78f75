"""From an image file to pixels in [-1, 1] and back: the only place that knows image geometry and file formats.

Owns decoding (a damaged file is an error, never a half image), fitting to a square, resizing, and 8-bit output.
Orientation tags are left aside: pixels come as they are stored. Knows no labels and no tables.
"""

import io
import struct
import warnings
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from config.errors import UserError
from dataset.storage import write_bytes

FITS = ("pad", "crop", "stretch")
# A 8192 x 8192 image: beyond any embryo camera, and 768 MB as float32 RGB, what a laptop can still hold.
MAX_PIXELS = 64 * 2**20
_FORMAT_OF_SUFFIX = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".tif": "TIFF", ".tiff": "TIFF", ".bmp": "BMP"}
_PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_MAGIC = {"PNG": (_PNG_SIGNATURE,), "JPEG": (b"\xff\xd8\xff",), "TIFF": (b"II*\0", b"MM\0*"), "BMP": (b"BM",)}
# JPEG rounds channels of a gray picture apart by up to this part of the range.
_GRAY_TOLERANCE = 2 / 255
_COPY_AGAIN = "copy the file again from its source"


class _Unusable(Exception):
    """Why the content of a file cannot be used, and what to do; the caller adds the file's name."""

    def __init__(self, found: str, remedy: str = _COPY_AGAIN) -> None:
        super().__init__(f"found {found}; {remedy}")


@dataclass(frozen=True)
class _Header:
    width: int
    height: int
    bits: int = 8
    has_color_key: bool = False


def decode_image(path: str | Path) -> np.ndarray:
    """Read a PNG, JPEG, TIFF or BMP file as it is stored: (H, W) gray or (H, W, 3) RGB, uint8 or uint16.

    Opaque alpha is dropped. Orientation tags are not applied.

    Raises:
        UserError: the file is missing, cut, damaged, named for another format, has several pages, transparent pixels,
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
        raise UserError(f"{path}: expected an image that can be used, {error}") from error


def is_gray(pixels: np.ndarray) -> bool:
    """Whether (H, W) or (H, W, 3) unsigned pixels show no colour: channels equal to 2/255 of the range."""
    if pixels.ndim == 2:
        return True
    # Channel by channel: a reduction over an axis of three is five times slower.
    red, green, blue = pixels[..., 0], pixels[..., 1], pixels[..., 2]
    spread = np.maximum(np.maximum(red, green), blue) - np.minimum(np.minimum(red, green), blue)
    return bool(spread.max() <= round(_GRAY_TOLERANCE * np.iinfo(pixels.dtype).max))


def check_geometry(*, im_channels: int, size_px: int, fit: str) -> None:
    """Refuse settings that `prepare_image` cannot follow with a UserError."""
    if im_channels not in (1, 3) or isinstance(im_channels, bool):
        raise UserError(f"im_channels: expected 1 (gray) or 3 (RGB), found {im_channels!r}; choose one of them")
    if not isinstance(size_px, int) or isinstance(size_px, bool) or not 1 <= size_px <= 8192:
        raise UserError(f"image size: expected a whole number of pixels from 1 to 8192, found {size_px!r}; try 512")
    if fit not in FITS:
        raise UserError(f"fit: expected one of {', '.join(FITS)}, found {fit!r}; pad keeps the whole image")


def prepare_image(pixels: np.ndarray, *, im_channels: int, size_px: int, fit: str) -> np.ndarray:
    """Fit pixels to a square of `size_px` and scale them: float32 (im_channels, size_px, size_px) in [-1, 1].

    `fit`: "pad" centres the image on a square filled with the median of its border (per channel: the background goes
    on, without the streaks of repeated edges); "crop" keeps the centre square; "stretch" changes the aspect. Resizing
    works in float32: area means to shrink, cubic to enlarge, clipped to the range.

    Args:
        pixels: uint8 or uint16, (H, W) or (H, W, 3) RGB; the full range of the type becomes [-1, 1].
        im_channels: 1 (the image must be gray, see `is_gray`; the mean of its channels) or 3 (gray is repeated).

    Raises:
        UserError: a colour image for one channel, or settings that `check_geometry` refuses.
    """
    check_geometry(im_channels=im_channels, size_px=size_px, fit=fit)
    if pixels.dtype not in (np.uint8, np.uint16) or pixels.ndim not in (2, 3) or pixels.shape[2:] not in ((), (3,)):
        raise TypeError(f"expected uint8 or uint16 pixels (H, W) or (H, W, 3), found {pixels.dtype} {pixels.shape}")
    if im_channels == 1 and pixels.ndim == 3:
        if not is_gray(pixels):
            raise UserError(
                "expected a gray image for im_channels: 1, found colours; set im_channels: 3 or convert it to gray"
            )
        total = pixels[..., 0].astype(np.float64) + pixels[..., 1] + pixels[..., 2]
        pixels = total / (3 * np.iinfo(pixels.dtype).max)
    else:
        pixels = pixels / np.iinfo(pixels.dtype).max
    image = pixels.astype(np.float32)  # (H, W) or (H, W, 3) in [0, 1]
    if fit == "pad":
        image = _pad_square(image)
    elif fit == "crop":
        image = _crop_square(image)
    image = np.clip(_resize(image, size_px), 0, 1) * 2 - 1
    if image.ndim == 2:
        return np.repeat(image[None], im_channels, axis=0)
    return np.ascontiguousarray(image.transpose(2, 0, 1))


def load_image(path: str | Path, *, im_channels: int, size_px: int, fit: str) -> np.ndarray:
    """`decode_image`, then `prepare_image`: float32 (im_channels, size_px, size_px); a UserError names the file."""
    check_geometry(im_channels=im_channels, size_px=size_px, fit=fit)
    pixels = decode_image(path)
    try:
        return prepare_image(pixels, im_channels=im_channels, size_px=size_px, fit=fit)
    except UserError as error:
        raise UserError(f"{path}: {error}") from error


def to_uint8(images: torch.Tensor | np.ndarray) -> np.ndarray:
    """Scale floats of any shape from [-1, 1] to uint8: clipped, rounded half to even, never cut off.

    Raises:
        ValueError: a value is not finite.
        TypeError: the values are not floats.
    """
    if isinstance(images, torch.Tensor):
        images = images.detach().cpu().to(torch.float64 if images.is_floating_point() else images.dtype).numpy()
    if not np.issubdtype(images.dtype, np.floating):
        raise TypeError(f"expected floats in [-1, 1], found {images.dtype}")
    if not np.isfinite(images).all():
        raise ValueError("expected finite values in [-1, 1], found NaN or infinity")
    return np.clip(np.rint((images.astype(np.float64) + 1) * 127.5), 0, 255).astype(np.uint8)


def from_uint8(pixels: np.ndarray) -> np.ndarray:
    """Scale uint8 of any shape to float32 in [-1, 1]; `to_uint8` gives the same bytes back."""
    if pixels.dtype != np.uint8:
        raise TypeError(f"expected uint8, found {pixels.dtype}")
    return (pixels / 127.5 - 1).astype(np.float32)


def write_png(path: str | Path, pixels: np.ndarray, *, text: Mapping[str, str] | None = None) -> None:
    """Write uint8 (H, W), (H, W, 1) or (H, W, 3) RGB as PNG, atomically; equal arguments give equal bytes.

    Args:
        text: keywords (1 to 79 Latin-1 characters) and values, stored as text chunks in this order.
    """
    if pixels.dtype != np.uint8 or pixels.ndim not in (2, 3) or pixels.shape[2:] not in ((), (1,), (3,)):
        raise TypeError(f"expected uint8 pixels (H, W), (H, W, 1) or (H, W, 3), found {pixels.dtype} {pixels.shape}")
    chunks = PngInfo()
    for key, value in (text or {}).items():
        chunks.add_text(key, value)
    buffer = io.BytesIO()
    image = Image.fromarray(np.ascontiguousarray(pixels[..., 0] if pixels.shape[2:] == (1,) else pixels))
    image.save(buffer, format="PNG", pnginfo=chunks, compress_level=6)
    write_bytes(Path(path), buffer.getvalue())


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
        raise UserError(f"{path}: expected a PNG image, {error}") from error


def tile_images(
    pixels: np.ndarray, *, num_columns: int, separator_px: int = 2, separator_value: int = 255
) -> np.ndarray:
    """Lay (N, H, W, C) uint8 images out row by row in one (H', W', C) uint8 picture, the last row filled up.

    `separator_px` lines of `separator_value` stand between the images, none around them.
    """
    if pixels.dtype != np.uint8 or pixels.ndim != 4 or len(pixels) == 0 or num_columns < 1:
        raise ValueError(f"expected uint8 (N, H, W, C), N and num_columns above 0, found {pixels.dtype} {pixels.shape}")
    num, height, width, channels = pixels.shape
    num_columns = min(num_columns, num)
    num_rows = -(-num // num_columns)
    step_y, step_x = height + separator_px, width + separator_px
    shape = (num_rows * step_y - separator_px, num_columns * step_x - separator_px, channels)
    canvas = np.full(shape, separator_value, np.uint8)
    for index, image in enumerate(pixels):
        top, left = index // num_columns * step_y, index % num_columns * step_x
        canvas[top : top + height, left : left + width] = image
    return canvas


# Geometry


def _pad_square(image: np.ndarray) -> np.ndarray:
    height, width = image.shape[:2]
    side = max(height, width)
    if height == width:
        return image
    border = np.concatenate([image[0], image[-1], image[1:-1, 0], image[1:-1, -1]])
    canvas = np.empty((side, side, *image.shape[2:]), np.float32)
    canvas[:] = np.median(border, axis=0)
    top, left = (side - height) // 2, (side - width) // 2
    canvas[top : top + height, left : left + width] = image
    return canvas


def _crop_square(image: np.ndarray) -> np.ndarray:
    height, width = image.shape[:2]
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    return image[top : top + side, left : left + side]


def _resize(image: np.ndarray, size_px: int) -> np.ndarray:
    """Shrink by area means the axes that are too long, then enlarge by cubics those that are too short."""
    height, width = image.shape[:2]
    shrunk = min(height, size_px), min(width, size_px)
    if shrunk != (height, width):
        image = cv2.resize(image, shrunk[::-1], interpolation=cv2.INTER_AREA)
    if shrunk != (size_px, size_px):
        image = cv2.resize(image, (size_px, size_px), interpolation=cv2.INTER_CUBIC)
    return image


# Decoding


def _read_file(path: Path) -> bytes:
    try:
        if path.is_dir():
            raise UserError(f"{path}: expected an image file, found a folder; give the name of a file in it")
        if path.exists() and not path.is_file():
            raise UserError(f"{path}: expected an image file, found a device or pipe; give the name of a file")
        data = path.read_bytes()
    except OSError as error:
        reason = "nothing there" if isinstance(error, FileNotFoundError) else f"no access ({error.strerror})"
        raise UserError(f"{path}: expected an image file, found {reason}; correct the name or grant access") from error
    if not data:
        raise UserError(f"{path}: expected an image file, found an empty one; {_COPY_AGAIN}")
    return data


def _check_kind(path: Path, data: bytes) -> str:
    """The format that name and content agree on."""
    named = _FORMAT_OF_SUFFIX.get(path.suffix.lower())
    if named is None:
        raise _Unusable(f"the suffix {path.suffix!r}", f"save it as one of {' '.join(_FORMAT_OF_SUFFIX)}")
    kind = next((kind for kind, magics in _MAGIC.items() if data.startswith(magics)), None)
    if kind is None:
        if data[:4] in (b"II+\0", b"MM\0+"):
            raise _Unusable("a BigTIFF", "save it as a plain TIFF or PNG")
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
            raise _Unusable("a cut PNG")
        length, kind = struct.unpack_from(">I4s", data, position)
        end = position + 12 + length
        if end > len(data):
            raise _Unusable("a cut PNG")
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
    """Walk the segments and scans to the end marker; bytes behind it do not matter."""
    header: _Header | None = None
    position, has_scan = 2, False
    while True:
        # Fill bytes may stand before a marker.
        while position < len(data) and data[position] == 0xFF and data[position + 1 : position + 2] == b"\xff":
            position += 1
        if position + 2 > len(data):
            raise _Unusable("a cut JPEG")
        if data[position] != 0xFF:
            raise _Unusable("a damaged JPEG")
        marker = data[position + 1]
        position += 2
        if marker == 0xD9:
            break
        if marker == 0x01 or 0xD0 <= marker <= 0xD7:
            continue
        if position + 2 > len(data):
            raise _Unusable("a cut JPEG")
        length = struct.unpack_from(">H", data, position)[0]
        if length < 2 or position + length > len(data):
            raise _Unusable("a cut JPEG")
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
            raise _Unusable("a cut JPEG")
        if data[position + 1] == 0 or 0xD0 <= data[position + 1] <= 0xD7:
            position += 2
        else:
            return position


def _check_bmp(data: bytes) -> _Header:
    if len(data) < 54:
        raise _Unusable("a cut BMP")
    file_bytes, _, offset, header_bytes, width, height = struct.unpack_from("<IIIIii", data, 2)
    bits, compression = struct.unpack_from("<HI", data, 28)
    if header_bytes < 40 or compression not in (0, 3) or bits not in (1, 4, 8, 16, 24, 32):
        raise _Unusable(f"a BMP of an old or packed kind ({bits} bits, compression {compression})", "save it as PNG")
    _check_size(width, abs(height))
    row_bytes = (width * bits + 31) // 32 * 4
    if max(file_bytes, offset + row_bytes * abs(height)) > len(data):
        raise _Unusable("a cut BMP")
    return _Header(width, abs(height))


def _check_tiff(data: bytes) -> _Header:
    """Read the one directory and see that the strips or tiles that it names lie in the file."""
    order = "<" if data.startswith(b"II") else ">"
    try:
        tags, next_directory = _read_tiff_tags(data, order)
    except struct.error as error:
        raise _Unusable("a cut TIFF") from error
    if next_directory:
        raise _Unusable("a TIFF of several pages", "save one page a file, for example with tiffsplit or ImageMagick")
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
    offsets = tags.get(273) or tags.get(324) or ()
    counts = tags.get(279) or tags.get(325) or ()
    if not offsets or len(offsets) != len(counts):
        raise _Unusable("a TIFF without pixels")
    stored = sum(counts)
    num_bits = max(bits)
    too_short = compression == 1 and stored < width * height * samples * num_bits // 8
    if too_short or any(offset + count > len(data) for offset, count in zip(offsets, counts, strict=True)):
        raise _Unusable("a cut TIFF")
    return _Header(width, height, num_bits)


def _read_tiff_tags(data: bytes, order: str) -> tuple[dict[int, tuple[int, ...]], int]:
    """Whole-number tags and their values, and the place of the next directory; struct.error where the file is cut."""
    codes = {1: "B", 3: "H", 4: "I"}
    start = struct.unpack_from(order + "I", data, 4)[0]
    num_tags = struct.unpack_from(order + "H", data, start)[0]
    tags = {}
    for place in range(start + 2, start + 2 + 12 * num_tags, 12):
        tag, code, count = struct.unpack_from(order + "HHI", data, place)
        if code in codes and count:
            layout = f"{order}{count}{codes[code]}"
            if count * struct.calcsize(codes[code]) > 4:
                values = struct.unpack_from(layout, data, struct.unpack_from(order + "I", data, place + 8)[0])
            else:
                values = struct.unpack_from(layout, data, place + 8)
            tags[tag] = values
    return tags, struct.unpack_from(order + "I", data, start + 2 + 12 * num_tags)[0]


def _drop_tiff_orientation(data: bytes) -> bytes:
    """The same TIFF with orientation 1 (as stored), because decoders turn the pixels by this tag."""
    order = "<" if data.startswith(b"II") else ">"
    start = struct.unpack_from(order + "I", data, 4)[0]
    num_tags = struct.unpack_from(order + "H", data, start)[0]
    changed = bytearray(data)
    for place in range(start + 2, start + 2 + 12 * num_tags, 12):
        if struct.unpack_from(order + "H", data, place)[0] == 274:
            struct.pack_into(order + "HHIHH", changed, place, 274, 3, 1, 1, 0)
    return bytes(changed)


_CHECKS = {"PNG": _check_png, "JPEG": _check_jpeg, "TIFF": _check_tiff, "BMP": _check_bmp}


def _open_pillow(data: bytes, kind: str) -> Image.Image:
    """A fully decoded image; a warning counts as damage, but for TIFF, where microscopes write odd tags."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore" if kind == "TIFF" else "error", UserWarning)
            image = Image.open(io.BytesIO(data), formats=(kind,))
            image.load()
            return image
    except Exception as error:  # decoders let whatever a damaged file provokes through
        raise _Unusable(f"a damaged {kind} ({' '.join(str(error).split())})") from error


def _decode(data: bytes, kind: str, header: _Header) -> np.ndarray:
    """Pixels as stored, (H, W), (H, W, 3) RGB or (H, W, 4) RGBA, uint8 or uint16."""
    if kind == "TIFF":
        data = _drop_tiff_orientation(data)
    if header.bits == 8:
        return _decode_pillow(data, kind)
    if kind == "TIFF":
        # OpenCV fills up damaged strips in silence; Pillow, which has no RGB of 16 bits, refuses them.
        _open_pillow(data, kind).close()
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
    """(H, W, 4) without its alpha, which must be opaque: what lies behind a transparent pixel is not known."""
    if pixels.ndim == 2 or pixels.shape[2] == 3:
        return pixels
    if (pixels[..., 3] != np.iinfo(pixels.dtype).max).any():
        raise _Unusable("transparent pixels", "save the image without transparency")
    return np.ascontiguousarray(pixels[..., :3])

import io
import json
import os
import struct
import time
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from ganctl.errors import GanctlError, UsageError
from ganctl.io import images
from ganctl.io.images import (
    BadImage,
    Picture,
    center_crop_resize,
    encode,
    from_pixels,
    grid,
    read_image,
    request_of,
    resize,
    to_channels,
    to_pixels,
    write_image,
)
from ganctl.io.limits import MAX_PIXELS, MAX_REQUEST_BYTES, MAX_SCANS, MAX_STEPS

RNG = np.random.default_rng(0)
GREY = RNG.integers(0, 256, (5, 7), dtype=np.uint8)
RGB = RNG.integers(0, 256, (5, 7, 3), dtype=np.uint8)
RGBA = RNG.integers(0, 256, (5, 7, 4), dtype=np.uint8)
DEEP = RNG.integers(0, 65536, (5, 7, 4), dtype=np.uint16)


def saved(pixels: np.ndarray | Image.Image, format: str, **options: object) -> bytes:
    out = io.BytesIO()
    (pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)).save(out, format, **options)
    return out.getvalue()


def read(data: bytes) -> Picture:
    return read_image(data, name="x")


def reduced(deep: np.ndarray) -> np.ndarray:
    """16 bits to 8 by the written rule, in exact arithmetic."""
    return np.array([round(int(v) / 257) for v in deep.reshape(-1)], np.uint8).reshape(deep.shape)


def chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def png(
    colour: int, bits: int, rows: list[bytes], *extra: bytes, size: tuple[int, int] = (7, 5), lace: int = 0
) -> bytes:
    """A PNG made by hand: unfiltered rows, extra chunks before the pixels."""
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", *size, bits, colour, 0, 0, lace))
    body = chunk(b"IDAT", zlib.compress(b"".join(b"\0" + r for r in rows)))
    return b"\x89PNG\r\n\x1a\n" + head + b"".join(extra) + body + chunk(b"IEND", b"")


def deep_rows(channels: int) -> list[bytes]:
    return [row[:, :channels].astype(">u2").tobytes() for row in DEEP]


# Every mode by its written rule


def test_grey_colour_and_alpha_are_exact_in_every_lossless_format():
    for pixels, modes in (
        (GREY[..., None], ("PNG", "BMP", "TIFF", "GIF", "PPM")),
        (RGB, ("PNG", "BMP", "TIFF", "PPM")),
    ):
        for format in modes:
            data = saved(pixels[..., 0] if pixels.shape[2] == 1 else pixels, format)
            want = to_channels(pixels, 3) if format == "GIF" else pixels
            got = to_channels(read(data).pixels, want.shape[2])
            assert (got == want).all() and got.dtype == np.uint8, format
            assert read(data).notes == ()
    for format, options in (("PNG", {}), ("TIFF", {}), ("WEBP", {"lossless": True, "exact": True})):
        assert (read(saved(RGBA, format, **options)).pixels == RGBA).all(), format
    assert (read(saved(RGB, "WEBP", lossless=True)).pixels == RGB).all()
    for compression in ("tiff_lzw", "tiff_deflate", "packbits"):
        assert (read(saved(RGB, "TIFF", compression=compression)).pixels == RGB).all()
    jpeg = read(saved(np.full((9, 9, 3), (200, 30, 90), np.uint8), "JPEG", quality=95)).pixels
    assert jpeg.shape == (9, 9, 3) and np.abs(jpeg.astype(int) - (200, 30, 90)).max() <= 3
    assert read(saved(GREY, "JPEG")).pixels.shape == (5, 7, 1)


def test_one_bit_images_are_black_and_white():
    bits = GREY > 127
    want = np.where(bits, 255, 0)[..., None]
    for format, options in (("PNG", {}), ("BMP", {}), ("TIFF", {"compression": "group4"}), ("GIF", {}), ("PPM", {})):
        got = read(saved(Image.fromarray(bits), format, **options)).pixels
        assert (to_channels(got, 1) == want).all(), format
    # Two and four bits of grey are spread over 0 to 255.
    row = bytes([0b00011011])
    assert read(png(0, 2, [row], size=(4, 1))).pixels.reshape(-1).tolist() == [0, 85, 170, 255]
    assert read(png(0, 4, [bytes([0x0F, 0x81])], size=(4, 1))).pixels.reshape(-1).tolist() == [0, 255, 136, 17]


def test_palettes_become_rgb_and_keep_their_transparency():
    palette = Image.fromarray(RGB).quantize(16)
    want = np.asarray(palette.convert("RGB"))
    for format in ("PNG", "GIF", "BMP", "TIFF"):
        assert (read(saved(palette, format)).pixels == want).all(), format
    # One transparent colour, and an alpha for every entry.
    indices = np.asarray(palette)
    single = read(saved(palette, "PNG", transparency=3)).pixels
    assert (single[..., :3] == want).all() and (single[..., 3] == np.where(indices == 3, 0, 255)).all()
    alphas = bytes(range(0, 240, 15))
    many = read(saved(palette, "PNG", transparency=alphas)).pixels
    assert (many[..., 3] == np.frombuffer(alphas, np.uint8)[indices]).all()
    gif = read(saved(palette, "GIF", transparency=3)).pixels
    assert gif.shape[2] == 4 and ((gif[..., 3] == 0) == (indices == 3)).all()


def test_grey_with_alpha_and_colour_keys():
    la = np.stack([GREY, RGBA[..., 3]], 2)
    got = read(saved(la, "PNG")).pixels
    assert (got == np.dstack([GREY, GREY, GREY, RGBA[..., 3]])).all()
    key = int(GREY[2, 3])
    got = read(png(0, 8, [r.tobytes() for r in GREY], chunk(b"tRNS", struct.pack(">H", key)))).pixels
    assert (got[..., 3] == np.where(key == GREY, 0, 255)).all() and (got[..., 0] == GREY).all()
    colour = chunk(b"tRNS", struct.pack(">3H", *map(int, RGB[1, 1])))
    got = read(png(2, 8, [r.tobytes() for r in RGB], colour)).pixels
    assert got[1, 1, 3] == 0 and (got[..., 3] == 0).sum() == 1 and (got[..., :3] == RGB).all()
    bit = read(png(0, 1, [b"\x55"] * 5, chunk(b"tRNS", b"\0\1"))).pixels
    assert (bit[..., 3] == np.where(bit[..., 0] == 255, 0, 255)).all()


@pytest.mark.parametrize("lace", [0, 1])
def test_sixteen_bits_are_rounded_not_cut(lace: int):
    for colour, channels in ((0, 1), (2, 3), (4, 2), (6, 4)):
        want = reduced(DEEP[..., :channels])
        if colour == 4:
            want = want[..., [0, 0, 0, 1]]
        if lace:  # Adam7 by hand: every pass is a small image of its own
            rows = []
            for x, y, dx, dy in (
                (0, 0, 8, 8),
                (4, 0, 8, 8),
                (0, 4, 4, 8),
                (2, 0, 4, 4),
                (0, 2, 2, 4),
                (1, 0, 2, 2),
                (0, 1, 1, 2),
            ):
                part = DEEP[y::dy, x::dx, :channels].astype(">u2")
                rows += [r.tobytes() for r in part if r.size]
        else:
            rows = deep_rows(channels)
        got = read(png(colour, 16, rows, lace=lace))
        assert (got.pixels == want).all() and got.notes == ("16 bits reduced to 8",), (colour, lace)
    key = chunk(b"tRNS", DEEP[3, 3, :3].astype(">u2").tobytes())
    got = read(png(2, 16, deep_rows(3), key)).pixels
    assert got[3, 3, 3] == 0 and (got[..., 3] == 0).sum() == 1


def tiff16(samples: np.ndarray, order: str) -> bytes:
    """An uncompressed 16-bit RGB TIFF made by hand."""
    height, width, channels = samples.shape
    body = samples.astype(order + "u2").tobytes()
    tags = [(256, 3, 1, width), (257, 3, 1, height), (258, 3, 3, 200), (259, 3, 1, 1), (262, 3, 1, 2), (273, 4, 1, 206)]
    tags += [(277, 3, 1, channels), (278, 3, 1, height), (279, 4, 1, len(body))]
    wide = b"".join(
        struct.pack(
            order + ("HHIHH" if kind == 3 and n == 1 else "HHII"), t, kind, n, v, *([0] if kind == 3 and n == 1 else [])
        )
        for t, kind, n, v in tags
    )
    head = (b"II" if order == "<" else b"MM") + struct.pack(order + "HIH", 42, 8, len(tags)) + wide + bytes(4)
    return head.ljust(200, b"\0") + struct.pack(order + "3H", 16, 16, 16) + body


def test_sixteen_bits_outside_png():
    deep = DEEP[..., 0]
    for format in ("TIFF", "PPM"):
        got = read(saved(deep, format))
        assert (got.pixels[..., 0] == reduced(deep)).all() and got.notes == ("16 bits reduced to 8",), format
    assert (read(saved(deep, "TIFF", compression="tiff_lzw")).pixels[..., 0] == reduced(deep)).all()
    for order in "<>":  # colour TIFFs: the high byte
        got = read(tiff16(DEEP[..., :3], order))
        assert (got.pixels == DEEP[..., :3] >> 8).all() and got.notes == ("16 bits reduced to 8",)
    ppm = b"P6 7 5 65535\n" + DEEP[..., :3].astype(">u2").tobytes()
    assert (read(ppm).pixels == reduced(DEEP[..., :3])).all()


def test_cmyk_is_converted_without_a_profile():
    cmyk = np.zeros((8, 8, 4), np.uint8)
    cmyk[..., 0], cmyk[..., 3] = 100, 30
    want = (np.array([155, 255, 255]) * 225 / 255).round()
    for format, options in (("TIFF", {}), ("JPEG", {"quality": 100})):
        got = read(
            saved(
                Image.frombytes("CMYK", (8, 8), cmyk.tobytes()),
                format,
                **options,
            )
        )
        assert np.abs(got.pixels.astype(int) - want).max() <= 2, format
        assert got.notes == ("CMYK converted without a colour profile",)


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "TIFF", "tiff_lzw"])
def test_all_eight_exif_orientations(format: str):
    # A ramp that no two of the eight leave alike; gentle enough for JPEG.
    upright = (np.add.outer(np.arange(16) * 9, np.arange(24) * 4)).astype(np.uint8)
    stored: dict[int, Callable[[np.ndarray], np.ndarray]] = {
        1: lambda a: a,
        2: lambda a: a[:, ::-1],
        3: lambda a: a[::-1, ::-1],
        4: lambda a: a[::-1],
        5: lambda a: a.T,
        6: lambda a: np.rot90(a),
        7: lambda a: a[::-1, ::-1].T,
        8: lambda a: np.rot90(a, -1),
    }
    for turn, turned in stored.items():
        exif = Image.Exif()
        exif[0x0112] = turn
        pixels = np.repeat(np.ascontiguousarray(turned(upright))[..., None], 3, 2)
        if format in ("TIFF", "tiff_lzw"):
            options = {"tiffinfo": {0x0112: turn}} | ({"compression": format} if format != "TIFF" else {})
            data = saved(pixels, "TIFF", **options)
        else:
            data = saved(pixels, format, exif=exif, **({"lossless": True} if format == "WEBP" else {}))
        got = read(data)
        assert got.pixels.shape == (16, 24, 3), turn
        assert np.abs(got.pixels[..., 0].astype(int) - upright).max() <= (6 if format == "JPEG" else 0), turn
        assert got.notes == (() if turn == 1 else ("rotated by EXIF",))


def test_orientation_of_nonsense_or_by_xmp_is_none():
    for turn in (0, 9, 65535):
        exif = Image.Exif()
        exif[0x0112] = turn
        assert (read(saved(RGB, "PNG", exif=exif)).pixels == RGB).all()
    assert read(saved(RGB, "JPEG", xmp=b'<x tiff:Orientation="6"/>')).pixels.shape == (5, 7, 3)
    broken = (
        b"\x89PNG\r\n\x1a\n"
        + saved(RGB, "PNG")[8:33]
        + chunk(b"eXIf", b"MM\0*\xff\xff\xff\xff")
        + saved(RGB, "PNG")[33:]
    )
    assert (read(broken).pixels == RGB).all()


def test_of_several_frames_the_first_is_taken_and_noted():
    other = Image.new("RGB", (7, 5), "red")
    first = Image.fromarray(RGB).quantize(16).convert("RGB")
    for format in ("GIF", "PNG", "WEBP", "TIFF"):
        options = {"lossless": True} if format == "WEBP" else {}
        data = saved(first, format, save_all=True, append_images=[other], **options)
        got = read(data)
        assert (got.pixels == np.asarray(first)).all() and got.notes == ("first of several frames",), format
        single = read(saved(first, format, **options))
        assert single.notes == (), format


def test_plain_pnm_comments_and_scales():
    assert read(b"P1 # c\n4 1\n0 1#x\n10").pixels.reshape(-1).tolist() == [255, 0, 0, 255]
    assert read(b"P2\n#c\n3 1 10 0 5 10").pixels.reshape(-1).tolist() == [0, 128, 255]
    assert read(b"P2 2 1 65535 0 257").pixels.reshape(-1).tolist() == [0, 1]
    assert read(b"P3 1 1 255\n1\n2 # two\n 3 ").pixels.tolist() == [[[1, 2, 3]]]
    assert read(b"P4 3 1\n\x40").pixels.reshape(-1).tolist() == [255, 0, 255]
    for bad in (
        b"P2 2 1 255 1",
        b"P2 1 1 255 256",
        b"P2 1 1 0 0",
        b"P2 1 1 99999 0",
        b"P3 1 1 255 a b c",
        b"P1 2 1 1",
        b"P2",
    ):
        with pytest.raises(BadImage):
            read(bad)
    with pytest.raises(BadImage):
        read(b"P2 9999 9999 255 1 2 3")


# What is refused


def test_content_decides_and_not_the_name(tmp_path: Path):
    data = saved(RGB, "PNG")
    assert (read_image(data, name="photo.jpg").pixels == RGB).all()
    with pytest.raises(BadImage, match=r"cannot read image 'a.png'. it is no image of a known format \(png, jpeg"):
        read_image(b"%PDF-1.7", name="a.png")
    with pytest.raises(BadImage, match="no image of a known format"):
        read_image(b"<svg xmlns='http://www.w3.org/2000/svg'/>", name="a.png")
    with pytest.raises(BadImage, match=r"it is empty \(0 bytes\)"):
        read_image(b"", name="a.png")
    with pytest.raises(BadImage) as e:
        read_image(b"x", name="a\x1b[31m\n.png")
    assert "\x1b" not in str(e.value) and "\\x1b" in str(e.value) and "\\n" in str(e.value)


def test_pixels_without_a_scale_are_refused():
    for pixels, format in ((np.ones((3, 3), np.float32), "TIFF"), (np.ones((3, 3), np.int32), "TIFF")):
        with pytest.raises(BadImage, match="no fixed scale"):
            read(saved(pixels, format))
    with pytest.raises(BadImage, match="no fixed scale"):
        read(b"Pf 1 1 -1.0\n" + struct.pack("<f", 1.0))


def test_the_pixel_limit_is_our_own_and_is_named():
    with pytest.raises(BadImage, match=r"it has 7 x 5 pixels, more than the limit of 34"):
        read_image(saved(RGB, "PNG"), name="x", max_pixels=34)
    assert read_image(saved(RGB, "PNG"), name="x", max_pixels=35).pixels.shape == (5, 7, 3)
    bomb = png(2, 8, [b""], size=(65535, 65535))
    gif = b"GIF89a" + struct.pack("<HHBBB", 65535, 65535, 0, 0, 0) + b",\0\0\0\0\1\0\1\0\0\2\2\x44\1\0;"
    bmp = bytearray(saved(RGB, "BMP"))
    bmp[18:26] = struct.pack("<ii", 1 << 20, 1 << 20)
    for data in (bomb, gif, bytes(bmp), b"P6 99999 99999 255\n"):
        start = time.monotonic()
        with pytest.raises(BadImage, match=f"more than the limit of {MAX_PIXELS}"):
            read(data)
        assert time.monotonic() - start < 5


def test_sizes_of_zero():
    for data in (png(2, 8, [b""], size=(0, 5)), png(2, 8, [b""], size=(7, 0))):
        with pytest.raises(BadImage, match="its size is"):
            read(data)
    gif = b"GIF89a" + struct.pack("<HHBBB", 0, 5, 0, 0, 0) + b",\0\0\0\0\0\0\5\0\0\2\2\x44\1\0;"
    bmp = bytearray(saved(RGB, "BMP"))
    bmp[18:22] = bytes(4)
    for data in (gif, bytes(bmp), b"P6 0 5 255\n", b"P2 0 5 255\n"):
        with pytest.raises(BadImage):
            read(data)


FORMATS = {
    "png": lambda: saved(RGB, "PNG"),
    "deep": lambda: png(6, 16, deep_rows(4)),
    "laced": lambda: png(2, 16, deep_rows(3)[:1], size=(7, 1)),
    "palette": lambda: saved(Image.fromarray(RGB).quantize(9), "PNG", transparency=1),
    "jpeg": lambda: saved(RGB, "JPEG"),
    "progressive": lambda: saved(RGB, "JPEG", progressive=True),
    "webp": lambda: saved(RGB, "WEBP"),
    "lossless": lambda: saved(RGBA, "WEBP", lossless=True),
    "gif": lambda: saved(RGB, "GIF", save_all=True, append_images=[Image.new("RGB", (7, 5))]),
    "bmp": lambda: saved(RGB, "BMP"),
    "tiff": lambda: saved(RGB, "TIFF"),
    "lzw": lambda: saved(RGBA, "TIFF", compression="tiff_lzw"),
    "pgm": lambda: saved(GREY, "PPM"),
    "plain": lambda: b"P3 2 1 255\n1 2 3 4 5 6\n",
}


@pytest.mark.parametrize("kind", FORMATS)
def test_one_byte_flipped_or_cut_anywhere_ends_with_pixels_or_bad_image(kind: str):
    whole = FORMATS[kind]()
    shape = read(whole).pixels.shape
    rng = np.random.default_rng(1)
    ends = {"pixels": 0, "bad": 0}
    for at in range(len(whole)):
        flipped = bytearray(whole)
        flipped[at] ^= int(rng.integers(1, 256))
        for data in (bytes(flipped), whole[:at]):
            try:
                pixels = read_image(data, name="x", max_pixels=1 << 22).pixels
            except BadImage as e:
                assert e.what == "cannot read image 'x'" and e.why
                ends["bad"] += 1
            else:
                assert pixels.dtype == np.uint8 and pixels.ndim == 3 and pixels.shape[2] in (1, 3, 4) and pixels.size
                ends["pixels"] += 1
    assert ends["bad"] > len(whole) // 3
    for cut in (len(whole) // 2, len(whole) * 3 // 4):
        if kind not in ("jpeg", "progressive", "gif", "plain"):
            with pytest.raises(BadImage):
                read(whole[:cut])
    assert read(whole).pixels.shape == shape


def test_a_flipped_bit_in_a_png_is_always_seen():
    for data in (saved(RGB, "PNG"), png(2, 16, deep_rows(3))):
        start = data.index(b"IDAT")
        for at in range(start, len(data) - 12, 7):
            flipped = bytearray(data)
            flipped[at] ^= 16
            with pytest.raises(BadImage, match=r"damaged|cut short|missing"):
                read(bytes(flipped))


def test_large_texts_and_profiles_beside_the_pixels_do_no_harm(tmp_path: Path):
    info = PngInfo()
    info.add_text("Comment", "a" * 3_000_000, zip=True)
    info.add_text("Plain", "b" * 70_000_000)
    data = saved(RGB, "PNG", pnginfo=info, icc_profile=bytes(2_000_000))
    assert (read(data).pixels == RGB).all()
    (tmp_path / "x.png").write_bytes(data)
    assert request_of(tmp_path / "x.png") is None


N = MAX_STEPS + 10
SLOW = {
    "jpeg fill": b"\xff\xd8" + b"\xff" * 3 * N,
    "jpeg junk": b"\xff\xd8\xff\xe0\0\2" + b"\0" * 3 * N,
    "jpeg segments": b"\xff\xd8" + b"\xff\xe1\0\2" * N,
    "gif zeros": b"GIF89a\1\0\1\0\0\0\0" + b"\0" * 3 * N,
    "gif comments": b"GIF89a\1\0\1\0\0\0\0" + b"!\xfe\1a\0" * N,
    "gif blocks after the frame": b"GIF89a\1\0\1\0\0\0\0,\0\0\0\0\1\0\1\0\0\2\2\x44\1" + b"\1\1" * N,
    "pbm comments": b"P1 100 100 " + b"#\n" * N,
    "ppm header": b"P6 " + b"#\n" * N,
    "png chunks": png(2, 8, [b""])[:33] + chunk(b"aaaa", b"") * N,
    "bmp run lengths": saved(GREY, "BMP")[:30] + b"\1\0\0\0" + bytes(20 << 20),
    "tiff strips": b"II*\0\x08\0\0\0\1\0" + struct.pack("<HHII", 273, 4, N, 26) + bytes(4 * N),
}


@pytest.mark.parametrize("kind", SLOW)
def test_a_file_made_to_be_slow_is_refused_in_seconds(kind: str):
    start = time.monotonic()
    with pytest.raises(BadImage):
        read(SLOW[kind])
    assert time.monotonic() - start < 10


def test_a_jpeg_of_very_many_scans_is_refused():
    data = saved(RGB, "JPEG", progressive=True)
    scan = data[data.rindex(b"\xff\xda") : -2]
    with pytest.raises(BadImage, match=f"more than the limit of {MAX_SCANS}"):
        read(data[:-2] + scan * MAX_SCANS + data[-2:])


# Writing


@pytest.mark.parametrize("format", ["png", "jpg", "webp"])
def test_the_request_survives_in_every_format(tmp_path: Path, format: str):
    request = {"verb": "translate", "model": "é\n", "seeds": list(range(3000))}
    for pixels in (GREY[..., None], RGB, RGBA):
        path = tmp_path / f"x.{format}"
        write_image(path, pixels, request=request)
        assert request_of(path) == request
        got = read(path.read_bytes())
        assert got.pixels.shape[:2] == (5, 7) and got.notes == ()
        if format == "png":
            assert (got.pixels == pixels).all()
        if format == "webp" and pixels.shape[2] == 4:
            assert got.pixels.shape[2] == 4
    write_image(path, RGB)
    assert request_of(path) is None
    with pytest.raises(GanctlError, match=f"more than {MAX_REQUEST_BYTES} bytes"):
        encode(RGB, format, request={"a": "b" * MAX_REQUEST_BYTES})
    assert (read(encode(RGB, "webp", quality=100)).pixels == RGB).all()


def test_a_strangers_metadata_is_no_request(tmp_path: Path):
    for text in ("[1, 2]", "{", "[" * 50_000, "null", "\xe9"):
        info = PngInfo()
        info.add_text("ganctl", text)
        (tmp_path / "x.png").write_bytes(saved(RGB, "PNG", pnginfo=info))
        assert request_of(tmp_path / "x.png") is None
    exif = Image.Exif()
    exif.get_ifd(0x8769)[0x9286] = b"UNICODE\0\xff\xfe"
    (tmp_path / "x.jpg").write_bytes(saved(RGB, "JPEG", exif=exif))
    for name, data in (("empty.png", b""), ("text.png", b"hello"), ("x.npz", b"PK"), ("x.zip", b"PK\5\6")):
        (tmp_path / name).write_bytes(data)
    os.mkfifo(tmp_path / "pipe.png")
    os.mkfifo(tmp_path / "pipe.zip")
    for name in ("x.jpg", "empty.png", "text.png", "x.npz", "x.zip", "pipe.png", "pipe.zip", "absent.png"):
        assert request_of(tmp_path / name) is None, name


def test_sides_and_formats_that_cannot_be_written_are_named():
    for format, side in images.SIDES.items():
        with pytest.raises(UsageError, match=f"its longest side is {side}"):
            encode(np.zeros((1, side + 1, 3), np.uint8), format)
    with pytest.raises(UsageError, match="unknown image format 'gif'"):
        encode(RGB, "gif")
    # JPEG has no transparency: white shows through.
    flat = read(encode(np.zeros((16, 16, 4), np.uint8), "jpg")).pixels
    assert flat.shape == (16, 16, 3) and (flat >= 254).all()


# Arithmetic


def test_channels_follow_the_written_rules():
    colour = np.array([[[200, 100, 50]]], np.uint8)
    assert to_channels(colour, 1).item() == round(0.299 * 200 + 0.587 * 100 + 0.114 * 50)
    assert (to_channels(GREY[..., None], 3) == GREY[..., None]).all()
    assert (to_channels(RGB, 4)[..., 3] == 255).all()
    over = to_channels(RGBA, 3)
    alpha = RGBA[..., 3:].astype(float) / 255
    assert np.abs(over - (RGBA[..., :3] * alpha + 255 * (1 - alpha))).max() <= 0.51
    with pytest.raises(UsageError, match="2 channels"):
        to_channels(RGB, 2)


def test_resizing_cropping_and_sheets():
    ramp = np.tile(np.arange(0, 256, 4, dtype=np.uint8), (32, 1))[..., None]
    assert resize(ramp, (32, 64)) is ramp
    assert resize(ramp, (16, 32)).shape == (16, 32, 1)
    small = center_crop_resize(ramp, (8, 8))
    assert small.shape == (8, 8, 1) and abs(int(small.mean()) - int(ramp.mean())) <= 2
    with pytest.raises(UsageError, match="unknown filter 'sharp'"):
        resize(ramp, (1, 1), "sharp")
    sheet = grid([GREY[..., None], RGB, RGBA], 2)
    assert sheet.shape == (5 * 2 + 2, 7 * 2 + 2, 4) and (sheet[:5, :7, 0] == GREY).all() and (sheet[5:7] == 255).all()
    with pytest.raises(UsageError):
        grid([], 2)


def test_pixels_to_floats_and_back_and_no_nan():
    import torch

    batch = np.stack([RGB, RGB[::-1]])
    for span in ((-1.0, 1.0), (0.0, 1.0)):
        floats = from_pixels(batch, span)
        assert floats.shape == (2, 3, 5, 7) and span[0] <= floats.min() <= floats.max() <= span[1]
        assert (to_pixels(floats, span) == batch).all()
    assert to_pixels(torch.full((1, 1, 2, 2), 9.0), (-1, 1)).max() == 255
    for bad in (float("nan"), float("inf")):
        x = torch.zeros(1, 3, 2, 2)
        x[0, 0, 0, 0] = bad
        with pytest.raises(GanctlError, match="1 of 12 values are NaN or infinite"):
            to_pixels(x, (-1, 1))


def test_a_request_is_json_and_ascii():
    data = encode(RGB, "png", request={"model": "日本"})
    text = Image.open(io.BytesIO(data)).text["ganctl"]
    assert text.isascii() and json.loads(text) == {"model": "日本"}

"""Thousands of damaged files: each is refused with a reason, or gives exactly the pixels of an independent reading.

The files are decoded in another process (this file, run as a script), so that a crash or an endless loop in a codec is
found and named too.
"""

import base64
import contextlib
import io
import json
import os
import select
import struct
import subprocess
import sys
import tarfile
import warnings
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import simplejpeg
from PIL import Image, ImageDraw, features

SEED = 20_120_930
NUM_FILES = 500
NUM_FILES_SLOW = 10_000
STALL_S = 120
"""One file taking longer hangs; a machine that stalls needs much, a decoder milliseconds."""
START_S = 900
PHOTOGRAPHS = Path(__file__).resolve().parents[3] / "shared" / "data" / "imagenette.tar"
FORMATS = ("PNG", "GIF", "BMP", "WEBP", "TIFF", "PPM", "JPEG2000", "AVIF")
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def photograph(seed: int, height: int = 60, width: int = 80) -> Image.Image:
    """A picture with something of a photograph: smooth light, shapes, noise."""
    random = np.random.default_rng(seed)
    down, right = np.mgrid[:height, :width]
    light = [120 + 90 * np.sin(down / random.uniform(9, 30) + right / random.uniform(9, 30)) for _ in range(3)]
    image = Image.fromarray(np.stack(light, axis=2).astype(np.uint8))
    draw = ImageDraw.Draw(image)
    for _ in range(6):
        left, top = random.integers(0, width - 20), random.integers(0, height - 20)
        corners = (left, top, left + random.integers(5, 20), top + random.integers(5, 20))
        color = tuple(random.integers(0, 256, 3).tolist())
        (draw.ellipse if random.integers(2) else draw.rectangle)(corners, fill=color)
    noisy = np.asarray(image) + random.normal(0, 5, (height, width, 3))
    return Image.fromarray(noisy.clip(0, 255).astype(np.uint8))


def encode(image: Image.Image, format_name: str, **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, format_name, **options)
    return file.getvalue()


def sound_files() -> dict[str, bytes]:
    """Whole files of every format, by a name whose first word is the format."""
    first, second = photograph(1), photograph(2)
    exif = Image.Exif()
    exif[274] = 6
    transparent = first.convert("RGBA")
    transparent.putalpha(second.convert("L"))
    sixteen = Image.fromarray(np.asarray(first.convert("L")).astype(np.uint16) * 257)
    moving = {"save_all": True, "append_images": [second, photograph(3)]}
    cmyk = encode(first.convert("CMYK"), "JPEG")
    transform = cmyk.index(b"Adobe") + 11
    warned = encode(first, "JPEG", quality=85)
    scan = warned.index(b"\xff\xda") + 11  # the range of coefficients, which cameras leave at zero
    files = {
        "jpeg baseline 4:2:0": encode(first, "JPEG", subsampling=2),
        "jpeg baseline 4:4:4": encode(second, "JPEG", subsampling=0, quality=92),
        "jpeg progressive": encode(first, "JPEG", progressive=True),
        "jpeg gray": encode(first.convert("L"), "JPEG"),
        "jpeg restarts": encode(second, "JPEG", restart_marker_rows=1),
        "jpeg exif": encode(first, "JPEG", exif=exif.tobytes()),
        "jpeg warned of": warned[:scan] + bytes(3) + warned[scan + 3 : -2] + bytes(20) + warned[-2:],
        "jpeg cmyk": cmyk,
        "jpeg ycck": cmyk[:transform] + b"\x02" + cmyk[transform + 1 :],
        "png rgb": encode(first, "PNG"),
        "png rgba": encode(transparent, "PNG"),
        "png gray": encode(first.convert("L"), "PNG"),
        "png gray alpha": encode(transparent.convert("LA"), "PNG"),
        "png palette": encode(first.quantize(64), "PNG", transparency=3),
        "png 1 bit": encode(first.convert("1"), "PNG"),
        "png 16 bit": encode(sixteen, "PNG"),
        "png exif": encode(second, "PNG", exif=exif.tobytes()),
        "png animated": encode(first, "PNG", **moving),
        "gif still": encode(first, "GIF"),
        "gif transparent": encode(first.quantize(32), "GIF", transparency=3),
        "gif animated": encode(first, "GIF", **moving),
        "bmp rgb": encode(first, "BMP"),
        "bmp palette": encode(first.quantize(64), "BMP"),
        "tiff plain": encode(first, "TIFF"),
        "tiff lzw": encode(first, "TIFF", compression="tiff_lzw"),
        "tiff deflate": encode(second, "TIFF", compression="tiff_adobe_deflate"),
        "tiff 16 bit": encode(sixteen, "TIFF"),
        "tiff cmyk": encode(first.convert("CMYK"), "TIFF"),
        "tiff turned": encode(first, "TIFF", tiffinfo={274: 6}),
        "ppm rgb": encode(first, "PPM"),
        "ppm gray": encode(first.convert("L"), "PPM"),
        "ppm text": b"P3 8 6 255\n" + b" ".join(b"%d" % value for value in range(8 * 6 * 3)),
    }
    if features.check("webp"):
        files["webp lossy"] = encode(first, "WEBP")
        files["webp lossless"] = encode(transparent, "WEBP", lossless=True)
        files["webp animated"] = encode(first, "WEBP", **moving)
    if features.check("jpg_2000"):
        files["jpeg2000 lossless"] = encode(first, "JPEG2000")
        files["jpeg2000 lossy"] = encode(second, "JPEG2000", irreversible=True, quality_layers=[20])
    if features.check("avif"):
        files["avif still"] = encode(first, "AVIF", speed=10, exif=exif.tobytes())
        files["avif transparent"] = encode(transparent, "AVIF", speed=10)
    with contextlib.suppress(ImportError):
        import pillow_heif

        file = io.BytesIO()
        pillow_heif.from_pillow(first).save(file, quality=60, exif=exif.tobytes())
        files["heic still"] = file.getvalue()
    if PHOTOGRAPHS.exists():
        with tarfile.open(PHOTOGRAPHS) as archive:
            members = (member for member in archive if member.isfile() and 9_000 < member.size < 60_000)
            for number, member in zip(range(3), members, strict=False):
                content = archive.extractfile(member)
                assert content is not None
                files[f"jpeg photograph {number}"] = content.read()
    return files


def mutated(number: int, files: dict[str, bytes]) -> tuple[str, bytes]:
    """Damaged file `number`: what was done to which file, and its bytes; the same on every call."""
    random = np.random.default_rng([SEED, number])
    names = sorted(files)
    name = names[number % len(names)]
    content = bytearray(files[name])

    def phase() -> tuple[int, int]:
        start = int(random.integers(len(content)))
        return start, min(len(content), start + int(2 ** random.uniform(0, 9)))

    damage = ("flips", "cut", "splice", "zeroes", "repeat", "insert")[int(random.integers(6))]
    if damage == "flips":
        # Half of them near the beginning, where the header is.
        reach = len(content) if random.integers(2) else min(len(content), 200)
        for place in random.integers(reach, size=int(random.integers(1, 17))):
            content[place] ^= 1 << int(random.integers(8))
    elif damage == "cut":
        del content[int(random.integers(len(content))) :]
    elif damage == "splice":
        alike = [other for other in names if other.split()[0] == name.split()[0]]
        choice = alike if random.integers(2) else names
        other = files[choice[int(random.integers(len(choice)))]]
        start = int(random.integers(len(content)))
        content[start:] = other[start if random.integers(2) else int(random.integers(len(other))) :]
    elif damage == "zeroes":
        start, end = phase()
        content[start:end] = bytes(end - start)
    elif damage == "repeat":
        start, end = phase()
        content[start:start] = content[start:end]
    else:
        start, end = phase()
        content[start:start] = random.bytes(end - start)
    return f"{name}, {damage}", bytes(content)


def over_white(image: Image.Image) -> np.ndarray:
    """The documented conversions of a loaded image, written a second time."""
    if image.mode in ("I", "I;16", "I;16L", "I;16B", "I;16N"):
        values = np.asarray(image).astype(np.int64)
        if image.format == "TIFF":
            tags = image.tag_v2
            values *= 16 if tags.get(258, (1,))[0] == 12 else 1
            values = 65535 - values if tags.get(262, 0) == 0 else values
        upper = values // 256
        assert upper.min() >= 0 and upper.max() <= 255
        return np.dstack([upper] * 3).astype(np.uint8)
    assert image.mode != "F"
    if image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info:
        layer = image.convert("RGBA")
        white = Image.new("RGBA", layer.size, (255, 255, 255, 255))
        white.alpha_composite(layer)
        image = white
    return np.asarray(image.convert("RGB"))


def turned(pixels: np.ndarray, image: Image.Image) -> np.ndarray:
    """Pixels, turned as the EXIF data of a file say; not turned where those are malformed."""
    try:
        turn = TURNS.get(int(image.getexif()[274]))
    except Exception:
        turn = None
    return pixels if turn is None else np.asarray(Image.fromarray(pixels).transpose(turn))


def reference(content: bytes, turn: bool) -> np.ndarray:
    """What the file shows, read without the module under test."""
    if content[:2] == b"\xff\xd8":
        try:
            if simplejpeg.decode_jpeg_header(content)[2] in ("CMYK", "YCCK"):
                pixels = mixed(simplejpeg.decode_jpeg(content, colorspace="CMYK", strict=True).astype(np.int64))
            else:
                pixels = simplejpeg.decode_jpeg(content, colorspace="RGB", strict=True)
        except ValueError:  # of which warnings are harmless, test_decode_jpeg_warnings.py tells
            with Image.open(io.BytesIO(content), formats=("JPEG",)) as image:
                pixels = np.asarray(image.convert("RGB"))
        if turn and b"Exif\x00\x00" in content:
            with contextlib.suppress(Exception), Image.open(io.BytesIO(content), formats=("JPEG",)) as image:
                pixels = turned(pixels, image)
        return np.asarray(pixels)
    if content[4:8] == b"ftyp":
        with contextlib.suppress(Exception), Image.open(io.BytesIO(content), formats=("AVIF",)) as image:
            image.load()
            return turned(over_white(image), image) if turn else over_white(image)
        import pillow_heif

        with pillow_heif.HeifImageFile(io.BytesIO(content)) as image:
            image.load()
            return over_white(image)
    with Image.open(io.BytesIO(content), formats=FORMATS) as image:
        image.load()
        return turned(over_white(image), image) if turn else over_white(image)


def mixed(paper: np.ndarray) -> np.ndarray:
    """RGB of inverted inks, int64 (H, W, 4): what black lets through, less each ink's part of it, in rounded 255ths."""
    ink, light = 255 - paper[..., :3], paper[..., 3:]
    return (light - (2 * ink * light + 255) // 510).astype(np.uint8)


def judge(content: bytes, turn: bool) -> dict[str, str]:
    """Decode one file; the outcome, and what is wrong if anything is."""
    from alexnet.data.decode import UnreadableImage, decode_image

    try:
        got = decode_image(content, apply_orientation=turn)
    except UnreadableImage as error:
        reason = str(error)
        return {"outcome": "refused" if reason and reason.isprintable() else "reason is not one line", "detail": reason}
    except BaseException as error:
        return {"outcome": "another error", "detail": repr(error)}
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            expected = reference(content, turn)
    except BaseException as error:
        return {"outcome": "shown, refused by the reference", "detail": repr(error)}
    same = got.shape == expected.shape and got.dtype == np.uint8 and np.array_equal(got, expected)
    return {"outcome": "shown" if same else "other pixels", "detail": f"{got.shape}, {expected.shape}"}


def serve() -> None:
    """The other process: four bytes of length, one byte of orientation, a file; back comes a line of JSON."""
    import alexnet.data.decode  # noqa: F401  (now, so that the first file is no slower)

    warnings.simplefilter("error")
    answers = os.fdopen(os.dup(1), "wb", buffering=0)
    answers.write(b"ready\n")
    while header := sys.stdin.buffer.read(5):
        size_bytes, turn = struct.unpack(">IB", header)
        answer = judge(sys.stdin.buffer.read(size_bytes), bool(turn))
        answers.write(json.dumps(answer).encode() + b"\n")


class Worker:
    """The other process; started again after a crash or a hang."""

    def __init__(self, folder: Path, *command: str) -> None:
        self._command = command or (sys.executable, __file__)
        self._stderr = folder / "stderr"  # codecs written in C speak there of each damage
        self._process: subprocess.Popen[bytes] | None = None
        self._left = b""

    def judge(self, content: bytes, turn: bool) -> dict[str, str]:
        if self._process is None:
            environment = {**os.environ, "PYTHONPATH": os.pathsep.join(part for part in sys.path if part)}
            with self._stderr.open("ab") as stderr:
                self._process = subprocess.Popen(
                    self._command,
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=stderr,
                    env=environment,
                    bufsize=0,
                )
            self._left = b""
            assert self._line(START_S) == b"ready", "the other process did not start"
        assert self._process.stdin is not None
        try:
            self._send(struct.pack(">IB", len(content), turn) + content)
            line = self._line(STALL_S)
        except (BrokenPipeError, EOFError):
            return {"outcome": "crash", "detail": f"exit code {self.close()}"}
        except TimeoutError:
            self._process.kill()
            self.close()
            return {"outcome": "hang", "detail": f"no answer for {STALL_S} s"}
        answer: dict[str, str] = json.loads(line)
        return answer

    def _send(self, content: bytes) -> None:
        assert self._process is not None and self._process.stdin is not None
        view = memoryview(content)
        while view:
            view = view[self._process.stdin.write(view) or 0 :]

    def _line(self, limit_s: float) -> bytes:
        """The next line of the other process; TimeoutError where nothing comes for so long, EOFError at its end."""
        assert self._process is not None and self._process.stdout is not None
        while b"\n" not in self._left:
            if not select.select([self._process.stdout], [], [], limit_s)[0]:
                raise TimeoutError
            part = self._process.stdout.read(65536)
            if not part:
                raise EOFError
            self._left += part
        line, _, self._left = self._left.partition(b"\n")
        return line

    def close(self) -> int | None:
        """End the process, if there is one; its exit code."""
        if self._process is None:
            return None
        assert self._process.stdin is not None and self._process.stdout is not None
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(5)
        self._process.kill()
        code = self._process.wait()
        self._process.stdout.close()
        self._process = None
        return code


@pytest.fixture(scope="module")
def files() -> dict[str, bytes]:
    return sound_files()


@pytest.fixture(scope="module")
def worker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Worker]:
    with contextlib.closing(Worker(tmp_path_factory.mktemp("worker"))) as started:
        yield started


def check_mutations(num_files: int, files: dict[str, bytes], worker: Worker) -> None:
    """Judge `num_files` damaged files; print the counts, fail with the first wrong ones and their bytes."""
    counts: dict[str, Counter[str]] = {}
    wrong = []
    for number in range(num_files):
        what, content = mutated(number, files)
        answer = worker.judge(content, turn=number % 3 > 0)
        counts.setdefault(what.split()[0], Counter())[answer["outcome"]] += 1
        if answer["outcome"] not in ("refused", "shown"):
            wrong.append(f"number {number} ({what}): {answer}; {base64.b64encode(content[:6000]).decode()}")
            print("WRONG", wrong[-1][:300], flush=True)
        if num_files > NUM_FILES and number % 500 == 499:
            print(f"{number + 1} of {num_files} files", flush=True)
    print(f"seed {SEED}, {num_files} files")
    for format_name, outcomes in sorted(counts.items()):
        print(f"{format_name:10}", dict(sorted(outcomes.items())))
    assert not wrong, f"{len(wrong)} of {num_files} with seed {SEED}:\n" + "\n".join(wrong[:5])
    total = sum(counts.values(), Counter())
    assert total["refused"] > num_files / 10 and total["shown"] > num_files / 10


def test_sound_files_are_all_shown(files: dict[str, bytes], worker: Worker) -> None:
    for name, content in files.items():
        for turn in (True, False):
            assert worker.judge(content, turn)["outcome"] == "shown", name


def test_a_damaged_file_is_refused_or_shown_as_it_is(files: dict[str, bytes], worker: Worker) -> None:
    check_mutations(NUM_FILES, files, worker)


@pytest.mark.slow
@pytest.mark.skipif(bool(os.environ.get("CI")), reason="CI takes the 500 files of the default test")
def test_ten_thousand_damaged_files(files: dict[str, bytes], worker: Worker) -> None:
    check_mutations(NUM_FILES_SLOW, files, worker)


@pytest.mark.parametrize(("deed", "outcome"), [("os.abort()", "crash"), ("time.sleep(60)", "hang")])
def test_a_crash_and_a_hang_would_be_seen(
    deed: str, outcome: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(globals(), "STALL_S", 1)
    with contextlib.closing(
        Worker(tmp_path, sys.executable, "-c", f"import os, time; print('ready', flush=True); {deed}")
    ) as worker:
        assert worker.judge(b"a file", turn=True)["outcome"] == outcome


if __name__ == "__main__":
    serve()

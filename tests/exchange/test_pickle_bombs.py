"""Small pickles that would take all memory, or hours: one message, within a second or two, whatever reads them."""

import json
import os
import signal
import struct
import subprocess
import sys
import tracemalloc
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tests.exchange.test_hostile_weights import CONSTANT_BYTES, opcode_int, opcode_text, pickled_tensor, zipped

from alexnet.data.sources.cifar_files import open_cifar
from alexnet.errors import AlexNetError
from alexnet.exchange.convnet_checkpoints import read_batches_meta
from alexnet.exchange.readers import read_foreign

MAX_SECONDS = 20
"""Of processor time; they take up to two, and took from ten seconds to days."""
MAX_MEBIBYTES = 200
READERS = {"zip": read_foreign, "pickle": read_foreign, "meta": read_batches_meta, "cifar": open_cifar}


def put(number: int) -> bytes:
    return b"q" + bytes([number])


def get(number: int) -> bytes:
    return b"h" + bytes([number])


def named(module: str, name: str) -> bytes:
    return f"c{module}\n{name}\n".encode()


def kept(*values: bytes) -> bytes:
    """Values under the numbers 0, 1, ..., and nothing on the stack."""
    return b"".join(value + put(number) + b"0" for number, value in enumerate(values))


def pickled(begin: bytes, value: bytes) -> bytes:
    """A checkpoint whose state is a value, after operations that leave nothing on the stack."""
    return b"\x80\x02" + begin + dictionary(opcode_text("model_state") + value) + b"."


def dictionary(items: bytes) -> bytes:
    return b"}(" + items + b"u"


def named_entries(count: int, value: bytes, name: str = "{:x}") -> bytes:
    return b"".join(opcode_text(name.format(one)) + value for one in range(count))


def doubled(depth: int) -> bytes:
    """A tuple that takes 2**depth numbers to write out."""
    out = b"N"
    for one in range(10, 10 + depth):
        out += put(one) + get(one) + b"\x86"
    return out


def opcode_bytes(content: bytes) -> bytes:
    return b"B" + struct.pack("<I", len(content)) + content


def text_of(content: bytes) -> bytes:
    return b"X" + struct.pack("<I", len(content)) + content


def listed(items: bytes) -> bytes:
    return b"](" + items + b"e"


def tupled(items: bytes) -> bytes:
    return b"(" + items + b"t"


def array(shape: bytes, content: bytes, code: bytes | None = None) -> bytes:
    made = named("numpy.core.multiarray", "_reconstruct") + b")R"
    kind = named("numpy", "dtype") + (code or opcode_text("u1")) + b"\x85R"
    return made + b"(K\x01" + shape + kind + b"\x89" + content + b"tb"


LARGE = opcode_text("x" * 2**20)
ENCODE = kept(named("_codecs", "encode"), LARGE + opcode_text("latin1") + b"\x86")
WIDE = "\U0001f600".encode() + b"x" * (2**20 - 9)
TENSOR = pickled_tensor((16,), (1,))
LONG_TUPLE = tupled(b"N" * 100_000)
COLLIDING = b"".join(b"\x8a\x0c" + ((2**61 - 1) * one).to_bytes(12, "little") + b"N" for one in range(1, 60_000))
FLOATS = b"".join(b"G" + struct.pack(">d", one * 2.0**61) + b"N" for one in range(1, 60_000))


def layer(name: str) -> bytes:
    """With the inputs that are kept first."""
    begin = opcode_text("name") + opcode_text(name) + opcode_text("type") + opcode_text("data")
    return dictionary(begin + opcode_text("inputs") + get(0))


def layers(content: bytes) -> bytes:
    return dictionary(opcode_text("layers") + content)


STORAGE = opcode_text("storage") + named("torch", "FloatStorage") + opcode_text("0") + opcode_text("cpu")
BOMBS: dict[str, bytes] = {
    "a tuple as a number of elements": pickled(b"", tupled(STORAGE + doubled(60)) + b"Q"),
    "a tuple as a size": pickled(b"", array(tupled(doubled(60)), b"U\x00")),
    "a tuple as a type": pickled(b"", array(b"K\x00\x85", b"U\x00", doubled(60))),
    "a tuple as a name": pickled(b"", doubled(60) + opcode_text("x") + b"\x93"),
    "a tuple as a key": pickled(b"", dictionary(doubled(60) + b"N")),
    "a long tuple as a key": pickled(kept(LONG_TUPLE), dictionary((get(0) + b"N") * 60_000)),
    "one text encoded again and again": pickled(ENCODE, tupled((get(0) + get(1) + b"R") * 60_000)),
    "one text for many arrays": pickled(
        kept(LARGE, tupled(opcode_int(2**20))), tupled(array(get(1), get(0)) * 3000)
    ),
    "one text for many types": pickled(
        kept(named("numpy", "dtype"), opcode_text("<" + "x" * (2**20 - 9)) + b"\x85"),
        tupled((get(0) + get(1) + b"R") * 60_000),
    ),
    "one text in many names": pickled(kept(opcode_text("x" * 2**20)), tupled((get(0) + get(0) + b"\x93") * 60_000)),
    "one list in many dictionaries": pickled(
        kept(
            listed(b"".join(listed(opcode_text(f"{one:x}") + b"N") for one in range(30_000))) + b"\x85",
            named("collections", "OrderedDict"),
        ),
        tupled((get(1) + get(0) + b"R") * 20_000),
    ),
    "sizes without end": pickled(kept(b"\x8a\xff" + b"\x01" * 255), array(tupled(get(0) * 100_000), b"U\x00")),
    "numbers of one hash as keys": pickled(b"", dictionary(COLLIDING)),
    "fractions as keys": pickled(b"", dictionary(FLOATS)),
    "long arguments, copied": pickled(
        kept(named("collections", "Counter"), LONG_TUPLE, b"}"), tupled((get(0) + get(1) + get(2) + b"\x92") * 30_000)
    ),
    "long arguments of tensors": pickled(
        kept(named("torch._utils", "_rebuild_tensor_v2"), LONG_TUPLE), tupled((get(0) + get(1) + b"R") * 30_000)
    ),
    "long names of storages": pickled(kept(LONG_TUPLE), tupled((get(0) + b"Q") * 30_000)),
    "a fraction of megabytes": pickled(b"", b"F" + b"1" * 2**23 + b"x\n"),
    "wide texts": pickled(b"", listed(text_of(WIDE) * 60)),
    "a wide text": pickled(b"", text_of(WIDE * 30)),
    "a wide text as a line": pickled(b"", b"V\\U0001f600" + b"x" * 2**25 + b"\n"),
    "one dictionary under many names": b"\x80\x02" + kept(dictionary(named_entries(40_000, b"N")))
    + dictionary(named_entries(40_000, get(0))) + b".",
    "one tensor under many names": b"\x80\x02" + kept(TENSOR) + dictionary(named_entries(60_000, get(0), "{:x}.weight"))
    + b".",
    "tensors with long names": b"\x80\x02" + kept(TENSOR)
    + dictionary(named_entries(16, get(0), "{:x}" + "1a" * 2**18 + ".weight")) + b".",
    "one layer many times": pickled(
        kept(listed(b""), dictionary(named_entries(40_000, b"N"))), layers(listed(get(1) * 60_000))
    ),
    "layers with many inputs": pickled(
        kept(listed((opcode_bytes(bytes(4000)) + put(9)) + get(9) * 50_000)),
        layers(listed(b"".join(layer(f"{one:x}") for one in range(500)))),
    ),
    "layers with many long names": pickled(
        kept(dictionary(b"".join(opcode_bytes(bytes(4000) + bytes([one])) + b"N" for one in range(250)))),
        layers(listed((dictionary(b"") + b"0" + get(0)) * 20_000)),
    ),
    "class names without end": b"\x80\x02" + dictionary(opcode_text("label_names") + listed(doubled(60))) + b".",
    "one class name many times": b"\x80\x02" + kept(opcode_bytes(bytes(4000)))
    + dictionary(opcode_text("label_names") + listed(get(0) * 500_000)) + b".",
}  # fmt: skip

LIMITED = """
import json, resource, sys, time
from pathlib import Path
from alexnet.data.sources.cifar_files import open_cifar
from alexnet.exchange.readers import read_foreign
def most():
    (line,) = (one for one in open("/proc/self/status") if one.startswith("VmHWM:"))
    return int(line.split()[1]) / 1024
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + 2**30, used + 2**30))
resource.setrlimit(resource.RLIMIT_CPU, (300, 300))
READERS = {"zip": read_foreign, "pickle": read_foreign, "cifar": open_cifar}
for form, path in json.loads(sys.stdin.read()):
    open("/proc/self/clear_refs", "w").write("5")
    before, start, error = most(), time.process_time(), "no error"
    try:
        READERS[form](Path(path))
    except Exception as failure:
        error = f"{type(failure).__name__}: {failure}"
    print(json.dumps([error, time.process_time() - start, most() - before]), flush=True)
"""
CIFAR_FILES = [*(f"data_batch_{number}" for number in range(1, 6)), "test_batch"]


def written(folder: Path, content: bytes, form: str) -> Path:
    """A file or folder that a reader takes the pickle from."""
    folder.mkdir(exist_ok=True)
    if form == "cifar":
        for name in CIFAR_FILES:
            (folder / name).touch()
        (folder / "batches.meta").write_bytes(content)
        return folder
    path = folder / ("net.pth" if form == "zip" else "net.pkl")
    path.write_bytes(zipped(content) if form == "zip" else content)
    return path


@pytest.mark.slow
def test_small_pickles_take_little_time_and_memory_whatever_reads_them(tmp_path: Path) -> None:
    calls = [(name, form) for name in BOMBS for form in ("zip", "pickle", "cifar")]
    paths = [
        (form, str(written(tmp_path / f"{number}", BOMBS[name], form))) for number, (name, form) in enumerate(calls)
    ]
    done = subprocess.run(
        [sys.executable, "-c", LIMITED], input=json.dumps(paths), capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    outcomes = [json.loads(line) for line in done.stdout.splitlines()]
    for (name, form), (error, seconds, grown) in zip(calls, outcomes, strict=True):
        print(f"{name:32} {form:6} {seconds:6.3f} s {grown:6.1f} MiB  {error[:150]}")
    for (name, form), (error, seconds, grown) in zip(calls, outcomes, strict=True):
        assert error.startswith(("RequestError: ", "WorkError: ")), (name, form, error)
        assert len(error) < 700 and "\n" not in error, (name, form, error[:1000])
        assert seconds < MAX_SECONDS and grown < MAX_MEBIBYTES, (name, form, seconds, grown)


# Values that use each other, as operations: each leaves one more value on the stack.
GLOBALS = [
    *(("_codecs", "encode"), ("numpy", "dtype"), ("numpy.core.multiarray", "_reconstruct")),
    *(("numpy.core.multiarray", "scalar"), ("numpy.core.numeric", "_frombuffer"), ("collections", "OrderedDict")),
    *(("torch._utils", "_rebuild_tensor_v2"), ("torch._utils", "_rebuild_parameter"), ("torch", "FloatStorage")),
    ("argparse", "Namespace"),
]
SIZES = st.sampled_from((0, 1, 16, 300, 5000, 2**17, 2**20 - 9))
ATOMS = st.one_of(
    st.sampled_from((b"N", b"\x88", b"]", b"}", b")", b"\x8f", opcode_text("latin1"), opcode_text("storage"))),
    SIZES.map(lambda size: opcode_text("x" * size)),
    SIZES.map(lambda size: opcode_bytes(bytes(size))),
    st.integers(-2, 20).map(opcode_int),
    st.integers(-(2**2000), 2**2000).map(opcode_int),
    st.floats(width=64).map(lambda number: b"G" + struct.pack(">d", number)),
    st.sampled_from(GLOBALS).map(lambda one: named(*one)),
    st.sampled_from((tupled(b"N" * 5000), listed(b"N" * 5000), dictionary(named_entries(2000, b"N")), TENSOR)),
    st.just(tupled(STORAGE + opcode_int(16)) + b"Q"),
)
NUM_KEPT = 5


def combined(inner: st.SearchStrategy[bytes]) -> st.SearchStrategy[bytes]:
    items = st.lists(inner, max_size=4).map(b"".join)
    even = st.lists(st.tuples(inner, inner).map(b"".join), max_size=3).map(b"".join)
    return st.one_of(
        items.map(tupled),
        items.map(listed),
        even.map(dictionary),
        st.tuples(st.sampled_from(GLOBALS), items).map(lambda one: named(*one[0]) + tupled(one[1]) + b"R"),
        st.tuples(inner, inner, st.sampled_from((b"R", b"\x81", b"b", b"a", b"\x93"))).map(b"".join),
        st.tuples(inner, inner, inner, st.sampled_from((b"\x92", b"s"))).map(b"".join),
        inner.map(lambda one: one + b"Q"),
    )


FETCHED = st.integers(0, NUM_KEPT - 1).map(get)
VALUES = st.recursive(FETCHED | ATOMS, combined, max_leaves=6)


@contextmanager
def processor_seconds(limit: float) -> Iterator[None]:
    def stop(*_: Any) -> None:
        raise TimeoutError(f"more than {limit} s of processor time")

    before = signal.signal(signal.SIGVTALRM, stop)
    signal.setitimer(signal.ITIMER_VIRTUAL, limit)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.signal(signal.SIGVTALRM, before)


USED_AGAIN = given(
    st.lists(VALUES, min_size=NUM_KEPT, max_size=NUM_KEPT), VALUES, st.sampled_from((1, 300, 3000)), st.booleans()
)
ENCODED = [named("_codecs", "encode"), LARGE + opcode_text("latin1") + b"\x86", *[b"N"] * 3]


@USED_AGAIN
@example(ENCODED, get(0) + get(1) + b"R", 300, True)
@example([tupled(b"N" * 20_000), *[b"N"] * 4], dictionary(get(0) + b"N"), 3000, False)
@settings(max_examples=15)
def test_values_that_are_used_again_and_again_take_little_time_and_memory(
    values: list[bytes], repeated: bytes, times: int, as_layers: bool
) -> None:
    check_used_again(values, repeated, times, as_layers)


@pytest.mark.slow
@USED_AGAIN
@settings(max_examples=300 if os.environ.get("CI") else 2_000)
def test_many_values_that_are_used_again_and_again_take_little_time_and_memory(
    values: list[bytes], repeated: bytes, times: int, as_layers: bool
) -> None:
    check_used_again(values, repeated, times, as_layers)


def check_used_again(values: list[bytes], repeated: bytes, times: int, as_layers: bool) -> None:
    once = b"".join(one + put(number) + b"0" for number, one in enumerate(values))
    used = listed(repeated * min(times, 1 + 2**16 // len(repeated)))
    content = pickled(once, layers(used) if as_layers else used)
    with TemporaryDirectory() as name:
        for form in READERS:
            path = written(Path(name), content, form)
            tracemalloc.start()
            try:
                with processor_seconds(MAX_SECONDS):
                    READERS[form](path)
                    pytest.fail(f"it was read as {form}")
            except AlexNetError as error:
                assert len(str(error)) < 700 and "\n" not in str(error)
            finally:
                most = tracemalloc.get_traced_memory()[1]
                tracemalloc.stop()
            assert most < 4 * len(content) + CONSTANT_BYTES, (form, most)

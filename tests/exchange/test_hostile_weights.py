"""Files of other programs that were made to harm, or damaged: one message, little memory, and nothing is run."""

import io
import json
import os
import pickle
import random
import struct
import tracemalloc
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import safetensors.torch
import torch
from tests.exchange.convnet_pickles import checkpoint, python2_pickle
from tests.exchange.test_convnet_checkpoints import cifar
from tests.exchange.test_pytorch_files import SAVES, torchvision_net

from alexnet.errors import AlexNetError, RequestError, WorkError
from alexnet.exchange.foreign_network import ForeignNetwork
from alexnet.exchange.readers import read_foreign

NUM_DEFAULT = 150
NUM_SLOW = 2_000 if os.environ.get("CI") else 10_000
CONSTANT_BYTES = 64 << 20
"""What reading may take beyond the size of the file."""


def opcode_text(text: str) -> bytes:
    return b"X" + struct.pack("<I", len(text)) + text.encode()


def opcode_int(value: int) -> bytes:
    size = max(1, (value.bit_length() + 8) // 8)
    return b"\x8a" + bytes([size]) + value.to_bytes(size, "little", signed=True)


def opcode_ints(values: tuple[int, ...]) -> bytes:
    return b"(" + b"".join(map(opcode_int, values)) + b"t"


def pickled_tensor(
    shape: tuple[int, ...], strides: tuple[int, ...], *, first: int = 0, numel: int = 16, key: str = "0",
    storage: str = "torch\nFloatStorage",
) -> bytes:  # fmt: skip
    """The opcodes of a tensor as torch.save writes it, by its format."""
    persistent = b"(" + opcode_text("storage") + b"c" + storage.encode() + b"\n" + opcode_text(key)
    persistent += opcode_text("cpu") + opcode_int(numel) + b"tQ"
    made = b"ctorch._utils\n_rebuild_tensor_v2\n(" + persistent + opcode_int(first) + opcode_ints(shape)
    return made + opcode_ints(strides) + b"\x89}tR"


def pickled_state(tensor: bytes) -> bytes:
    return b"\x80\x02}(" + opcode_text("features.0.weight") + tensor + b"u."


def zipped(content: bytes, members: dict[str, bytes] | None = None, *, compression: int = zipfile.ZIP_STORED) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", compression) as archive:
        archive.writestr("net/data.pkl", content)
        for name, one in ({"data/0": bytes(64)} if members is None else members).items():
            archive.writestr(f"net/{name}", one)
    return file.getvalue()


def duplicated() -> bytes:
    file = io.BytesIO()
    with warnings.catch_warnings(action="ignore"), zipfile.ZipFile(file, "w") as archive:
        archive.writestr("net/data.pkl", pickled_state(pickled_tensor((16,), (1,))))
        archive.writestr("net/data/0", bytes(64))
        archive.writestr("net/data/0", bytes(64))
    return file.getvalue()


def relabeled(content: bytes, old: bytes, new: bytes) -> bytes:
    """A zip with other bytes in its list of members."""
    start = content.index(b"PK\x01\x02")
    return content[:start] + content[start:].replace(old, new)


TENSOR = pickled_tensor((16,), (1,))
SOUND = zipped(pickled_state(TENSOR))
HOSTILE: dict[str, tuple[bytes, str]] = {
    "expanded": (zipped(pickled_state(pickled_tensor((2**20, 2**20), (0, 0)))), "in a storage of 16 numbers"),
    "large": (zipped(pickled_state(pickled_tensor((2**31, 2**31), (2**31, 1)))), "in a storage of 16 numbers"),
    "overflowing": (zipped(pickled_state(pickled_tensor((2**61, 8), (1, 2**61)))), "in a storage of 16 numbers"),
    "behind its end": (zipped(pickled_state(pickled_tensor((4,), (1,), first=13))), "in a storage of 16 numbers"),
    "before its beginning": (zipped(pickled_state(pickled_tensor((4,), (1,), first=-1))), "no valid place"),
    "backwards": (zipped(pickled_state(pickled_tensor((4,), (-1,), first=3))), "no valid shape"),
    "of a negative size": (zipped(pickled_state(pickled_tensor((-4, -4), (1, 1)))), "no valid shape"),
    "of another rank": (zipped(pickled_state(pickled_tensor((4, 4), (1,)))), "no valid shape"),
    "of 99 axes": (zipped(pickled_state(pickled_tensor((1,) * 99, (1,) * 99))), "no valid shape"),
    "a storage of terabytes": (
        zipped(pickled_state(pickled_tensor((2**40,), (1,), numel=2**40))), r"4,398,046,511,104 bytes, and its .* 64 b"
    ),
    "a negative storage": (zipped(pickled_state(pickled_tensor((4,), (1,), numel=-4))), "without a number of elements"),
    "a missing storage": (zipped(pickled_state(TENSOR), {}), "its member data/0 is missing"),
    "a path as storage": (
        zipped(pickled_state(pickled_tensor((16,), (1,), key="../../etc/passwd"))), "data/../../etc/passwd is missing"
    ),
    "an unknown storage": (
        zipped(pickled_state(pickled_tensor((16,), (1,), storage="torch\nQInt8Storage"))), "QInt8Storage"
    ),
    "no storage": (zipped(b"\x80\x02(" + opcode_text("thing") + b"tQ."), "an object that is outside of it"),
    "compressed": (zipped(pickled_state(TENSOR), compression=zipfile.ZIP_DEFLATED), "is compressed or encrypted"),
    "a bomb": (
        zipped(pickled_state(TENSOR), {"data/0": bytes(2**28)}, compression=zipfile.ZIP_DEFLATED), "is compressed or"
    ),
    "duplicate members": (duplicated(), "two members 'data/0'"),
    "another name in front": (SOUND.replace(b"net/data.pkl", b"net/data.pkx", 1), "where it is not"),
    "a member that claims more": (
        relabeled(SOUND, struct.pack("<II", 64, 64), struct.pack("<II", 2**31, 2**31)), "it ends inside"
    ),
    "members on each other": (
        relabeled(SOUND, SOUND[-22:-2], struct.pack("<4s4H2L", b"PK\x05\x06", 0, 0, 9999, 9999, 2**31, 0)),
        "damaged",
    ),
    "no pickle": (zipped(b"not a pickle"), "the operation|the unknown operation|damaged"),
    "many lists": (zipped(b"\x80\x02" + b"]" * 300_000 + b"."), "more operations than allowed"),
    "a long text": (zipped(b"\x80\x02" + opcode_text("x" * 2**21) + b"."), "a text of 2,097,152 bytes"),
    "a list of members of megabytes": (
        zipped(pickled_state(TENSOR), {f"data/{'x' * 200}{n}": b"" for n in range(5000)}), "its list of members claims"
    ),
    "a tensor": (zipped(b"\x80\x02" + TENSOR + b"."), "without a state dict"),
    "itself": (zipped(b"\x80\x02}q\x00(" + opcode_text("model") + b"h\x00u."), "without a state dict"),
}  # fmt: skip


def peak_bytes(path: Path) -> tuple[AlexNetError | ForeignNetwork, int]:
    """What reading gives, and the most memory that Python and NumPy took meanwhile."""
    tracemalloc.start()
    try:
        try:
            found: AlexNetError | ForeignNetwork = read_foreign(path)
        except AlexNetError as error:
            found = error
        return found, tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_files_give_one_message_and_take_no_memory(tmp_path: Path, name: str) -> None:
    content, message = HOSTILE[name]
    path = tmp_path / "net.pth"
    path.write_bytes(content)
    found, most = peak_bytes(path)
    assert isinstance(found, AlexNetError)
    with pytest.raises(AlexNetError, match=message):
        raise found
    assert str(found).startswith(str(path)) and "\n" not in str(found) and len(str(found)) < 700
    assert most < len(content) + CONSTANT_BYTES, most


CALLS = {
    "reduce": b"cposix\nsystem\n(" + opcode_text("touch WITNESS") + b"tR",
    "eval": b"cbuiltins\neval\n(" + opcode_text("open('WITNESS', 'w').close()") + b"tR",
    "new object": b"csubprocess\nPopen\n((" + opcode_text("touch") + opcode_text("WITNESS") + b"lt\x81",
    "object": b"(cposix\nsystem\n" + opcode_text("touch WITNESS") + b"o",
    "instance": b"(" + opcode_text("touch WITNESS") + b"iposix\nsystem\n",
    "attribute": b"cbuiltins\ngetattr\n(cposix\nsystem\n" + opcode_text("__call__") + b"tR(" + opcode_text("x") + b"tR",
    "torch.load": b"ctorch\nload\n(" + opcode_text("WITNESS") + b"tR",
    "hub": b"ctorch.hub\nload\n(" + opcode_text("WITNESS") + b"tR",
    "lambda": b"ctorch.jit._script\nunpickle_module\n(" + opcode_text("WITNESS") + b"tR",
    "set state": b"cargparse\nNamespace\n)R}" + opcode_text("__class__") + b"cposix\nsystem\nsb",
    "as a key": b"}cposix\nsystem\nK\x01s",
}  # fmt: skip


@pytest.mark.parametrize("form", ["zip", "old", "cuda-convnet"])
@pytest.mark.parametrize("name", CALLS)
def test_functions_in_a_pickle_are_named_and_never_called(
    tmp_path: Path, name: str, form: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    call = CALLS[name]
    if name in ("reduce", "object", "instance"):  # loaded freely, it calls
        ran: list[object] = []
        monkeypatch.setattr(os, "system", lambda *words: ran.append(words))
        with monkeypatch.context() as patched:
            patched.setattr("posix.system", os.system)
            pickle.loads(b"\x80\x02" + call + b".")
        assert ran
    entries = opcode_text("features.0.weight") + TENSOR if form != "cuda-convnet" else opcode_text("model_state") + b"}"
    state = b"\x80\x02}(" + entries + opcode_text("x") + call + b"u."
    path = tmp_path / "net.pth"
    if form == "zip":
        path.write_bytes(zipped(state))
    elif form == "old":
        torch.save({}, path, _use_new_zipfile_serialization=False)
        content = path.read_bytes()
        path.write_bytes(content.replace(b"\x80\x02}q\x00.", state, 1) + bytes(64))
        assert path.read_bytes() != content
    else:
        path.write_bytes(state)
    with pytest.raises(
        RequestError, match=r"that refers to '[\w.]+', which weights do not need; nothing in it was run"
    ):
        read_foreign(path)
    assert [one.name for one in tmp_path.iterdir()] == ["net.pth"]


def test_a_changed_weight_is_noticed_where_the_file_has_checksums(tmp_path: Path) -> None:
    path = tmp_path / "net.pth"
    SAVES["zip"](dict(torchvision_net(2).state_dict()), path)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(WorkError, match=r"cut short or damaged \(the checksum of its member '[\w./]+' is wrong\)"):
        read_foreign(path)


@pytest.mark.parametrize("form", ["zip", "old", "safetensors"])
def test_weights_that_are_not_finite_are_refused(tmp_path: Path, form: str) -> None:
    state = dict(torchvision_net(2).state_dict())
    state["features.6.bias"][3] = float("nan")
    state["features.6.bias"][4] = -float("inf")
    SAVES[form](state, tmp_path / "net")
    with pytest.raises(RequestError, match=r"2 of the 12 biases of features.6 are not finite \(NaN or infinite\)"):
        read_foreign(tmp_path / "net")
    SAVES[form]({name: one.double() * 1e300 for name, one in torchvision_net(2).state_dict().items()}, tmp_path / "net")
    with pytest.raises(RequestError, match=r"weights of features.0 are not finite"):
        read_foreign(tmp_path / "net")


@pytest.mark.parametrize("form", ["zip", "old"])
def test_layers_that_share_their_weights_are_refused_before_they_are_read(tmp_path: Path, form: str) -> None:
    state = dict(torchvision_net(2).state_dict())
    large = torch.zeros(max(one.numel() for one in state.values()))
    SAVES[form]({name: large[: one.numel()].view(one.shape) for name, one in state.items()}, tmp_path / "net")
    with pytest.raises(RequestError, match="whose layers share weights"):
        read_foreign(tmp_path / "net")


def make_safetensors(path: Path) -> None:
    safetensors.torch.save_file(dict(torchvision_net(2).state_dict()), path)


FORMATS: dict[str, Callable[[Path], None]] = {
    "zip": lambda path: SAVES["zip"](dict(torchvision_net(2).state_dict()), path),
    "old": lambda path: SAVES["old"](dict(torchvision_net(2).state_dict()), path),
    "safetensors": make_safetensors,
    "cuda-convnet": lambda path: path.write_bytes(python2_pickle(checkpoint(cifar("19pct")))) and None,
    "cuda-convnet, zip": lambda path: zip_checkpoint(path),
}


def zip_checkpoint(path: Path) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        archive.writestr("data", python2_pickle(checkpoint(cifar("19pct"), as_list=True)))


def structure(content: bytes) -> list[range]:
    """Where a file says what it holds: not the long runs of weights."""
    places, start = [], 0
    for at in range(0, len(content), 4096):
        block = content[at : at + 4096]
        if (
            sum(32 <= byte < 127 or byte == 0 for byte in block) > len(block) // 2
            or at < 4096
            or at > len(content) - 8192
        ):
            places.append(range(at, min(at + 4096, len(content))))
        start = at
    assert places and start >= 0
    return places


def mutated(content: bytes, places: list[range], chance: random.Random) -> bytes:
    changed = bytearray(content)
    for _ in range(chance.choice((1, 1, 1, 2, 5))):
        place = chance.choice(places) if chance.random() < 0.85 else range(len(changed))
        at = min(chance.choice(place), len(changed) - 1)
        match chance.randrange(8):
            case 0 | 1:
                changed[at] ^= 1 << chance.randrange(8)
            case 2:
                changed[at] = chance.choice(b"\x00\x01\x7f\x80\xff.(}]tRcQh")
            case 3:
                changed[at : at + 4] = struct.pack("<I", chance.choice((0, 1, 2**31 - 1, 2**31, 2**32 - 1)))
            case 4:
                del changed[at : at + chance.choice((1, 2, 4, 100))]
            case 5:
                changed[at:at] = chance.randbytes(chance.choice((1, 2, 8)))
            case 6:
                end = at + chance.choice((1, 4, 30))
                changed[at:at] = changed[at:end]
            case 7 if chance.random() < 0.3:
                del changed[at:]
        if not changed:
            return b""
    return bytes(changed)


def check_mutations(path: Path, name: str, count: int) -> dict[str, int]:
    FORMATS[name](path)
    content = path.read_bytes()
    places = structure(content)
    outcomes: dict[str, int] = {}
    chance = random.Random(f"{name} {count}")
    tracemalloc.start()
    try:
        for number in range(count):
            changed = mutated(content, places, chance)
            path.write_bytes(changed)
            tracemalloc.reset_peak()
            before = tracemalloc.get_traced_memory()[0]
            try:
                read_foreign(path)
                outcome = "read"
            except (RequestError, WorkError) as error:
                text = str(error)
                assert "\n" not in text and len(text) < 1500, text
                outcome = type(error).__name__
            except BaseException:
                path.with_name(f"failed-{name.replace(', ', '-')}-{number}").write_bytes(changed)
                raise
            taken = tracemalloc.get_traced_memory()[1] - before
            assert taken < 4 * len(content) + CONSTANT_BYTES, (number, taken)
            outcomes[outcome] = outcomes.get(outcome, 0) + 1
    finally:
        tracemalloc.stop()
    print(name, json.dumps(outcomes))
    return outcomes


@pytest.mark.parametrize("name", FORMATS)
def test_mutated_files_end_in_weights_or_a_message(tmp_path: Path, name: str) -> None:
    outcomes = check_mutations(tmp_path / "net", name, NUM_DEFAULT)
    assert outcomes.get("WorkError", 0) + outcomes.get("RequestError", 0) > NUM_DEFAULT // 4


@pytest.mark.slow
@pytest.mark.parametrize("name", FORMATS)
def test_ten_thousand_mutated_files_end_in_weights_or_a_message(tmp_path: Path, name: str) -> None:
    check_mutations(tmp_path / "net", name, NUM_SLOW)

"""Fetching photographs: stand-ins of the published archives, in their layouts, by every way and with every fault."""

import gzip
import hashlib
import io
import json
import logging
import os
import re
import resource
import shutil
import socket
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from tests.loopback_server import PAGE, Handler, Server, cut_at, plain, running_server, serve

import alexnet
from alexnet.cli.fetch_command import DATA_SET_NAMES
from alexnet.cli.main import main
from alexnet.data import fetch, file_download
from alexnet.data.data_set_layouts import CIFAR10_CLASSES, FLOWERS
from alexnet.data.fetch import fetch_data_set
from alexnet.data.not_images import START_BYTES
from alexnet.data.published_data_sets import DATA_SETS, PublishedFile
from alexnet.data.sources.formats import open_source
from alexnet.errors import AlexNetError, RequestError, WorkError
from alexnet.runs import recipes
from alexnet.system import device

Members = dict[str, bytes]
OUTSIDE = ("../../evil.JPEG", "/tmp/evil-of-a-test.JPEG")


def picture(number: int, side: int = 64) -> bytes:
    file = io.BytesIO()
    Image.fromarray(np.full((side, side, 3), (40 * number % 256, 7 * number % 256, number), np.uint8)).save(
        file, "JPEG"
    )
    return file.getvalue()


def tar_gz(members: Members, links: tuple[str, ...] = ()) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w:gz") as archive:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
        for name in links:
            for kind in (tarfile.SYMTYPE, tarfile.LNKTYPE):
                info = tarfile.TarInfo(name)
                info.type, info.linkname = kind, "/etc/passwd"
                archive.addfile(info)
    return file.getvalue()


def zipped(members: Members) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return file.getvalue()


@dataclass
class StandIn:
    """A small data set, in the layout of the published one."""

    name: str
    files: Members
    """As published."""
    unpacked: Members
    """As they unpack."""
    images: dict[str, dict[str, list[bytes]]]
    """By split and class."""
    names: dict[str, str]
    """Readable, by class."""


def imagenette() -> StandIn:
    images = {
        split: {
            wnid: [picture(9 * s + 3 * c + n, side=160) for n in range(3 - s)]
            for c, wnid in enumerate(("n01440764", "n03888257"))
        }
        for s, split in enumerate(("train", "val"))
    }
    members = {
        f"imagenette2-160/{split}/{wnid}/{wnid}_{n}.JPEG": content
        for split, classes in images.items()
        for wnid, pictures in classes.items()
        for n, content in enumerate(pictures)
    }
    others = {"imagenette2-160/noisy_imagenette.csv": b"path,noisy_labels_0\n", "imagenette2-160/.DS_Store": b"x"}
    others |= {"imagenette2-160/train/n01440764/._n01440764_0.JPEG": b"x"}
    hostile = dict.fromkeys((*OUTSIDE, "imagenette2-160/train/../../../evil.JPEG"), b"x")
    content = tar_gz(others | hostile | members, links=("imagenette2-160/train/n01440764/link.JPEG",))
    names = {"n01440764": "tench", "n03888257": "parachute"}
    return StandIn("imagenette-160", {"imagenette2-160.tgz": content}, others | members, images, names)


def caltech101() -> StandIn:
    images = {
        "train": {name: [picture(5 * c + n) for n in range(2 + c)] for c, name in enumerate(("airplanes", "car_side"))}
    }
    inner = {
        f"101_ObjectCategories/{name}/image_{n + 1:04d}.jpg": content
        for name, pictures in images["train"].items()
        for n, content in enumerate(pictures)
    }
    inner |= {f"101_ObjectCategories/BACKGROUND_Google/{name}": picture(99) for name in ("image_0001.jpg", "tmp")}
    members = {
        "caltech-101/101_ObjectCategories.tar.gz": tar_gz(inner | dict.fromkeys(OUTSIDE, b"x")),
        "caltech-101/Annotations.tar": b"outlines",
        "caltech-101/show_annotation.m": b"text",
        "__MACOSX/caltech-101/._Annotations.tar": b"x",
    }
    unpacked = {f"caltech-101/{name}": content for name, content in inner.items()}
    names = {"airplanes": "airplanes", "car_side": "car_side"}
    return StandIn("caltech101", {"caltech-101.zip": zipped(members)}, unpacked, images, names)


def flowers102() -> StandIn:
    scipy_io = pytest.importorskip("scipy.io")
    labels = np.array([77, 1, 102, 1, 77, 102, 1, 77, 102], np.uint8)  # of the images 1 to 9
    splits = {"trnid": [9, 2, 5], "valid": [1, 4, 6], "tstid": [3, 7, 8]}
    jpg = {f"jpg/image_{number:05d}.jpg": picture(number) for number in range(1, 10)}
    files = {"102flowers.tgz": tar_gz(jpg | dict.fromkeys(OUTSIDE, b"x"))}
    for name, variables in (
        ("imagelabels.mat", {"labels": labels[None]}),
        ("setid.mat", {key: np.array(ids, np.uint16)[None] for key, ids in splits.items()}),
    ):
        file = io.BytesIO()
        scipy_io.savemat(file, variables, do_compression=True)
        files[name] = file.getvalue()
    images: dict[str, dict[str, list[bytes]]] = {}
    names = {1: "pink primrose", 77: "passion flower", 102: "blackberry lily"}
    for split, key in (("train", "trnid"), ("val", "valid"), ("test", "tstid")):
        by_class: dict[str, list[bytes]] = {}
        for number in sorted(splits[key]):
            by_class.setdefault(names[int(labels[number - 1])], []).append(picture(number))
        images[split] = by_class
    lists = {name: content for name, content in files.items() if name.endswith(".mat")}
    return StandIn("flowers102", files, jpg | lists, images, {name: name for name in names.values()})


def tiny_imagenet() -> StandIn:
    wnids = ("n01443537", "n07749582")
    images = {
        "train": {wnid: [picture(10 * c + n) for n in range(3)] for c, wnid in enumerate(wnids)},
        "val": {wnid: [picture(50 + 10 * c + n) for n in range(2)] for c, wnid in enumerate(wnids)},
    }
    below = {
        f"train/{wnid}/images/{wnid}_{n}.JPEG": content
        for wnid, pictures in images["train"].items()
        for n, content in enumerate(pictures)
    }
    lines = []
    for number, (wnid, n) in enumerate((wnid, n) for n in range(2) for wnid in wnids):
        below[f"val/images/val_{number}.JPEG"] = images["val"][wnid][n]
        lines.append(f"val_{number}.JPEG\t{wnid}\t0\t32\t44\t62\n")
    below |= {f"train/{wnid}/{wnid}_boxes.txt": b"boxes" for wnid in wnids}
    below |= {"test/images/test_0.JPEG": picture(1), "wnids.txt": "\n".join(wnids).encode(), "words.txt": b"x\ty"}
    below |= {"val/val_annotations.txt": "".join(lines).encode()}
    members = {f"tiny-imagenet-200/{name}": content for name, content in below.items()}
    archive = zipped(members | dict.fromkeys(OUTSIDE, b"x"))
    names = {"n01443537": "goldfish", "n07749582": "lemon"}
    return StandIn("tiny-imagenet", {"tiny-imagenet-200.zip": archive}, members, images, names)


def cifar100() -> StandIn:
    random = np.random.default_rng(3)
    fine = [f"fine{number}" for number in range(100)]
    members: Members = {"file.txt~": b"x", "fine_label_names.txt": "\n".join(fine).encode()}
    members["coarse_label_names.txt"] = "\n".join(f"coarse{number}" for number in range(20)).encode()
    images: dict[str, dict[str, list[bytes]]] = {}
    for split, num in (("train", 100), ("test", 5)):
        records = random.integers(0, 256, (num, 3074), np.uint8)
        records[:, 0], records[:, 1] = np.arange(num) % 20, np.arange(num)
        members[f"{split}.bin"] = records.tobytes()
        planes = records[:, 2:].reshape(num, 3, 32, 32).transpose(0, 2, 3, 1)
        images[split] = {fine[label]: [planes[label].tobytes()] for label in range(num)}
    unpacked = {f"cifar-100-binary/{name}": content for name, content in members.items()}
    content = tar_gz(unpacked | dict.fromkeys(OUTSIDE, b"x"))
    return StandIn("cifar100", {"cifar-100-binary.tar.gz": content}, unpacked, images, {name: name for name in fine})


MAKERS: dict[str, Callable[[], StandIn]] = {
    maker.__name__: maker for maker in (imagenette, caltech101, flowers102, tiny_imagenet, cifar100)
}


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    with running_server(monkeypatch) as server:
        yield server


@pytest.fixture
def declare(server: Server, monkeypatch: pytest.MonkeyPatch) -> Callable[[StandIn], StandIn]:
    """Puts a stand-in in the place of the published data set, on the loopback server."""
    monkeypatch.delenv("ALEXNET_MIRROR", raising=False)

    def put(stand_in: StandIn) -> StandIn:
        base = server.url.rpartition("/")[0]
        published = DATA_SETS[stand_in.name]
        assert {file.name for file in published.files} == stand_in.files.keys()
        files = tuple(
            PublishedFile(
                url=f"{base}/official/{file.name}?download=1",
                md5=hashlib.md5(stand_in.files[file.name]).hexdigest(),
                size_bytes=len(stand_in.files[file.name]),
            )
            for file in published.files
        )
        changed = replace(
            published,
            files=files,
            num_classes=len(stand_in.names),
            counts={split: sum(map(len, classes.values())) for split, classes in stand_in.images.items()},
        )
        monkeypatch.setitem(DATA_SETS, stand_in.name, changed)
        server.files = dict(stand_in.files)
        return stand_in

    return put


@pytest.fixture
def nette(declare: Callable[[StandIn], StandIn]) -> StandIn:
    return declare(imagenette())


def write_all(folder: Path, members: Members) -> Path:
    for name, content in members.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return folder


def require_content(folder: Path, stand_in: StandIn, *, is_verified: bool = True) -> None:
    """What `prepare` reads is the stand-in and nothing else, and nothing is beside the folder."""
    source = open_source(folder)
    found: dict[str, dict[str, list[bytes]]] = {}
    for split, listing in source.splits.items():
        for index, label in enumerate(listing.labels.tolist()):
            content = listing.read(index)
            content = content if isinstance(content, bytes) else content.tobytes()
            found.setdefault(split, {}).setdefault(source.class_ids[label], []).append(content)
    assert found == stand_in.images
    assert dict(source.class_names) == stand_in.names
    assert source.title == DATA_SETS[stand_in.name].title and source.side == DATA_SETS[stand_in.name].side
    assert not len(source.skipped)
    described = json.loads((folder / "SOURCE.json").read_text())
    assert described["license"] and described["citation"] and described["is_verified"] is is_verified
    assert described["files"].keys() == stand_in.files.keys()
    for name, file in described["files"].items():
        assert ("md5" in file) is ("size_bytes" in file) is (is_verified or name.endswith(".mat"))
    assert not [path for path in folder.parent.iterdir() if path.name.startswith(".")]
    assert not Path(OUTSIDE[1]).exists() and not [*folder.parent.rglob("evil*"), *folder.rglob("*link*")]


@pytest.mark.parametrize("maker", MAKERS)
def test_every_way_gives_the_same_images(
    maker: str,
    tmp_path: Path,
    server: Server,
    declare: Callable[[StandIn], StandIn],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    stand_in = declare(MAKERS[maker]())
    archives = write_all(tmp_path / "copies" / "archives", stand_in.files)
    unpacked = write_all(tmp_path / "copies" / "unpacked", stand_in.unpacked)
    out = tmp_path / "new" / "folder"
    fetch_data_set(stand_in.name, out / "official", progress=False)
    require_content(out / "official", stand_in)
    fetch_data_set(stand_in.name, out / "archives", archives, progress=False)
    require_content(out / "archives", stand_in)
    fetch_data_set(stand_in.name, out / "archive", archives / next(iter(stand_in.files)), progress=False)
    require_content(out / "archive", stand_in)
    fetch_data_set(stand_in.name, out / "unpacked", unpacked, progress=False)
    require_content(out / "unpacked", stand_in, is_verified=False)
    inside = {one.parts[0] for one in map(Path, stand_in.unpacked)}
    if len(inside) == 1:
        fetch_data_set(stand_in.name, out / "inside", unpacked / inside.pop(), progress=False)
        require_content(out / "inside", stand_in, is_verified=False)
    monkeypatch.setenv("ALEXNET_MIRROR", str(archives))
    fetch_data_set(stand_in.name, out / "mirror folder", progress=False)
    require_content(out / "mirror folder", stand_in)
    server.asked.clear()
    monkeypatch.setenv("ALEXNET_MIRROR", server.url.rpartition("/")[0] + "/mirror/")
    fetch_data_set(stand_in.name, out / "mirror", progress=False)
    require_content(out / "mirror", stand_in)
    assert len(server.asked) == len(stand_in.files)


@pytest.mark.parametrize("maker", ["flowers102", "tiny_imagenet"])
def test_what_was_fetched_is_prepared(maker: str, tmp_path: Path, declare: Callable[[StandIn], StandIn]) -> None:
    stand_in = declare(MAKERS[maker]())
    fetch_data_set(stand_in.name, tmp_path / "fetched", progress=False)
    alexnet.prepare(tmp_path / "fetched", tmp_path / "prepared", workers=1, progress=False)
    described = json.loads((tmp_path / "prepared" / "dataset.json").read_text())
    assert {one["id"]: one["name"] for one in described["classes"]} == stand_in.names
    counts = {split: sum(map(len, classes.values())) for split, classes in stand_in.images.items()}
    assert {split: one["count"] for split, one in described["splits"].items()} == counts
    assert described["plan"]["side"] == (DATA_SETS[stand_in.name].side or 256)


def test_the_command_prints_license_citation_and_what_is_next(
    tmp_path: Path, nette: StandIn, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["fetch", "imagenette", "--size", "160", "data/nette"]) == 0
    require_content(tmp_path / "data" / "nette", nette)
    shown = capsys.readouterr().out
    assert "Imagenette, 160 pixels: 6 train and 4 val images in 2 classes\nlicense: Apache 2.0" in shown
    assert "\ncite: J. Howard: Imagenette." in shown
    side = recipes.side_for_crop(recipes.QUICK.data.crop)
    assert shown.splitlines()[-2] == (
        f"on this machine, train first with the recipe quick, which takes images of {side} pixels; without --side they "
        "are stored at 256"
    )
    assert shown.endswith(f"SOURCE.json; next: alexnet prepare data/nette data/nette-prepared --side {side}\n")
    assert main(["fetch", "imagenette-160", "data/nette"]) == 2
    assert "data/nette exists already" in capsys.readouterr().err


def test_the_next_command_depends_on_splits_sides_and_the_machine(
    tmp_path: Path,
    declare: Callable[[StandIn], StandIn],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(device, "choose_device", lambda name: torch.device("cuda"))
    declare(caltech101())
    assert main(["fetch", "caltech101", str(tmp_path / "a b")]) == 0
    command = f"prepare '{tmp_path}/a b' '{tmp_path}/a b-prepared' --hold-out 0.1"
    side = recipes.side_for_crop(recipes.QUICK.data.crop)
    assert capsys.readouterr().out.endswith(f"{command} --side {side}\n")  # too few photographs for a GPU
    monkeypatch.setattr(recipes, "MIN_PAPER_IMAGES", 5)
    assert main(["fetch", "caltech101", str(tmp_path / "c")]) == 0
    assert capsys.readouterr().out.endswith("c-prepared --hold-out 0.1\n")
    declare(cifar100())
    assert main(["fetch", "cifar100", str(tmp_path / "d")]) == 0
    assert capsys.readouterr().out.endswith(f"alexnet prepare {tmp_path}/d {tmp_path}/d-prepared\n")


def test_the_list_has_every_data_set(capsys: pytest.CaptureFixture[str]) -> None:
    assert tuple(DATA_SETS) == DATA_SET_NAMES
    assert main(["fetch", "--list", "--json"]) == 0
    listed = json.loads(capsys.readouterr().out)["data_sets"]
    assert [one["name"] for one in listed] == list(DATA_SETS)
    by_name = {one["name"]: one for one in listed}
    assert by_name["imagenette"]["files"][0] | {"size_bytes": 0} == {
        "name": "imagenette2.tgz",
        "url": "https://s3.amazonaws.com/fast-ai-imageclas/imagenette2.tgz",
        "md5": "fe2fc210e6bb7c5664d602c3cd71e612",
        "size_bytes": 0,
    }
    assert by_name["caltech101"]["files"][0]["name"] == "caltech-101.zip"
    for one in listed:
        assert one["license"] and one["citation"] and one["homepage"].startswith("https://")
        assert all(re.fullmatch("[0-9a-f]{32}", file["md5"]) for file in one["files"])
        assert one["download_bytes"] == sum(file["size_bytes"] for file in one["files"])
    assert len({file["md5"] for one in listed for file in one["files"]}) == 13
    assert main(["fetch", "--list"]) == 0
    table = capsys.readouterr().out
    assert all(re.search(rf"^ {name} .* {one['num_classes']} ", table, re.M) for name, one in by_name.items())
    assert "license of caltech101: Creative Commons" in table
    assert len(FLOWERS) == len(set(FLOWERS)) == 102 and len(CIFAR10_CLASSES) == 10


@pytest.mark.parametrize("name", DATA_SETS)
def test_descriptions_are_short_enough_for_prepare(
    name: str, tmp_path: Path, nette: StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    stand_in = DATA_SETS["imagenette-160"]
    kept = {key: getattr(stand_in, key) for key in ("layout", "num_classes", "counts")}
    files = (*DATA_SETS[name].files[1:], *stand_in.files)
    monkeypatch.setitem(DATA_SETS, "imagenette-160", replace(DATA_SETS[name], files=files[-1:], **kept))
    source = write_all(tmp_path / "copy", nette.files) / ("x" * 200)
    (source.parent / "imagenette2-160.tgz").rename(source)
    fetch_data_set("imagenette-160", tmp_path / "out", source, progress=False)
    assert (tmp_path / "out" / "SOURCE.json").stat().st_size < START_BYTES - 400


# --- Servers with faults.


def fetched(tmp_path: Path) -> Path:
    return fetch_data_set("imagenette-160", tmp_path / "out", progress=False) and tmp_path / "out"


def test_a_cut_download_continues_also_by_the_next_call(tmp_path: Path, server: Server, nette: StandIn) -> None:
    server.answers = [cut_at(500)] * 4
    with pytest.raises(
        WorkError, match=r"500 bytes are kept in .*/.out.imagenette2-160.tgz.part\); rerun the same comm"
    ):
        fetched(tmp_path)
    assert [path.name for path in sorted(tmp_path.iterdir())] == [
        ".out.imagenette2-160.tgz.part",
        ".out.imagenette2-160.tgz.part.json",
    ]
    server.answers = [cut_at(800)]
    require_content(fetched(tmp_path), nette)
    assert server.asked[4:] == ["bytes=500-", "bytes=800-"]


def test_a_stalled_download_is_continued(
    tmp_path: Path, server: Server, nette: StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stall(handler: Handler) -> None:
        serve(handler, 700)
        handler.state.released.wait(30)

    monkeypatch.setattr(file_download, "STALL_S", 0.2)
    server.answers = [stall]
    require_content(fetched(tmp_path), nette)
    assert server.asked == ["", "bytes=700-"]


def redirected(handler: Handler) -> None:
    handler.send(b"", 302, Location="/elsewhere/imagenette2-160.tgz")


def test_redirects_are_followed(tmp_path: Path, server: Server, nette: StandIn) -> None:
    server.answers = [redirected]
    require_content(fetched(tmp_path), nette)
    assert len(server.asked) == 2


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (plain(b"x" * 1000), "is not the expected file: it has 1,000 bytes, expected"),
        (lambda handler: serve(handler, Content_Length=10), "is not the expected file: it has 10 bytes, expected"),
        (lambda handler: handler.send(altered(handler)), "is not the expected file: its md5 is"),
        (lambda handler: handler.send(altered(handler), Content_Length=None), "is not the expected file: its md5 is"),
        (lambda handler: handler.send(altered(handler) + b"x"), "is not the expected file: it has"),
        (lambda handler: handler.send(altered(handler) + b"x", Content_Length=None), "bytes, which is too much"),
        (plain(PAGE, Content_Type="text/html"), "gives a web page in place of the file, as login pages and proxies do"),
        (plain(PAGE, Content_Type="application/gzip"), "is not the expected file: it has 48 bytes"),
        (plain(b"", 404), "the server answers 404"),
        (plain(b"", 302, Location="file:///etc/passwd"), "redirects are followed to http and https only"),
    ],
)
def test_another_file_is_one_error_and_leaves_nothing(
    tmp_path: Path, server: Server, nette: StandIn, answer: Callable[[Handler], None], message: str
) -> None:
    server.answers = [answer]
    with pytest.raises((WorkError, RequestError), match=re.escape(message)) as caught:
        fetch_data_set("imagenette-160", tmp_path / "new" / "out", progress=False)
    assert "\n" not in str(caught.value) and len(server.asked) == 1
    assert not [*tmp_path.iterdir()]


def altered(handler: Handler) -> bytes:
    content = bytearray(handler.state.files["imagenette2-160.tgz"])
    content[len(content) // 2] ^= 1
    return bytes(content)


def test_without_a_network_one_error_says_what_to_do(
    tmp_path: Path, nette: StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_names(*arguments: Any, **options: Any) -> Any:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", no_names)
    monkeypatch.setenv("ALEXNET_MIRROR", "https://mirror.example/data")
    with pytest.raises(
        WorkError,
        match=r"^cannot download https://mirror.example/data/imagenette2-160.tgz: Name or service not known; download "
        r"it elsewhere, and give it with --from FILE. ALEXNET_MIRROR is set to 'https://mirror.example/data'; unset it "
        r"to fetch from the official place$",
    ):
        fetched(tmp_path)
    assert not [*tmp_path.iterdir()]


def test_a_disk_that_fills_while_unpacking_leaves_the_download_alone(
    tmp_path: Path, server: Server, declare: Callable[[StandIn], StandIn]
) -> None:
    stand_in = imagenette()
    name = next(iter(stand_in.files))
    large = gzip.decompress(stand_in.files[name])[:-1024].rstrip(b"\0")
    large += b"\0" * (-len(large) % 512)
    members = {"imagenette2-160/train/n01440764/n01440764_9.JPEG": bytes(300_000)}
    stand_in.files[name] = gzip.compress(large + gzip.decompress(tar_gz(members)))
    stand_in.images["train"]["n01440764"].append(bytes(300_000))
    declare(stand_in)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))
    try:
        with pytest.raises(WorkError, match=r"the disk of .*/out is full; free some space and rerun the same command"):
            fetched(tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert [path.name for path in tmp_path.iterdir()] == [".out.imagenette2-160.tgz"]
    server.asked.clear()
    require_content(fetched(tmp_path), stand_in)
    assert not server.asked


def test_too_little_space_is_said_before_the_download(
    tmp_path: Path, server: Server, nette: StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    need = 3 * DATA_SETS["imagenette-160"].download_bytes
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=need - 1))
    with pytest.raises(WorkError, match=r"out needs .* MiB and its disk has"):
        fetched(tmp_path)
    assert not server.asked and not [*tmp_path.iterdir()]
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=need))
    fetched(tmp_path)


def test_a_destination_that_cannot_be_made_is_said(
    tmp_path: Path, nette: StandIn, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for place in ("/proc/nothing/out", "/proc/nothing"):
        with pytest.raises(RequestError, match=f"^cannot write {place}: .*; name a folder you may write to$"):
            fetch_data_set("imagenette-160", place, progress=False)
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path / "empty")
    for name in ("imagenette-160", "shapes"):
        for here in (".", str(tmp_path / "empty")):
            assert main(["fetch", name, here]) == 2
            assert "is the current folder; name a folder to create in it" in capsys.readouterr().err
    assert [*tmp_path.rglob("*")] == [tmp_path / "empty"]


def test_a_destination_below_a_file_is_said(tmp_path: Path, nette: StandIn) -> None:
    (tmp_path / "file").write_text("mine")
    for place in ("file/out", "file/new/out"):
        with pytest.raises(RequestError, match=f"^cannot write .*/{place}: .*/file is a file; name a destination in"):
            fetch_data_set("imagenette-160", tmp_path / place, progress=False)


@pytest.mark.parametrize("answer", [plain(b"", 404), plain(b"", 503)])
def test_a_mirror_that_fails_is_named(
    tmp_path: Path,
    server: Server,
    nette: StandIn,
    monkeypatch: pytest.MonkeyPatch,
    answer: Callable[[Handler], None],
) -> None:
    mirror = server.url.rpartition("/")[0] + "/mirror"
    place = f". ALEXNET_MIRROR is set to '{mirror}'; unset it to fetch from the official place"
    server.answers = [answer] * 4
    with pytest.raises(WorkError, match="the server answers") as caught:
        fetched(tmp_path)
    assert "ALEXNET_MIRROR" not in str(caught.value)
    server.answers = [answer] * 4
    monkeypatch.setenv("ALEXNET_MIRROR", mirror)
    with pytest.raises(WorkError, match="the server answers") as caught:
        fetched(tmp_path)
    assert str(caught.value).endswith(place)


# --- Local copies and archives with faults.


def refused(source: Path, name: str = "imagenette-160") -> str:
    """The message of the error for a local copy; nothing is left."""
    out = source.parent / "out"
    with pytest.raises(AlexNetError) as caught:
        fetch_data_set(name, out, source, progress=False)
    assert not [path for path in out.parent.iterdir() if "out" in path.name] and "\n" not in str(caught.value)
    return str(caught.value)


def test_wrong_local_copies_and_mirrors_are_refused(
    tmp_path: Path, nette: StandIn, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    (content,) = nette.files.values()
    path = tmp_path / "mine.tgz"
    path.write_bytes(content[:-1])
    assert re.search(r"mine.tgz is not imagenette2-160.tgz: it has [\d,]+ bytes, expected", refused(path))
    path.write_bytes(content[:-1] + b"x")
    assert "mine.tgz is not imagenette2-160.tgz: its md5 is" in refused(path)
    path.write_bytes(PAGE)
    assert "it is a web page; it is corrupt or another version; download it again from http" in refused(path)
    assert "nothing does not exist; --from takes imagenette2-160.tgz, a folder with it, or" in refused(
        tmp_path / "nothing"
    )
    os.mkfifo(tmp_path / "pipe")
    assert "pipe is neither a file nor a folder; --from takes imagenette2-160.tgz, a" in refused(tmp_path / "pipe")
    (tmp_path / "empty").mkdir()
    assert "empty is not a copy of Imagenette, 160 pixels: it has neither imagenette2-160.tgz nor train" in refused(
        tmp_path / "empty"
    )
    with pytest.raises(
        RequestError, match="--from takes a local copy, and got a URL; to download from a mirror, set ALEX"
    ):
        fetch_data_set("imagenette-160", tmp_path / "out", "https://mirror.example/imagenette2-160.tgz")
    monkeypatch.setenv("ALEXNET_MIRROR", str(tmp_path / "empty"))
    with pytest.raises(
        RequestError, match=r"ALEXNET_MIRROR is '.*/empty', which has no imagenette2-160.tgz; add it or"
    ):
        fetched(tmp_path)
    for url, message in (
        (
            "https://me:secret@mirror.example",
            r"^ALEXNET_MIRROR is 'https://\*\*\*@mirror.example', which has a user name or a password \(not shown\)",
        ),
        ("ftp://mirror.example", "^ALEXNET_MIRROR is 'ftp://mirror.example', which is not an http or https URL"),
        ("file:///tmp", "^ALEXNET_MIRROR is 'file:///tmp', which is not an http or https URL; allowed are an http"),
        ("http://", "^ALEXNET_MIRROR is 'http://', which has no host; allowed are an http or https URL, and a fold"),
        ("http://[bad", r"^ALEXNET_MIRROR is 'http://\[bad', which is not a URL \(.*\); allowed are an http or "),
        ("http://a:99999", "^ALEXNET_MIRROR is 'http://a:99999', which is not a URL .Port out of range"),
        ("http://a:0", "^ALEXNET_MIRROR is 'http://a:0', which is not a URL .Port out of range"),
        ("/nothing", "^ALEXNET_MIRROR is '/nothing', which does not exist; allowed are an http or https URL, and a f"),
        (str(path), "^ALEXNET_MIRROR is '.*/mine.tgz', which is a file; allowed are an http or https URL, and a fold"),
        ("  ", "^ALEXNET_MIRROR is '  ', which is blank; allowed are an http or https URL, and a folder with the arc"),
    ):
        monkeypatch.setenv("ALEXNET_MIRROR", url)
        with pytest.raises(RequestError, match=message):
            fetched(tmp_path)
    assert "secret" not in caplog.text
    with pytest.raises(
        RequestError, match=r"unknown data set 'cifar'; did you mean cifar10\? known are imagenette, .*, tiny-imagenet"
    ):
        fetch_data_set("cifar", tmp_path / "out")


def test_incomplete_unpacked_copies_are_refused(
    tmp_path: Path, nette: StandIn, declare: Callable[[StandIn], StandIn]
) -> None:
    copy = write_all(tmp_path / "copy", nette.unpacked)
    images = sorted((copy / "imagenette2-160" / "train" / "n01440764").glob("n*.JPEG"))
    images[0].unlink()
    message = refused(copy)
    assert "copy is not the whole of Imagenette, 160 pixels: it has 5 train and 4 val images in 2 classes" in message
    assert message.endswith(f"; get a complete copy, or use it as it is: alexnet prepare {copy} PREPARED")
    for path in images[1:]:
        path.unlink()
    assert f"160 pixels from {copy} is corrupt or another version: {copy} has 1 class with images" in refused(copy)
    for number in range(10):
        (images[0].parent / f"n01440764_{number}.JPEG").write_bytes(picture(number))
    assert "it has more than 10 files" in refused(copy)
    declare(flowers102())
    copy = write_all(tmp_path / "flowers", flowers102().unpacked)
    (copy / "setid.mat").write_bytes(bytes((copy / "setid.mat").stat().st_size))
    assert "setid.mat is not setid.mat: its md5 is" in refused(copy, "flowers102")
    alone = write_all(tmp_path / "alone", {"102flowers.tgz": flowers102().files["102flowers.tgz"]})
    for path in (alone, alone / "102flowers.tgz"):
        message = refused(path, "flowers102")
        assert "alone is not a copy of Oxford 102 Flowers: it has neither imagelabels.mat nor jpg; --from" in message
        assert message.endswith("with 102flowers.tgz, imagelabels.mat and setid.mat, or with what they unpack to")


@pytest.mark.parametrize(
    ("name", "sides", "message"),
    [
        (
            "imagenette-160",
            [320],
            "images are 320 pixels, expected are 160 pixels (12 images were looked at); fetch it ",
        ),
        ("imagenette-160", [375, 333, 500], "of several lengths, 333 to 500, expected are 160 pixels"),
        (
            "imagenette-320",
            [160],
            "are 160 pixels, expected are 320 pixels (12 images were looked at); fetch it as ima",
        ),
        (
            "imagenette",
            [160],
            "are 160 pixels, expected are of several lengths (12 images were looked at); fetch it as",
        ),
        ("imagenette", [320], "images were looked at); fetch it as imagenette-320, name a copy of the other size, or"),
        ("imagenette-160", [160, 160, 100], None),
        ("imagenette", [320, 375, 333], None),
    ],
)
def test_unpacked_copies_of_another_size_are_refused(
    name: str, sides: list[int], message: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    counts = {"train": 6, "val": 6}
    for wnid in ("n01440764", "n03888257"):
        for n in range(3):
            for split in counts:
                write_all(tmp_path / "copy", {f"{split}/{wnid}/{n}.JPEG": picture(n, sides[n % len(sides)])})
    monkeypatch.setattr(fetch, "_SAMPLE_PER_CLASS", 3)
    monkeypatch.setitem(DATA_SETS, name, replace(DATA_SETS[name], num_classes=2, counts=counts))
    if message is None:
        fetch_data_set(name, tmp_path / "out", tmp_path / "copy", progress=False)
        return
    found = refused(tmp_path / "copy", name)
    assert message in found and found.endswith(f"use it as it is: alexnet prepare {tmp_path / 'copy'} PREPARED")


def test_lists_that_lead_outside_or_are_damaged(tmp_path: Path, declare: Callable[[StandIn], StandIn]) -> None:
    good = tiny_imagenet()
    annotations = "tiny-imagenet-200/val/val_annotations.txt"
    for change, message in (
        ((b"n01443537", b"../../evil"), "it names 'val/../../evil/val_0.JPEG', outside of its folder"),
        ((b"n01443537", b"../train/n01443537"), "outside of its folder"),
        ((b"n01443537", b"a\0b"), "outside of its folder"),
        ((b"val_0", b"val_9"), "its lists are damaged (KeyError('val_0.JPEG'))"),
        ((b"\t", b" "), "its lists are damaged (ValueError"),
        ((b"v", b"\xff"), "its lists are damaged (UnicodeDecodeError"),
    ):
        members = good.unpacked | {annotations: good.unpacked[annotations].replace(*change)}
        stand_in = declare(replace(good, files={"tiny-imagenet-200.zip": zipped(members)}))
        path = write_all(tmp_path, stand_in.files) / "tiny-imagenet-200.zip"
        assert message in refused(path, "tiny-imagenet")
        assert not [*tmp_path.parent.rglob("evil*")]
    members = {name: content for name, content in good.unpacked.items() if name != annotations}
    stand_in = declare(replace(good, files={"tiny-imagenet-200.zip": zipped(members)}))
    path = write_all(tmp_path, stand_in.files) / "tiny-imagenet-200.zip"
    assert "its lists are damaged" in refused(path, "tiny-imagenet")


def test_numbers_that_no_image_or_flower_has(tmp_path: Path, declare: Callable[[StandIn], StandIn]) -> None:
    scipy_io = pytest.importorskip("scipy.io")
    for name, variables, message in (
        ("imagelabels.mat", {"labels": [1, 2, 103]}, "IndexError"),
        ("imagelabels.mat", {"labels": [1, 2, 0]}, "it has the number 0"),
        ("imagelabels.mat", {"labels": [1, 2, 1.5]}, "it has the number 1.5"),
        ("imagelabels.mat", {"labels": [1, 2, np.nan]}, "it has the number nan"),
        ("imagelabels.mat", {"others": [1]}, "no variable labels"),
        ("setid.mat", {"trnid": [1, 2], "valid": [2], "tstid": [3]}, "image 2 is in two splits"),
        ("setid.mat", {"trnid": [1, 2], "valid": [3], "tstid": [99]}, "IndexError"),
    ):
        stand_in = flowers102()
        file = io.BytesIO()
        scipy_io.savemat(file, variables)
        stand_in.files[name] = file.getvalue()
        declare(stand_in)
        path = write_all(tmp_path / "copy", stand_in.files)
        assert message in refused(path, "flowers102")


def test_damaged_cifar_is_refused(tmp_path: Path, declare: Callable[[StandIn], StandIn]) -> None:
    good = declare(cifar100())
    copy = write_all(tmp_path / "copy", good.unpacked) / "cifar-100-binary"
    content = good.unpacked["cifar-100-binary/test.bin"]
    (copy / "test.bin").write_bytes(content[:-1])
    assert "test.bin from" in refused(copy.parent, "cifar100")
    (copy / "test.bin").write_bytes(content[:1] + b"\x64" + content[2:])
    assert "it has the label 100, expected 0 to 99" in refused(copy.parent, "cifar100")

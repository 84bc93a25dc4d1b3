"""Contact sheets: pictures that a browser can show, escaped names, and never more bytes than allowed."""

import base64
import io
import re

import numpy as np
import pytest
from PIL import Image
from tests.html_page import Page

from alexnet.figures.contact_sheet import (
    THUMBNAIL_SIDES_PX,
    SheetRow,
    contact_sheet_html,
    shrink,
    thumbnail_html,
)

NASTY = "<script>alert(\"1\")</script> & 'quotes'"


def decoded(source):
    prefix = "data:image/jpeg;base64,"
    assert source.startswith(prefix)
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(source.removeprefix(prefix)))))


def noise(side, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (side, side, 3), dtype=np.uint8)


def test_thumbnails_show_their_images():
    red, blue = np.zeros((2, 200, 200, 3), np.uint8)
    red[..., 0] = blue[..., 2] = 200
    html = contact_sheet_html([SheetRow("cat", "2 images", [red, blue], ["a", "b"])], most_bytes=10**6)
    images = Page(html).images
    assert [one["alt"] for one in images] == ["cat: a", "cat: b"]
    for one, color in zip(images, ([200, 0, 0], [0, 0, 200]), strict=True):
        shown = decoded(one["src"])
        assert shown.shape == (128, 128, 3) and one["width"] == one["height"] == "128"
        assert np.abs(shown.astype(int) - color).max() < 6


def test_names_are_escaped():
    seen = Page(contact_sheet_html([SheetRow(NASTY, NASTY, [noise(8)], [NASTY])], most_bytes=10**6))
    assert "script" not in seen.tags
    assert seen.text.count(NASTY) == 2
    assert seen.images[0]["alt"] == f"{NASTY}: {NASTY}" and seen.images[0]["title"] == NASTY
    one = Page(thumbnail_html(noise(8), NASTY, NASTY))
    assert one.tags == ["img"] and one.images[0]["alt"] == NASTY


@pytest.mark.parametrize("most_bytes", [500_000, 60_000, 30_000])
def test_pictures_shrink_until_they_fit(most_bytes):
    rows = [
        SheetRow(str(row), "", [noise(128, 10 * row + place) for place in range(5)], list("abcde")) for row in range(3)
    ]
    html = contact_sheet_html(rows, most_bytes=most_bytes)
    assert sum(map(len, re.findall(r'base64,([^"]+)"', html))) <= most_bytes + 3 * 15  # base64 rounds up
    side = int(Page(html).images[0]["width"])
    assert side in THUMBNAIL_SIDES_PX
    larger = [one for one in THUMBNAIL_SIDES_PX if one > side]
    assert not larger or most_bytes < 500_000


def test_images_that_cannot_fit_have_the_smallest_side():
    html = contact_sheet_html([SheetRow("cat", "", [noise(128)], ["a"])], most_bytes=1)
    assert Page(html).images[0]["width"] == "32"


def test_small_pictures_keep_their_size_and_their_pixels():
    image = noise(8)
    seen = Page(contact_sheet_html([SheetRow("cat", "", [image], ["a"])], most_bytes=10**6))
    assert seen.images[0]["class"] == "thumbnail small"
    assert decoded(seen.images[0]["src"]).shape == (8, 8, 3)
    assert shrink(image, 8).tolist() == image.tolist() == shrink(image, 16).tolist()


def test_a_class_without_pictures_has_its_heading():
    seen = Page(contact_sheet_html([SheetRow("cat", "0 images", [], [])], most_bytes=10))
    assert "cat" in seen.text and not seen.images
    assert contact_sheet_html([], most_bytes=10) == ""

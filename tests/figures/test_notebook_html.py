"""Tables and pictures of notebooks: escaped text, small pictures, nothing that acts on the rest of the page."""

import base64
import io

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from markupsafe import Markup
from PIL import Image
from tests.html_page import Page

from alexnet.figures.notebook_html import picture_html, pictures_html, result_html, table_html

NASTY = "</table><script>alert(\"1\")</script> & 'quotes'\n\x1b[31m\u202e"
SHOWN = "</table><script>alert(\"1\")</script> & 'quotes'\\n\\x1b[31m\\u202e"


@given(st.text(), st.text())
def test_any_text_is_text_only(first, second):
    page = Page(result_html(first, table_html([first, second], [[second, first]], caption=f"c{first}")))
    assert page.tags == [
        *("div", "strong", "bdi", "table", "caption", "bdi", "thead", "tr", "th", "bdi", "th", "bdi"),
        *("tbody", "tr", "td", "bdi", "td", "bdi"),
    ]
    assert page.attribute_names <= {"style"}


def test_text_is_escaped_and_markup_is_kept():
    table = table_html(["name", NASTY], [[NASTY, Markup("<b>bold</b>")], ["x", 3000]], caption=NASTY)
    page = Page(result_html(NASTY, table))
    assert page.text.count(SHOWN) == 4 and "script" not in page.tags and page.tags.count("b") == 1
    assert '<td style="text-align: right; padding-right: 1em"><bdi>3,000</bdi></td>' in table


def test_rows_without_headings_have_their_own():
    page = Page(table_html([], [["images", 12], ["classes", 3]]))
    assert page.tags.count("th") == 2 and "thead" not in page.tags


@pytest.mark.parametrize(
    ("shape", "expected"),
    [((400, 400), (160, 160)), ((400, 100), (160, 40)), ((10, 20), (10, 20)), ((1, 999), (1, 160))],
)
def test_pictures_keep_their_proportions(shape, expected):
    image = np.full((*shape, 3), (200, 10, 30), np.uint8)
    (img,) = Page(picture_html(image, NASTY)).images
    assert img["alt"] == img["title"] == SHOWN
    assert (img["height"], img["width"]) == tuple(map(str, expected))
    prefix = "data:image/jpeg;base64,"
    shown = np.asarray(Image.open(io.BytesIO(base64.b64decode(img["src"].removeprefix(prefix)))))
    assert shown.shape[:2] == expected and np.abs(shown.astype(int) - image[0, 0]).max() < 6


def test_rows_of_pictures_name_each():
    page = Page(pictures_html([(np.zeros((8, 8, 3), np.uint8), NASTY), (np.zeros((8, 8, 3), np.uint8), "b")]))
    assert page.tags.count("img") == 2 and page.text == SHOWN + "b" and "script" not in page.tags

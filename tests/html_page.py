"""A parsed HTML page, for the tests of pages and of fragments of pages."""

import re
from html.parser import HTMLParser

VOID = {"meta", "link", "img", "br"}
ADDRESSES = ("src", "href", "xlink:href", "srcset", "action")


class Page(HTMLParser):
    """Parses a page and asserts that every element is closed in order, and that cells of stacked tables are labeled.

    In a narrow window the header of a stacked table is hidden, and each cell shows its column's name instead.

    Attributes:
        html: what was parsed.
        text: all text but that of styles and scripts.
        tags: of all elements, in order.
        addresses: all that the page refers to.
        ids: of all elements that have one.
        images: the attributes of each `img`.
        attribute_names: of all elements.
        code: the text of each `code`.
    """

    def __init__(self, html: str) -> None:
        super().__init__()
        self.html = html
        self.text = ""
        self.tags: list[str] = []
        self.addresses: list[str | None] = []
        self.ids: list[str | None] = []
        self.images: list[dict[str, str | None]] = []
        self.attribute_names: set[str] = set()
        self.code: list[str] = []
        self._open: list[str] = []
        self.feed(str(html))  # `Markup` would escape what is added to it
        self.close()
        assert self._open == []
        for table in re.findall(r'<table class="[^"]*stack".*?</table>', html, re.DOTALL):
            headings = re.findall(r'<th scope="col"[^>]*>([^<]*)</th>', table)
            for row in re.findall(r'<tr><th scope="row".*?</tr>', table, re.DOTALL):
                labels = re.findall(r'<td[^>]* data-label="([^"]+)"', row)
                assert len(labels) == row.count("<td") and ("colspan" in row or labels == headings[1:])

    @property
    def alts(self) -> list[str | None]:
        """What each image shows, in words."""
        return [image["alt"] for image in self.images]

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        attributes = dict(attrs)
        self.tags.append(tag)
        if tag not in VOID:
            self._open.append(tag)
        if tag == "code":
            self.code.append("")
        self.attribute_names |= set(attributes)
        self.addresses += [value for key, value in attrs if key in ADDRESSES]
        self.ids += [attributes["id"]] if "id" in attributes else []
        if tag == "img":
            assert attributes["alt"]
            self.images.append(attributes)
        if tag == "svg":
            assert attributes["role"] == "img" and attributes["aria-label"]

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.handle_endtag(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self._open and self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        if not self._open or self._open[-1] not in ("style", "script"):
            self.text += data
        if "code" in self._open:
            self.code[-1] += data

"""Where pictures are written, and what they may replace."""

from pathlib import Path

import pytest
from matplotlib.figure import Figure

from alexnet.errors import RequestError
from alexnet.explore.picture_file import PICTURE_FORMATS, PictureFormat, choose_picture
from alexnet.figures.figure_style import FIGURE_FORMATS, FigureFormat, figure_bytes
from alexnet.report.formatting import jinja_environment
from alexnet.storage.own_pictures import require_replaceable, write_picture


def content(format: PictureFormat) -> bytes:
    if format == "html":
        return jinja_environment().get_template("base.html.j2").render().encode()
    figure = Figure(figsize=(1, 1))
    # Long: what marks a PDF as ours is at its end.
    figure.add_subplot().plot(range(3000), [one * one % 97 for one in range(3000)])
    return figure_bytes(figure, format)


def test_pictures_are_named_after_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = tmp_path / "runs" / "mine.v2"
    run.mkdir(parents=True)
    (run / "run.json").touch()
    (run / "weights.safetensors").touch()
    (tmp_path / "other.safetensors").touch()
    monkeypatch.chdir(tmp_path)
    for given, name in (
        (run, "mine.v2"),
        (run / "weights.safetensors", "mine.v2"),
        (Path("other.safetensors"), "other"),
    ):
        assert choose_picture(given, "filters", None, None) == (Path(f"{name}-filters.png"), "png")
    monkeypatch.chdir(run)
    assert choose_picture(Path(), "filters", None, "pdf") == (Path("mine.v2-filters.pdf"), "pdf")


def test_the_ending_is_the_format_unless_one_is_given(tmp_path: Path) -> None:
    run = tmp_path / "run"
    assert choose_picture(run, "x", tmp_path / "a.SVG", None) == (tmp_path / "a.SVG", "svg")
    assert choose_picture(run, "x", tmp_path / "a.HTML", None, PICTURE_FORMATS) == (tmp_path / "a.HTML", "html")
    assert choose_picture(run, "x", tmp_path / "a.v2", "pdf") == (tmp_path / "a.v2", "pdf")
    with pytest.raises(RequestError, match=r"--format is svg, but .*a\.png ends in \.png; omit one"):
        choose_picture(run, "x", tmp_path / "a.png", "svg")
    for name in ("a", "a.jpg", "a.html"):
        with pytest.raises(RequestError, match="does not end in the name of a format; allowed is png, svg, pdf"):
            choose_picture(run, "x", tmp_path / name, None)
    with pytest.raises(RequestError, match="--format is 'gif'; allowed is png, svg, pdf"):
        choose_picture(run, "x", None, "gif")


@pytest.mark.parametrize("format", PICTURE_FORMATS)
def test_only_our_own_pictures_are_replaced(format: PictureFormat, tmp_path: Path) -> None:
    path, new = tmp_path / "new folder" / "picture", content(format)
    write_picture(path, b"first, of a file that is not there")
    with pytest.raises(RequestError, match=r"picture exists and is not a picture or page that alexnet made; remove it"):
        write_picture(path, new)
    path.write_bytes(new)
    require_replaceable(path)
    write_picture(path, b"changed")
    assert path.read_bytes() == b"changed"
    # The mark alone is not enough, and neither is the type.
    for wrong in (new[1:], new.replace(b"alexnet", b"another").replace(b"--paper", b"--page"), b""):
        path.write_bytes(wrong)
        with pytest.raises(RequestError, match="is not a picture or page that alexnet made"):
            require_replaceable(path)


def test_pages_of_earlier_versions_are_replaced(tmp_path: Path) -> None:
    path = tmp_path / "report.html"
    path.write_bytes(content("html").replace(b'<meta name="generator" content="alexnet">\n', b""))
    assert b"generator" not in path.read_bytes()[:400]
    assert write_picture(path, "<p>\u00e9</p>") == path and path.read_text(encoding="utf-8") == "<p>\u00e9</p>"


def test_folders_and_links_to_nothing_are_kept(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="is a folder; name a file"):
        require_replaceable(tmp_path)
    (tmp_path / "link.png").symlink_to("nothing")
    with pytest.raises(RequestError, match="is not a picture or page that alexnet made"):
        require_replaceable(tmp_path / "link.png")
    (tmp_path / "file").touch()
    with pytest.raises(RequestError, match="cannot write"):
        write_picture(tmp_path / "file" / "a.png", b"")
    assert sorted(one.name for one in tmp_path.iterdir()) == ["file", "link.png"]


@pytest.mark.parametrize("format", FIGURE_FORMATS)
def test_the_mark_of_a_figure_is_in_every_file(format: FigureFormat) -> None:
    assert content(format) == content(format) and b"alexnet" in content(format)

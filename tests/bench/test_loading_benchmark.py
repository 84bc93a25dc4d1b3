"""The bench of the loader measures what it says, in a small size."""

from pathlib import Path

import pytest

from alexnet.bench import loading_benchmark
from alexnet.bench.loading_benchmark import bench_data
from alexnet.bench.loading_page import write_data_page
from alexnet.bench.preparation_benchmark import bench_prepare
from alexnet.errors import RequestError


@pytest.mark.slow
def test_data_has_every_way_with_its_parts_and_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loading_benchmark, "ROUND_S", 0.1)
    lines: list[str] = []
    measured = bench_data(None, 256, 1, 2, 2, lines.append)
    assert set(measured["ways"]) == {"usual", "jpeg", "pixels"}
    for store, limit in (("jpeg", "decoding alone"), ("pixels", "copying alone")):
        rates = [measured[kind][name]["images_per_second"] for kind, name in (("ways", store), ("limits", limit))]
        assert measured["share_of_limit"][store] == pytest.approx(rates[0] / rates[1])
    for name, one in measured["ways"].items():
        assert one["images_per_second"] == pytest.approx(
            one["passes_a_round"] * measured["images_per_pass"] / one["wall_s"][0]
        ), name
        assert 0 < one["cpu_share"] <= 1.5 and one["cpu_ms_per_image"] > 0
    # The processes of the usual way count too: decoding from the originals takes more of the processor than a copy.
    assert measured["ways"]["usual"]["cpu_ms_per_image"] > measured["ways"]["pixels"]["cpu_ms_per_image"]
    # The usual way's memory is that of its processes too.
    held = {name: one["anonymous_bytes"] for name, one in measured["ways"].items()}
    if held["usual"] is not None:
        assert held["usual"] > held["pixels"] > 0
    assert set(measured["parts_us"]["jpeg"]) == {"read", "decode", "crop", "draw", "finish", "hand-over"}
    assert measured["bottleneck"]["jpeg"] == "decode"
    for store in ("jpeg", "pixels"):
        few, many = sorted(map(int, measured["memory"][store]))
        assert (few, many) == (measured["images_per_pass"] // 4, measured["images_per_pass"])
        assert len(measured["memory"][store][str(many)]["epoch_ends_bytes"]) == 2
    write_data_page(measured, tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text()
    assert page.count("<svg") == 2 and "http" not in page


@pytest.mark.slow
def test_prepare_has_every_way() -> None:
    measured = bench_prepare(None, 20, 1, 1, lambda line: None)
    assert set(measured["ways"]) == {"alone", "prepare", "pillow"}
    alone, whole = (measured["ways"][name]["wall_s"][0] for name in ("alone", "prepare"))
    assert measured["prepare_of_alone"] == pytest.approx(alone / whole)


def test_too_little_to_measure_is_refused() -> None:
    with pytest.raises(RequestError, match=r"--files is 100; allowed is 256 or more"):
        bench_data(None, 100, 1, 1, 0, print)
    with pytest.raises(RequestError, match=r"--rounds is 0"):
        bench_data(None, 256, 0, 1, 0, print)
    with pytest.raises(RequestError, match=r"--files is 5; allowed is 20 or more"):
        bench_prepare(None, 5, 1, 1, print)

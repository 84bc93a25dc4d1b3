"""The benchmarks of loading and preparing measure every method."""

from pathlib import Path

import pytest

from alexnet.bench import loading_benchmark
from alexnet.bench.loading_benchmark import DATALOADER, measure_loading
from alexnet.bench.loading_page import write_loading_page
from alexnet.bench.preparation_benchmark import measure_preparation
from alexnet.cli import bench_data, bench_prepare
from alexnet.errors import RequestError


@pytest.mark.slow
def test_every_loader_is_measured_with_its_parts_and_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(loading_benchmark, "ROUND_S", 0.1)
    measured = measure_loading(None, 256, 1, 2, 2)
    assert set(measured["methods"]) == {DATALOADER, "jpeg", "pixels"}
    for store, limit in (("jpeg", "decoding only"), ("pixels", "copying only")):
        speeds = [measured[kind][name]["images_per_second"] for kind, name in (("methods", store), ("limits", limit))]
        assert measured["fraction_of_limit"][store] == pytest.approx(speeds[0] / speeds[1])
    for name, one in measured["methods"].items():
        assert one["images_per_second"] == pytest.approx(
            one["passes_per_round"] * measured["images_per_pass"] / one["wall_s"][0]
        ), name
        assert 0 < one["cpu_fraction"] <= 1.5 and one["cpu_ms_per_image"] > 0
    # The DataLoader's processes count too: decoding the originals takes more processor time than copying.
    assert measured["methods"][DATALOADER]["cpu_ms_per_image"] > measured["methods"]["pixels"]["cpu_ms_per_image"]
    # And so does their memory.
    held = {name: one["added_bytes"] for name, one in measured["methods"].items()}
    if held[DATALOADER] is not None:
        assert held[DATALOADER] > held["pixels"] > 0
    assert set(measured["parts_us"]["jpeg"]) == {"read", "decode", "crop", "draw", "normalize", "queue"}
    assert measured["bottleneck"]["jpeg"] == "decode"
    for store in ("jpeg", "pixels"):
        few, many = sorted(map(int, measured["memory_over_epochs"][store]))
        assert (few, many) == (measured["images_per_pass"] // 4, measured["images_per_pass"])
        assert len(measured["memory_over_epochs"][store][str(many)]["epoch_ends_bytes"]) == 2
    write_loading_page(measured, tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text()
    assert page.count("<svg") == 2 and "http" not in page
    bench_data.print_table(measured)
    assert "times as fast as the DataLoader" in capsys.readouterr().out


@pytest.mark.slow
def test_every_way_of_preparing_is_measured(capsys: pytest.CaptureFixture[str]) -> None:
    measured = measure_preparation(None, 20, 1, 1)
    assert set(measured["methods"]) == {"codec only", "prepare", "Pillow"}
    codec, whole = (measured["methods"][name]["wall_s"][0] for name in ("codec only", "prepare"))
    assert measured["relative_speed"]["codec only"] == pytest.approx(codec / whole)
    bench_prepare.print_table(measured)
    assert "Pillow" in capsys.readouterr().out


def test_too_little_to_measure_is_refused() -> None:
    with pytest.raises(RequestError, match=r"--files is 100; allowed is 256 or more"):
        measure_loading(None, 100, 1, 1, 0)
    with pytest.raises(RequestError, match=r"--rounds is 0"):
        measure_loading(None, 256, 0, 1, 0)
    with pytest.raises(RequestError, match=r"--files is 5; allowed is 20 or more"):
        measure_preparation(None, 5, 1, 1)

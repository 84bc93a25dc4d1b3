"""The report of imported weights shows the proof of the run folder: verdict, findings, layers, readings, classes."""

from pathlib import Path
from typing import Any

import pytest
from tests.html_page import Page

from alexnet.report.page import write_run_page
from alexnet.report.weight_origin import weight_origin
from alexnet.runs.folder import RunFolder
from alexnet.runs.recipes import QUICK
from alexnet.runs.run_files import StoredProof
from alexnet.storage.typed_files import require_schema


def _layer(name: str, **changes: Any) -> dict[str, Any]:
    return {
        "name": name,
        "file_name": f"features.{name}",
        "shape": [64, 3, 11, 11],
        "verdict": "trained",
        "distribution": "not an initialization's (excess kurtosis 4.2)",
        "std": 0.1,
        "excess_kurtosis": 4.2,
        "top_singular_value": 3.456,
        "unit_spread": 7.0,
        "input_spread": 1.5,
        "smoothness": 0.8123,
        "kernel_sums": 2.5,
        "biases": "spread, -1 to 1",
        "dead_units": 3,
        "duplicate_units": 0,
        "dead_inputs": 0,
        "is_needed": None,
        "silent_channels": 17,
        **changes,
    }


def _combination(error: float, **changes: Any) -> dict[str, Any]:
    return {
        "color_order": "rgb",
        "scale": "255",
        "mean": "claimed",
        "layout": "as given",
        "is_claimed": False,
        "top1_error": error,
        "top1_interval": [error - 0.05, error + 0.05],
        "top5_error": 0.1,
        "top5_interval": [0.05, 0.15],
        "p_value": 1e-9,
        **changes,
    }


def _proof(**changes: Any) -> dict[str, Any]:
    content = {
        "format_version": 1,
        "status": "contradicted",
        "verdict": "The weights are <b>not</b> what they claim to be.",
        "findings": [
            {"kind": "layers", "stance": "for", "text": "conv1 & conv2 are trained."},
            {"kind": "color order", "stance": "against", "text": "The weights read BGR, not RGB."},
        ],
        "layers": [_layer("conv1"), _layer("fc6", verdict="constant", top_singular_value=None, smoothness=None)],
        "sample": {
            "data_checksum": "0" * 64,
            "title": "cats & dogs",
            "split": "val",
            "num_images": 1500,
            "num_gray": 12,
            "num_classes": 2,
        },
        "combinations": [
            _combination(0.78, is_claimed=True, p_value=None),
            _combination(0.41, color_order="bgr"),
            _combination(0.9, layout="filters rotated", mean="none", p_value=0.25),
        ],
        "moved_classes": [
            {
                "id": "n1",
                "name": "<cat>",
                "read_as_id": "n2",
                "read_as_name": "dog",
                "num_images": 50,
                "num_read": 40,
            }
        ],
        **changes,
    }
    require_schema(content, StoredProof)
    return content


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    return RunFolder.create(tmp_path / "imported", QUICK, {"state": "finished"})


def test_the_page_shows_verdict_findings_and_tables(run: RunFolder) -> None:
    run.save_proof(_proof())

    html = write_run_page(run.path, None).read_text()
    text = " ".join(Page(html).text.split())

    assert "Where the weights come from" in text
    assert "Contradicted. The weights are <b>not</b> what they claim to be." in text
    assert "<b>not</b>" not in html and "<cat>" not in html
    assert "against The weights read BGR, not RGB." in text and "for conv1 & conv2 are trained." in text
    cells = "".join(text.split())  # cells follow each other without spaces
    assert "conv1trainednotaninitialization's(excesskurtosis4.2)3.46x7.00x1.50x0.81spread,-1to1317" in cells
    assert "fc6constantnotaninitialization's(excesskurtosis4.2)–7.00x1.50x–" in cells
    assert "1,500 images (cats & dogs, val, 2 classes, 12 images gray)" in text
    readings = [text.index(one) for one in ("BGR, colors 0..255, minus", "(as claimed)", "no mean, filters rotated")]
    assert readings == sorted(readings)  # lowest error first
    assert "41.0%[36.0,46.0]below0.0001" in cells and "90.0%[85.0,95.0]0.25" in cells
    assert "<cat>dog40of50" in cells


def test_without_images_there_is_no_table_of_readings(run: RunFolder) -> None:
    layers = [_layer("conv1", silent_channels=None)]
    run.save_proof(_proof(status="plausible", sample=None, combinations=[], moved_classes=[], layers=layers))

    text = Page(write_run_page(run.path, None).read_text()).text

    assert "Plausible." in text
    assert "McNemar" not in text and "silent channels" not in text and "Exchanged" not in text


def test_trained_runs_have_no_such_section_and_a_damaged_proof_is_named(
    run: RunFolder, caplog: pytest.LogCaptureFixture
) -> None:
    assert weight_origin(run) is None
    assert "Where the weights come from" not in write_run_page(run.path, None).read_text()

    (run.path / "proof.json").write_text('{"format_version": 1, "status": "fine"}')
    text = Page(write_run_page(run.path, None).read_text()).text
    assert "cannot be shown" in text and "proof.json is damaged" in text
    assert "the report does not show where the weights come from" in caplog.text

"""Compiled functions: a full disk or a damaged file of kept machine code costs time and nothing else."""

import subprocess
import sys
from pathlib import Path

import pytest

from alexnet.system.numba_jit import unavailable_reason

pytestmark = pytest.mark.skipif(bool(unavailable_reason), reason=f"no Numba: {unavailable_reason}")

PROGRAM = """
import sys
sys.path.insert(0, sys.argv[1])
import squares
print(squares.square(7))
"""


def run(folder: Path, before: str = "") -> str:
    program = [sys.executable, "-c", before + PROGRAM, str(folder)]
    made = subprocess.run(program, capture_output=True, text=True, timeout=400)
    assert made.returncode == 0, made.stderr
    return made.stdout.strip()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "squares.py").write_text(
        "from alexnet.system.numba_jit import jit\n\n\n@jit()\ndef square(x):\n    return x * x\n"
    )
    return tmp_path


@pytest.mark.parametrize(
    ("ending", "left_bytes"),
    [
        ("nbi", 20),
        ("nbc", -5),
        *(pytest.param(*one, marks=pytest.mark.slow) for one in (("nbi", 0), ("nbi", -5), ("nbc", 0), ("nbc", 20))),
    ],
)
def test_a_damaged_cache_file_is_compiled_again(folder: Path, ending: str, left_bytes: int) -> None:
    assert run(folder) == "49"
    (kept,) = (folder / "__pycache__").glob(f"squares.square-*.{ending}")
    content = kept.read_bytes()
    kept.write_bytes(content[:left_bytes])
    assert run(folder) == "49"


def test_a_full_disk_keeps_nothing(folder: Path) -> None:
    limit = (
        "import resource, signal; signal.signal(signal.SIGXFSZ, signal.SIG_IGN); "
        "resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))\n"
    )
    assert run(folder, limit) == "49"


def test_threads_that_call_compiled_functions_first_find_the_type_that_numba_asks_for() -> None:
    """NumPy imports `np.ma` when it is first used, and recurses without end if several threads are the first."""
    program = "import sys; import alexnet.system.numba_jit; print('numpy.ma' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "True\n"

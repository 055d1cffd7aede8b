"""No test goes by times that were once measured on the machine that it runs on; `--processor` chooses the processor.

    pytest                                  # all tests, planned for the processor of this machine
    pytest --planner --processor arm64      # the planner's part, planned for another one

Kernels stay those of the machine. What is planned for another processor may be wrong on them (what is planned for VNNI
saturates without), so only the planner's part is expected to pass for all: see `PLANNER`.
"""

import os
import tempfile
from pathlib import Path

import pytest
from onnxq.targets.processor import PRETENDED, real_processor, this_processor

PLANNER = (
    "diagnose",
    "tuning/search",
    "stages/plan",
    "targets/test_cuda.py",
    "targets/test_processor.py",
    "targets/test_rows.py",
    "targets/test_sums.py",
    "targets/test_tensorrt.py",
    "recipes",
    "types",
    "ops",
    "cli/test_plan.py",
)
"""The planner's part: tests about plans, targets and recipes, which hold on every machine, whatever `--processor` says.

Kernels that such tests run are judged only where they are exact on every processor, or by `tests.support.integers`.
Tests about what the machine's own processor does are marked `real_processor`, and skipped where `--processor` names
another kind.
"""

os.environ["ONNXQ_COSTS"] = tempfile.mkdtemp(prefix="onnxq-costs-")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--processor",
        choices=sorted(PRETENDED),
        help="what the planner takes this machine for (default: what it is); kernels stay those of the machine",
    )
    parser.addoption(
        "--planner", action="store_true", help="run the planner's part alone, which passes with every --processor"
    )


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line(
        "markers", "real_processor: about what kernels of this machine do; skipped where --processor names another kind"
    )
    processor = config.getoption("--processor")
    if processor is not None:  # before anything asks which one it is, and for the processes that tests start
        os.environ["ONNXQ_PROCESSOR"] = processor


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    if not config.getoption("--planner") or collection_path.suffix != ".py":
        return None
    parts = [Path(__file__).parent / part for part in PLANNER]
    return True if not any(collection_path.is_relative_to(part) for part in parts) else None


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("real_processor") is not None and not _is_real():
        pytest.skip(f"planned for {this_processor()}; the kernels here are those of another kind of processor")


def _is_real() -> bool:
    """Return whether kernels do here what the target of the processor that was named says."""
    from onnxq.runtime.saturation import adds_pairs

    named = this_processor()
    if named.architecture != real_processor().architecture:
        return False
    return adds_pairs() is (named.target == "cpu-avx2")


@pytest.fixture(scope="session")
def masked_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where `tests.processors` puts its copy of onnxruntime, one for all workers: it takes many seconds."""
    folder = tmp_path_factory.getbasetemp()
    return (folder.parent if "PYTEST_XDIST_WORKER" in os.environ else folder) / "masked"

"""No test goes by times that were once measured on the machine that it runs on; `--processor` chooses the processor."""

import os
import tempfile

import pytest
from onnxq.targets.processor import PRETENDED

os.environ["ONNXQ_COSTS"] = tempfile.mkdtemp(prefix="onnxq-costs-")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--processor",
        choices=sorted(PRETENDED),
        help="what the planner takes this machine for (default: what it is); kernels stay those of the machine",
    )


def pytest_configure(config: pytest.Config) -> None:
    processor = config.getoption("--processor")
    if processor is not None:  # before anything asks which one it is, and for the processes that tests start
        os.environ["ONNXQ_PROCESSOR"] = processor

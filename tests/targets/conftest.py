"""A processor without VNNI, for tests of kernels: this one, or one that the runtime is made to believe in."""

import subprocess
import sys

import pytest
from onnxq.runtime.saturation import adds_pairs
from onnxq.targets.processor import real_processor
from tests import processors


@pytest.fixture(scope="session")
def run_without_vnni(masked_folder):
    """Return what runs Python code there, with arguments, and returns what it printed."""
    if real_processor().architecture != "x86-64":
        pytest.skip("not an x86-64 processor")
    command = [sys.executable] if adds_pairs() else processors.without_vnni(masked_folder)
    if command is None:
        pytest.skip(f"{processors.why_not()}, or valgrind, which has AVX2 and no VNNI")

    def run(code, *arguments):
        done = subprocess.run([*command, "-c", code, *arguments], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout

    assert run("from onnxq.runtime.saturation import adds_pairs; print(adds_pairs())").strip() == "True"
    return run

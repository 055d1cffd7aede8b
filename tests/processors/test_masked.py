"""A masked onnxruntime takes the kernels of the processor that it is made to believe in."""

import subprocess
import sys
from pathlib import Path

import pytest
from onnxq.runtime.saturation import adds_pairs
from tests.processors import masked_copy, why_not

MAIN = Path(__file__).with_name("__main__.py")

ASK = "from onnxq.runtime.saturation import adds_pairs; from onnxq.targets import targets; \
print(adds_pairs(), targets.get('cpu').stands_for)"


@pytest.fixture(scope="module")
def masked(masked_folder):
    if why_not() is not None:
        pytest.skip(f"tests.processors {why_not()}")
    return masked_copy(masked_folder)


def _python(code, variables):
    command = ["env", *(f"{name}={value}" for name, value in variables.items()), sys.executable, "-c", code]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


@pytest.mark.parametrize("processor", ["avx2", "avx512"])
def test_its_sums_of_pairs_saturate(masked, processor):
    assert _python(ASK, {**masked, "ONNXQ_PROCESSOR": processor}) == "True cpu-avx2"


def test_the_environment_that_it_was_copied_from_is_as_before(masked):
    code = "from onnxq.runtime.saturation import adds_pairs; print(adds_pairs())"
    assert _python(code, {"PYTHONPATH": masked["PYTHONPATH"].partition(":")[2]}) == str(adds_pairs())


def test_a_second_time_there_is_nothing_left_to_replace(tmp_path):
    if why_not() is not None:
        pytest.skip(f"tests.processors {why_not()}")
    from tests.processors import _replace_cpuid

    source = tmp_path / "asks.c"
    source.write_text('int ask(void) { int a = 0; __asm__("cpuid" : "+a"(a) : : "ebx", "ecx", "edx"); return a; }')
    library = tmp_path / "asks.so"
    subprocess.run(["gcc", "-shared", "-fPIC", "-o", library, source], check=True)
    assert [_replace_cpuid(library) for _ in range(2)] == [1, 0]


def test_without_its_tools_it_says_which_are_missing(tmp_path):
    done = subprocess.run(
        [sys.executable, str(MAIN), str(tmp_path)],
        env={"PATH": str(tmp_path), "PYTHONPATH": ":".join(sys.path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert done.stderr.startswith("tests.processors ")
    if sys.platform == "linux" and why_not() is None:
        assert done.stderr.strip() == "tests.processors needs gcc, objdump, readelf (apt install gcc binutils)"

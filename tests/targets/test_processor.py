"""Which processor this is, or is taken for, and which target represents it."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from onnxq.errors import RecipeError
from onnxq.targets import targets
from onnxq.targets.processor import PRETENDED, read_cpuinfo, real_processor, this_processor

ROOT = Path(__file__).parents[2]
NAMED = {"avx2": "cpu-avx2", "avx512": "cpu-avx2", "vnni": "cpu-vnni", "arm64": "cpu-arm64"}

X86 = "processor\t: 0\nmodel name\t: Some CPU\nflags\t\t: fpu sse2 {}\n\nprocessor\t: 1\nmodel name\t: Some CPU\n"
ARM = "processor\t: 0\nFeatures\t: fp asimd {}\nCPU implementer\t: 0x41\n"


@pytest.mark.parametrize(
    ("text", "architecture", "features", "target"),
    [
        (X86.format("avx2"), "x86-64", {"avx2"}, "cpu-avx2"),
        (X86.format("avx2 avx512f avx512bw"), "x86-64", {"avx2", "avx512"}, "cpu-avx2"),
        (X86.format("avx2 avx512bw avx512_vnni"), "x86-64", {"avx2", "avx512", "avx512-vnni"}, "cpu-vnni"),
        (X86.format("avx2 avx_vnni"), "x86-64", {"avx2", "avx-vnni"}, "cpu-vnni"),
        (X86.format("amx_tile amx_int8"), "x86-64", {"amx-int8"}, "cpu-vnni"),
        (ARM.format("asimddp i8mm"), "arm64", {"neon", "dotprod", "i8mm"}, "cpu-arm64"),
        ("", "x86-64", None, "cpu-avx2"),
    ],
)
def test_features_and_target_by_what_the_system_says(text, architecture, features, target):
    found = read_cpuinfo(text, architecture)
    assert found.features == features
    assert found.target == target


def test_the_cpu_target_is_the_one_of_this_machine():
    cpu = targets.get("cpu")
    assert cpu.stands_for == this_processor().target
    assert cpu.rows == targets.get(cpu.stands_for).rows


@pytest.fixture
def asked_anew():
    this_processor.cache_clear()
    yield this_processor
    this_processor.cache_clear()


def test_every_processor_that_can_be_named_has_its_target(asked_anew, monkeypatch):
    assert {name: processor.target for name, processor in PRETENDED.items()} == NAMED
    assert [processor.kind for processor in PRETENDED.values()] == list(PRETENDED)
    for name, processor in PRETENDED.items():
        monkeypatch.setenv("ONNXQ_PROCESSOR", name)
        this_processor.cache_clear()
        assert asked_anew() is processor


def test_without_a_name_it_is_the_real_one(asked_anew, monkeypatch):
    monkeypatch.delenv("ONNXQ_PROCESSOR", raising=False)
    assert asked_anew() == real_processor()


def test_an_unknown_name_is_refused_with_the_nearest(asked_anew, monkeypatch):
    monkeypatch.setenv("ONNXQ_PROCESSOR", "avx215")
    with pytest.raises(RecipeError, match="unknown processor 'avx215' in ONNXQ_PROCESSOR; did you mean 'avx2'"):
        asked_anew()


def test_the_option_of_pytest_reached_this_process(pytestconfig):
    named = pytestconfig.getoption("--processor")
    if named is not None:
        assert this_processor() is PRETENDED[named]
        code = "from onnxq.targets import targets; print(targets.get('cpu').stands_for)"
        started = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
        assert started.stdout.strip() == targets.get("cpu").stands_for == NAMED[named]


@pytest.mark.real_processor
def test_kernels_are_those_of_the_processor_that_was_named():
    """Skipped where they are not, as the next test sees to."""
    from onnxq.runtime.saturation import adds_pairs

    assert adds_pairs() is (targets.get("cpu").stands_for == "cpu-avx2")


@pytest.mark.timeout(600)
@pytest.mark.parametrize("name", NAMED)
def test_pytest_plans_for_the_processor_that_it_is_told(name):
    from onnxq.runtime.saturation import adds_pairs

    chosen = ["-k", "option_of_pytest or target_is_the_one or processor_that_was_named", "-n", "0", "-q"]
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *chosen, "--processor", name, __file__]
    unnamed = {key: value for key, value in os.environ.items() if key != "ONNXQ_PROCESSOR"}
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT, env=unnamed)
    real = real_processor().architecture == PRETENDED[name].architecture and adds_pairs() is (NAMED[name] == "cpu-avx2")
    assert ("3 passed" if real else "2 passed, 1 skipped") in done.stdout, done.stdout + done.stderr

"""Which processor this is, and which target stands for it."""

import pytest
from onnxq.targets import targets
from onnxq.targets.processor import read_cpuinfo, this_processor

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

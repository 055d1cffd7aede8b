"""onnxruntime's CPU execution provider on this machine: another name of the target of its processor."""

from __future__ import annotations

from dataclasses import replace

from onnxq.targets import targets
from onnxq.targets.cpu_arm64 import ARM64
from onnxq.targets.cpu_avx2 import AVX2
from onnxq.targets.cpu_vnni import VNNI
from onnxq.targets.processor import this_processor

_here = {target.name: target for target in (ARM64, AVX2, VNNI)}[this_processor().target]
targets.add(
    "cpu",
    replace(_here, name="cpu", stands_for=_here.name, summary=f"this machine: {this_processor()}, so {_here.name}"),
)

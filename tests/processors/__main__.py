"""Alter the onnxruntime of an environment, so that it finds neither VNNI nor, with ONNXQ_PROCESSOR=avx2, AVX-512."""

import sys
from pathlib import Path

from tests.processors import mask, why_not

if len(sys.argv) != 2:
    sys.exit("usage: python -m tests.processors ENVIRONMENT")
if why_not() is not None:
    sys.exit(f"tests.processors {why_not()}")
print(f"{mask(Path(sys.argv[1]))} CPUID instructions replaced in {sys.argv[1]}")

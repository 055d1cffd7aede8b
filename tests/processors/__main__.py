"""Alter the onnxruntime of an environment, so that it finds neither VNNI nor, with ONNXQ_PROCESSOR=avx2, AVX-512."""

import sys
from pathlib import Path

from tests.processors import mask, missing_tools

if missing_tools():
    sys.exit(f"needs {', '.join(missing_tools())}")
print(f"{mask(Path(sys.argv[1]))} CPUID instructions replaced in {sys.argv[1]}")

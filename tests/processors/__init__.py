"""An environment whose onnxruntime takes and runs, at full speed, the kernels that a processor without VNNI gets.

    python -m tests.processors /tmp/venv            # an environment for this alone: its onnxruntime is altered
    /tmp/venv/bin/pytest --processor avx2

The runtime asks for features by CPUID. Each such instruction of its library becomes a breakpoint, whose handler
(`masked_cpuid.c`) answers without VNNI. Needs Linux on x86-64 with gcc and binutils. Valgrind's processor gives the
same kernels without either, 10 to 30 times as slowly (`onnxq.runtime.saturation`).
"""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

_TOOLS = ("gcc", "objdump", "readelf")
_CPUID, _BREAKPOINT = b"\x0f\xa2", b"\xcc\x90"
_SEGMENT = re.compile(r"LOAD\s+(0x\w+)\s+(0x\w+)\s+0x\w+\s+(0x\w+)")


def missing_tools() -> tuple[str, ...]:
    """Return the programs that `mask` needs and that this machine lacks."""
    return tuple(tool for tool in _TOOLS if shutil.which(tool) is None)


def mask(environment: Path) -> int:
    """Alter the onnxruntime of a virtual environment, and return how many CPUID instructions it had.

    0: it was altered before. The handler is loaded by every Python of the environment, through a `.pth` file.
    """
    site = next(environment.glob("lib/python3*/site-packages"))
    handler = site / "masked_cpuid.so"
    source = Path(__file__).with_name("masked_cpuid.c")
    subprocess.run(["gcc", "-O1", "-shared", "-fPIC", "-o", handler, source], check=True)
    (site / "masked_cpuid.pth").write_text(f"import ctypes; ctypes.CDLL({str(handler)!r})\n", encoding="utf-8")
    library = next(site.glob("onnxruntime/capi/onnxruntime_pybind11_state*.so"))
    return _replace_cpuid(library)


def _replace_cpuid(library: Path) -> int:
    listing = _output("objdump", "-d", "--no-show-raw-insn", str(library))
    segments = [
        tuple(int(word, 16) for word in found) for found in _SEGMENT.findall(_output("readelf", "-lW", library))
    ]
    content = bytearray(library.read_bytes())
    addresses = [int(found, 16) for found in re.findall(r"^\s*([0-9a-f]+):\s+cpuid", listing, re.M)]
    for address in addresses:
        offset = next(address - start + offset for offset, start, size in segments if start <= address < start + size)
        assert content[offset : offset + 2] == _CPUID, hex(address)
        content[offset : offset + 2] = _BREAKPOINT
    library.unlink()  # packages may be hard links to a cache
    library.write_bytes(content)
    return len(addresses)


def _output(*command: str | Path) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout

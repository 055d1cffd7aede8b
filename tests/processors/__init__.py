"""An onnxruntime that takes the kernels for AVX2 or AVX-512, and runs them at full speed, on a newer processor.

    python -m tests.processors /tmp/venv            # an environment for this alone: its onnxruntime is altered
    /tmp/venv/bin/pytest --processor avx2

The runtime asks for features by CPUID. Each such instruction of its library becomes a breakpoint, whose handler
(`masked_cpuid.c`) answers without VNNI. Needs Linux on x86-64 with gcc and binutils. Valgrind's processor gives the
same kernels without either, 10 to 30 times as slowly (`onnxq.runtime.saturation`).
"""

from __future__ import annotations

import importlib.util
import os
import platform
import re
import shutil
import subprocess
import sys
from pathlib import Path

from onnxq.runtime.saturation import emulated_without_vnni

_TOOLS = ("gcc", "objdump", "readelf")
_CPUID, _BREAKPOINT = b"\x0f\xa2", b"\xcc\x90"
_SEGMENT = re.compile(r"LOAD\s+(0x\w+)\s+(0x\w+)\s+0x\w+\s+(0x\w+)")
_LIBRARY = "onnxruntime/capi/onnxruntime_pybind11_state*.so"
_UNREAD = "libonnxruntime.so*"  # for programs in other languages: half of the package
_HANDLER = "masked_cpuid.so"
_ROOT = Path(__file__).resolve().parents[2]


def why_not() -> str | None:
    """Return why nothing can be masked on this machine, None if it can."""
    if sys.platform != "linux" or platform.machine().lower() not in ("x86_64", "amd64"):
        return f"masks the CPUID of x86-64 on Linux, and this is {platform.machine()} on {sys.platform}"
    missing = [tool for tool in _TOOLS if shutil.which(tool) is None]
    return f"needs {', '.join(missing)} (apt install gcc binutils)" if missing else None


def mask(environment: Path) -> int:
    """Alter the onnxruntime of a virtual environment, and return how many CPUID instructions it had.

    0: it was altered before. The handler is loaded by every Python of the environment, through a `.pth` file.
    """
    site = next(environment.glob("lib/python3*/site-packages"))
    handler = _build_handler(site)
    (site / "masked_cpuid.pth").write_text(f"import ctypes; ctypes.CDLL({str(handler)!r})\n", encoding="utf-8")
    return _replace_cpuid(next(site.glob(_LIBRARY)))


def masked_copy(folder: Path) -> dict[str, str]:
    """Alter a copy of the installed onnxruntime, and return the variables that make programs use it.

    `ONNXQ_PROCESSOR` is among them: avx2. Processes may share a folder: the first makes the copy, the others wait.
    """
    import fcntl

    folder.mkdir(exist_ok=True)
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (folder / _HANDLER).exists():
            _copy(folder)
            _build_handler(folder)
    paths = [str(folder), str(_ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    return {
        "LD_PRELOAD": str(folder / _HANDLER),
        "PYTHONPATH": os.pathsep.join(paths),
        "ONNXQ_PROCESSOR": "avx2",
    }


def _copy(folder: Path) -> None:
    spec = importlib.util.find_spec("onnxruntime")
    assert spec is not None
    assert spec.origin is not None
    shutil.copytree(
        Path(spec.origin).parent, folder / "onnxruntime", ignore=shutil.ignore_patterns(_UNREAD, "__pycache__")
    )
    _replace_cpuid(next(folder.glob(_LIBRARY)))


def without_vnni(folder: Path) -> list[str] | None:
    """Return the command that runs Python on a processor with AVX2 and no VNNI, None if absent; the faster way first.

    Args:
        folder: for what that takes; see `masked_copy`.
    """
    if why_not() is None:
        return ["env", *(f"{name}={value}" for name, value in masked_copy(folder).items()), sys.executable]
    emulated = emulated_without_vnni("")
    if emulated is None:
        return None
    paths = [str(_ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    return [emulated[0], f"PYTHONPATH={os.pathsep.join(paths)}", *emulated[1 : emulated.index("-m")]]


def _build_handler(folder: Path) -> Path:
    handler, source = folder / _HANDLER, Path(__file__).with_name("masked_cpuid.c")
    subprocess.run(["gcc", "-O1", "-shared", "-fPIC", "-o", handler, source], check=True)
    return handler


def _replace_cpuid(library: Path) -> int:
    headers = subprocess.run(["readelf", "-lW", library], capture_output=True, text=True, check=True).stdout
    segments = [tuple(int(word, 16) for word in found) for found in _SEGMENT.findall(headers)]
    content = bytearray(library.read_bytes())
    with subprocess.Popen(["objdump", "-d", "--no-show-raw-insn", library], stdout=subprocess.PIPE) as listing:
        assert listing.stdout is not None
        found = [line for line in listing.stdout if b"cpuid" in line]  # of millions, so not kept
    assert listing.returncode == 0
    addresses = [int(line.partition(b":")[0], 16) for line in found if re.search(rb":\s+cpuid", line)]
    for address in addresses:
        offset = next(address - start + offset for offset, start, size in segments if start <= address < start + size)
        assert content[offset : offset + 2] == _CPUID, hex(address)
        content[offset : offset + 2] = _BREAKPOINT
    library.unlink()  # packages may be hard links to a cache
    library.write_bytes(content)
    return len(addresses)

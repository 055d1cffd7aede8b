"""Free memory: how much a run may take without pushing the machine, or its container, over the edge."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

# Where the system does not say.
_ASSUMED = 4 << 30
_CGROUP = Path("/sys/fs/cgroup")
_CGROUP_FILES = (
    ("memory.max", "memory.current"),
    ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes"),
)


def free_memory() -> int:
    """Return how many bytes can be taken before the machine, or the container's limit, is full."""
    return min(_system(), _container())


def _system() -> int:
    with contextlib.suppress(OSError, ValueError, IndexError):
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) << 10
    with contextlib.suppress(OSError, ValueError, AttributeError):
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return _ASSUMED


def _container() -> int:
    for limit, used in _CGROUP_FILES:
        with contextlib.suppress(OSError, ValueError):
            return max(int((_CGROUP / limit).read_text()) - int((_CGROUP / used).read_text()), 0)
    return 1 << 62

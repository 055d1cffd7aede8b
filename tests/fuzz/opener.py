"""Opens models in a process of its own: some random graphs end onnxruntime, and with it whoever opens them."""

from __future__ import annotations

import contextlib
import subprocess
import sys
from pathlib import Path


class Opener:
    """Tells which models onnxruntime survives; a process that died is started again."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[str] | None = None

    def survives(self, model: Path) -> bool:
        """Open a model as served; True also where onnxruntime refuses it with an error."""
        if self._process is None:
            pipe = subprocess.PIPE
            self._process = subprocess.Popen(
                [sys.executable, "-m", "tests.fuzz.opener"],
                stdin=pipe,
                stdout=pipe,
                stderr=subprocess.DEVNULL,
                text=True,
            )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        print(model, file=self._process.stdin, flush=True)
        if self._process.stdout.readline():
            return True
        self._process.wait()
        self._process = None
        return False


def main() -> None:
    """Open the models named on standard input, one a line."""
    from onnxq.errors import ModelError
    from onnxq.runtime.session import open_session

    for line in sys.stdin:
        with contextlib.suppress(ModelError):
            open_session(Path(line.rstrip("\n")))
        print("opened", flush=True)


if __name__ == "__main__":
    main()

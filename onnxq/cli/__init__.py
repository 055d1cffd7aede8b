"""The command line: a thin skin over `onnxq.api`, one file a command.

Exit codes: 0 done (where quantizing gains nothing, with the float model), 1 nothing was written since the result is
worse than allowed or nothing can be quantized, 2 usage or recipe, 3 model or data, 70 a fault of onnxq itself, 130
interrupted, 141 the reader of the output went away. Results go to stdout, everything else to stderr.
"""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Sequence

INTERNAL_ERROR = 70  # EX_SOFTWARE of BSD's sysexits.h
INTERRUPTED = 130


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code; whatever goes wrong becomes one message on stderr.

    Args:
        arguments: words of the command line, without the program's name; None for those of this process.
    """
    try:
        return _run(sys.argv[1:] if arguments is None else arguments)
    except KeyboardInterrupt:
        return _interrupted()


def _run(arguments: Sequence[str]) -> int:
    import typer

    from onnxq.cli.app import make_app
    from onnxq.cli.terminal import complain, quiet_libraries, show_text
    from onnxq.errors import ModelError, OnnxqError

    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # names may hold what the terminal cannot show
    if "" not in sys.path:
        sys.path.append("")  # the working folder, for data and metrics given as module:function; last: shadows nothing
    try:
        with quiet_libraries():
            app = make_app(next((word for word in arguments if not word.startswith("-")), ""))
            code = app(list(arguments), prog_name="onnxq", standalone_mode=False)
            show_text("")  # notices where the help could not be written
    except typer.TyperException as error:
        if error.format_message():  # none where the help was shown because no command was given
            context = getattr(error, "ctx", None)
            complain(error.format_message())
            complain(f"`{context.command_path if context else 'onnxq'} --help` lists what there is", title="help")
        return error.exit_code
    except OnnxqError as error:
        complain(str(error))
        return error.exit_code
    except MemoryError:
        complain("out of memory; give fewer samples a batch (--batch-size), or a machine with more memory")
        return ModelError.exit_code
    except Exception as error:
        if os.environ.get("ONNXQ_DEBUG"):
            raise
        cause = " ".join(str(error).split())
        complain(
            f"internal error: {type(error).__name__}: {cause}; this is a fault of onnxq, please report it "
            "with the output of the same command under ONNXQ_DEBUG=1"
        )
        return INTERNAL_ERROR
    # typer turns Ctrl-C within a command into this code, without a word
    return _interrupted() if code == INTERRUPTED else int(code or 0)


def _interrupted() -> int:
    print("\ninterrupted; no file was changed", file=sys.stderr)
    return INTERRUPTED

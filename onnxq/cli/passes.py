"""`onnxq passes`: what pipelines can be built from."""

from __future__ import annotations

from onnxq.cli.options import Json


def command(as_json: Json = False) -> None:
    """List the passes that --passes can name, one line each."""
    from onnxq.cli.table import table
    from onnxq.cli.terminal import show, show_json
    from onnxq.passes.listing import list_passes
    from onnxq.types.plain_data import plain

    infos = list_passes()
    if as_json:
        show_json(plain(infos))
        return
    rows = [(info.name, "yes" if info.preserves_semantics else "no", info.summary) for info in infos]
    show(table(["pass", "same outputs", "what it does"], rows))

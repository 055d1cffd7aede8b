"""A report for people: the outcome first, then what happened to the nodes, what really runs, and what to look at."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Group
from rich.filesize import decimal
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from onnxq.cli.table import count, decibels, threads
from onnxq.pipeline.report import report_path
from onnxq.types.equalization import Equalization
from onnxq.types.guarding import Guarding, Verdict
from onnxq.types.plan import ALREADY, IMPORTED, Action, Decision
from onnxq.types.report import Coverage, Kernels, Latency, MetricResult, OutputError, Report, TensorError
from onnxq.types.searching import Searching

if TYPE_CHECKING:
    from rich.console import RenderableType

_WORST = 5
_TELLING = ("features-in-float",)  # reasons of quantized nodes that say more than what they run as
_GOOD, _BAD, _DIM, _HEAD = "green", "red", "dim", "bold"


def report_parts(report: Report, *, refused: bool = False) -> Iterator[RenderableType]:
    """Yield what to print, part by part; made for 80 columns, wider terminals fold less.

    Args:
        report: of a call.
        refused: whether nothing was written, and no model handed back.
    """
    changed = any(entry.action is Action.QUANTIZE for entry in report.plan.decisions)
    yield _title(report, "not written" if refused else _result(report.plan.decisions))
    has_figures = changed or not refused  # of a model that was made, written or not
    if has_figures:
        yield _outcome(report)
    verification = report.verification
    if verification is None:
        yield _note("not verified: the models were not run")
    if verification is not None and verification.outputs:
        title = f"Outputs, quantized against float, {count(verification.samples, 'sample')}"
        yield _section(title, _outputs(verification.outputs))
    yield _section("Nodes", _nodes(report.plan.decisions))
    if has_figures and report.coverage is not None and report.coverage.weight_bytes:
        yield Padding(_coverage(report.coverage), (0, 0, 0, 2))
    if report.plan.equalizations:
        yield _section("Equalized before", _equalized(report.plan.equalizations))
    if report.search is not None:
        yield _section("Search", _search(report.search))
    if report.guard is not None:
        yield _section("Guard", _guard(report.guard))
    if verification is not None and verification.tensors:
        yield _section("Largest errors, by node (optimizer off)", _worst(verification.tensors))
    if verification is not None and verification.kernels is not None:
        yield _section("What the runtime runs", _kernels(verification.kernels, report.plan.decisions))
    if report.warnings:
        yield _section("Warnings", _warnings(report.warnings))
    if report.output is not None:
        output = Path(report.output)
        yield _section("Written", Text(f"{output}\n{report_path(output)}", overflow="fold"))
    yield _note(_spent(report.seconds))


def _result(decisions: Iterable[Decision]) -> str:
    """Return in a word what became of a model."""
    if any(entry.action is Action.QUANTIZE for entry in decisions):
        return "quantized"
    codes = {entry.reason.code for entry in decisions}
    return "rewritten" if IMPORTED in codes else "unchanged" if ALREADY in codes else "in float"


def _title(report: Report, what: str) -> Text:
    source = Path(report.source).name if report.source else "the model"
    text = Text.assemble((source, _HEAD), f" {what}: {report.plan.format} for target {report.plan.target}")
    calibration = report.calibration
    if calibration.get("synthetic"):
        text.append("\ncalibrated on made-up inputs", style="yellow")
    elif calibration:
        text.append(f"\ncalibrated on {calibration.get('samples')} samples ({calibration.get('source')})", style=_DIM)
    if report.verification is not None and report.verification.data:
        text.append(f"\ncompared on {report.verification.data}", style=_DIM)
    return text


def _outcome(report: Report) -> RenderableType:
    table = _grid(left=1, right=3)
    table.add_row("", Text("float", _DIM), Text("quantized", _DIM), "")
    verification = report.verification
    if verification is not None and verification.metric is not None:
        table.add_row(*_metric(verification.metric))
    if verification is not None and verification.latency is not None:
        table.add_row(*_latency(verification.latency))
    before, after = report.float_bytes, report.quantized_bytes
    table.add_row(
        "size", decimal(before), decimal(after), _ratio(before / after if after else 1.0, "smaller", "larger")
    )
    return Padding(table, (1, 0, 0, 2))


def _metric(metric: MetricResult) -> tuple[str, str, str, Text]:
    if metric.name == "accuracy":
        before, after = (f"{value:.2%}" for value in (metric.float_value, metric.quantized_value))
        change = f"{100 * (metric.quantized_value - metric.float_value):+.2f} points"
    else:
        before, after = (f"{value:.5g}" for value in (metric.float_value, metric.quantized_value))
        change = f"{metric.quantized_value - metric.float_value:+.3g}"
    same = metric.quantized_value == metric.float_value
    return metric.name, before, after, Text("same" if same else change)


def _latency(latency: Latency) -> tuple[str, str, str, Text]:
    batch = "" if latency.batch is None else f", batch {latency.batch}"
    name = f"latency, {threads(latency.threads)}{batch}"
    return name, _ms(latency.float_ms), _ms(latency.quantized_ms), _ratio(latency.speedup, "faster", "slower")


def _ratio(ratio: float, better: str, worse: str) -> Text:
    if 0.98 < ratio < 1.02:
        return Text("same")
    if ratio >= 1:
        return Text(f"{ratio:.2f}x {better}", _GOOD)
    return Text(f"{1 / ratio:.2f}x {worse}" if ratio > 0 else worse, _BAD)


def _outputs(outputs: Iterable[OutputError]) -> Table:
    table = _grid(left=1, right=4)
    table.add_row("", *(Text(head, _DIM) for head in ("as served", "optimizer off", "max |error|", "agreement")))
    for output in outputs:
        agreement = "-" if output.agreement_served is None else f"{output.agreement_served:.2%}"
        largest = "-" if math.isnan(output.max_abs_served) else f"{output.max_abs_served:.3g}"
        figures = (_db(output.sqnr_served), _db(output.sqnr_plain), largest)
        table.add_row(output.name, *(("no values", "no values", "-") if output.is_empty else figures), agreement)
    return table


def _nodes(decisions: Iterable[Decision]) -> RenderableType:
    by_action: dict[Action, list[Decision]] = {Action.QUANTIZE: [], Action.KEEP: []}
    for decision in decisions:
        by_action[decision.action].append(decision)
    table = Table.grid(padding=(0, 2))
    table.add_column(justify="right", no_wrap=True)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for action, style, label in ((Action.QUANTIZE, _GOOD, "quantized"), (Action.KEEP, "yellow", "kept in float")):
        chosen = by_action[action]
        table.add_row(Text(str(len(chosen)), f"{_HEAD} {style}" if chosen else _DIM), Text(label, _HEAD), "")
        codes: dict[str, list[Decision]] = {}
        for decision in chosen:
            codes.setdefault(decision.reason.code, []).append(decision)
        for code, group in sorted(codes.items(), key=lambda item: -len(item[1])):
            table.add_row(
                str(len(group)), Text(f"  {code}"), _why(group, explain=action is Action.KEEP or code in _TELLING)
            )
    return table


def _coverage(coverage: Coverage) -> Text:
    """Say how much is quantized, and the largest part that is not."""
    sizes, macs = coverage.weight_bytes, coverage.macs
    parts = [
        f"{counts.get('quantized', 0) / total:.0%} of {what}"
        for counts, what in ((macs, "the operations"), (sizes, "the bytes of weights"))
        if (total := sum(counts.values()))
    ]
    left = [f"{code} {decimal(size)}" for code, size in sizes.items() if code != "quantized" and size]
    return Text(
        f"quantized: {' and '.join(parts)}" + (f"; weights in float: {', '.join(left)}" if left else ""), style=_DIM
    )


def _equalized(entries: Iterable[Equalization]) -> RenderableType:
    """Count by method what was done; `onnxq plan` lists each tensor."""
    table = _figures()
    methods: dict[str, list[Equalization]] = {}
    for entry in entries:
        methods.setdefault(entry.method, []).append(entry)
    for method, places in methods.items():
        taken = [entry for entry in places if entry.taken]
        table.add_row(f"{len(taken)} of {len(places)}", method)
        examples = [f"e.g. {entry.text}" for entry in taken[:1]]
        examples += [f"not e.g. {entry.tensor}: {entry.text}" for entry in places if not entry.taken][:1]
        table.add_row("", Text("; ".join(examples), _DIM))
    return table


def _guard(guard: Guarding) -> RenderableType:
    table = _figures()
    for step in guard.steps:
        if step.taken:
            what = step.why if step.why == "kernel-fault" else f"back in float, {step.why}"
            table.add_row(Text(count(len(step.nodes), "node")), f"{what}: {step.text}")
    message = Text(guard.message, _GOOD if guard.verdict is Verdict.KEPT else "yellow")
    return Group(message, table) if table.rows else message


def _search(search: Searching) -> RenderableType:
    """The outcome, and the models that were tried: those within the budget first, then the nearest."""
    table = _grid(left=1, right=4)
    table.add_row("", *(Text(head, _DIM) for head in ("size", "speed", "worst output", search.metric or "")))
    order = sorted(range(len(search.tried)), key=lambda index: (index != search.chosen, search.tried[index].excess))
    for index in order[:_WORST]:
        row = search.tried[index]
        mark = "taken" if index == search.chosen else "within" if row.shortfall is None else "beyond"
        speed = "-" if row.speedup is None else f"{row.speedup:.2f}x"
        score = "" if row.metric is None else f"{row.metric:.5g}"
        table.add_row(mark, decimal(row.bytes), speed, _db(row.sqnr), score)
    style = "yellow" if search.chosen is None else _GOOD
    return Group(Text(f"{search.message}; it took {search.seconds:.0f} s", style), table)


def _why(group: list[Decision], *, explain: bool) -> RenderableType:
    operators = Text(_tally(Counter(decision.op for decision in group)))
    if not explain:
        return operators
    texts = Counter(decision.reason.text for decision in group)
    text, often = texts.most_common(1)[0]
    return Group(operators, Text(text if often == len(group) else f"e.g. {text}", _DIM))


def _worst(tensors: Iterable[TensorError]) -> Table:
    table = _figures()
    for tensor in sorted(tensors, key=lambda tensor: tensor.sqnr)[:_WORST]:
        table.add_row(_db(tensor.sqnr), tensor.node)
    return table


def _kernels(kernels: Kernels, decisions: Iterable[Decision]) -> RenderableType:
    operators = Text(_tally(_short(kernels.quantized_ops)))
    if not kernels.unfused:
        return operators
    planned = {decision.node: decision.kernel for decision in decisions}
    table = _grid(left=2, right=0)
    for node, operator in list(kernels.unfused.items())[:_WORST]:
        table.add_row(node, f"{operator.rpartition('::')[2]}, planned {planned.get(node)}")
    unfused = len(kernels.unfused)
    text = f"{count(unfused, 'node')} not as planned" + (f", {_WORST} of them:" if unfused > _WORST else ":")
    return Group(operators, Text(text, "yellow"), table)


def _short(ops: Mapping[str, int]) -> Counter[str]:
    """Counts by operator without its domain: the runtime has two QLinearConv that differ in layout only."""
    counts: Counter[str] = Counter()
    for op, number in ops.items():
        counts[op.rpartition("::")[2]] += number
    return counts


def _tally(counts: Counter[str]) -> str:
    return ", ".join(f"{name} {count}" for name, count in sorted(counts.items(), key=lambda item: (-item[1], item[0])))


def _spent(seconds: Mapping[str, float]) -> str:
    longest = sorted(seconds.items(), key=lambda item: -item[1])[:2]
    parts = ", ".join(f"{name} {value:.1f} s" for name, value in longest)
    return f"took {sum(seconds.values()):.1f} s" + (f" ({parts})" if parts else "")


def _db(value: float) -> Text:
    return Text(decibels(value), (_GOOD if value > 0 else _BAD) if math.isinf(value) else "")


def _ms(value: float) -> str:
    return f"{value:.3g} ms" if value < 1000 else f"{value / 1000:.3g} s"


def _grid(*, left: int, right: int) -> Table:
    table = Table.grid(padding=(0, 2))
    for _ in range(left):
        table.add_column(overflow="fold")
    for _ in range(right):
        table.add_column(justify="right", no_wrap=True)
    return table


def _figures() -> Table:
    """Return a grid of rows that begin with a figure, and say what it is."""
    table = Table.grid(padding=(0, 2))
    table.add_column(justify="right", no_wrap=True)
    table.add_column(overflow="fold")
    return table


def _section(title: str, body: RenderableType) -> RenderableType:
    return Group(Text(f"\n{title}", _HEAD), Padding(body, (0, 0, 0, 2)))


def _warnings(texts: Iterable[str]) -> Table:
    table = Table.grid(padding=(0, 1))
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for text in texts:
        table.add_row(Text("!", "yellow"), text)
    return table


def _note(text: str) -> Text:
    return Text(f"\n{text}", _DIM)

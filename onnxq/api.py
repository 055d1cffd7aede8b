"""The Python interface: one function a verb, each a composition of stages. Options are the fields of a Recipe."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any

from onnxq.calibrators import make_calibrator
from onnxq.data import Source, open_source, signature, synthetic
from onnxq.data.statistics_file import load_statistics, save_statistics
from onnxq.errors import CalibrationError, VerificationError
from onnxq.graph.fingerprint import fingerprint
from onnxq.graph.tensors import tensors, total_bytes
from onnxq.passes.verifier import Verifier
from onnxq.runtime.session import run_model, versions
from onnxq.stages.calibrate import calibrate as run_calibrate
from onnxq.stages.calibrate import findings
from onnxq.stages.calibrate.executors import engine
from onnxq.stages.inspect import inspect as run_inspect
from onnxq.stages.load import load
from onnxq.stages.make_recipe import make_recipe
from onnxq.stages.plan import make_plan, observed_tensors
from onnxq.stages.prepare import Prepared, prepare
from onnxq.stages.progress import Progress
from onnxq.stages.report_json import report_to_json
from onnxq.stages.rewrite import rewrite
from onnxq.stages.save import Written, check_writable, save, to_proto
from onnxq.stages.verify import verify as run_verify
from onnxq.stages.verify_metric import load_metric
from onnxq.targets import targets
from onnxq.types.inspection import Inspection
from onnxq.types.plan import Action, Plan
from onnxq.types.recipe import Recipe
from onnxq.types.report import Report, Verification
from onnxq.types.statistics import Statistics
from onnxq.weights import make_weight_method

if TYPE_CHECKING:
    from collections.abc import Iterator
    from concurrent.futures import Executor

    import onnx
    import onnx_ir as ir

    Model = str | Path | onnx.ModelProto | ir.Model

__all__ = ["calibrate", "engine", "inspect", "plan", "quantize", "report_path", "verify"]

Data = str | Path | Iterable[Mapping[str, Any]] | Callable[[], Iterable[Mapping[str, Any]]]
"""A path, `module:callable`, an iterable of {input name: array}, or a function that returns one."""

NEIGHBOUR = "evaluation.npz"
"""Evaluation data that is found by itself: a file of this name beside the calibration file."""


def quantize(
    model: Model,
    output: str | Path | None = None,
    *,
    recipe: Recipe | Mapping[str, Any] | str | Path | None = None,
    calibration: Data | None = None,
    evaluation: Data | None = None,
    statistics: Statistics | str | Path | None = None,
    memory: int | None = None,
    executor: Executor | None = None,
    force: bool = False,
    check: bool = True,
    verify_each: bool = False,
    dump_after: tuple[str, Path] | None = None,
    reproducer_dir: Path | None = None,
    progress: Progress | None = None,
    **options: Any,
) -> Report:
    """Quantize a model, verify the result as it will be served, and save it with its report.

    Args:
        model: path of an ONNX file, or a model in memory, which stays as it is.
        output: where to write; the report goes beside it as `NAME.report.json`. None: nothing is written, and the
            quantized model is the report's `model`, of the same kind as the one given (for a path, `onnx_ir.Model`).
        recipe: a Recipe, its plain form, or the path of a YAML or JSON file.
        calibration: representative inputs. None: made up from the model's signature, with a warning.
        evaluation: inputs to verify on, with an array `labels` for accuracy. None: `evaluation.npz` beside the
            calibration file where there is one, else the calibration data.
        statistics: of an earlier calibration, or the path of its file, instead of running the calibration data again.
        memory, executor: as for `calibrate`.
        force: overwrite existing files. check: run both models and compare them.
        verify_each: check the model after every pass, and compare outputs around passes that must not change them.
        dump_after: pass name and file: write the model as it is after that pass.
        reproducer_dir: folder for a reproducer when a pass fails. progress: told what is going on.
        options: fields of the recipe, over those of `recipe`; and `keep`, names of operators or nodes, or patterns, to
            leave in float.

    Raises:
        RecipeError: an unknown name or an impossible option. ModelError, CalibrationError: input that does not do.
        VerificationError: worse than `min_sqnr` allows; nothing is written.
    """
    job = _Job(model, make_recipe(recipe, calibration=calibration, evaluation=evaluation, **options), progress)
    if output is not None:
        output = Path(output)
        check_writable(output, force, [report_path(output)])
    job.data = calibration
    prepared = job.prepare(dump_after, reproducer_dir, verify_each=verify_each)
    found = job.statistics(statistics, memory=memory, executor=executor)
    with job.timed("plan"):
        made = make_plan(prepared.model, found, job.recipe, job.target)
    with job.timed("rewrite"):
        quantized, records = rewrite(prepared.model, made, dump_after=_for_emit(dump_after, True))
    verification = job.verify(quantized, made, evaluation) if check else None
    report = job.report(made, quantized, found, verification, tuple(records))
    _enforce(report)
    if output is None:
        return replace(report, model=_like(model, quantized))
    saved = replace(report, output=str(output))

    def finished(written: Written) -> bytes:
        nonlocal saved
        hashes = {**report.hashes, "output": written.sha256}
        saved = replace(saved, quantized_bytes=written.size, hashes=hashes)
        return report_to_json(saved).encode()

    save(quantized, output, force=force, companions={report_path(output): finished})
    return saved


def plan(
    model: Model,
    *,
    recipe: Recipe | Mapping[str, Any] | str | Path | None = None,
    calibration: Data | None = None,
    statistics: Statistics | str | Path | None = None,
    progress: Progress | None = None,
    **options: Any,
) -> Plan:
    """Decide what would happen to every node, and why; change and write nothing. Arguments as for `quantize`."""
    job = _Job(model, make_recipe(recipe, calibration=calibration, **options), progress)
    job.data = calibration
    prepared = job.prepare()
    made = make_plan(prepared.model, job.statistics(statistics), job.recipe, job.target)
    return replace(made, warnings=(*job.warnings, *made.warnings))


def calibrate(
    model: Model,
    output: str | Path | None = None,
    *,
    calibration: Data | None = None,
    recipe: Recipe | Mapping[str, Any] | str | Path | None = None,
    memory: int | None = None,
    executor: Executor | None = None,
    checkpoint: str | Path | None = None,
    force: bool = False,
    progress: Progress | None = None,
    **options: Any,
) -> Statistics:
    """Run a model over data and return the statistics of every tensor that a plan would need.

    Args:
        model: path of an ONNX file, or a model in memory.
        output: file to keep the statistics in; `quantize(..., statistics=output)` then needs no data.
        calibration: representative inputs. recipe, options: as for `quantize`.
        memory: bytes that observed tensors may take at a time; None for a third of the free memory. Where one batch
            needs more, the data are run several times; the result is the same.
        executor: engine after `concurrent.futures` that shares the work; None for threads of this process.
        checkpoint: file to keep the state in; an interrupted calibration goes on from it.
        force: overwrite `output`. progress: told what is going on.
    """
    job = _Job(model, make_recipe(recipe, calibration=calibration, **options), progress)
    job.data = calibration
    if output is not None:
        check_writable(Path(output), force)
    job.prepare()
    found = job.observe(memory=memory, executor=executor, checkpoint=None if checkpoint is None else Path(checkpoint))
    if output is not None:
        save_statistics(found, Path(output))
    return found


def verify(
    model: Model,
    quantized: Model,
    *,
    evaluation: Data | None = None,
    made: Plan | None = None,
    recipe: Recipe | Mapping[str, Any] | str | Path | None = None,
    progress: Progress | None = None,
    **options: Any,
) -> Verification:
    """Compare a quantized model with the float model it was made from, with the optimizer off and as served.

    Args:
        model: the float model. quantized: what was made of it.
        evaluation: inputs to compare on; None: made up from the model's signature.
        made: the plan, for errors of single tensors.
        recipe, options: for `threads`, `metric`, `samples`, `batch_size` and `evaluation`.
        progress: told what is going on.
    """
    job = _Job(model, make_recipe(recipe, evaluation=evaluation, **options), progress)
    empty = Plan(format=job.recipe.format, target=job.recipe.target, fingerprint="", decisions=(), tensors={})
    return job.verify(load(quantized), made or empty, evaluation)


def inspect(model: Model, **options: Any) -> Inspection:
    """Tell what is in a model, and which of its nodes could be quantized; nothing is run."""
    job = _Job(model, make_recipe(**options), None)
    prepared = job.prepare()
    return run_inspect(job.model, prepared.model, job.recipe, job.target, tuple(job.warnings))


def report_path(output: Path) -> Path:
    """Return where the report of a quantized model goes: `model.int8.onnx` -> `model.int8.report.json`."""
    return output.parent / f"{output.stem}.report.json"


@dataclass
class _Job:
    """One call on its way through the stages: the model, what was asked, and what has been noted so far."""

    source: Any
    recipe: Recipe
    progress: Progress | None
    data: Data | None = None
    ranges_from: str = "nothing: no node needs ranges"
    beside: str | None = None
    warnings: list[str] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.target = targets.get(self.recipe.target)
        make_calibrator(self.recipe.calibrator.name, self.recipe.calibrator.options)
        for choice in (self.recipe.weights, *(rule.weights for rule in self.recipe.rules)):
            if choice is not None and choice.method is not None:
                make_weight_method(choice.method)
        if self.recipe.metric is not None:
            load_metric(self.recipe.metric)
        with self.timed("load"):
            self.model = load(self.source)
        self.prepared: Prepared | None = None
        self._opened: Source | None = None

    @contextmanager
    def timed(self, stage: str) -> Iterator[None]:
        start = perf_counter()
        yield
        self.seconds[stage] = self.seconds.get(stage, 0.0) + perf_counter() - start

    def prepare(
        self,
        dump_after: tuple[str, Path] | None = None,
        reproducer_dir: Path | None = None,
        *,
        verify_each: bool = False,
    ) -> Prepared:
        verifier = Verifier(run=run_model, feeds=next(iter(self.samples()))) if verify_each else None
        with self.timed("prepare"):
            self.prepared = prepare(
                self.model,
                pipeline=self.recipe.passes,
                dump_after=_for_emit(dump_after, False),
                verify_each=verifier,
                reproducer_dir=reproducer_dir,
            )
        self.warnings += self.prepared.warnings
        return self.prepared

    def samples(self) -> Source:
        """Return the calibration data, or made-up inputs."""
        if self._opened is None:
            data = self.data if self.data is not None else self.recipe.calibration
            asked = signature(self.model)
            if data is None:
                self._opened = synthetic(asked)
            else:
                self._opened = open_source(data, asked, samples=self.recipe.samples, batch_size=self.recipe.batch_size)
        return self._opened

    def statistics(self, given: Statistics | str | Path | None, **how: Any) -> Statistics:
        """Return the statistics that were given, if they are this model's, or observe the model now."""
        if given is None:
            return self.observe(**how)
        assert self.prepared is not None
        found = given if isinstance(given, Statistics) else load_statistics(Path(given))
        where = "the statistics" if isinstance(given, Statistics) else f"'{given}'"
        self.ranges_from = where
        self.beside = None if isinstance(given, Statistics) else str(given)
        if found.fingerprint != fingerprint(self.prepared.model):
            raise CalibrationError(f"{where} were taken of another model or preparation; calibrate this model")
        missing = observed_tensors(self.prepared.model, self.recipe, self.target) - set(found.tensors)
        if missing:
            shown = ", ".join(f"'{name}'" for name in sorted(missing)[:3])
            message = f"{where} lack {len(missing)} tensors that this recipe quantizes ({shown}, ...)"
            raise CalibrationError(f"{message}; calibrate with the same recipe")
        return found

    def observe(self, **how: Any) -> Statistics:
        """Run the model over the calibration data, with the keyword arguments of the calibrate stage."""
        assert self.prepared is not None
        wanted = observed_tensors(self.prepared.model, self.recipe, self.target)
        if not wanted:  # nothing is quantized by calibration: the data need not be run
            return Statistics(fingerprint=fingerprint(self.prepared.model))
        source = self.samples()
        with self.timed("calibrate"):
            found = run_calibrate(
                self.prepared.model,
                wanted,
                source,
                progress=self.progress,
                subsample=self.recipe.subsample,
                **how,
            )
        self.warnings += (*source.warnings, *findings(found))
        self.ranges_from = source.description
        return found

    def verify(self, quantized: ir.Model, made: Plan, evaluation: Data | None) -> Verification:
        source = self._evaluation(evaluation)
        metric = None if self.recipe.metric is None else load_metric(self.recipe.metric)
        with self.timed("verify"):
            return run_verify(
                self.model,
                quantized,
                source,
                made,
                reference=None if self.prepared is None else self.prepared.model,
                threads=self.recipe.threads,
                metric=metric,
                progress=self.progress,
            )

    def _evaluation(self, given: Data | None) -> Source:
        data: Any = given if given is not None else self.recipe.evaluation
        near = self.recipe.calibration or self.beside
        if data is None and near is not None and Path(near).with_name(NEIGHBOUR).is_file():
            data = Path(near).with_name(NEIGHBOUR)
        if data is None:
            return self.samples()
        return open_source(data, signature(self.model), batch_size=self.recipe.batch_size)

    def report(
        self,
        made: Plan,
        quantized: ir.Model,
        found: Statistics,
        verification: Verification | None,
        records: tuple[Any, ...],
    ) -> Report:
        assert self.prepared is not None
        path = Path(self.source) if isinstance(self.source, str | Path) else None
        hashes = {} if path is None else {"source": _sha256(path)}
        data = None if self._opened is None else self._opened.sha256
        if data is not None:
            hashes["calibration"] = data
        if not any(decision.action is Action.QUANTIZE for decision in made.decisions):
            self.warnings.append("nothing was quantized: every node has its reason in the plan")
        checked = () if verification is None else verification.warnings
        return Report(
            source=None if path is None else str(path),
            output=None,
            float_bytes=total_bytes(self.model) if path is None else _size(path),
            quantized_bytes=total_bytes(quantized),
            plan=made,
            recipe=self.recipe.plain(),
            verification=verification,
            warnings=tuple(dict.fromkeys((*self.warnings, *made.warnings, *checked))),
            versions={**versions()},
            hashes=hashes,
            seconds=dict(self.seconds),
            passes=tuple(_plain(record) for record in (*self.prepared.records, *records)),
            calibration={
                "source": self.ranges_from,
                "samples": found.samples,
                "tensors": len(found.tensors),
                "synthetic": found.synthetic,
            },
        )


def _enforce(report: Report) -> None:
    """Raise VerificationError if an output is worse than the recipe allows."""
    least = report.recipe.get("min_sqnr")
    if report.verification is None or least is None:
        return
    for output in report.verification.outputs:
        if not output.sqnr_served >= least:
            message = (
                f"output '{output.name}' is {output.sqnr_served:.1f} dB as served, below the {least:g} dB asked for"
            )
            raise VerificationError(f"{message}; nothing was written", report)


def _like(given: object, quantized: ir.Model) -> Any:
    import onnx

    return to_proto(quantized) if isinstance(given, onnx.ModelProto) else quantized


def _for_emit(dump: tuple[str, Path] | None, emit: bool) -> tuple[str, Path] | None:
    """Return the dump request if it names an emitter (or, with emit False, any other pass)."""
    return dump if dump is not None and dump[0].startswith("emit-") is emit else None


def _plain(record: Any) -> dict[str, Any]:
    from dataclasses import asdict

    return asdict(record)


def _size(path: Path) -> int:
    """Return the bytes of a model file and its external data."""
    import onnx_ir as ir

    data = {str(tensor.path) for _, tensor in tensors(load(path)) if isinstance(tensor, ir.ExternalTensor)}
    return sum(Path(file).stat().st_size for file in {str(path), *data})


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()

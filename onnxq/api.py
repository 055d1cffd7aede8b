"""The Python interface: one function a verb, each a composition of stages. Options are the fields of a Recipe."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from onnxq.data import open_source, signature, synthetic
from onnxq.data.statistics_file import save_statistics
from onnxq.diagnose import diagnose, look
from onnxq.diagnose.inspect import inspect as run_inspect
from onnxq.errors import RecipeError
from onnxq.evaluate.benchmark import benchmark as run_benchmark
from onnxq.evaluate.compare import compare as run_compare
from onnxq.files.load import load
from onnxq.files.pictures import (
    benchmark_picture,
    check_picture,
    comparison_picture,
    sensitivity_picture,
    write_picture,
)
from onnxq.files.recipe import make_recipe
from onnxq.files.save import check_writable, to_proto
from onnxq.pipeline.drafting import chosen_codes, planned, with_bias_corrections
from onnxq.pipeline.judging import EvaluationData, verified
from onnxq.pipeline.log import Log
from onnxq.pipeline.observing import observed_for_plan
from onnxq.pipeline.preparing import equalized, prepare_model
from onnxq.pipeline.quantizing import quantize_request, sensitivity_of_request
from onnxq.pipeline.request import Data, make_request
from onnxq.progress import Progress
from onnxq.stages.rewrite import simulate as run_simulate
from onnxq.types.benchmark import Benchmark, Comparison
from onnxq.types.diagnosis import Diagnosis
from onnxq.types.inspection import Inspection
from onnxq.types.plan import Plan
from onnxq.types.recipe import Recipe
from onnxq.types.report import Report, Verification
from onnxq.types.sensitivity import Sensitivity
from onnxq.types.statistics import Statistics

if TYPE_CHECKING:
    from concurrent.futures import Executor

    import onnx
    import onnx_ir as ir

    Model = str | Path | onnx.ModelProto | ir.Model


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
    allow_empty: bool = False,
    check: bool = True,
    verify_each: bool = False,
    dump_after: tuple[str, Path] | None = None,
    reproducer_dir: Path | None = None,
    picture: str | Path | None = None,
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
        force: overwrite existing files.
        allow_empty: write the model also where nothing in it can be quantized. (Where something could be, and rules
            keep it in float or nothing is gained by it, the float model is the result in any case.)
        check: run both models and compare them; False: nor is there a guard (`guard`, see the recipe), which measures
            whether quantizing pays and puts back in float what does not.
        verify_each: check the model after every pass, and compare outputs around passes that must not change them.
        dump_after: pass name and file: write the model as it is after that pass.
        reproducer_dir: folder for a reproducer when a pass fails. progress: told what is going on.
        picture: file to draw the models in that a search met (.png, .svg or .pdf).
        options: fields of the recipe, over those of `recipe`; and `keep`, names of operators or nodes, or patterns, to
            leave in float.

    Raises:
        RecipeError: an unknown name or an impossible option. ModelError, CalibrationError: input that does not do.
        VerificationError: worse than the recipe's limits allow, or nothing can be quantized; nothing is written.
    """
    log = Log(progress=progress)
    wanted = make_recipe(recipe, calibration=calibration, evaluation=evaluation, **options)
    request = make_request(model, wanted, log, calibration=calibration, replayed=statistics is not None)
    report = quantize_request(
        request,
        log,
        output=None if output is None else Path(output),
        evaluation=evaluation,
        statistics=statistics,
        memory=memory,
        executor=executor,
        force=force,
        allow_empty=allow_empty,
        check=check,
        verify_each=verify_each,
        dump_after=dump_after,
        reproducer_dir=reproducer_dir,
        picture=picture,
    )
    return report if report.model is None else replace(report, model=_like(model, report.model))


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
    log = Log(progress=progress)
    wanted = make_recipe(recipe, calibration=calibration, **options)
    request = make_request(model, wanted, log, calibration=calibration, replayed=statistics is not None)
    prepared, observed = observed_for_plan(equalized(prepare_model(request, log), log), statistics, log)
    result = planned(prepared, observed.statistics, prepared.recipe)
    chosen = chosen_codes(prepared, result, observed.statistics, log)
    result = with_bias_corrections(prepared, prepared.recipe, result, observed.statistics, chosen)
    return replace(result, warnings=(*log.warnings, *result.warnings))


def simulate(
    model: Model,
    made: Plan | None = None,
    *,
    recipe: Recipe | Mapping[str, Any] | str | Path | None = None,
    calibration: Data | None = None,
    statistics: Statistics | str | Path | None = None,
    progress: Progress | None = None,
    **options: Any,
) -> Any:
    """Return a float model that rounds every value as a plan says, so that only the rounding is seen, not the kernels.

    Args:
        model: path of an ONNX file, or a model in memory. made: its plan; None: plan now, as the other arguments say.
        recipe, calibration, statistics, progress, options: as for `quantize`.

    Returns:
        A model of the same kind as `model` (for a path, `onnx_ir.Model`).
    """
    log = Log(progress=progress)
    wanted = make_recipe(recipe, calibration=calibration, **options)
    request = make_request(model, wanted, log, calibration=calibration, replayed=statistics is not None)
    prepared = equalized(prepare_model(request, log), log)
    if made is not None and not made.uses_statistics:
        return _like(model, run_simulate(prepared.model, made))
    prepared, observed = observed_for_plan(prepared, statistics, log)
    result = made or planned(prepared, observed.statistics, prepared.recipe)
    chosen = chosen_codes(prepared, result, observed.statistics, log)
    if made is None:
        result = with_bias_corrections(prepared, prepared.recipe, result, observed.statistics, chosen)
    return _like(model, run_simulate(prepared.model, result, statistics=observed.statistics, chosen=chosen))


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
    log = Log(progress=progress)
    wanted = make_recipe(recipe, calibration=calibration, **options)
    request = make_request(model, wanted, log, calibration=calibration)
    if output is not None:
        check_writable(Path(output), force)
    _, observed = observed_for_plan(
        equalized(prepare_model(request, log), log),
        None,
        log,
        memory=memory,
        executor=executor,
        checkpoint=None if checkpoint is None else Path(checkpoint),
        histograms=True,  # for any calibrator, not only this recipe's
    )
    if output is not None:
        save_statistics(observed.statistics, Path(output))
    return observed.statistics


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
    log = Log(progress=progress)
    request = make_request(model, make_recipe(recipe, evaluation=evaluation, **options), log)
    empty = Plan(format=request.recipe.format, target=request.recipe.target, fingerprint="", decisions=(), tensors={})
    return verified(EvaluationData(request=request, given=evaluation), load(quantized), made or empty, log)


def benchmark(
    models: Sequence[str | Path],
    *,
    data: Data | None = None,
    ep: Sequence[str] = ("cpu",),
    threads: Sequence[int] = (1,),
    batch: Sequence[int] = (1,),
    shape: Mapping[str, int] | None = None,
    seconds: float = 2.0,
    picture: str | Path | None = None,
    progress: Progress | None = None,
) -> Benchmark:
    """Run models in turns on the same inputs: latency, throughput, memory, size, loading, and output difference.

    Args:
        models: paths of models with the same inputs and outputs; all are compared with the first.
        data: inputs, of which the first batch is run; None: made up from the first model's signature.
        ep: execution providers: `cpu`, `cuda`, `tensorrt`, or onnxruntime's names.
        threads: intra-op threads, 0 for all cores. batch: samples a call.
        shape: extents of free axes by their name, such as {"sequence": 128}.
        seconds: to spend on timing in each combination; more on a busy machine.
        picture: file to draw latency against error in (.png, .svg or .pdf). progress: told what is going on.

    Raises:
        ModelError: a model that cannot be loaded or run. CalibrationError: data that does not fit.
        RecipeError: an unknown provider or axis. MissingDependencyError: a picture without matplotlib.
    """
    paths = [Path(path) for path in models]
    if not paths:
        raise RecipeError("nothing to measure; name at least one model")
    target = check_picture(picture)
    source = None if data is None else open_source(data, signature(load(paths[0])))
    measured = run_benchmark(
        paths,
        providers=ep,
        threads=threads,
        batches=batch,
        shapes=shape,
        source=source,
        seconds=seconds,
        progress=progress,
    )
    write_picture(target, benchmark_picture, measured)
    return measured


def compare(
    model: Model,
    quantized: Model,
    *,
    data: Data | None = None,
    samples: int = 32,
    threads: int = 1,
    worst: int = 4,
    picture: str | Path | None = None,
    progress: Progress | None = None,
) -> Comparison:
    """Say where a quantized model differs from the float model, whoever made it: by output and by matching tensor.

    Args:
        model: the float model. quantized: what was made of it.
        data: inputs; None: made up from the model's signature. samples: how many of them to run at most.
        threads: intra-op threads, 0 for all cores. worst: of how many tensors to count the values.
        picture: file to draw those counts in (.png, .svg or .pdf). progress: told what is going on.

    Raises:
        ModelError: a model that cannot be loaded or run. CalibrationError: data that does not fit.
        MissingDependencyError: a picture without matplotlib.
    """
    target = check_picture(picture)
    reference, other = load(model), load(quantized)
    inputs = signature(reference)
    source = synthetic(inputs) if data is None else open_source(data, inputs)
    comparison = run_compare(
        reference, other, source, threads=threads, worst=worst, max_samples=samples, progress=progress
    )
    write_picture(target, comparison_picture, comparison)
    return comparison


def sensitivity(
    model: Model,
    *,
    calibration: Data | None = None,
    evaluation: Data | None = None,
    statistics: Statistics | str | Path | None = None,
    recipe: Recipe | Mapping[str, Any] | str | Path | None = None,
    tensors: bool = True,
    judged: int = 32,
    picture: str | Path | None = None,
    progress: Progress | None = None,
    **options: Any,
) -> Sensitivity:
    """Say what each layer, and each tensor, does to the outputs when it alone is quantized; write no model.

    Args:
        model: path of an ONNX file, or a model in memory.
        calibration, evaluation, statistics, recipe, options: as for `quantize`; with a metric, every model is scored.
        tensors: look at each activation and each weight alone, too.
        judged: samples of the evaluation data to compare outputs on, at most. A metric sees what it wants.
        picture: file to draw the layers in (.png, .svg or .pdf). progress: told what is going on.

    Raises:
        RecipeError, ModelError, CalibrationError: as for `quantize`. VerificationError: nothing can be quantized.
        MissingDependencyError: a picture without matplotlib.
    """
    target = check_picture(picture)
    wanted = make_recipe(recipe, calibration=calibration, evaluation=evaluation, **options)
    wanted = wanted.model_copy(update={"search": (), "guard": False})
    log = Log(progress=progress)
    request = make_request(model, wanted, log, calibration=calibration, replayed=statistics is not None)
    effects = sensitivity_of_request(
        request, log, evaluation=evaluation, statistics=statistics, tensors=tensors, judged=judged
    )
    write_picture(target, sensitivity_picture, effects)
    return effects


def inspect(model: Model, **options: Any) -> Inspection:
    """Say what is in a model, and which of its nodes could be quantized; nothing is run."""
    log = Log()
    request = make_request(model, make_recipe(**options), log)
    prepared = prepare_model(request, log, convert=False)
    return run_inspect(request.model, prepared.examined, tuple(log.warnings))


def doctor(
    model: Model,
    *,
    recipe: Recipe | Mapping[str, Any] | str | Path | None = None,
    calibration: Data | None = None,
    progress: Progress | None = None,
    **options: Any,
) -> Diagnosis:
    """Say how much of a model runs quantized, what does not and why, and what could go wrong; write nothing.

    Args:
        model: path of an ONNX file, or a model in memory, quantized or not.
        calibration: representative inputs; without them, ranges of activations are not looked at.
        recipe, options: for what could be quantized, as for `quantize`. progress: told what is going on.
    """
    log = Log(progress=progress)
    request = make_request(model, make_recipe(recipe, calibration=calibration, **options), log, calibration=calibration)
    examined = prepare_model(request, log, convert=False).examined
    given = request.calibration.data is not None
    statistics = look(examined, request.calibration.source, progress=progress) if given else None
    return diagnose(request.model, examined, statistics=statistics, warnings=log.warnings)


def _like(given: object, quantized: ir.Model) -> Any:
    import onnx

    return to_proto(quantized) if isinstance(given, onnx.ModelProto) else quantized

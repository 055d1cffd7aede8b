"""The way of a request: prepare -> equalize -> observe -> draft -> judge -> report; and of each layer alone."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from onnxq.errors import RecipeError, VerificationError
from onnxq.files.pictures import check_picture, search_picture, write_picture
from onnxq.files.save import check_writable, has_data_files
from onnxq.pipeline.drafting import Drafter
from onnxq.pipeline.judging import EvaluationData, Judge, verified
from onnxq.pipeline.log import Log
from onnxq.pipeline.observing import given_statistics, observe_for, observed_for_plan
from onnxq.pipeline.preparing import equalized, prepare_model
from onnxq.pipeline.report import (
    make_report,
    refuse_empty,
    refuse_none_found,
    refuse_worse,
    report_path,
    save_with_report,
)
from onnxq.pipeline.request import Data, Request
from onnxq.pipeline.why_empty import why_empty
from onnxq.runtime.loading import check_loads
from onnxq.stages.rewrite import is_of_rewrite
from onnxq.tuning.budget import Budget
from onnxq.tuning.draft import is_empty
from onnxq.tuning.search.checkpoint import checkpoint_path
from onnxq.tuning.sensitivity import sensitivity
from onnxq.types.report import Report
from onnxq.types.sensitivity import Sensitivity
from onnxq.types.statistics import Statistics

if TYPE_CHECKING:
    from concurrent.futures import Executor


def quantize_request(
    request: Request,
    log: Log,
    *,
    output: Path | None,
    evaluation: Data | None,
    statistics: Statistics | str | Path | None,
    memory: int | None,
    executor: Executor | None,
    force: bool,
    allow_empty: bool,
    check: bool,
    verify_each: bool,
    dump_after: tuple[str, Path] | None,
    reproducer_dir: Path | None,
    picture: str | Path | None,
) -> Report:
    """Carry out a request; arguments and errors as for `onnxq.quantize`.

    Returns:
        The report; where there is no output, with the quantized model.
    """
    picture_file = check_picture(picture)
    if picture_file is not None and not request.recipe.search:
        raise RecipeError("a picture shows the models that a search met, and no search was asked for")
    if output is not None:
        check_writable(output, force, [report_path(output)])
    if check:
        check_loads(request.model)  # what cannot be run cannot be compared: told before the work, too
    of_rewrite = dump_after is not None and is_of_rewrite(dump_after[0])
    prepared = prepare_model(
        request,
        log,
        dump_after=None if of_rewrite else dump_after,
        reproducer_dir=reproducer_dir,
        verify_each=verify_each,
    )
    prepared = equalized(prepared, log)
    if prepared.choices and statistics is None:
        recipes = [choice.recipe for choice in prepared.choices]
        observed = observe_for(prepared, recipes, log, memory=memory, executor=executor)
    else:
        prepared, observed = observed_for_plan(prepared, statistics, log, memory=memory, executor=executor)
    make = Drafter(
        prepared,
        observed.statistics,
        log.without_progress() if prepared.choices else log,
        dump_after=dump_after if of_rewrite else None,
    )
    data = EvaluationData(request=request, given=evaluation, statistics_file=observed.file)
    judge = Judge(prepared, data, log)
    if check:
        data.open()  # what cannot be opened is reported before the work, not after it
    if prepared.choices:
        file = None if output is None else checkpoint_path(output)
        draft, searching, checkpoint = judge.search(observed.statistics, make, file)
        write_picture(picture_file, search_picture, searching)
        if searching.chosen is None:
            report = make_report(prepared, observed, draft, log, searching=searching)
            refuse_none_found(searching, report, kept=output is not None)
    else:
        draft, searching, checkpoint = make(prepared.recipe), None, None
    if is_empty(draft.plan) and not allow_empty:
        refuse_empty(draft, make_report(prepared, observed, draft, log))
    draft, guarding = judge.guard(draft, make) if check and request.recipe.guard else (draft, None)
    verification = verified(data, draft.model, draft.plan, log, prepared=prepared.model) if check else None
    report = make_report(
        prepared, observed, draft, log, verification=verification, guarding=guarding, searching=searching
    )
    refuse_worse(report, Budget.of(prepared.recipe))
    if output is None:
        return replace(report, model=draft.model)
    saved = save_with_report(draft.model, output, report, force=force, streamed=has_data_files(request.model))
    if checkpoint is not None:
        checkpoint.close()
    return saved


def sensitivity_of_request(
    request: Request,
    log: Log,
    *,
    evaluation: Data | None,
    statistics: Statistics | str | Path | None,
    tensors: bool,
    judged: int,
) -> Sensitivity:
    """Return what each layer, and each tensor, does to the outputs; arguments and errors as for `onnxq.sensitivity`."""
    prepared = equalized(prepare_model(request, log), log)
    if statistics is None:
        observed = observe_for(prepared, (prepared.recipe,), log)
    else:
        observed = given_statistics(prepared, statistics)
    make = Drafter(prepared, observed.statistics, log)
    draft = make(prepared.recipe)
    if is_empty(draft.plan):
        raise VerificationError(f"{why_empty(draft.plan)}; there is nothing to look at")
    data = EvaluationData(request=request, given=evaluation, statistics_file=observed.file)
    effects = sensitivity(
        draft,
        Drafter(prepared, make.statistics, log.without_progress()),
        prepared=prepared.model,
        statistics=observed.statistics,
        limits=Judge(prepared, data, log).limits(samples=judged),
        tensors=tensors,
        metric=request.recipe.metric is not None or request.recipe.max_ppl_increase is not None,
        progress=log.progress,
    )
    return replace(effects, warnings=tuple(log.warnings))

"""Perplexity of a language model: how many tokens it wavers between, on average, when it predicts the next one."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from onnxq.data import Signature
from onnxq.data.source import Source
from onnxq.errors import RecipeError
from onnxq.evaluate.metric import Run

_IDS, _MASK, _LOGITS = "input_ids", "attention_mask", "logits"


class Perplexity:
    """exp of the mean negative log-likelihood of every token but the first of its row, each row standing alone.

    The model reads token ids (batch, sequence) of integers and scores every token of a vocabulary at every place:
    floats (batch, sequence, vocabulary). Tokens that a mask of the same shape as the ids marks with 0 do not count.
    Formula: Jelinek, Mercer, Bahl, Baker, Perplexity, a measure of the difficulty of speech recognition tasks (1977).
    """

    def __init__(self, source: Source, inputs: Signature) -> None:
        """Make a metric.

        Args:
            source: texts as token ids.
            inputs: of the model.

        Raises:
            RecipeError: the model takes no token ids.
        """
        self.__name__ = "perplexity"
        self._source = source
        matrices = [
            spec.name for spec in inputs.inputs if spec.dims is not None and len(spec.dims) == 2 and _whole(spec)
        ]
        ids = _IDS if _IDS in matrices else next((name for name in matrices if name != _MASK), None)
        if ids is None:
            raise RecipeError(
                f"max_ppl_increase is for language models, and this model takes no token ids (integers of two axes, "
                f"'{_IDS}'): its inputs are {_listed(inputs.names)}; give a metric and max_drop"
            )
        self._ids = ids

    def __call__(self, run: Run) -> float:
        """Return the perplexity of the model that `run` runs.

        Raises:
            RecipeError: no output scores the tokens, or the evaluation data holds no token to predict.
        """
        total, count = 0.0, 0
        for batch in self._source.batches():
            ids = np.asarray(batch.feeds[self._ids])
            counted = np.asarray(batch.feeds.get(_MASK, np.ones_like(ids)))[:, -ids.shape[1] :] != 0
            scores = _scores(run(batch.feeds), ids)
            for row, tokens, mask in zip(scores, ids, counted, strict=True):
                following = mask[1:] & mask[:-1]
                total += float(_surprise(row[:-1][following], tokens[1:][following]).sum())
                count += int(following.sum())
        if not count:
            raise RecipeError(f"{self._source.description} holds no text of two tokens: no perplexity")
        return float(np.exp(min(total / count, math.log(np.finfo(np.float64).max) - 1)))


def _surprise(scores: npt.NDArray[Any], tokens: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    """Return the negative log-likelihood of each token, in nats; scores (tokens, vocabulary)."""
    wide = scores.astype(np.float64)
    highest = wide.max(axis=-1, initial=-np.inf)
    normalizer = highest + np.log(np.exp(wide - highest[:, None]).sum(axis=-1))
    surprise: npt.NDArray[np.float64] = normalizer - wide[np.arange(len(wide)), tokens]
    return surprise


def _scores(outputs: dict[str, npt.NDArray[Any]], ids: npt.NDArray[Any]) -> npt.NDArray[Any]:
    fitting = {
        name: array
        for name, array in outputs.items()
        if array.dtype.kind in "fV" and array.ndim == 3 and array.shape[:2] == ids.shape and array.shape[2] > ids.max()
    }
    if not fitting:
        shapes = ", ".join(f"'{name}' {list(array.shape)}" for name, array in outputs.items())
        raise RecipeError(
            f"max_ppl_increase is for language models, and no output scores a vocabulary at each of "
            f"{list(ids.shape)} tokens: there are {shapes}; give a metric and max_drop"
        )
    return fitting.get(_LOGITS, next(iter(fitting.values())))


def _whole(spec: Any) -> bool:
    return np.dtype(spec.dtype).kind in "iu"


def _listed(names: Sequence[str]) -> str:
    return ", ".join(f"'{name}'" for name in names)

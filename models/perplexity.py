"""Perplexity: how many tokens a language model wavers between, on average, when it predicts the next one."""

from collections.abc import Iterator

import numpy as np
import tokenizers

from models.decoder import IDS, LOGITS, MASK
from models.entry import Array, Feeds, Run


def windows(tokenizer: tokenizers.Tokenizer, text: str, *, context: int, count: int) -> Array:
    """The first ``count`` stretches of ``context`` tokens of a text: int64 [count, context]."""
    # A token is at least one character and hardly ever more than eight: encode no more than is needed.
    ids = tokenizer.encode(text[: count * context * 8]).ids[: count * context]
    return np.array(ids, dtype=np.int64).reshape(count, context)


def feeds(ids: Array) -> Feeds:
    """Inputs of a decoder without a cache for token ids [batch, sequence], none of them padding."""
    return {IDS: ids, MASK: np.ones_like(ids)}


def batches(ids: Array, size: int) -> Iterator[Feeds]:
    """Feeds of ``size`` windows each."""
    for start in range(0, len(ids), size):
        yield feeds(ids[start : start + size])


def perplexity(run: Run, ids: Array) -> float:
    """exp of the mean negative log-likelihood of every token but the first of its window.

    Args:
        run: runs a decoder without a cache. ids: int64 [windows, context]; every window stands alone.
    """
    total = 0.0
    for window in ids:
        logits = run(feeds(window[None]))[LOGITS][0, :-1].astype(np.float64)
        highest = logits.max(axis=-1)
        normalizer = highest + np.log(np.exp(logits - highest[:, None]).sum(axis=-1))
        total += float((normalizer - logits[np.arange(len(logits)), window[1:]]).sum())
    return float(np.exp(total / (ids.shape[0] * (ids.shape[1] - 1))))

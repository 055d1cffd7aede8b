"""What to do about each reason for which an operator stays in float."""

from __future__ import annotations

_ADVICE = {
    "no-kernel": "the target has no integer kernel for it; a rule with `format: weight-only` makes its file smaller",
    "type": "only float32 is quantized; export the model in float32",
    "computed-weight": "its second operand is computed at run time; nothing is stored that could get smaller",
    "computed-bias": "make the bias a constant (fold it in the exporter)",
    "bias-shape": "make the bias a vector of one number a channel",
    "already-quantized": "nothing; what is quantized stays as it is",
    "imported": "nothing; it came quantized and keeps its parameters",
    "default": "take the default off the inputs, or make it a constant: `--passes` with unlist-initializers{all=true}",
    "constant": "its reason says what tables are quantized; a rule with `format: weight-only` may store it on codes",
    "condition": "the reason says what its kernel lacks; another format or scheme may have it",
    "no-gain": "too small to get smaller; leave it",
    "lone-clamp": "nothing; it costs next to nothing",
    "hidden": "format dynamic or weight-only needs no ranges",
    "not-observed": "calibrate with samples that reach it",
    "always-zero": "calibrate with samples in which it is not 0",
    "infinite": "clean the data, or repair the float model",
    "nan": "the float model computes NaN there; repair it or its inputs",
    "mask": "nothing; keeping the mask in float is right",
    "wide-range": "nothing; keeping it in float is right",
    "cheaper-in-float": "`--placement everywhere` quantizes it all the same",
    "equalizes": "nothing; it makes what follows easier to quantize",
    "outliers": "a larger bound leaves fewer features in float: `outliers=8`",
    "runtime-fault": "the reason says what to do; or serve it with another onnxruntime",
    "rule": "take the rule out of the recipe",
    "slower": "`--no-guard` or `--prefer size` quantizes it all the same",
    "unfused": "nothing; the runtime would leave it in float anyway",
    "kernel-fault": "nothing; the kernel of the form before computes something else than the graph says",
    "error": "a looser `--min-sqnr` or `--max-drop` quantizes it",
}


def advice_for(code: str) -> str:
    """Return what to do about a reason code."""
    return _ADVICE.get(code, "see its reason")

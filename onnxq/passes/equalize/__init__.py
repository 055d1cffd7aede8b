"""Rewrites that make a model easier to quantize and leave what it computes as it is; decided elsewhere."""

"""Numpy only: affine parameters, rounding, packing, histograms, error metrics."""

"""One call on its way: what was requested, prepared, calibrated, drafted, judged and reported."""

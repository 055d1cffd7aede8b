"""Passes that bring a model into the normal form that all later stages expect; none changes what it computes."""

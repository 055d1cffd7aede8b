"""Side-by-side measurements, each a command that prints a table of ratios. Not part of the wheel."""

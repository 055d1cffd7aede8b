"""Emitters: each carries out a plan in one format; they decide nothing."""

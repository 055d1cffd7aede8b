"""Where calibration and evaluation samples come from."""

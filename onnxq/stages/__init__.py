"""The stages: load, prepare, calibrate, plan, rewrite, verify, save; one file each."""

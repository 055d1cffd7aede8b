"""The data types that the stages hand to each other; no behaviour beyond their own checks."""

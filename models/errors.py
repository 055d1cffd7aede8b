"""What the zoo says when it cannot give a model."""


class ZooError(Exception):
    """A model or its data cannot be had. The message tells what, why and what to do; no traceback is shown with it."""

"""What the zoo says when it cannot give a model."""


class ZooError(Exception):
    """A model or its data cannot be had; the message tells what, why and what to do, and is shown without a traceback."""

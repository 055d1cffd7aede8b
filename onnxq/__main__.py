"""`python -m onnxq`: the command line."""

import sys

from onnxq.cli import main

if __name__ == "__main__":
    sys.exit(main())

"""No test goes by times that were once measured on the machine that it runs on."""

import os
import tempfile

os.environ["ONNXQ_COSTS"] = tempfile.mkdtemp(prefix="onnxq-costs-")

"""Where calibration and evaluation samples come from."""

from onnxq.data.batch import Batch
from onnxq.data.reader import DataReader
from onnxq.data.signature import InputSpec, Signature, signature
from onnxq.data.source import Source, open_source
from onnxq.data.synthetic import synthetic

__all__ = ["Batch", "DataReader", "InputSpec", "Signature", "Source", "open_source", "signature", "synthetic"]

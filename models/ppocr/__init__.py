"""PP-OCRv4, the mobile text reader of PaddleOCR (Apache-2.0), as exported by RapidOCR: a recognizer and a detector.

Both come from the wheel of rapidocr-onnxruntime 1.4.4 (15 MB). What makes them good test models: opset 12, every
weight in a Constant node (no initializers at all), dynamic shapes, hard-swish and squeeze-excite blocks spelt out in
Add, Clip, Mul and Div, some BatchNorm left, two ConvTranspose (detector), attention and a softmax over 6,625 classes
(recognizer).

Float figures: ppocr-rec reads 94.0 % of 150 lines without a mistake (character error rate 0.41 %; what it misses are
mostly narrow spaces); ppocr-det has a text box F1 of 0.966 on 15 pages.
"""

from models.entry import Entry, Metric, ZooModel
from models.fetch import Wheel, fetch

_FOLDER = "rapidocr_onnxruntime/models/"
_DETECTOR, _RECOGNIZER = _FOLDER + "ch_PP-OCRv4_det_infer.onnx", _FOLDER + "ch_PP-OCRv4_rec_infer.onnx"

RAPIDOCR = Wheel(
    project="rapidocr-onnxruntime",
    version="1.4.4",
    sha256="971d7d5f223a7a808662229df1ef69893809d8457d834e6373d3854bc1782cbf",
    members=(_DETECTOR, _RECOGNIZER),
)


def load_recognizer() -> ZooModel:
    """Text line -> text, on lines drawn with Pillow."""
    from models.ppocr import recognition, render

    fetch(RAPIDOCR)
    fetch(render.CALADEA)
    path = RAPIDOCR.file(_RECOGNIZER)
    compute = recognition.whole_line_accuracy(path)
    return ZooModel(
        name="ppocr-rec",
        path=path,
        calibration=recognition.calibration,
        evaluation=recognition.evaluation,
        metric=Metric(name="whole-line accuracy", higher_is_better=True, compute=compute),
    )


def load_detector() -> ZooModel:
    """Page -> where its text lines are, on pages drawn with Pillow."""
    from models.ppocr import detection, render

    fetch(RAPIDOCR)
    fetch(render.CALADEA)
    return ZooModel(
        name="ppocr-det",
        path=RAPIDOCR.file(_DETECTOR),
        calibration=detection.calibration,
        evaluation=detection.evaluation,
        metric=Metric(name="text box F1", higher_is_better=True, compute=detection.box_f1),
    )


ENTRIES = (
    Entry(name="ppocr-rec", summary="PP-OCRv4 text recognition, dynamic widths, 10.9 MB", load=load_recognizer),
    Entry(name="ppocr-det", summary="PP-OCRv4 text detection, dynamic sizes, 4.7 MB", load=load_detector),
)

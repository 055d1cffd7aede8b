import pytest
from onnxq.errors import RecipeError
from onnxq.passes import passes
from onnxq.passes.pipeline import PassStep, parse, show


def test_reads_names_options_and_repetitions():
    assert parse(" infer-shapes, convert-version{opset=21} ,infer-shapes") == (
        PassStep(name="infer-shapes"),
        PassStep(name="convert-version", options={"opset": 21}),
        PassStep(name="infer-shapes"),
    )


@pytest.mark.parametrize("text", ["", "fuse-bn", "unlist-initializers{all=true},check", "convert-version{opset=13}"])
def test_text_comes_back(text):
    assert show(parse(text)) == text


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("fold-constant", "did you mean 'fold-constants'"),
        ("convert-version{opest=13}", "no option 'opest'; did you mean 'opset'"),
        ("convert-version{opset}", "write `option=value`"),
        ("fuse-bn check", "expected a comma at 'check'"),
        (",fuse-bn", "expected the name of a pass at ',fuse-bn'"),
        ("fuse-bn{", "expected a comma"),
    ],
)
def test_says_what_is_wrong(text, message):
    with pytest.raises(RecipeError, match=message):
        parse(text)


def test_an_option_that_is_needed_and_missing_is_named(monkeypatch):
    entry = passes.get("check")

    def needs(plan: object) -> object:
        return plan

    monkeypatch.setitem(
        passes._entries, "check", type(entry)(name="check", summary="", preserves_semantics=True, factory=needs)
    )
    with pytest.raises(RecipeError, match="needs the option 'plan'"):
        passes.get("check").make({})

"""The public face: these names and no others, with these signatures; the promise to those who import onnxq."""

import inspect
import subprocess
import sys
from pathlib import Path

import onnxq
import pytest
from onnxq import api, errors

FUNCTIONS = {
    "benchmark",
    "calibrate",
    "compare",
    "doctor",
    "inspect",
    "plan",
    "quantize",
    "sensitivity",
    "simulate",
    "verify",
}
# Verbs about files that are there: no recipe has a say in them.
MEASURES = {"benchmark", "compare"}
TYPES = {"Plan", "Recipe", "Report", "Statistics"}
EXIT_CODES = {
    "RecipeError": 2,
    "ModelError": 3,
    "CalibrationError": 3,
    "PlanError": 3,
    "PassError": 3,
    "MissingDependencyError": 2,
    "VerificationError": 1,
}


def test_the_public_names() -> None:
    assert set(onnxq.__all__) == FUNCTIONS | TYPES | {"errors", "__version__"}
    assert set(dir(onnxq)) == set(onnxq.__all__)


@pytest.mark.parametrize("name", sorted(FUNCTIONS))
def test_functions_live_in_the_api_and_are_documented(name: str) -> None:
    function = getattr(onnxq, name)
    assert function is getattr(api, name)
    assert inspect.getdoc(function)


@pytest.mark.parametrize("name", sorted(FUNCTIONS - MEASURES - {"simulate", "verify"}))
def test_a_verb_takes_the_model_first_and_options_by_name(name: str) -> None:
    first, *others = inspect.signature(getattr(onnxq, name)).parameters.values()
    assert first.name == "model"
    positional = [parameter.name for parameter in others if parameter.kind is parameter.POSITIONAL_OR_KEYWORD]
    assert positional == (["output"] if name in ("quantize", "calibrate") else [])
    assert any(parameter.kind is parameter.VAR_KEYWORD for parameter in others)


def test_no_function_is_shadowed_by_a_module() -> None:
    """`onnxq.plan` stays the function, whatever modules have been imported."""
    program = (
        "import onnxq, pkgutil, importlib\n"
        "for found in pkgutil.walk_packages(onnxq.__path__, 'onnxq.'):\n"
        "    if found.name != 'onnxq.__main__':\n"
        "        importlib.import_module(found.name)\n"
        f"assert all(callable(getattr(onnxq, name)) for name in {sorted(FUNCTIONS | TYPES)})\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


def test_a_name_that_is_not_there() -> None:
    with pytest.raises(AttributeError, match="no attribute 'quantise'"):
        _ = onnxq.quantise


def test_errors_form_one_tree_with_exit_codes() -> None:
    found = {
        name: value.exit_code
        for name, value in vars(errors).items()
        if isinstance(value, type) and issubclass(value, errors.OnnxqError) and value is not errors.OnnxqError
    }
    assert found == EXIT_CODES
    assert issubclass(errors.OnnxqWarning, UserWarning)
    for name in EXIT_CODES:
        assert name in (errors.__doc__ or "")


def test_without_onnxruntime_the_error_says_what_to_install() -> None:
    """onnxruntime comes by extra; a fresh `pip install onnxq` says so in one line."""
    program = (
        "import sys\n"
        "sys.modules['onnxruntime'] = None\n"  # importing it now fails as if it were not installed
        "from onnxq.cli import main\n"
        "sys.exit(main(['plan', 'models/digits/model.onnx', '--samples', '1']))"
    )
    root = Path(__file__).parents[1]
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False, cwd=root)
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].startswith("error: onnxruntime is not installed: pip install 'onnxq[cpu]'")
    assert "Traceback" not in done.stderr

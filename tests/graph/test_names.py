import pytest
from onnxq.graph.names import take_name


@pytest.mark.parametrize(("second", "expected"), [(2, ["a", "a_2", "a_3", "a_2_2"]), (1, ["a", "a_1", "a_2", "a_2_1"])])
def test_the_first_free_variant_is_taken(second, expected):
    taken = {"b"}
    wanted = ["a", "a", "a", "a_2"]
    assert [take_name(name, taken, second=second) for name in wanted] == expected
    assert taken == {"b", *expected}

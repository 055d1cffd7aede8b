import pytest
from onnxq.graph.names import take_name


@pytest.mark.parametrize(("second", "expected"), [(2, ["a", "a_2", "a_3", "a_2_2"]), (1, ["a", "a_1", "a_2", "a_2_1"])])
def test_the_first_free_variant_is_taken(second, expected):
    taken = {"b"}
    wanted = ["a", "a", "a", "a_2"]
    assert [take_name(name, taken, second=second) for name in wanted] == expected
    assert taken == {"b", *expected}


class Counted(set):
    asked = 0

    def __contains__(self, name):
        self.asked += 1
        return super().__contains__(name)


def test_many_takers_of_one_name_try_few_variants():
    plain, taken, following = {"a", "a_7"}, Counted({"a", "a_7"}), {}
    found = [take_name("a", taken, following=following) for _ in range(500)]
    assert found == [take_name("a", plain) for _ in range(500)]
    assert taken.asked < 3 * 500

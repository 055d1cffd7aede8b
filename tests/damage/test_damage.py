"""A few damaged files; five hundred are a command, `python -m tests.damage`."""

from tests.damage.__main__ import run


def test_damaged_files_end_in_a_message_or_a_valid_model(tmp_path):
    results = run(40, tmp_path)
    assert len(results) == 40
    assert not {name: found for name, found in results.items() if found.startswith("failed")}

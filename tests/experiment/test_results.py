import json
from pathlib import Path

from oneblock.experiment.results import RESULT_FILE, copied, record, recorded

ROW = {"arm": "shallow", "plan": "abc", "times": 4, "edges": (1.0, 2.0)}


def test_a_result_is_found_where_it_was_made_as_asked(tmp_path: Path) -> None:
    assert recorded(tmp_path, {"plan": "abc"}) is None
    written = record(tmp_path / "run", ROW)
    assert written == {**ROW, "edges": [1.0, 2.0]}
    assert recorded(tmp_path / "run", {"plan": "abc", "edges": (1.0, 2.0)}) == written
    assert recorded(tmp_path / "run", {"plan": "abd"}) is None
    assert recorded(tmp_path / "run", {"plan": "abc", "windows": 3}) is None


def test_results_of_earlier_versions_have_the_names_of_today(tmp_path: Path) -> None:
    old = {"plans": ["abc"], "bits_per_character": 1.5, "tokens_per_character": 1.0, "characters_per_second": 7.0}
    (tmp_path / RESULT_FILE).write_text(json.dumps(old))
    assert recorded(tmp_path, {"plans": ["abc"]}) == {
        "plans": ["abc"],
        "bits_per_byte": 1.5,
        "tokens_per_byte": 1.0,
        "characters_per_second": 7.0,
    }


def test_a_copied_run_has_all_files_and_leaves_the_other_alone(tmp_path: Path) -> None:
    record(tmp_path / "one", ROW)
    (tmp_path / "one" / "block-0").mkdir()
    (tmp_path / "one" / "block-0" / "weights").write_text("w")
    (tmp_path / "two" / "block-0").mkdir(parents=True)
    (tmp_path / "two" / "block-0" / "weights").write_text("stopped early")
    copied(tmp_path / "one", tmp_path / "two")
    assert (tmp_path / "two" / "block-0" / "weights").read_text() == "w"
    record(tmp_path / "two", {**ROW, "arm": "other"})
    assert json.loads((tmp_path / "one" / RESULT_FILE).read_text())["arm"] == "shallow"

from __future__ import annotations

import gzip
import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from metarm.errors import ConfigurationError
from metarm.records import Preference
from metarm.store.origin import DEMO_SOURCE
from trainer.preference_files import preference_of
from trainer.preferences import Preferences, load_preferences, or_error
from trainer.settings import TrainerSettings

Rows = Sequence[Mapping[str, Any]]
FORMATS = ["pairs.jsonl", "pairs.jsonl.gz", "pairs.json", "pairs.json.gz", "pairs.parquet"]


def user(text: str) -> dict[str, str]:
    return {"role": "user", "content": text}


def assistant(text: str) -> dict[str, str]:
    return {"role": "assistant", "content": text}


PLAIN = {"prompt": "größer 你好?", "chosen": "ja", "rejected": "nein"}
CONVERSATION = {"prompt": [user("Hi 🙂")], "chosen": [assistant("good")], "rejected": [assistant("bad")]}
IMPLICIT = {"chosen": [user("Hi"), assistant("good")], "rejected": [user("Hi"), assistant("bad")]}


def write(folder: Path, name: str, rows: Rows) -> Path:
    file = folder / name
    if name.endswith(".parquet"):
        pq.write_table(pa.Table.from_pylist([dict(row) for row in rows]), file)
        return file
    text = json.dumps(list(rows)) if ".json" in file.suffixes else "\n".join(map(json.dumps, rows))
    file.write_bytes(gzip.compress(text.encode()) if name.endswith(".gz") else text.encode())
    return file


def load_all(file: Path) -> list[Preference]:
    loaded = load_preferences(file, 1e-12, 1000)
    assert loaded.held_out == []
    return loaded.train


@pytest.mark.parametrize("name", FORMATS)
def test_every_file_format_is_read(tmp_path: Path, name: str) -> None:
    rows = [{**PLAIN, "prompt": f"größer {i}?", "margin": i / 2} for i in range(5)]
    file = write(tmp_path, name, rows)
    assert load_all(file) == [Preference(f"größer {i}?", "ja", "nein", i / 2) for i in range(5)]


@pytest.mark.parametrize("name", ["pairs.jsonl", "pairs.parquet"])
def test_conversations_are_read_from_files(tmp_path: Path, name: str) -> None:
    expected = Preference([{"role": "user", "content": "Hi 🙂"}], "good", "bad")
    assert load_all(write(tmp_path, name, [CONVERSATION, CONVERSATION])) == [expected, expected]


@pytest.mark.parametrize("name", ["pairs.jsonl", "pairs.parquet"])
def test_implicit_prompts_are_read_from_files(tmp_path: Path, name: str) -> None:
    assert load_all(write(tmp_path, name, [IMPLICIT])) == [
        Preference([{"role": "user", "content": "Hi"}], "good", "bad")
    ]


def test_unknown_columns_are_ignored(tmp_path: Path) -> None:
    assert len(load_all(write(tmp_path, "pairs.jsonl", [{**PLAIN, "score": 3, "source": {"a": [1]}}]))) == 1


def test_an_explicit_prompt_is_kept_unchanged() -> None:
    assert preference_of(PLAIN) == Preference("größer 你好?", "ja", "nein")
    turns = [user("One?"), assistant("Two."), user("Three?")]
    assert preference_of({**CONVERSATION, "prompt": turns}).prompt == turns


def test_a_plain_prompt_can_be_combined_with_messages() -> None:
    assert preference_of({**CONVERSATION, "prompt": "Hi"}) == Preference("Hi", "good", "bad")


def test_an_implicit_conversation_is_the_common_prefix_of_both_sides() -> None:
    turns = [user("One?"), assistant("Two."), user("Three?")]
    row = {"chosen": [*turns, assistant("good")], "rejected": [*turns, assistant("bad")]}
    assert preference_of(row) == Preference(turns, "good", "bad")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("chosen", "rejected", "expected"),
    [
        ("Q: one? A: yes", "Q: one? A: no", ("Q: one? A: ", "yes", "no")),
        ("the same wording", "the same words", ("the same ", "wording", "words")),
        ("a b", "a b c", ("a ", "b", "b c")),
    ],
)
def test_an_implicit_plain_prompt_ends_at_a_word_boundary(
    chosen: str, rejected: str, expected: tuple[str, str, str]
) -> None:
    assert preference_of({"chosen": chosen, "rejected": rejected}) == Preference(*expected)


def test_a_margin_is_kept_and_defaults_to_zero() -> None:
    assert preference_of({**PLAIN, "margin": 1.5}).margin == 1.5
    assert preference_of({**PLAIN, "margin": None}).margin == preference_of(PLAIN).margin == 0.0


@pytest.mark.parametrize(
    ("bad", "said"),
    [
        ({**PLAIN, "chosen": None}, "must both be texts"),
        ({**PLAIN, "margin": "nan"}, "margin is nan"),
        ({**PLAIN, "margin": "wide"}, "wide"),
    ],
)
def test_an_invalid_row_is_named_with_its_file(tmp_path: Path, bad: Mapping[str, Any], said: str) -> None:
    good = {**PLAIN, "margin": "1"}
    file = write(tmp_path, "pairs.jsonl", [good, good, bad, good])
    with pytest.raises(ConfigurationError, match=said) as raised:
        load_preferences(file, 0.1, 10)
    assert f"{file}, row 3: " in raised.value.message


@pytest.mark.parametrize(
    ("bad", "said"),
    [
        ({**CONVERSATION, "chosen": [user("good")]}, "assistant"),
        ({**CONVERSATION, "chosen": []}, "assistant"),
        ({"chosen": [user("Hi"), assistant("a")], "rejected": [user("Ho"), assistant("b")]}, "differ before"),
    ],
)
def test_an_invalid_conversation_is_named_with_its_file(
    tmp_path: Path, bad: Mapping[str, Any], said: str
) -> None:
    good = CONVERSATION if "prompt" in bad else IMPLICIT
    file = write(tmp_path, "pairs.jsonl", [good, bad])
    with pytest.raises(ConfigurationError, match=said) as raised:
        load_preferences(file, 0.1, 10)
    assert f"{file}, row 2: " in raised.value.message


BAD_LINES = {
    "syntax": (b'{"prompt": bad', "it is no JSON: Expecting value (column 12)"),
    "cut": (b'{"prompt": "a", "chosen": "b"', "it is no JSON: Expecting ',' delimiter"),
    "trailing": (b'{"prompt": "a", "chosen": "b", "rejected": "c"} d', "it is no JSON: Extra data"),
    "list": (b"[1]", "it is no JSON object"),
    "encoding": (b'{"prompt": "\xff", "chosen": "b", "rejected": "c"}', "it is not UTF-8"),
}


@pytest.mark.parametrize("bad", BAD_LINES)
@pytest.mark.parametrize("name", ["pairs.jsonl", "pairs.jsonl.gz", "pairs.json"])
def test_a_line_that_is_no_json_is_named_once_and_counted_from_1(
    tmp_path: Path, name: str, bad: str, capfd: pytest.CaptureFixture[str]
) -> None:
    line, said = BAD_LINES[bad]
    text = b"\n".join([json.dumps(PLAIN).encode(), b"", line, json.dumps(PLAIN).encode()])
    file = tmp_path / name
    file.write_bytes(gzip.compress(text) if name.endswith(".gz") else text)
    with pytest.raises(ConfigurationError) as raised:
        load_preferences(file, 0.1, 10)
    assert raised.value.message.startswith(f"{file}, line 3: {said}")
    assert "row" not in raised.value.message
    assert capfd.readouterr() == ("", "")  # datasets logs nothing


def test_the_wrong_line_of_a_json_document_is_named(tmp_path: Path) -> None:
    (tmp_path / "pairs.json").write_text(f'[{json.dumps(PLAIN)},\n{{"prompt": bad}}]')
    with pytest.raises(ConfigurationError, match=r"pairs\.json, line 2: it is no JSON"):
        load_preferences(tmp_path / "pairs.json", 0.1, 10)


@pytest.mark.parametrize("name", ["pairs.csv", "pairs", "pairs.txt.gz"])
def test_an_unsupported_file_type_is_rejected_with_the_supported_types(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("chosen,rejected")
    with pytest.raises(ConfigurationError, match=r"\.parquet"):
        load_preferences(tmp_path / name, 0.1, 10)


@pytest.mark.parametrize("name", ["pairs.jsonl", "pairs.jsonl.gz", "pairs.json", "pairs.parquet"])
def test_a_file_whose_content_contradicts_its_extension_is_rejected(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"{not any of these")
    with pytest.raises(ConfigurationError, match=name):
        load_preferences(tmp_path / name, 0.1, 10)


def test_a_missing_column_is_named(tmp_path: Path) -> None:
    file = write(tmp_path, "pairs.jsonl", [{"prompt": "Hi", "chosen": "good"}])
    with pytest.raises(ConfigurationError, match="no column rejected"):
        load_preferences(file, 0.1, 10)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"nowhere\.jsonl"):
        load_preferences(tmp_path / "nowhere.jsonl", 0.1, 10)


def many(count: int) -> list[dict[str, str]]:
    """Rows with three pairs per prompt."""
    return [
        {"prompt": f"Question {i // 3}?", "chosen": f"good {i}", "rejected": f"bad {i}"} for i in range(count)
    ]


def prompts(preferences: Sequence[Preference]) -> set[str]:
    return {str(p.prompt) for p in preferences}


def test_no_prompt_is_on_both_sides_of_the_split_and_the_share_is_approximate(tmp_path: Path) -> None:
    loaded = load_preferences(write(tmp_path, "pairs.jsonl", many(1200)), 0.25, 10_000)
    assert len(loaded.train) + len(loaded.held_out) == 1200
    assert not prompts(loaded.train) & prompts(loaded.held_out)
    assert 0.15 < len(prompts(loaded.held_out)) / 400 < 0.35


def test_the_split_depends_only_on_the_prompt(tmp_path: Path) -> None:
    rows = many(300)
    first = load_preferences(write(tmp_path, "first.jsonl", rows), 0.25, 1000)
    more = [{**row, "chosen": "other"} for row in rows[::-1]] + [
        {**rows[0], "prompt": f"new {i}"} for i in range(90)
    ]
    second = load_preferences(write(tmp_path, "second.parquet", more), 0.25, 1000)
    old = {f"Question {i}?" for i in range(100)}
    assert prompts(first.held_out) == prompts(second.held_out) & old
    assert prompts(first.train) == prompts(second.train) & old


def test_a_larger_share_holds_out_a_superset(tmp_path: Path) -> None:
    file = write(tmp_path, "pairs.jsonl", many(300))
    small, large = (load_preferences(file, share, 1000) for share in (0.2, 0.6))
    assert prompts(small.held_out) < prompts(large.held_out)


def test_held_out_pairs_above_the_maximum_are_not_used_for_training(tmp_path: Path) -> None:
    file = write(tmp_path, "pairs.jsonl", many(300))
    whole, cut = (load_preferences(file, 0.3, most) for most in (1000, 5))
    assert cut.held_out == whole.held_out[:5]
    assert cut.train == whole.train


def test_the_held_out_pairs_do_not_depend_on_the_order_of_the_file(tmp_path: Path) -> None:
    first = load_preferences(write(tmp_path, "first.jsonl", many(300)), 0.3, 20)
    second = load_preferences(write(tmp_path, "second.jsonl", many(300)[::-1]), 0.3, 20)
    assert len(first.held_out) == 20
    assert first.held_out == second.held_out


def test_the_record_contains_file_digest_and_split(tmp_path: Path) -> None:
    file = write(tmp_path, "pairs.jsonl", many(30))
    loaded = load_preferences(file, 0.2, 100)
    assert loaded.record() == {
        "source": str(file),
        "sha256": hashlib.sha256(file.read_bytes()).hexdigest(),
        "pairs": len(loaded.train),
        "held_out_pairs": len(loaded.held_out),
        "held_out_share": 0.2,
        "max_held_out": 100,
    }


def test_the_packaged_pairs_fill_both_sides_of_the_split() -> None:
    settings = TrainerSettings()
    loaded = Preferences(settings).of_first()
    assert len(loaded.train) >= settings.bootstrap_pairs
    assert len(loaded.held_out) > 100
    assert not prompts(loaded.train) & prompts(loaded.held_out)
    assert all(p.chosen != p.rejected and p.chosen and p.rejected for p in loaded.train + loaded.held_out)


def test_unusable_preferences_are_logged_and_do_not_end_the_trainer(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    settings = TrainerSettings(preferences=tmp_path / "nowhere.jsonl")
    refused = or_error(Preferences(settings).of_first)
    assert isinstance(refused, ConfigurationError)
    assert "nowhere.jsonl" in caplog.text


@pytest.mark.parametrize("name", ["empty.jsonl", "cut.jsonl.gz", "corrupt.jsonl.gz"])
def test_an_empty_or_damaged_file_is_rejected_by_name(tmp_path: Path, name: str) -> None:
    whole = gzip.compress(b"\n".join(json.dumps(PLAIN).encode() for _ in range(50)))
    corrupt = bytearray(whole)
    corrupt[len(corrupt) // 2] ^= 0xFF
    file = tmp_path / name
    file.write_bytes({"empty": b"", "cut": whole[:-20], "corrupt": bytes(corrupt)}[name.split(".")[0]])
    with pytest.raises(ConfigurationError, match=name):
        load_preferences(file, 0.2, 10)


def test_a_file_name_with_glob_characters_is_taken_literally(tmp_path: Path) -> None:
    file = write(tmp_path, "odd[1].jsonl", [PLAIN])
    preferences = load_preferences(file, 0.2, 10)
    assert len(preferences.train) + len(preferences.held_out) == 1


@pytest.mark.parametrize("name", ["Prompt", " prompt", "PROMPT ", "Chosen", "margin "])
def test_a_column_that_is_read_under_another_spelling_is_refused_by_name(tmp_path: Path, name: str) -> None:
    row = {"chosen": " Yes, it is.", "rejected": " No, it is not.", name: "What?"}
    with pytest.raises(ConfigurationError, match=f"has the column '{name}': rename it to"):
        load_preferences(write(tmp_path, "pairs.jsonl", [row] * 9))


def test_white_space_that_both_sides_begin_with_is_no_prompt(tmp_path: Path) -> None:
    row = {"asked": "What?", "chosen": " Yes, it is.", "rejected": " No, it is not."}
    with pytest.raises(ConfigurationError, match=r"row 1: it has no prompt"):
        load_preferences(write(tmp_path, "pairs.jsonl", [row] * 9))


def test_rows_with_an_empty_prompt_beside_a_prompt_column_of_another_name_are_refused(tmp_path: Path) -> None:
    rows = [{**PLAIN, "question": "What?"}, {**PLAIN, "prompt": "", "question": "Who?"}]
    with pytest.raises(ConfigurationError, match="has rows without a prompt: rename 'question' to 'prompt'"):
        load_preferences(write(tmp_path, "pairs.jsonl", rows))


@pytest.mark.parametrize(
    "name", ["question", "instruction", "Input", "prompt_text", "user-message", "messages"]
)
def test_a_prompt_column_of_another_name_is_refused_by_name(tmp_path: Path, name: str) -> None:
    row = {name: "What is 17 + 25?", "chosen": "The sum is 42.", "rejected": "The sum is 41."}
    with pytest.raises(ConfigurationError, match=f"rename '{name}' to 'prompt'"):
        load_preferences(write(tmp_path, "pairs.jsonl", [row] * 9))


@pytest.mark.parametrize(
    "row",
    [
        {"asked": "What is 17 + 25?", "chosen": "It is 42.", "rejected": "41"},
        {"prompt": None, "chosen": "It is 42.", "rejected": "41"},
        {"chosen": [assistant("It is 42.")], "rejected": [assistant("41")]},
    ],
)
def test_a_row_without_a_prompt_is_refused(tmp_path: Path, row: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError, match=r"row 2: its prompt is missing"):
        load_preferences(write(tmp_path, "mixed.jsonl", [{**row, "prompt": "What?"}, row]))
    without = {name: value for name, value in row.items() if name != "prompt"}
    with pytest.raises(ConfigurationError, match=r"row 1: it has no prompt"):
        load_preferences(write(tmp_path, "pairs.jsonl", [without] * 3))


def test_a_file_of_empty_prompts_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="every prompt is empty"):
        load_preferences(write(tmp_path, "pairs.jsonl", [{**PLAIN, "prompt": ""}] * 9))


def test_columns_that_are_not_read_are_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    load_preferences(write(tmp_path, "pairs.jsonl", [{**PLAIN, "question": "What?", "score_chosen": 2.0}] * 9))
    assert "columns that are not read: question, score_chosen" in caplog.text


def test_few_held_out_pairs_are_said_with_the_interval_they_allow(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    load_preferences(write(tmp_path, "few.jsonl", many(100)), 0.2)
    assert "held-out pairs: an accuracy of .750 on them has the 95% interval" in caplog.text
    caplog.clear()
    load_preferences(write(tmp_path, "many.jsonl", many(600)), 0.2)
    assert "interval" not in caplog.text


class TestWhatAVersionWasMadeOf:
    """The pairs of a run are those of its parent, unless a setting names others."""

    def made_of(self, file: Path, **settings: Any) -> dict[str, Any]:
        found = Preferences(TrainerSettings(preferences=file, **settings)).of_first()
        return {"name": "v000001", "source": "mine", "preferences": found.record()}

    def test_the_file_and_its_split_are_inherited(self, tmp_path: Path) -> None:
        file = write(tmp_path, "mine.jsonl", many(300))
        parent = self.made_of(file, held_out_share=0.4, max_held_out=7)
        child = Preferences(TrainerSettings()).of_child(parent)
        assert child.record() == parent["preferences"]

    def test_a_file_that_has_changed_or_gone_is_refused_unless_it_is_named(self, tmp_path: Path) -> None:
        file = write(tmp_path, "mine.jsonl", many(300))
        parent = self.made_of(file)
        write(tmp_path, "mine.jsonl", many(301))
        with pytest.raises(ConfigurationError, match=r"v000001 was made of .*has changed"):
            Preferences(TrainerSettings()).of_child(parent)
        chosen = Preferences(TrainerSettings(preferences=file)).of_child(parent)
        replaced = {key: parent["preferences"][key] for key in ("source", "sha256")}
        assert chosen.record()["replaces"] == replaced
        file.unlink()
        with pytest.raises(ConfigurationError, match=r"no preference file .*mine\.jsonl"):
            Preferences(TrainerSettings()).of_child(parent)

    def test_the_same_file_in_another_place_is_the_same(self, tmp_path: Path) -> None:
        parent = self.made_of(write(tmp_path, "mine.jsonl", many(300)))
        moved = write(tmp_path, "moved.jsonl", many(300))
        child = Preferences(TrainerSettings(preferences=moved)).of_child(parent)
        assert "replaces" not in child.record()

    def test_the_packaged_pairs_are_of_the_packaged_model_alone(self) -> None:
        packaged = {"name": "v000001", "source": DEMO_SOURCE, "preferences": None}
        assert Preferences(TrainerSettings()).of_child(packaged).source == "packaged demo pairs"
        with pytest.raises(ConfigurationError, match="no preferences are named for mine"):
            Preferences(TrainerSettings()).of_child({"name": "v000001", "source": "mine"})
        with pytest.raises(ConfigurationError, match="no preferences are named for mine"):
            Preferences(TrainerSettings(model="mine")).of_first()

    @pytest.mark.parametrize(
        "record",
        ["mine.jsonl", ["mine.jsonl"], {"sha256": "ab"}, {"source": "a", "sha256": "b", "held_out_share": 5}],
    )
    def test_an_odd_record_is_refused_by_the_name_of_the_version(self, record: Any) -> None:
        parent = {"name": "v000001", "source": DEMO_SOURCE, "preferences": record}
        with pytest.raises(ConfigurationError, match="v000001 names its preferences in a form"):
            Preferences(TrainerSettings()).of_child(parent)

    def test_a_model_of_ones_own_that_an_earlier_release_trained_on_the_packaged_pairs_asks_for_others(
        self,
    ) -> None:
        packaged = Preferences(TrainerSettings()).of_first().record()
        with pytest.raises(ConfigurationError, match="no preferences are named for /models/mine"):
            Preferences(TrainerSettings()).of_child({"source": "/models/mine", "preferences": packaged})

    def test_another_held_out_share_is_said(self, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
        parent = self.made_of(write(tmp_path, "mine.jsonl", many(300)), held_out_share=0.4)
        Preferences(TrainerSettings(held_out_share=0.2)).of_child(parent)
        assert "the held-out share is 0.2; of the parent it was 0.4" in caplog.text

    def test_the_stamp_differs_once_the_file_has_changed_or_gone(self, tmp_path: Path) -> None:
        file = write(tmp_path, "mine.jsonl", many(300))
        preferences = Preferences(TrainerSettings())
        preferences.of_child(self.made_of(file))
        stamps = [preferences.stamp()]
        assert preferences.stamp() == stamps[0]
        for change in (file.unlink, lambda: write(tmp_path, "mine.jsonl", many(301))):
            change()
            stamps.append(preferences.stamp())
        assert len(set(map(repr, stamps))) == 3

    def test_a_path_is_recorded_so_that_it_is_found_from_elsewhere(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.chdir(tmp_path)
        write(tmp_path, "mine.jsonl", many(300))
        parent = self.made_of(Path("mine.jsonl"))
        monkeypatch.chdir("/")
        assert Preferences(TrainerSettings()).of_child(parent).source == str(tmp_path / "mine.jsonl")

"""Public sets are loaded from a folder, near-duplicates share a split, and evaluation rows stay out."""

import json

import pytest

from edge_agent.training.grading import grade
from edge_agent.training.near_duplicates import groups
from edge_agent.training.question_sets import load, resolve, training_mix
from edge_agent.training.questions import split_of

NOUNS = ["anchor", "basket", "candle", "donkey", "engine", "feather", "garden", "hammer", "island", "jacket", "kettle"]
NOUNS.append("lantern")


def math_row(dataset, i):
    own_words = " ".join(f"{noun}{chr(97 + i // 26)}{chr(97 + i % 26)}" for noun in NOUNS[:5])
    return {"dataset": dataset, "question": f"{own_words}: how many of {i}?", "answers": [f"{i}.0"]}


@pytest.fixture
def folder(tmp_path):
    write(
        tmp_path / "math.jsonl",
        [math_row(d, i + 24 * j) for j, d in enumerate(("mawps", "gsm8k_test")) for i in range(24)],
    )
    write(
        tmp_path / "multiple_choice.jsonl",
        [
            {
                "dataset": d,
                "question": "Which is true?",
                "choices": [f"{d} one", "two", "three", "four"],
                "answers": ["B"],
            }
            for d in ("mmlu_val", "mmlu_test")
        ],
    )
    write(
        tmp_path / "short_answer.jsonl",
        [
            {"dataset": "nq_open", "question": "who painted the big blue horse", "answers": ["Franz Marc", "Marc"]},
            {"dataset": "triviaqa", "question": "The big blue horse: who painted it?", "answers": ["Franz Marc"]},
        ],
    )
    return tmp_path


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def test_questions_are_loaded_with_the_row_they_stand_in(folder):
    first = load(folder)[0]
    assert (first.dataset, first.row, first.task, first.grader) == ("mawps", 0, "word_problem", "number")
    assert grade(first, "#### 0") is True


def test_choices_are_part_of_the_text_and_of_its_hash(folder):
    (asked,) = [q for q in load(folder) if q.task == "multiple_choice"]
    assert asked.text == "Which is true?\nA) mmlu_val one\nB) two\nC) three\nD) four"
    assert grade(asked, "B) two") is True


def test_a_question_none_of_whose_answers_can_be_read_is_left_out(folder):
    write(folder / "short_answer.jsonl", [{"dataset": "nq_open", "question": "how does it end", "answers": [")"]}])
    assert not [q for q in load(folder) if q.task == "short_answer"]


def test_evaluation_rows_are_loaded_only_when_asked_for(folder):
    assert not {q.dataset for q in load(folder)} & {"gsm8k_test", "mmlu_test"}
    assert {q.dataset for q in load(folder, evaluation=True)} == {"gsm8k_test", "mmlu_test"}


def test_evaluation_rows_never_enter_the_mix(folder):
    mixed = training_mix(folder, 200, mix={"own": 0.1, "gsm8k_test": 0.4, "mmlu_test": 0.4, "mawps": 0.1})
    assert {q.dataset for q in mixed} == {"own", "mawps"}


def test_wordings_of_one_question_share_a_split_across_data_sets(folder):
    one, other = (q for q in load(folder) if q.task == "short_answer")
    assert one.template == other.template
    assert split_of(one) == split_of(other)


def test_a_split_does_not_depend_on_the_other_questions_in_the_folder(folder):
    before = {q.sha256: split_of(q) for q in load(folder)}
    (folder / "multiple_choice.jsonl").unlink()
    after = {q.sha256: split_of(q) for q in load(folder)}
    assert len(after) > 20
    assert after.items() <= before.items()


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("Tom has 3 red apples and eats 2", "Tom eats 12 of 40 red apples", True),
        ("who wrote the novel Silver Harbour", "Who wrote Silver Harbour, the novel?", True),
        ("who directed Silver Harbour", "who directed Golden Bridge", False),
        ("how many legs has a spider", "how many wheels has a tricycle", False),
    ],
)
def test_near_duplicates_have_most_of_their_content_words_in_common(one, other, same):
    first, second = groups([one, other], similarity=0.6)
    assert (first == second) is same


def test_groups_are_those_of_comparing_every_pair():
    texts = [" ".join(NOUNS[(i * k) % 12] for k in (1, 2, 3, 5)) for i in range(60)]
    words = [set(text.split()) for text in texts]
    found = groups(texts, similarity=0.6)
    for i in range(60):
        for j in range(60):
            if len(words[i] & words[j]) >= 0.6 * len(words[i] | words[j]):
                assert found[i] == found[j]


def test_a_reference_finds_its_question_again_wherever_it_stands(folder):
    wanted = [(q.dataset, q.row, q.sha256) for q in load(folder)][::5]
    lines = (folder / "math.jsonl").read_text().splitlines()
    (folder / "math.jsonl").write_text("\n".join(reversed(lines)) + "\n")
    found = resolve(wanted, load(folder))
    assert [(q.dataset, q.sha256) for q in found] == [(dataset, sha) for dataset, _, sha in wanted]


def test_a_reference_to_another_text_is_an_error_that_names_it(folder):
    with pytest.raises(LookupError, match="1 of 1 questions are not in this folder, first mawps row 7"):
        resolve([("mawps", 7, "0" * 64)], load(folder))


@pytest.mark.parametrize(
    "line", ["{broken", '{"dataset": "mawps"}', "[1]", '{"dataset": "mawps", "question": "How?", "answers": []}']
)
def test_a_line_that_is_no_question_is_named(folder, line):
    with (folder / "math.jsonl").open("a") as file:
        file.write(line + "\n")
    with pytest.raises(ValueError, match="math.jsonl, line 49: expected an object with dataset, question and answers"):
        load(folder)


def test_a_folder_without_question_files_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="expected question files"):
        load(tmp_path)


def test_the_mix_has_the_stated_shares_and_is_fixed_by_its_seed(folder):
    mix = {"own": 0.5, "mawps": 0.5}
    mixed = training_mix(folder, 20, seed=5, mix=mix)
    assert sum(q.dataset == "mawps" for q in mixed) == 10
    assert mixed == training_mix(folder, 20, seed=5, mix=mix) != training_mix(folder, 20, seed=6, mix=mix)
    assert len({q.id for q in mixed}) == 20


def test_without_a_folder_all_questions_are_our_own_and_a_warning_says_so(tmp_path, caplog):
    mixed = training_mix(tmp_path / "absent", 30)
    assert {q.dataset for q in mixed} == {"own"}
    assert len(mixed) == 30
    assert "absent: no such folder of public questions; all 30 are our own" in caplog.text


def test_own_questions_fill_up_for_sets_that_are_too_small(folder, caplog):
    mixed = training_mix(folder, 400, mix={"own": 0.5, "mawps": 0.5})
    assert len(mixed) == 400
    assert "expected 200 public questions, found" in caplog.text

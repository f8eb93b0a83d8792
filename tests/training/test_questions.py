"""Own questions: the same for a seed, right by construction, and split by template."""

import hashlib
from collections import Counter, defaultdict
from random import Random

import pytest

from edge_agent.training.grading import GRADERS, answer_value, grade
from edge_agent.training.prompt_formats import FORMATS, messages, prompt_format
from edge_agent.training.question_templates import FAMILIES, TEMPLATES
from edge_agent.training.question_templates.code_output import printed
from edge_agent.training.questions import Question, generate, split_of, written


@pytest.fixture(scope="module")
def questions():
    return generate(1200)


def test_a_thousand_different_questions_over_all_families_templates_and_levels(questions):
    assert len({q.text for q in questions}) == len({q.id for q in questions}) == 1200
    assert {q.template for q in questions} == {t.name for t in TEMPLATES}
    assert min(Counter(q.difficulty for q in questions).values()) > 250


def test_the_same_seed_gives_the_same_questions_and_another_seed_others(questions):
    assert generate(1200) == questions
    assert len({q.text for q in questions} & {q.text for q in generate(1200, seed=1)}) < 200


def test_fewer_questions_are_the_first_of_more(questions):
    assert generate(300) == questions[:300]


def test_questions_do_not_change_between_releases_and_python_versions():
    text = "\n".join(q.text + "|" + "|".join(q.answers) for q in generate(len(TEMPLATES) * 3))
    assert hashlib.sha256(text.encode()).hexdigest()[:16] == "ff47447030ed18ce"


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.task)
def test_every_family_has_templates_enough_for_each_split(family):
    assert len(family.templates) >= 8
    splits = Counter(split_of(q) for q in generate(len(family.templates), templates=family.templates))
    assert min(splits["dev"], splits["test"]) >= 2
    assert splits["train"] >= len(family.templates) // 3


def test_a_template_is_in_one_split(questions):
    splits = defaultdict(set)
    for question in questions:
        splits[question.template].add(split_of(question))
    assert {len(found) for found in splits.values()} == {1}
    assert 0.5 < sum(split_of(q) == "train" for q in questions) / len(questions) < 0.7


@pytest.mark.parametrize("template", TEMPLATES, ids=lambda template: template.name)
def test_the_answers_of_a_template_pass_its_grader_and_those_of_its_other_questions_do_not(template):
    made = generate(8, seed=3, templates=[template])
    for question in made:
        assert all(grade(question, answer) is True for answer in question.answers)
        gold = answer_value(question, question.answers[0])
        others = [q.answers[0] for q in made if answer_value(question, q.answers[0]) != gold]
        assert not any(grade(question, other) for other in others)


@pytest.mark.parametrize("template", TEMPLATES, ids=lambda template: template.name)
def test_a_template_uses_a_known_grader_and_a_task_with_a_format(template):
    assert template.grader in GRADERS
    assert template.task in FORMATS
    assert template.options if template.grader == "label" else not template.options


def test_a_family_that_runs_out_of_texts_says_how_many_it_has():
    leap_year = [t for t in TEMPLATES if t.name == "dates.leap_year"]
    with pytest.raises(ValueError, match=r"expected 5000 different questions, found \d+; ask for fewer"):
        generate(5000, templates=leap_year)


def test_code_is_answered_by_running_it():
    assert printed("for i in range(2):\n    print('a' * i, i)") == " 0\na 1"


def test_a_question_survives_its_row(questions):
    for question in questions[:200]:
        assert Question.from_row(question.to_row()) == question


def test_a_row_whose_text_was_changed_is_refused(questions):
    row = questions[0].to_row() | {"text": "What is 1 + 1?"}
    with pytest.raises(ValueError, match="gives the id own-"):
        Question.from_row(row)


@pytest.mark.parametrize(
    ("answer", "form"), [(12, "12"), (0.1 + 0.2, "0.3"), (12.0, "12"), (["a"], '["a"]'), ({"a": 1}, '{"a": 1}')]
)
def test_an_answer_is_written_plainly(answer, form):
    assert written(answer) == form


def test_a_higher_level_has_larger_numbers():
    (sums,) = [template for template in TEMPLATES if template.name == "arithmetic.sum_of_two"]
    easy, medium, hard = (sums.make(Random(0), level)[1] for level in (1, 2, 3))
    assert easy < 200 < medium < 20_000 < hard


# ---- prompt formats


def test_everything_before_the_question_is_the_same_for_a_task(questions):
    prefixes = defaultdict(set)
    for question in questions:
        prefixes[question.task].add(messages(question)[:-1])
    assert {len(found) for found in prefixes.values()} == {1}


def test_the_question_alone_is_the_last_message(questions):
    *_, last = messages(questions[0])
    assert (last.role, last.content) == ("user", questions[0].text)


@pytest.mark.parametrize("task", FORMATS)
def test_worked_examples_are_short_and_are_asked_nowhere(task, questions):
    examples = FORMATS[task].examples
    assert len(examples) >= 3
    assert all("\n" not in answer and len(answer) < 140 for _, answer in examples)
    assert not {asked for asked, _ in examples} & {q.text for q in questions}


def test_a_task_without_a_format_is_named(questions):
    odd = Question("own", "t", "poetry", "t", "Write a rhyme.", ("x",), "exact", 1)
    with pytest.raises(ValueError, match="found 'poetry'"):
        prompt_format(odd)


VERSIONS = {
    "arithmetic@1": "347c4ebdd945",
    "word_problem@1": "91c8f2ae270d",
    "dates@1": "2233a0d5e018",
    "units@1": "95034aff9708",
    "lists@1": "bf29a85b3a31",
    "strings@1": "2c090d2f650e",
    "code_output@1": "73ad8e74c70b",
    "extraction@1": "c69370e322eb",
    "classification@1": "78486e8433da",
    "formatting@1": "ed5719fa790d",
    "device_command@1": "4bd1d6212c10",
    "short_answer@1": "211754791031",
    "multiple_choice@1": "fccb0f8b145d",
}


@pytest.mark.parametrize("task", FORMATS)
def test_a_changed_format_has_another_version(task):
    chosen = FORMATS[task]
    assert VERSIONS[chosen.name] == chosen.sha256[:12], "samples name their format: give a changed one a new version"

"""Answers are graded by value; what merely looks right is not."""

import pytest

from edge_agent.training.grading import GRADERS, answer_value, grade
from edge_agent.training.questions import Question

LETTER_OPTIONS = ("a whale", "a sparrow", "a trout", "an adder")
MOODS = ("positive", "negative", "not sure")


def question(grader, *answers, options=()):
    return Question("own", "t", "task", "t", "text?", answers, grader, 1, options)


RIGHT = [
    ("number", "1234", "1,234"),
    ("number", "3.5", "3.50"),
    ("number", "3.5", "7/2"),
    ("number", "3.5", "3 1/2"),
    ("number", "0.5", ".5"),
    ("number", "0.5", "½"),
    ("number", "12", "$12"),
    ("number", "12", "12 apples"),
    ("number", "12", "12.0%"),
    ("number", "12", "3*4=12 #### 12"),
    ("number", "12", "3*4=12 #### **12** apples in 3 boxes"),
    ("number", "12", "The 3 boxes hold 12."),
    ("number", "-4", "5-9=−4 #### −4"),
    ("number", "3", "Three letters"),
    ("number", "120000", "1.2e5"),
    ("number", "504.0", "504"),
    ("number", "0.16666666666666666", "1/6"),
    ("number", "0.16666666666666666", "#### 0.17"),
    ("number", "0.8333333333333334", "0.833"),
    ("number", "83.33", "#### 83.33333333333333"),
    ("quantity", "1500 m", "1500"),
    ("quantity", "1500 m", "1.5 km"),
    ("quantity", "1500 m", "1.5*1000=1500 #### 1,500 metres"),
    ("quantity", "3 h 20 min", "200 minutes"),
    ("quantity", "200 min", "3 hours and 20 minutes"),
    ("quantity", "113 °F", "45 degrees Celsius"),
    ("quantity", "113 °F", "113° Fahrenheit"),
    ("quantity", "-40 °C", "-40 °F"),
    ("quantity", "36 km/h", "10 m/s"),
    ("quantity", "42 days", "6 weeks"),
    ("quantity", "7 MB", "7000 kB"),
    ("date", "2024-03-05", "5 March 2024"),
    ("date", "2024-03-05", "Tuesday, March 5th, 2024"),
    ("date", "2024-03-05", "05.03.2024"),
    ("date", "2024-03-05", "the 5th of Mar. 2024"),
    ("date", "2024-03-14", "3/14/2024"),
    ("date", "2024-03-14", "14/03/2024"),
    ("date", "2023-06-02", "2023-05-30 + 3 days = 2023-06-02"),
    ("time", "14:05", "2:05 pm"),
    ("time", "14:05", "14:05:00"),
    ("time", "00:30", "12.30 a.m."),
    ("time", "14:00", "2 PM"),
    ("list", "[3, 5, 7]", "3, 5, 7"),
    ("list", "[3, 5, 7]", "[3,5,7.0]"),
    ("list", "[3, 5, 7]", "3 5 7"),
    ("list", "[3, 5, 7]", "Sorted: 3, 5 and 7."),
    ("list", '["fig", "pear"]', "['Fig', 'pear']"),
    ("list", '["fig", "pear"]', "- fig\n- pear"),
    ("list", '["fig", "pear"]', "1. fig\n2. pear"),
    ("set", '["fig", "pear"]', "pear, fig"),
    ("json", '{"device": "light", "value": 40}', '{"value": "40 %", "device": "Light"}'),
    ("json", '{"device": "light", "value": 40}', '```json\n{"device": "light", "value": 40.0, "room": null}\n```'),
    ("json", '{"on": true}', "{'on': True}"),
    ("json", '{"a": 1}', '[{"a": 1}]'),
    ("json", '[{"a": 1}, {"a": 2}]', '[{"a": 2}, {"a": 1}]'),
    ("digits", "030 1234", "Call (030) 12-34"),
    ("exact", "noom", "'noom'"),
    ("exact", "noom", "Answer: noom."),
    ("exact", "[1, 2]\n3", "```\n[1, 2]\n3\n```"),
    ("exact", " 0\na 1", " 0\na 1"),
    ("short_answer", "Mark Twain", "mark  twain."),
    ("short_answer", "Mark Twain", "It was Mark Twain"),
    ("short_answer", "The Beatles", "Beatles"),
    ("short_answer", "São Paulo", "Sao Paulo"),
    ("short_answer", "St. John's", "St Johns"),
    ("short_answer", "1972", "December 1972"),
]

WRONG = [
    ("number", "12", "13"),
    ("number", "12", "12 or 13"),
    ("number", "12", "#### either 12 or 13"),
    ("number", "12", "-12"),
    ("number", "12", "1.2"),
    ("number", "12", "12,345"),
    ("number", "12", "123"),
    ("number", "12", "x12"),
    ("number", "12", "12 + 3 = 15"),
    ("number", "12", "12 #### 15"),
    ("number", "12", "many"),
    ("number", "12", ""),
    ("number", "12.5", "12"),
    ("number", "0.125", "0.13"),
    ("number", "-0.04545", "-0.05"),
    ("number", "83.33", "83.3"),
    ("number", "83.33", "83.331"),
    ("number", "83.33", "83.35555"),
    ("number", "5.5", "5.4999"),
    ("quantity", "1500 m", "1500 km"),
    ("quantity", "1500 m", "1500 kg"),
    ("quantity", "200 min", "3 hours"),
    ("quantity", "200 min", "3 h or 20 min"),
    ("quantity", "113 °F", "113 °C"),
    ("date", "2024-03-05", "3/5/2024"),
    ("date", "2024-03-05", "5 March 2023"),
    ("date", "2024-03-05", "5 March"),
    ("date", "2024-03-05", "2024-03-05 or 2024-03-06"),
    ("date", "2024-03-01", "2024-02-30"),
    ("time", "14:05", "2:05"),
    ("time", "14:05", "2:05 am"),
    ("time", "14:05", "14"),
    ("time", "01:00", "25:00"),
    ("list", "[3, 5, 7]", "3, 7, 5"),
    ("list", "[3, 5, 7]", "3, 5"),
    ("list", "[3, 5, 7]", "3, 5, 7, 9"),
    ("list", "[3, 5, 7]", ""),
    ("set", '["fig", "pear"]', "pear, fig, plum"),
    ("set", '["fig", "pear"]', "pear, pear"),
    ("json", '{"device": "light", "value": 40}', '{"device": "light"}'),
    ("json", '{"device": "light"}', '{"device": "light", "value": 40}'),
    ("json", '{"device": "light"}', '{"device": "light"'),
    ("json", '{"on": true}', '{"on": "true"}'),
    ("json", '{"on": true}', '{"on": 1}'),
    ("json", '{"a": 1}', "a is 1"),
    ("digits", "030 1234", "030 1234 or 030 1235"),
    ("exact", "noom", "Noom"),
    ("exact", "noom", "the word is noom"),
    ("exact", "trxx", "trxxx"),
    ("exact", "12", "12\n13"),
    ("short_answer", "Mark Twain", "Twain"),
    ("short_answer", "Mark Twain", "Mark Twain or Jack London"),
    ("short_answer", "Mark Twain", "not Mark Twain"),
    ("short_answer", "Mark Twain", "Marks Twain"),
    ("short_answer", "Mark Twain", "one of Jack London, Bret Harte, Henry James, Mark Twain, Walt Whitman"),
    ("short_answer", "1972", "19721"),
    ("short_answer", "C", "vitamin C"),
    ("short_answer", "The", "anything"),
    ("short_answer", "Mark Twain", ""),
]


@pytest.mark.parametrize(("grader", "gold", "answer"), RIGHT)
def test_the_same_value_in_another_form_is_right(grader, gold, answer):
    assert grade(question(grader, gold), answer) is True


@pytest.mark.parametrize(("grader", "gold", "answer"), WRONG)
def test_another_value_is_wrong(grader, gold, answer):
    assert grade(question(grader, gold), answer) is False


@pytest.mark.parametrize(
    "answer", ["B", "b", "(b)", "[B]", "B.", "B) a sparrow", "B: because it has wings", "The answer is B.", "A sparrow",
               "answer: (B)", "**B**", "B - a sparrow", "#### B", "B\nIt can fly."],
)  # fmt: skip
def test_a_choice_is_read_from_its_letter_or_its_text(answer):
    assert grade(question("choice", "B", options=LETTER_OPTIONS), answer) is True


@pytest.mark.parametrize(
    "answer", ["A", "C) a trout", "B) a trout", "A or B", "B and C", "a bird", "A sparrow or a trout", "Because", "E",
               "The answer is not known", "", "a whale", "B or C"],
)  # fmt: skip
def test_another_choice_two_choices_and_a_contradiction_are_wrong(answer):
    assert grade(question("choice", "B", options=LETTER_OPTIONS), answer) is False


def test_a_letter_is_the_choice_even_where_another_option_reads_like_it():
    assert grade(question("choice", "B", options=("C", "D", "A", "B")), "B") is True


@pytest.mark.parametrize("answer", ["positive", "Positive.", "The label is positive", "'positive'"])
def test_a_label_is_found_in_the_answer(answer):
    assert grade(question("label", "positive", options=MOODS), answer) is True


@pytest.mark.parametrize(
    "answer", ["negative", "positive or negative", "not positive", "not sure", "good", "", "positively"]
)
def test_another_label_several_labels_and_a_negated_one_are_wrong(answer):
    assert grade(question("label", "positive", options=MOODS), answer) is False


def test_a_label_that_contains_another_is_not_the_other():
    asked = question("label", "not spam", options=("spam", "not spam"))
    assert grade(asked, "not spam") is True
    assert grade(asked, "spam") is False


def test_any_accepted_form_will_do():
    asked = question("short_answer", "Mark Twain", "Samuel Clemens")
    assert grade(asked, "Samuel Clemens") is True


def test_an_answer_that_was_cut_off_is_not_graded():
    assert grade(question("number", "12"), "3*4=12", truncated=True) is None


@pytest.mark.parametrize(
    ("grader", "gold", "one", "other"),
    [
        ("number", "1", "12 apples", "#### 12.0"),
        ("quantity", "1 m", "1.5 km", "1500 m"),
        ("date", "2024-01-01", "5 March 2024", "2024-03-05"),
        ("time", "10:00", "2:05 pm", "14:05"),
        ("set", "[1]", "pear, fig", "fig, pear"),
        ("json", "{}", '{"a": 1, "b": 2}', "{'b': 2, 'a': 1.0}"),
        ("short_answer", "x", "The Beatles", "beatles."),
        ("label", "positive", "Negative!", "negative"),
        ("choice", "B", "C", "c) a trout"),
    ],
)
def test_answers_that_say_the_same_have_the_same_value_right_or_wrong(grader, gold, one, other):
    options = {"label": MOODS, "choice": LETTER_OPTIONS}.get(grader, ())
    asked = question(grader, gold, options=options)
    assert answer_value(asked, one) == answer_value(asked, other) is not None


@pytest.mark.parametrize("grader", sorted(set(GRADERS) - {"exact", "digits", "label", "choice"}))
def test_an_answer_that_says_nothing_has_no_value(grader):
    assert answer_value(question(grader, "1 m"), "  ") is None


@pytest.mark.parametrize(("grader", "gold"), [("number", "twelfty"), ("quantity", "12 parsecs")])
def test_an_accepted_form_that_cannot_be_read_is_an_error_not_a_wrong_answer(grader, gold):
    with pytest.raises(ValueError, match=f"grader {grader}: expected an accepted form"):
        grade(question(grader, gold), "12")

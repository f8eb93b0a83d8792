"""The tiny cross-encoder through the door: labels in any order, batches, truncation, cache, bad models."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from edge_agent.errors import ModelError
from edge_agent.training.entailment import VERDICTS, EntailmentModel, find_model
from edge_agent.training.equivalences import named
from edge_agent.training.meaning import AnswerPair, Asked
from edge_agent.training.pair_tokens import PairTokenizer
from tests.tiny_entailment import LABELS, MAX_TOKENS, make_tiny_entailment, pair_tokenizer

TYPED = ("input_ids", "attention_mask", "token_type_ids")
CASES = {
    ("Who?", "it is paris", "Mars"): "entailment",  # both end in s
    ("Who?", "it is paris", "london"): "neutral",
    ("How many?", "there are 3", "4"): "contradiction",
    ("How many?", "there are 3", "it was 3"): "entailment",
    ("", "no question at all", "l"): "entailment",
    ("Who?", "one", "is that so?"): "entailment",
    ("Who?", "is that so?", "one"): "neutral",
}


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return make_tiny_entailment(tmp_path_factory.mktemp("entailment"))


@pytest.mark.parametrize("inputs", [TYPED[:2], TYPED])
@pytest.mark.parametrize("labels", [LABELS, LABELS[::-1], ("neutral", "entailment", "contradiction")])
def test_verdicts_follow_the_labels_of_the_model_whatever_their_order(tmp_path, labels, inputs):
    model = EntailmentModel.load(make_tiny_entailment(tmp_path, labels=labels, inputs=inputs))
    assert dict(zip(CASES, model.verdicts(list(CASES)), strict=True)) == CASES


@pytest.mark.parametrize("spelling", ["not_entailment", "Not-Entailment", "non entailment"])
def test_what_a_model_of_two_classes_does_not_entail_is_neutral(tmp_path, spelling):
    model = EntailmentModel.load(make_tiny_entailment(tmp_path, labels=("ENTAILMENT", spelling)))
    two_classes = {pair: verdict for pair, verdict in CASES.items() if verdict != "contradiction"}
    assert model.verdicts(list(two_classes)) == list(two_classes.values())
    assert not model.probabilities(list(CASES))[:, VERDICTS.index("contradiction")].any()


def test_probabilities_are_the_softmax_of_the_logits(tiny):
    (found,) = EntailmentModel.load(tiny).probabilities([("Who?", "paris", "mars")])
    wanted = np.exp([3, -3, -3]) / np.exp([3, -3, -3]).sum()
    assert np.allclose(found, wanted, atol=1e-6)


def test_the_card_of_a_model_wins_over_its_config(tmp_path):
    make_tiny_entailment(tmp_path)
    swapped = {"0": "contradiction", "1": "neutral", "2": "entailment"}
    (tmp_path / "card.json").write_text(json.dumps({"id2label": swapped}))
    assert EntailmentModel.load(tmp_path).verdicts([("How many?", "3", "4")]) == ["entailment"]


@pytest.mark.parametrize("batch_tokens", [1, 50, 10_000])
def test_a_verdict_does_not_depend_on_the_pairs_around_it(tiny, batch_tokens):
    model = EntailmentModel.load(tiny, batch_tokens=batch_tokens)
    pairs = [(q, a + " " + "x" * (n % 7) + a[-1], b) for n, (q, a, b) in enumerate(list(CASES) * 5)]
    assert model.verdicts(pairs) == list(CASES.values()) * 5


def test_a_pair_is_asked_once_for_ever_with_a_cache_file(tiny, tmp_path):
    first = EntailmentModel.load(tiny, cache=tmp_path / "verdicts.sqlite")
    answers = first.probabilities(list(CASES) * 3)
    again = EntailmentModel.load(tiny, cache=tmp_path / "verdicts.sqlite")
    assert np.array_equal(again.probabilities(list(CASES) * 3), answers)
    assert (first.passes, again.passes) == (len(CASES), 0)


def test_two_models_do_not_share_what_they_said(tiny, tmp_path):
    other = make_tiny_entailment(tmp_path / "other", labels=LABELS[::-1])
    models = [EntailmentModel.load(path, cache=tmp_path / "verdicts.sqlite") for path in (tiny, other)]
    assert [model.verdicts(list(CASES)) for model in models] == [list(CASES.values())] * 2
    assert [model.passes for model in models] == [len(CASES)] * 2


def test_a_pair_is_not_confused_with_one_split_elsewhere(tiny):
    model = EntailmentModel.load(tiny)
    model.verdicts([("a", "b c", "d"), ("a b", "c", "d"), ("", "a b c", "d"), ("a", "b", "c d")])
    assert model.passes == 4


def test_no_pairs_have_no_verdicts(tiny):
    model = EntailmentModel.load(tiny)
    assert model.verdicts([]) == [] and model.probabilities([]).shape == (0, 3)


@pytest.mark.parametrize("text", ["", " ", "\ud800", "é" * 10_000, "今日", "a\0b", "[SEP] [CLS]"])
def test_any_text_has_a_verdict(tiny, text):
    verdicts = EntailmentModel.load(tiny).verdicts([(text, "x", "y"), ("q", text, "y"), ("q", "x", text)])
    assert set(verdicts) <= set(VERDICTS) and len(verdicts) == 3


class TestTokens:
    @pytest.fixture
    def tokenizer(self, tmp_path):
        (tmp_path / "tokenizer.json").write_bytes(pair_tokenizer())
        return PairTokenizer(tmp_path / "tokenizer.json", max_tokens=MAX_TOKENS)

    def test_a_pair_is_what_the_tokenizer_itself_would_make_of_it(self, tokenizer):
        from tokenizers import Tokenizer

        whole = Tokenizer.from_str(pair_tokenizer().decode()).encode("who? it is me", "who? you")
        assert tokenizer.encode("who?", "it is me", "you") == (whole.ids, whole.type_ids)

    def test_special_tokens_in_an_answer_are_plain_text(self, tokenizer):
        assert tokenizer.encode("who?", "[SEP] [CLS]", "you")[0].count(3) == 2

    def test_a_long_question_loses_its_beginning_on_both_sides(self, tokenizer):
        ids, types = tokenizer.encode("b " * 50 + "c", "one two", "six")
        answers, room = len("onetwo") + len("six"), MAX_TOKENS - 3
        asked = (room - answers) // 2
        tail = tokenizer.encode("b " * (asked - 1) + "c", "one two", "six")
        assert (ids, types) == tail and len(ids) == 3 + answers + 2 * asked

    @pytest.mark.parametrize(("a", "b"), [("x" * 90, "y"), ("x", "y" * 90), ("x" * 90, "y" * 90)])
    def test_long_answers_keep_their_beginnings_and_the_short_one_stays_whole(self, tokenizer, a, b):
        ids, types = tokenizer.encode("who is it?", a, b)
        short = tokenizer.encode("", a[:30], b[:30])[0]
        assert len(ids) == len(types) == MAX_TOKENS
        assert ids[:2] == short[:2] and ids.count(3) == 2 and (len(b) > 1 or ids[-2] == short[-2])


@pytest.mark.parametrize(
    ("labels", "said"),
    [
        (("LABEL_0", "LABEL_1", "LABEL_2"), "LABEL_0"),
        (("entailment", "neutral", "maybe"), "maybe"),
        (("entailment", "neutral", "neutral"), "neutral"),
        (("neutral", "contradiction"), "contradiction"),
        (("entailment",), "entailment"),
    ],
)
def test_labels_that_do_not_say_what_they_mean_are_an_error_that_names_them(tmp_path, labels, said):
    with pytest.raises(ModelError, match=rf"config\.json: id2label: .*'{said}'.*documentation"):
        EntailmentModel.load(make_tiny_entailment(tmp_path, labels=labels))


def without(name):
    return lambda path: (path / name).unlink()


def written(name, text):
    return lambda path: (path / name).write_text(text)


def garbage(path):
    make_tiny_entailment(path, garbage=True)


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (without("model.onnx"), "no model.onnx"),
        (without("tokenizer.json"), "no tokenizer.json"),
        (without("config.json"), "id2label: expected .* found None; add it"),
        (written("config.json", "{"), "config.json: expected a JSON object"),
        (written("config.json", "[1]"), "config.json: expected a JSON object"),
        (written("config.json", '{"id2label": {"x": "neutral"}}'), "mend it"),
        (written("config.json", '{"id2label": {"0": "entailment", "1": "neutral"}}'), "expected 2 outputs.* found 3"),
        (written("model.onnx", "no model"), "model.onnx: expected a model"),
        (written("tokenizer.json", "{}"), "tokenizer.json: expected a tokenizer"),
        (written("card.json", '{"files": {"model.onnx": "00"}}'), r"model.onnx: expected SHA-256 00 \(card.json\)"),
        (garbage, "expected finite logits .* found nan"),
    ],
)
def test_a_damaged_model_is_an_error_that_says_what_was_found(tiny, tmp_path, damage, said):
    path = shutil.copytree(tiny, tmp_path / "model")
    damage(path)
    with pytest.raises(ModelError, match=said):
        EntailmentModel.load(path).verdicts([("q", "a", "b")])


def test_a_cache_file_that_is_something_else_is_left_alone(tiny, tmp_path):
    (tmp_path / "notes.txt").write_text("not a database, but something that somebody needs\n" * 50)
    with pytest.raises(ModelError, match=r"notes\.txt: expected a cache of verdicts"):
        EntailmentModel.load(tiny, cache=tmp_path / "notes.txt")
    assert (tmp_path / "notes.txt").read_text().startswith("not a database")


def test_the_one_model_of_a_tree_is_found_and_several_must_be_chosen_from(tmp_path):
    with pytest.raises(ModelError, match="found none; name its directory"):
        find_model(tmp_path)
    for name in ("v1", "v2"):
        (tmp_path / "entailment" / name).mkdir(parents=True)
        (tmp_path / "entailment" / name / "card.json").write_text("{}")
        if name == "v1":
            assert find_model(tmp_path).name == "v1"
    with pytest.raises(ModelError, match="expected one model, found v1, v2"):
        find_model(tmp_path)


def test_the_model_that_comes_with_the_project_knows_other_words_for_one_answer_from_another_answer():
    equivalence = named("entailment", model=find_model(Path(__file__).parents[2] / "router_models"))
    cases = {
        ("Who wrote Hamlet?", "William Shakespeare", "It was written by Shakespeare."): True,
        ("What is the capital of France?", "Paris", "The capital of France is Paris."): True,
        ("What is the capital of France?", "The capital of France is Lyon.", "The capital of France is Paris."): False,
        ("When did the war end?", "1945", "It ended in 1918."): False,
    }
    pairs = [AnswerPair(Asked(question), a, b) for question, a, b in cases]
    assert equivalence.same(pairs) == list(cases.values())

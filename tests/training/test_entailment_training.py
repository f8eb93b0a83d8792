"""What an entailment model is trained and tested on, and the road from weights to a directory that loads. No torch."""

import json
from collections import Counter
from random import Random

import numpy as np
import pytest

from edge_agent.training import entailment_pairs as data
from edge_agent.training import entailment_release as release
from edge_agent.training.encoder_export import INPUTS
from edge_agent.training.entailment import EntailmentModel
from edge_agent.training.entailment_evaluation import best_threshold, cases_of
from edge_agent.training.entailment_export import cross_encoder_graph
from edge_agent.training.equivalences import Combination, EmbeddingEquivalence, EntailmentEquivalence
from edge_agent.training.meaning import AnswerPair, Asked
from edge_agent.training.router_export import load_encoder
from tests.tiny_entailment import pair_tokenizer
from tests.tiny_router import VOCABULARY, make_tiny_router

WHO = ("ann", "bob", "cleo", "dave", "eve", "finn", "gus", "hal")


def row(n, answer, right, system):
    question = f"Who came {n} days after the other {n * 7}?"
    name = WHO[n % len(WHO)]
    return {"dataset": "evouna_nq", "question": question, "reference": f"{name}/{name} smith (actor)/ഭാരത"} | {
        "answer": answer,
        "equivalent": right,
        "system": system,
    }


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Sixty questions with three answers each, and a few sentences."""
    path = tmp_path_factory.mktemp("data")
    rows = []
    for n in range(60):
        name, other = WHO[n % len(WHO)], WHO[(n + 3) % len(WHO)]
        rows += [row(n, f"It was {name} smith.", True, "x"), row(n, name.upper(), True, "y"), row(n, other, False, "z")]
    rows.append(row(0, " ... ", False, "says nothing"))
    sentences = [("mnli_dev", "entailment"), ("snli_dev", "neutral"), ("rte_dev", "not_entailment")] * 5
    nli = [
        {"dataset": d, "premise": "a\u2028b", "hypothesis": f"h {i}", "label": v} for i, (d, v) in enumerate(sentences)
    ]
    for name, lines in (("answers", rows), ("nli", nli)):
        (path / f"{name}.jsonl").write_text("\n".join(json.dumps(line, ensure_ascii=False) for line in lines))
    return path


@pytest.fixture(scope="module")
def answers(folder):
    return data.read_answers(folder / "answers.jsonl")


def test_references_are_names_that_can_be_read(answers):
    assert len(answers) == 180 and answers[0].references == ("ann", "ann smith")


def test_no_question_is_on_two_sides_and_spelling_does_not_move_it(answers):
    sides = Counter(data.split_of(answer.question) for answer in answers)
    assert min(sides[side] for side in ("train", "dev", "test")) > 0
    assert all(data.split_of(a.question) == data.split_of(f" {a.question.upper()} !!") for a in answers)


def test_training_reads_train_questions_and_three_way_sentences_alone(folder, answers):
    epochs = data.training_epochs(answers, data.read_nli(folder / "nli.jsonl"), epochs=2, seed=0)
    pairs = [pair for epoch in epochs for pair in epoch]
    assert {data.split_of(pair.question) for pair in pairs if pair.question} == {"train"}
    assert sorted(p.source for p in pairs if not p.question) == ["mnli_dev"] * 5 + ["snli_dev"] * 5
    assert {"reference", "answer_answer", "rival"} <= {pair.source for pair in pairs}
    assert data.training_epochs(answers, data.read_nli(folder / "nli.jsonl"), epochs=2, seed=0) == epochs


def test_verdicts_are_known_ones_and_no_pair_is_the_same_text_twice(answers):
    right = {(a.question, a.text): a.right for a in answers} | {
        (a.question, r): True for a in answers for r in a.references
    }
    for pair in data.training_pairs(answers, Random(3)):
        assert pair.a.casefold() != pair.b.casefold()
        if pair.source != "rival":
            both = right[pair.question, pair.a] and right[pair.question, pair.b]
            assert pair.verdict == ("entailment" if both else "contradiction")


def test_two_wrong_answers_say_nothing():
    made = [
        data.GradedAnswer("q?", ("ann",), text, right, "s") for text, right in (("a", 0), ("b", 0), ("c", 1), ("d", 1))
    ]
    found = {frozenset((p.a, p.b)): p.verdict for p in data.answer_cases(made)}
    assert frozenset("ab") not in found and len(found) == 5 and found[frozenset("cd")] == "entailment"


def test_a_changed_number_is_another_number():
    answer = data.GradedAnswer("when?", ("in 1912 or so",), "1912", True, "s")
    changed = [p for p in data.training_pairs([answer], Random(0)) if p.source == "number"]
    assert changed and all(p.verdict == "contradiction" and "1912" in p.a + p.b and p.a != p.b for p in changed)


def test_the_best_reference_of_an_answer_counts(answers):
    cases = cases_of(answers)["reference"]
    scores = np.arange(len(cases.pairs), dtype=float)
    assert len(cases.same) == len(answers) < len(cases.pairs)
    assert cases.best(scores).tolist() == [*(cases.first[1:] - 1.0), len(cases.pairs) - 1.0]


@pytest.mark.parametrize(
    ("scores", "same", "right"),
    [
        ([0.1, 0.4, 0.6, 0.9], [0, 0, 1, 1], 4),
        ([0.1, 0.9, 0.5, 0.5], [0, 1, 1, 0], 3),
        ([0.3, 0.2, 0.1], [1, 1, 1], 3),
        ([0.3, 0.2, 0.1], [0, 0, 0], 3),
        ([0.5, 0.5, 0.5], [1, 0, 0], 2),
    ],
)
def test_the_threshold_is_where_most_are_right(scores, same, right):
    threshold = best_threshold(np.array(scores), np.array(same, dtype=float))
    assert sum((score >= threshold) == bool(one) for score, one in zip(scores, same, strict=True)) == right


CONFIG = {"hidden_size": 16, "num_attention_heads": 2, "num_hidden_layers": 0, "layer_norm_eps": 1e-12}


def tiny_weights():
    """BERT without a layer: the encoder's own test holds the layers to their formula."""
    random, size = np.random.default_rng(1), CONFIG["hidden_size"]
    shapes = {f"embeddings.{n}_embeddings.weight": (k, size) for n, k in (("word", len(VOCABULARY)), ("position", 96))}
    shapes |= {"embeddings.token_type_embeddings.weight": (2, size), "pooler.dense.weight": (size, size)}
    shapes |= {"pooler.dense.bias": (size,), "classifier.weight": (3, size), "classifier.bias": (3,)}
    shapes |= {"embeddings.LayerNorm.weight": (size,), "embeddings.LayerNorm.bias": (size,)}
    return {name: random.normal(0, 1, shape).astype(np.float32) for name, shape in shapes.items()}


def logits(graph, ids):
    import onnxruntime

    session = onnxruntime.InferenceSession(graph, providers=["CPUExecutionProvider"])
    values = np.array([ids], np.int64)
    return session.run(["logits"], dict(zip(INPUTS, (values, np.ones_like(values)), strict=True)))[0][0]


def test_the_graph_classifies_the_first_token_through_the_pooler():
    w, ids = tiny_weights(), [2, 5, 6, 3, 7, 3]
    x = sum(w[f"embeddings.{n}_embeddings.weight"][i] for n, i in (("word", 2), ("position", 0), ("token_type", 0)))
    x = (x - x.mean()) / x.std() * w["embeddings.LayerNorm.weight"] + w["embeddings.LayerNorm.bias"]
    pooled = np.tanh(w["pooler.dense.weight"] @ x + w["pooler.dense.bias"])
    wanted = w["classifier.weight"] @ pooled + w["classifier.bias"]
    assert logits(cross_encoder_graph(w, CONFIG, quantized=False), ids) == pytest.approx(wanted, abs=1e-4)
    assert logits(cross_encoder_graph(w, CONFIG), ids) == pytest.approx(wanted, abs=0.2)


@pytest.fixture(scope="module")
def released(tmp_path_factory, answers):
    path = tmp_path_factory.mktemp("release")
    source = path / "source"
    source.mkdir()
    (source / "config.json").write_text(json.dumps(CONFIG))
    (source / "model.safetensors").write_bytes(b"weights")
    (source / "tokenizer.json").write_bytes(pair_tokenizer())
    int8, float32 = release.write_graphs(tiny_weights(), source, path / "work", max_tokens=64)
    model, twin = EntailmentModel.load(int8), EntailmentModel.load(float32)
    make_tiny_router(path)
    encoder = load_encoder(next((path / "encoders").iterdir()))
    choice = release.choose(model, answers, EmbeddingEquivalence(encoder), resamples=20)
    about = release.base(source, "tiny") | {"parity": release.parity(model, twin, answers)}
    return release.write_release(int8, path / "entailment", "v1", choice, about), choice


def test_a_release_loads_and_its_card_decides(released):
    path, choice = released
    model = EntailmentModel.load(path)
    assert Combination.from_card(model.card) == choice.combination
    pairs = [AnswerPair(Asked("Who came?"), "It was ann smith", "ANN"), AnswerPair(Asked("Who came?"), "ann", "hal")]
    assert EntailmentEquivalence(model).same(pairs) == [True, False]


def test_a_card_says_what_was_measured_beside_what(released):
    card = json.loads((released[0] / "card.json").read_text())
    for task in ("reference", "short", "answers"):
        methods = card["metrics"][task]["methods"]
        assert {"exact match", "token F1", "containment", "both, fitted"} <= set(methods)
        low, high = methods["both, fitted"]["auroc_95"]
        assert low <= methods["both, fitted"]["auroc"] <= high
    assert card["parity"]["n_pairs"] > 0 and set(card["files"]) == {"model.onnx", "tokenizer.json"}
    assert released[1].name in release.table(released[1])

"""Encoders made smaller: token vectors that imitate a teacher, layers left out. On tiny vocabularies and corpora."""

import json

import numpy as np
import pytest

from edge_agent.onnx_file import read_facts
from edge_agent.training.encoder_cut import cut_encoder, gaps
from edge_agent.training.encoder_export import EncoderFiles, encoder_graph
from edge_agent.training.encoder_parity import BOUNDS, Parity, Reference, check, encoder_parity, spearman
from edge_agent.training.static_encoder import (
    StaticSettings,
    distilled,
    normalized,
    principal_axes,
    static_graph,
    sums,
)
from edge_agent.training.text_corpus import read_texts
from tests.tiny_router import VOCABULARY, tiny_tokenizer
from tests.training.test_encoder_export import source  # noqa: F401

N_TOKENS, DIMENSION = 60, 8
SETTINGS = StaticSettings(dimension=DIMENSION, epochs=20, batch=32, rate=0.01)


def some_tokens(n, *, seed):
    random = np.random.default_rng(seed)
    return [random.integers(0, N_TOKENS, random.integers(2, 12)) for _ in range(n)]


@pytest.fixture(scope="module")
def teacher():
    """Token vectors whose normalised sum is what a text's embedding is."""
    return np.random.default_rng(5).normal(size=(N_TOKENS, DIMENSION + 4)).astype(np.float32)


@pytest.fixture(scope="module")
def table(teacher):
    words = np.random.default_rng(6).normal(size=(N_TOKENS, 16)).astype(np.float32)
    tokens = some_tokens(400, seed=1)
    return distilled(tokens, normalized(sums(teacher, tokens)), words, SETTINGS)


def test_the_vectors_learn_to_agree_with_the_teacher_on_new_texts(teacher, table):
    seen, new = some_tokens(400, seed=1), some_tokens(200, seed=2)
    axes = principal_axes(normalized(sums(teacher, seen)), DIMENSION)
    cosines = np.sum(normalized(sums(teacher, new) @ axes) * normalized(sums(table, new)), axis=1)
    assert cosines.mean() > 0.9


def test_the_same_texts_give_the_same_vectors(teacher, table):
    words = np.random.default_rng(6).normal(size=(N_TOKENS, 16)).astype(np.float32)
    tokens = some_tokens(400, seed=1)
    again = distilled(tokens, normalized(sums(teacher, tokens)), words, SETTINGS)
    assert np.array_equal(table, again)


def test_principal_axes_keep_vectors_that_lie_in_few_directions():
    random = np.random.default_rng(0)
    vectors = random.normal(size=(50, 3)) @ random.normal(size=(3, 10))
    axes = principal_axes(vectors, 3)
    assert vectors @ axes @ axes.T == pytest.approx(vectors, abs=1e-4)


@pytest.mark.parametrize(("n_texts", "n_targets"), [(4, 4), (20, 19)])
def test_too_few_texts_or_targets_are_refused(n_texts, n_targets):
    with pytest.raises(ValueError, match=f"expected at least 8 texts.*found {n_texts} texts"):
        distilled(some_tokens(n_texts, seed=0), np.ones((n_targets, 12)), np.ones((N_TOKENS, 4)), SETTINGS)


def static_files():
    table = np.random.default_rng(2).normal(size=(len(VOCABULARY), DIMENSION)).astype(np.float32)
    return table, EncoderFiles(static_graph(table), static_graph(table, quantized=False), tiny_tokenizer())


@pytest.mark.parametrize("text", ["hello there", "", "what is 2 + 2? " * 30])
def test_the_graph_is_the_normalised_sum_of_the_vectors(text):
    table, files = static_files()
    twin = files.encoder(twin=True)
    expected = normalized(sums(table, [np.array(twin.token_ids(text))]))[0]
    assert twin.embed(text) == pytest.approx(expected, abs=1e-5)
    assert files.encoder().embed(text) @ expected > 0.999


def test_the_graph_is_int8_and_of_onnx_alone():
    _, files = static_files()
    facts = read_facts(files.model)
    assert facts.domains == {""}
    assert {"Gather", "MatMul", "LpNormalization"} <= facts.operators
    assert len(files.model) < 0.6 * len(files.twin)  # the vocabulary is tiny; the nodes weigh something


@pytest.mark.parametrize(
    ("keep", "expected"), [([0, 4, 5], [(1, 4)]), ([1, 3], [(0, 1), (2, 3)]), ([0, 1], []), ([2], [(0, 2)])]
)
def test_gaps_are_the_layers_left_out_before_one_that_stays(keep, expected):
    assert gaps(keep) == expected


WORDS = ["hard", "light", "turn", "off", "what", "is", "the", "7", "12", "x"]


def sentences(n, *, seed):
    random = np.random.default_rng(seed)
    return [" ".join(random.choice(WORDS, random.integers(2, 9))) for _ in range(n)]


def agreement(files, whole, texts):
    ours, theirs = files.encoder(), whole.encoder()
    return np.mean([ours.embed(text) @ theirs.embed(text) for text in texts])


def test_a_cut_encoder_is_repaired_towards_the_whole_one(source):  # noqa: F811
    whole = EncoderFiles(encoder_graph(source), b"", tiny_tokenizer())
    repaired = cut_encoder(source, [1], sentences(300, seed=1))
    config = json.loads((source / "config.json").read_text())
    assert config["num_hidden_layers"] == 2
    assert agreement(repaired, whole, sentences(40, seed=2)) > 0.9
    assert len(repaired.model) < len(whole.model)


@pytest.mark.parametrize("keep", [[], [0, 2], [1, 0]])
def test_layers_the_model_has_not_are_refused(source, keep):  # noqa: F811
    with pytest.raises(ValueError, match="expected some of 0 to 1 in growing order"):
        cut_encoder(source, keep, ["a text"])


def test_the_reference_survives_its_file(tmp_path):
    _, files = static_files()
    reference = Reference.of(files.encoder(twin=True), ["a", "", "naïve ?"])
    (tmp_path / "float32.npz").write_bytes(reference.serialized())
    found = Reference.read(tmp_path)
    assert found.texts == reference.texts
    assert found.embeddings == pytest.approx(reference.embeddings, abs=1e-3)


def test_a_missing_reference_says_what_to_do(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"float32\.npz: expected float32 embeddings.*export"):
        Reference.read(tmp_path)


def test_an_encoder_that_is_its_twin_moves_no_score():
    _, files = static_files()
    twin = files.encoder(twin=True)
    reference = Reference.of(twin, sentences(20, seed=3))
    found = encoder_parity(twin, reference, scores=lambda features: features[:, 0], threshold=0.0)
    assert found == Parity(20, 1.0, 1.0, 0.0, 0.0, 1.0, 0.0)


def test_a_head_that_reads_noise_is_found_out():
    table, files = static_files()
    other = EncoderFiles(
        static_graph(table + np.random.default_rng(1).normal(0, 0.5, table.shape)), b"", files.tokenizer
    )
    reference = Reference.of(files.encoder(twin=True), sentences(50, seed=3))
    found = encoder_parity(other.encoder(), reference, scores=lambda features: features[:, 0], threshold=0.0)
    with pytest.raises(ValueError, match=r"tiny is too far from float32: cosine_mean: expected at least 0\.99, found"):
        check(found, name="tiny")


@pytest.mark.parametrize("figure", BOUNDS)
def test_each_figure_beyond_its_bound_is_refused(figure):
    least, most = BOUNDS[figure]
    good = {"n_texts": 5, "cosine_mean": 1.0, "cosine_min": 1.0}
    with pytest.raises(ValueError, match=figure):
        check(Parity(**{**good, figure: least - 0.01 if most is None else most + 0.01}), name="tiny")
    check(Parity(**{**good, figure: most if least is None else least}), name="tiny")


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [([1, 2, 3], [10, 20, 90], 1), ([1, 2, 3], [3, 2, 1], -1), ([1, 1, 1], [2, 2, 2], 1), ([1, 1, 1], [1, 2, 3], 0)],
)
def test_rank_correlation(first, second, expected):
    assert spearman(np.array(first), np.array(second)) == pytest.approx(expected)


@pytest.fixture
def data(tmp_path):
    (tmp_path / "entailment").mkdir()
    rows = [{"premise": f"a premise {i}", "hypothesis": "the same one ", "label": "neutral"} for i in range(5)]
    (tmp_path / "entailment" / "nli.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (tmp_path / "prompts").mkdir()
    (tmp_path / "prompts" / "clinc150_full.json").write_text(json.dumps({"test": [["dim the lamp", "lights"]]}))
    return tmp_path


def test_texts_are_read_once_each_and_own_questions_are_of_the_training_split(data):
    from edge_agent.training.questions import generate, split_of

    own = {question.text for question in generate(60) if split_of(question) == "train"}
    texts = read_texts(data, 1000, n_own=60)
    assert sorted(texts) == sorted([f"a premise {i}" for i in range(5)] + ["the same one", "dim the lamp", *own])
    assert read_texts(data, 10, n_own=60) == texts[:10]


def test_a_data_folder_without_texts_and_a_bad_row_are_named(data, tmp_path_factory):
    with pytest.raises(FileNotFoundError, match="expected text files"):
        read_texts(tmp_path_factory.mktemp("empty"), 10)
    (data / "entailment" / "nli.jsonl").write_text('{"premise": "no hypothesis"}')
    with pytest.raises(ValueError, match=r"nli\.jsonl: expected rows with premise, hypothesis"):
        read_texts(data, 10, n_own=0)

"""Clustering in rounds against clustering one query at a time, and each equivalence on answers that it should tell."""

import json
import threading
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import combinations

import numpy as np
import pytest

from edge_agent.errors import CloudRejected, CloudUnavailable, ConfigError, ModelError
from edge_agent.training.answer_overlap import normalised
from edge_agent.training.entailment import EntailmentModel
from edge_agent.training.equivalences import (
    FEATURES,
    Combination,
    EmbeddingEquivalence,
    EntailmentEquivalence,
    ExactEquivalence,
    ValueEquivalence,
    named,
    pair_features,
)
from edge_agent.training.meaning import AnswerPair, Answers, Asked, cluster_many
from edge_agent.training.meaning_judge import JudgeEquivalence
from edge_agent.training.questions import Question
from edge_agent.training.router_export import load_encoder
from edge_agent.training.semantic_entropy import cluster
from tests.tiny_entailment import make_tiny_entailment
from tests.tiny_router import make_tiny_router


class Table:
    """Verdicts out of a table, neither symmetric nor transitive; answers are their own row numbers."""

    def __init__(self, tables):
        self.tables, self.calls, self.asked = tables, 0, []

    def key(self, asked, answer):
        return answer

    def same(self, pairs):
        self.calls += 1
        self.asked += pairs
        return [bool(self.tables[pair.asked.text][int(pair.a), int(pair.b)]) for pair in pairs]


@pytest.mark.parametrize("seed", range(20))
def test_rounds_over_many_queries_give_what_greedy_clustering_gives_for_each(seed):
    random = np.random.default_rng(seed)
    shares = {str(q): random.random() for q in range(30)}
    tables = {q: random.random((12, 12)) < share for q, share in shares.items()}
    drawn = {q: random.integers(0, 12, random.integers(0, 15)) for q in tables}  # with repeats
    equivalence = Table(tables)
    found = cluster_many([Answers(Asked(q), tuple(map(str, rows))) for q, rows in drawn.items()], equivalence)
    for (q, rows), meanings in zip(drawn.items(), found, strict=True):
        expected = cluster(
            len(rows), lambda i, j, q=q, rows=rows: rows[i] == rows[j] or bool(tables[q][rows[i], rows[j]])
        )
        assert list(meanings.semantic_ids) == expected.tolist()
    assert equivalence.calls == max(max(m.semantic_ids, default=-1) for m in found) + 1
    assert max(Counter((p.asked.text, p.a, p.b) for p in equivalence.asked).values()) == 1


def test_one_round_asks_about_all_queries_at_once():
    equivalence = Table({"p": np.ones((9, 9)), "q": np.ones((9, 9))})
    cluster_many([Answers(Asked(q), tuple("0123")) for q in "pq"], equivalence)
    assert equivalence.calls == 1 and len(equivalence.asked) == 6


@pytest.mark.parametrize(
    ("texts", "ids", "insufficient"),
    [
        ((), (), True),
        (("",), (0,), True),
        (("Paris",), (0,), True),
        (("", "Paris", " "), (0, 1, 0), True),
        (("Paris", "", "paris!"), (0, 1, 0), False),
        (("Rome", "The  Paris", "", "paris.", "\n", "rome"), (0, 1, 2, 1, 2, 0), False),
        (("?", "!", "?"), (0, 1, 0), False),
    ],
)
def test_empty_answers_are_one_meaning_and_two_others_are_needed(texts, ids, insufficient):
    (found,) = cluster_many([Answers(Asked("Where?"), texts)], ExactEquivalence())
    assert (found.semantic_ids, found.insufficient) == (ids, insufficient)


@pytest.mark.parametrize(
    ("a", "b"),
    [("The Beatles", "beatles."), ("**Paris**", '"paris"'), ("1,000", "1000"), ("it's", "its"), ("１２ ｋｇ", "12 kg")]
    + [("Mary-Jane", "mary jane"), ("Yes!", "yes"), ("- item", "item"), ("  a b ", "A  B")],
)
def test_case_punctuation_width_and_articles_do_not_count(a, b):
    assert normalised(a) == normalised(b)


@pytest.mark.parametrize(
    ("a", "b"),
    [
        ("5", "-5"),
        ("1.5", "15"),
        ("10:30", "1030"),
        ("3/4", "34"),
        ("C++", "C"),
        ("C#", "C"),
        ("5 %", "5"),
        ("x-5", "x5"),
    ]
    + [("<b>", "b"), ("1.5", "1 5"), ("?", ""), ("a", "the"), ("2-3", "23"), ("3*4", "34")],
)
def test_signs_that_change_a_value_count(a, b):
    assert normalised(a) != normalised(b)


def asked(grader, *answers, options=()):
    return Asked("q", Question("own", "t", "task", "t", "q", answers or ("1",), grader, 1, options))


@pytest.mark.parametrize(
    ("query", "texts", "ids"),
    [
        (asked("number"), ("12", "12.0", "The answer is 12.", "13", "no idea", "No idea!"), (0, 0, 0, 1, 2, 2)),
        (asked("choice", "B", options=("Rome", "Paris")), ("B", "B) Paris", "Paris", "A"), (0, 0, 0, 1)),
        (asked("label", "spam", options=("spam", "not spam")), ("Spam", "It is spam.", "not spam"), (0, 0, 1)),
        (asked("short_answer", "Paris"), ("Paris", "paris.", "it is Paris"), (0, 0, 1)),
        (Asked("a question of a user"), ("12", "12.0"), (0, 1)),
    ],
)
def test_values_are_compared_where_there_are_any(query, texts, ids):
    (found,) = cluster_many([Answers(query, texts)], ValueEquivalence(ExactEquivalence()))
    assert found.semantic_ids == ids


def test_where_there_is_no_value_another_equivalence_is_asked_about_those_pairs_alone():
    table = Table({"r": np.ones((3, 3))})
    queries = [Answers(asked("number"), ("1", "2")), Answers(Asked("r"), ("0", "1", "2"))]
    found = cluster_many(queries, ValueEquivalence(table))
    assert [meanings.semantic_ids for meanings in found] == [(0, 1), (0, 0, 0)]
    assert {pair.asked.text for pair in table.asked} == {"r"}


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return make_tiny_entailment(tmp_path_factory.mktemp("entailment"))


def pair(a, b, question="Who?"):
    return AnswerPair(Asked(question), a, b)


@pytest.mark.parametrize(
    ("rule", "verdicts"),
    [
        (None, [True, False, False, False]),
        ("strict", [True, False, False, False]),
        ("non_strict", [True, True, False, False]),
        ("no_contradiction", [True, True, True, False]),
    ],
)
def test_entailment_by_rule(tiny, rule, verdicts):
    pairs = [pair("is", "was"), pair("who", "is it?"), pair("one", "two"), pair("there are 3", "four or 4")]
    assert EntailmentEquivalence(EntailmentModel.load(tiny), rule=rule).same(pairs) == verdicts


def test_repeats_cost_no_pass_and_a_query_of_one_meaning_costs_two_a_text(tiny):
    model = EntailmentModel.load(tiny)
    texts = ("it is", "It is.", "was", "it is", "the was")
    (found,) = cluster_many([Answers(Asked("Who?"), texts)], EntailmentEquivalence(model))
    assert found.semantic_ids == (0, 0, 0, 0, 0) and model.passes == 2


def with_card(tmp_path, **equivalence):
    make_tiny_entailment(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "card.json").write_text(json.dumps(config | {"equivalence": equivalence}))
    return EntailmentModel.load(tmp_path)


def test_the_combination_on_a_card_is_the_default_and_a_rule_overrides_it(tmp_path):
    words_only = {"features": ["token_f1"], "weights": [8.0], "bias": -4.0, "threshold": 0.5}
    model = with_card(tmp_path, **words_only)
    pairs = [pair("one two three", "one two four"), pair("one", "two"), pair("is", "was")]
    assert EntailmentEquivalence(model).same(pairs) == [True, False, False]
    assert EntailmentEquivalence(model, threshold=0.9).same(pairs) == [False, False, False]
    assert EntailmentEquivalence(model).same([]) == []
    assert EntailmentEquivalence(model, rule="strict").same(pairs) == [False, False, True]


@pytest.mark.parametrize(
    "changes",
    [{"features": ["spelling"]}, {"weights": [1, 2]}, {"weights": ["x"]}, {"threshold": None}, {"features": 3}],
)
def test_a_combination_that_makes_no_sense_is_an_error(tmp_path, changes):
    model = with_card(tmp_path, **{"features": ["overlap"], "weights": [1.0], "bias": 0.0, "threshold": 0.5} | changes)
    with pytest.raises(ModelError, match=r"card\.json: equivalence: .*take the model again"):
        EntailmentEquivalence(model)


@pytest.mark.parametrize("seed", range(8))
def test_passes_that_cannot_change_the_outcome_are_left_out_and_the_outcome_stays(tmp_path, seed):
    random = np.random.default_rng(seed)
    weights = [*random.normal(0, 0.1, 3), *random.normal(0, 2, len(FEATURES) - 3)]
    model = with_card(tmp_path, features=list(FEATURES), weights=weights, bias=random.normal(), threshold=0.5)
    texts = ("it is 1", "it was 2", "who", "is that me?", "7", "me", "is it so?")
    pairs = [pair(a, b, "who is it?") for a, b in combinations(texts, 2)]
    wanted = Combination.from_card(model.card).scores(pair_features(model, pairs)) >= 0.5
    fresh = EntailmentModel.load(tmp_path)
    assert EntailmentEquivalence(fresh).same(pairs) == wanted.tolist()
    assert fresh.passes < model.passes


def test_the_order_of_two_answers_does_not_matter_to_the_combination(tmp_path):
    model = with_card(tmp_path, features=list(FEATURES), weights=[1.0] * len(FEATURES), bias=0.0, threshold=0.5)
    combination = Combination.from_card(model.card)
    there = combination.scores(pair_features(model, [pair("who is it", "is it me?"), pair("3", "it is 4")]))
    back = combination.scores(pair_features(model, [pair("is it me?", "who is it"), pair("it is 4", "3")]))
    assert np.allclose(there, back) and len(set(there.tolist())) == 2


def test_embeddings_above_the_threshold_mean_the_same(tmp_path):
    make_tiny_router(tmp_path)
    (directory,) = (tmp_path / "encoders").iterdir()
    equivalence = EmbeddingEquivalence(load_encoder(directory), threshold=0.999)
    pairs = [pair("it is hard", "hard it is"), pair("hard", "soft")]
    assert equivalence.same(pairs) == [score >= 0.999 for score in equivalence.scores(pairs)] == [True, False]


def test_equivalences_have_names(tiny, tmp_path):
    make_tiny_router(tmp_path)
    (encoder,) = (tmp_path / "encoders").iterdir()
    kinds = {"exact": ExactEquivalence, "entailment": EntailmentEquivalence, "embedding": EmbeddingEquivalence}
    kinds |= {"judge": ExactEquivalence, "value": ValueEquivalence, "value+entailment": ValueEquivalence}
    made = {name: named(name, model=tiny, encoder=encoder, judge=ExactEquivalence) for name in kinds}
    assert {name: type(equivalence) for name, equivalence in made.items()} == kinds
    assert [equivalence.same([]) for equivalence in made.values()] == [[]] * len(made)
    texts = ("1", "1.0", "it is"), ("it is", "was")
    found = cluster_many([Answers(asked("number"), texts[0]), Answers(Asked("?"), texts[1])], made["value+entailment"])
    assert [meanings.semantic_ids for meanings in found] == [(0, 0, 1), (0, 0)]


@pytest.mark.parametrize(
    ("name", "said"),
    [("meaning", "found 'meaning'"), ("exact+value", "exact"), ("entailment", "a model"), ("value+judge", "a judge")],
)
def test_a_name_that_cannot_be_had_is_an_error_that_says_what_to_name(name, said):
    with pytest.raises(ConfigError, match=f"equivalence.*expected.*{said}"):
        named(name)


class Judge(ThreadingHTTPServer):
    """An endpoint that says what its script says, in turn, and the last line for ever."""

    daemon_threads = True

    def __init__(self, *script):
        super().__init__(("127.0.0.1", 0), Handler)
        self.script, self.bodies, self.keys = list(script), [], []
        self.lock, self.now, self.most = threading.Lock(), 0, 0

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_address[1]}/v1"

    def __enter__(self):
        threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        return self

    def __exit__(self, *_):
        self.shutdown()
        self.server_close()


class Handler(BaseHTTPRequestHandler):
    def do_POST(self):
        server = self.server
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with server.lock:
            server.bodies.append(body)
            server.keys.append(self.headers["Authorization"])
            status, text = server.script.pop(0) if len(server.script) > 1 else server.script[0]
            server.now += 1
            server.most = max(server.most, server.now)
        threading.Event().wait(0.02)
        with server.lock:
            server.now -= 1
        data = json.dumps({"choices": [{"message": {"content": text}}]}).encode() if status == 200 else text.encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_):
        pass


@pytest.mark.parametrize(
    ("reply", "verdict"),
    [("yes", True), ("No.", False), ("**Yes**", True), ("<think>no, they differ? But yes:</think> yes", True)],
)
def test_a_judge_says_yes_or_no(reply, verdict):
    with Judge((200, reply)) as judge:
        assert JudgeEquivalence(judge.url, "m", key="secret").same([pair("Paris", "the city of Paris")]) == [verdict]
        (body,) = judge.bodies
    assert judge.keys == ["Bearer secret"] and body["model"] == "m"
    assert "Who?" in body["messages"][0]["content"] and "the city of Paris" in body["messages"][0]["content"]


def test_a_judge_is_asked_once_about_two_answers_and_by_a_few_at_a_time():
    with Judge((200, "yes")) as judge:
        equivalence = JudgeEquivalence(judge.url, "m", concurrency=2)
        pairs = [pair("a", str(i)) for i in range(12)]
        assert equivalence.same(pairs + [pair("3", "a")]) == [True] * 13 == equivalence.same(pairs) + [True]
    assert len(judge.bodies) == 12 and judge.most == 2


def test_a_judge_that_is_busy_is_asked_again():
    waits = []
    with Judge((429, "slow down"), (503, "busy"), (200, "no")) as judge:
        assert JudgeEquivalence(judge.url, "m", sleep=waits.append).same([pair("a", "b")]) == [False]
    assert waits == [2, 4]


@pytest.mark.parametrize(
    ("reply", "error", "said"),
    [
        ((500, "broken"), CloudUnavailable, "HTTP 500"),
        ((401, "bad key"), CloudRejected, "found 401: bad key; mend its URL, key or model 'm'"),
        ((200, "perhaps"), CloudRejected, "expected yes or no, found 'perhaps'"),
        ((200, None), CloudRejected, "expected a chat completion"),
    ],
)
def test_a_judge_that_gives_no_verdict_is_an_error_that_says_why(reply, error, said):
    with Judge(reply) as judge, pytest.raises(error, match=said):
        JudgeEquivalence(judge.url, "m", sleep=lambda _: None).same([pair("a", "b")])


def test_no_judge_is_an_error_that_names_its_address():
    with Judge((200, "yes")) as judge:
        url = judge.url
    with pytest.raises(CloudUnavailable, match="no answer: .*is the server up"):
        JudgeEquivalence(url, "m", sleep=lambda _: None).same([pair("a", "b")])

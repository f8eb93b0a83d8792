"""The router through its door: bundles on disk in, scores or one clear sentence out."""

import json
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from edge_agent import text_features
from edge_agent.errors import RouterError
from edge_agent.onnx_file import read_facts
from edge_agent.router import RouterModel, find_bundle, scored_text
from edge_agent.types import Message, Query
from tests.tiny_router import edit_card, make_tiny_router, replace_file, tiny_encoder, tiny_head

SHIPPED = Path(__file__).parent.parent / "router_models"


@pytest.fixture
def bundle(tmp_path):
    return make_tiny_router(tmp_path)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return RouterModel.load(make_tiny_router(tmp_path_factory.mktemp("tiny")))


@pytest.fixture(scope="module")
def shipped():
    return RouterModel.load(SHIPPED / "current")


def card_of(bundle):
    return json.loads((bundle / "router.json").read_text())


def encoder_file(bundle, name):
    return f"{card_of(bundle)['encoder']}/{name}"


def asking(*texts):
    return Query(messages=tuple(Message("user", text) for text in texts))


# Scores


@pytest.mark.parametrize(
    ("text", "low", "high"),
    [
        ("this is hard", 0.9, 1),
        ("HARD!", 0.9, 1),
        ("word " * 500 + "hard", 0.9, 1),
        ("turn on the light", 0, 0.1),
        ("", 0, 0.1),
        (" \n\t ", 0, 0.1),
        ("x" * 10_000, 0, 0.1),
        ("\ud800 lone surrogate \udfff", 0, 0.1),
        ("nul \x00 and \x1b bell", 0, 0.1),
        ("日本語 😀 é", 0, 0.1),
        ("a b " * 300_000, 0, 0.1),
    ],
)
def test_any_text_gets_a_score(tiny, text, low, high):
    assert low <= tiny.score(asking(text)) <= high


def test_the_last_user_message_is_what_is_scored(tiny):
    history = (Message("user", "hard"), Message("assistant", "hard"), Message("user", "easy"), Message("tool", "hard"))
    assert tiny.score(Query(messages=history)) == tiny.score(asking("easy"))


@pytest.mark.parametrize(
    ("said", "scored"),
    [
        (["prove it", "and why?"], "prove it\nand why?"),
        (
            ["prove it", "please explain why this holds for all of them"],
            "please explain why this holds for all of them",
        ),
        (["and why?"], "and why?"),
        ([], ""),
    ],
)
def test_a_follow_up_too_short_to_stand_alone_is_scored_with_what_it_follows(said, scored):
    messages = [turn for text in said for turn in (Message("user", text), Message("assistant", "hard"))]
    assert scored_text(messages, "last_user_message_in_context") == scored
    assert scored_text(messages) == (said[-1] if said else "")


def test_the_card_says_whether_a_follow_up_is_scored_in_context(bundle):
    follow_up = asking("this is hard", "and why?")
    assert RouterModel.load(bundle).score(follow_up) < 0.1
    edit_card(bundle, input="last_user_message_in_context")
    assert RouterModel.load(bundle).score(follow_up) > 0.9


def test_a_query_without_user_message_is_scored_as_empty_text(tiny):
    assert tiny.score(Query(messages=(Message("system", "hard"),))) == tiny.score(asking(""))


def test_long_texts_keep_their_first_and_last_tokens(tiny):
    ids = tiny._encoder.token_ids("a " + "b " * 400 + "c")
    assert len(ids) == tiny.card.max_tokens == 128
    tokens = [tiny._encoder._tokenizer.id_to_token(i) for i in ids]
    assert tokens == ["[CLS]", "a", *["b"] * 124, "c", "[SEP]"]


def test_threads_get_the_scores_that_one_thread_gets(tiny):
    texts = [f"question {i} " * (i % 40) for i in range(200)]
    alone = [tiny.score_text(text) for text in texts]
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(tiny.score_text, texts)) == alone


def test_a_score_that_is_not_a_number_is_an_error(bundle):
    router = RouterModel.load(bundle)
    broken = onnx.load_from_string(tiny_head())
    weight = next(w for w in broken.graph.initializer if w.name == "bias")
    weight.CopyFrom(numpy_helper.from_array(np.array([np.nan], np.float32), "bias"))
    router._head = onnxruntime.InferenceSession(broken.SerializeToString())
    with pytest.raises(RouterError, match=r"expected a score in \[0, 1\], found nan"):
        router.score_text("hello")


def test_a_candidate_with_the_same_encoder_shares_it_and_keeps_its_own_card(bundle, tmp_path):
    active = RouterModel.load(bundle)
    candidate = make_tiny_router(tmp_path / "other", version="tiny-2")
    edit_card(candidate, max_tokens=8, threshold=0.25)
    shared, alone = RouterModel.load(candidate, beside=active), RouterModel.load(candidate)
    assert shared._encoder._session is active._encoder._session
    assert alone._encoder._session is not active._encoder._session
    text = "word " * 10 + "hard " + "word " * 10
    assert shared.score_text(text) == alone.score_text(text) < 0.5 < active.score_text(text)


def test_another_encoder_is_not_shared(bundle, tmp_path):
    active = RouterModel.load(bundle)
    candidate = make_tiny_router(tmp_path / "other", version="tiny-2")
    tokenizer = json.loads((candidate / encoder_file(candidate, "tokenizer.json")).read_text())
    replace_file(candidate, encoder_file(candidate, "tokenizer.json"), json.dumps(tokenizer, indent=1).encode())
    assert RouterModel.load(candidate, beside=active)._encoder._session is not active._encoder._session


# What the device refuses


def without(name):
    return lambda bundle: edit_card(bundle, **{name: None})


def with_field(name, value):
    return lambda bundle: edit_card(bundle, **{name: value})


def with_encoder(name):
    files = dict.fromkeys(("head.onnx", f"{name}/model.onnx", f"{name}/tokenizer.json"), "0" * 64)
    return lambda bundle: edit_card(bundle, encoder=name, files=files)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda b: (b / "router.json").unlink(), "router.json: expected a router's card, found none"),
        (lambda b: (b / "router.json").write_text("{"), "router.json: expected JSON, found something else"),
        (lambda b: (b / "router.json").write_bytes(b"\xff\xfe"), "router.json: expected JSON, found something else"),
        (lambda b: (b / "router.json").write_text("[]"), "router.json: expected a JSON object, found list"),
        (lambda b: (b / "router.json").write_text("[" * 200_000), "router.json: expected JSON, found something else"),
        (with_field("version", "../v1"), "version: expected letters, digits"),
        (with_field("version", "\ud800"), "version: expected letters, digits"),
        (with_field("threshold", 10**400), "threshold: expected a number, found 1000"),
        (with_field("features", [["words"]]), r"features: expected names, found \[\["),
        (with_field("encoder_inputs", ["input_ids", 5]), "encoder_inputs: expected names"),
        (with_field("golden", [{"text": "easy", "score": 10**400}]), "golden: expected a list of {text, score}"),
        (with_encoder("../encoders/\0"), "encoder: expected a directory, found"),
        (with_encoder("../encoders/\ud800"), "encoder: expected a directory, found"),
        (without("version"), "version: expected text, found nothing"),
        (without("files"), "files: expected an object, found nothing"),
        (with_field("threshold", "0.5"), 'threshold: expected a number, found "0.5"'),
        (with_field("threshold", 1.5), r"threshold: expected a number in \[0, 1\], found 1.5"),
        (with_field("threshold", float("nan")), r"threshold: expected a number in \[0, 1\], found NaN"),
        (with_field("max_tokens", True), "max_tokens: expected a whole number, found true"),
        (with_field("max_tokens", 2), "max_tokens: expected 4 to 8192, found 2"),
        (with_field("format", 2), "format: expected 1, found 2"),
        (with_field("input", "whole_chat"), "input: expected last_user_message or last_user_message_in_context, found"),
        (with_field("heads", {"acceptable": "g"}), "heads: expected score, and perhaps acceptable"),
        (with_field("threshold_head", "acceptable"), 'threshold_head: expected score, found "acceptable"'),
        (with_field("features_version", 99), "features: expected version 1 .* found version 99"),
        (
            with_field("features", ["words", "rhymes"]),
            r"features: expected version 1 .* found version 1 \['words', 'rhymes'\]",
        ),
        (with_field("files", {}), r"files\['head.onnx'\]: expected a SHA-256, found null"),
        (with_field("golden", []), "golden: expected a list of {text, score}"),
        (with_field("golden", [{"text": 1, "score": 0.5}]), "golden: expected a list of {text, score}"),
        (with_field("golden", [{"text": "easy", "score": 0.5}]), r"self-test: expected score 0.500 .* found 0.01"),
        (with_field("dimension", 9), "model.onnx: expected embeddings of length 9, found 8"),
        (
            with_field("encoder_inputs", ["input_ids"]),
            r"expected int64 inputs \['input_ids'\], found \['attention_mask'",
        ),
    ],
)
def test_a_wrong_card_is_refused_by_field(bundle, damage, message):
    damage(bundle)
    with pytest.raises(RouterError, match=message) as refused:
        RouterModel.load(bundle)
    assert "take the bundle again" in str(refused.value)


@pytest.mark.parametrize("name", ["head.onnx", "model.onnx", "tokenizer.json"])
def test_every_file_of_a_bundle_is_checked_against_its_hash(bundle, name):
    file = bundle / (name if name == "head.onnx" else encoder_file(bundle, name))
    data = file.read_bytes()
    file.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    with pytest.raises(
        RouterError, match=f"{name}: expected SHA-256 [0-9a-f]{{64}} as on the card, found [0-9a-f]{{64}}"
    ):
        RouterModel.load(bundle)
    file.unlink()
    with pytest.raises(RouterError, match=f"{name}: expected a file of the bundle, found none"):
        RouterModel.load(bundle)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("head.onnx", "head.onnx: expected an ONNX model, found something else"),
        ("model.onnx", "model.onnx: expected an ONNX model, found something else"),
        ("tokenizer.json", "tokenizer.json: expected a tokenizer"),
    ],
)
def test_a_file_cut_in_half_is_refused_even_when_its_hash_is_right(bundle, name, message):
    file = name if name == "head.onnx" else encoder_file(bundle, name)
    data = (bundle / file).read_bytes()
    replace_file(bundle, file, data[: len(data) // 2])
    with pytest.raises(RouterError, match=message):
        RouterModel.load(bundle)


def renamed(model, old, new):
    model = onnx.load_from_string(model)
    for value in [*model.graph.input, *model.graph.output]:
        value.name = new if value.name == old else value.name
    for node in model.graph.node:
        for names in (node.input, node.output):
            names[:] = [new if name == old else name for name in names]
    return model.SerializeToString()


def single_numbers(name, kind, output):
    """A graph that takes and gives a number without any axis."""
    given, taken = (helper.make_tensor_value_info(n, t, []) for n, t in ((name, kind), (output, TensorProto.FLOAT)))
    nodes = [helper.make_node("Cast", [name], [output], to=TensorProto.FLOAT)]
    graph = helper.make_graph(nodes, "flat", [given], [taken])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8).SerializeToString()


def mean_of_features():
    """A head whose score has no second axis."""
    model = onnx.load_from_string(tiny_head())
    model.graph.node[-1].output[0] = "column"
    axes = {"axes": [1], "keepdims": 0}
    model.graph.node.append(helper.make_node("ReduceMean", ["column"], ["score"], **axes))
    del model.graph.output[0].type.tensor_type.shape.dim[1]
    return model.SerializeToString()


def foreign_operator():
    model = onnx.load_from_string(tiny_head())
    model.graph.node[-1].domain = "com.example"
    return model.SerializeToString()


def external_weight():
    model = onnx.load_from_string(tiny_head())
    weight = model.graph.initializer[0]
    weight.ClearField("raw_data")
    weight.data_location = TensorProto.EXTERNAL
    weight.external_data.add(key="location", value="../../../../etc/passwd")
    return model.SerializeToString()


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("head.onnx", renamed(tiny_head(), "features", "embedding"), "expected float inputs {'features': 23}, found"),
        (
            "head.onnx",
            renamed(tiny_head(), "score", "p"),
            r"outputs {'score': \[1\]} for each text, found {'p':",
        ),
        ("head.onnx", mean_of_features(), r"outputs {'score': \[1\]} for each text, found {'score': \[\]}"),
        ("head.onnx", single_numbers("features", TensorProto.FLOAT, "score"), "found {'features': None}"),
        ("head.onnx", foreign_operator(), r"expected operators of ONNX itself, found domains .*'com.example'"),
        ("head.onnx", external_weight(), "expected all weights inside the file, found external data"),
        ("model.onnx", renamed(tiny_encoder(), "attention_mask", "attention"), r"found \['attention', 'input_ids'\]"),
        (
            "model.onnx",
            renamed(tiny_encoder(), "embedding", "pooled_out"),
            r"output \['embedding'\], found \['pooled_out'\]",
        ),
    ],
)
def test_a_graph_that_is_not_what_the_card_says_is_refused(bundle, name, data, message):
    replace_file(bundle, name if name == "head.onnx" else encoder_file(bundle, name), data)
    with pytest.raises(RouterError, match=message):
        RouterModel.load(bundle)


@pytest.mark.parametrize("encoder", ["../../elsewhere", "/elsewhere", "../encoders/../../elsewhere"])
def test_an_encoder_outside_router_models_is_refused(tmp_path, encoder):
    bundle = make_tiny_router(tmp_path / "router_models")
    shutil.copytree((bundle / card_of(bundle)["encoder"]).resolve(), tmp_path / "elsewhere")
    names = {f"{encoder}/{name}": "0" * 64 for name in ("model.onnx", "tokenizer.json")}
    edit_card(bundle, encoder=encoder, files={**card_of(bundle)["files"], **names})
    with pytest.raises(RouterError, match=r"router.json: encoder: expected a directory inside .*router_models, found"):
        RouterModel.load(bundle)


def test_an_encoder_linked_from_outside_is_refused(tmp_path):
    bundle = make_tiny_router(tmp_path / "router_models")
    (tmp_path / "router_models" / "encoders").rename(tmp_path / "elsewhere")
    (tmp_path / "router_models" / "encoders").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(RouterError, match="expected a directory inside"):
        RouterModel.load(bundle)


def test_facts_are_found_in_subgraphs_and_attributes_too():
    hidden = helper.make_tensor("hidden", TensorProto.FLOAT, [1], [0.0])
    hidden.ClearField("float_data")
    hidden.data_location = TensorProto.EXTERNAL
    constant = helper.make_node("Constant", [], ["y"], value=hidden)
    branch = helper.make_graph(
        [constant, helper.make_node("Odd", ["y"], ["z"], domain="com.example")], "branch", [], []
    )
    choice = helper.make_node("If", ["x"], ["z"], then_branch=branch, else_branch=branch)
    facts = read_facts(helper.make_model(helper.make_graph([choice], "g", [], [])).SerializeToString())
    assert facts.external_data
    assert facts.operators == {"If", "Constant", "Odd"}
    assert facts.domains - {""} == {"com.example"}


# Which bundle


def test_the_configured_bundle_wins_then_the_state_directory_then_the_clone(tmp_path):
    state, clone = tmp_path / "state", tmp_path / "clone"
    package = clone / "edge_agent"
    in_clone = make_tiny_router(clone / "router_models")
    assert find_bundle(None, state, package_dir=package) == in_clone
    in_state = make_tiny_router(state / "router_models")
    assert find_bundle(None, state, package_dir=package) == in_state
    assert find_bundle("~/mine", state, package_dir=package) == Path("~/mine").expanduser()


def test_an_installed_package_brings_its_last_version(tmp_path):
    package = tmp_path / "edge_agent"
    for version in ("20260101", "20260301", "20260201"):
        make_tiny_router(package / "_router_models", version=version)
    (package / "_router_models" / "current").unlink()
    found = find_bundle(None, tmp_path / "state", package_dir=package)
    assert RouterModel.load(found).version == "20260301"


def test_a_dangling_current_is_told_and_not_stepped_over(tmp_path):
    package = tmp_path / "clone" / "edge_agent"
    make_tiny_router(tmp_path / "clone" / "router_models")
    make_tiny_router(tmp_path / "state" / "router_models", version="gone")
    shutil.rmtree(tmp_path / "state" / "router_models" / "gone")
    with pytest.raises(RouterError, match="state/router_models/gone/router.json: expected a router's card, found none"):
        RouterModel.load(find_bundle(None, tmp_path / "state", package_dir=package))


def test_no_bundle_anywhere_names_the_places(tmp_path):
    with pytest.raises(RouterError, match="no router bundle in .*state/router_models/current.*; set router.path"):
        find_bundle(None, tmp_path / "state", package_dir=tmp_path / "edge_agent")


# The shipped router


def test_the_shipped_router_loads_and_says_what_it_is(shipped):
    assert (SHIPPED / "current").is_symlink()
    assert shipped.version == (SHIPPED / "current").resolve().name
    assert find_bundle(None, Path("nowhere")) == SHIPPED / "current"
    for part in shipped.card.trained_on["parts"]:
        low, high = shipped.card.metrics[part["label_set"]]["all"]["apgr_95"]
        assert low < shipped.card.metrics[part["label_set"]]["all"]["apgr"] < high
    assert {"score", "acceptable"} == set(shipped.card.heads)
    assert shipped.card.trained_on["encoder_reason"]


def test_the_shipped_router_is_deterministic_and_tells_texts_apart(shipped):
    texts = ["hello", "Who discovered penicillin?", "Turn on the lamp", "Why is 7 prime?", "x" * 10_000, "", "\ud800"]
    scores = [shipped.score_text(text) for text in texts]
    assert [RouterModel.load(SHIPPED / "current").score_text(text) for text in texts] == scores
    assert all(0 <= score <= 1 for score in scores)
    assert len(set(scores)) == len(texts)


def test_the_shipped_encoder_computes_in_int8(shipped):
    facts = read_facts((SHIPPED / "current" / shipped.card.encoder_model).resolve().read_bytes())
    assert {"MatMulInteger", "DynamicQuantizeLinear"} <= facts.operators
    assert facts.domains == {""}


def test_padding_changes_int8_embeddings_which_is_why_nothing_is_padded(shipped):
    session, ids = shipped._encoder._session, shipped._encoder.token_ids("Is the back door locked?")
    embeddings = []
    for padding in (0, 40):
        input_ids = np.array([ids + [0] * padding])
        mask = np.array([[1] * len(ids) + [0] * padding])
        embeddings.append(session.run(None, {"input_ids": input_ids, "attention_mask": mask})[0][0])
    cosine = float(embeddings[0] @ embeddings[1])
    assert 0.97 < cosine < 0.9999


def test_loading_and_scoring_need_no_training_packages():
    code = (
        "import sys; sys.modules.update(onnx=None, torch=None, tqdm=None)\n"
        "from edge_agent.router import RouterModel, find_bundle, scored_text\n"
        f"print(RouterModel.load({str(SHIPPED / 'current')!r}).score_text('hello'))\n"
        "assert not any(name.startswith('edge_agent.training') for name in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=SHIPPED.parent)
    assert done.returncode == 0, done.stderr
    assert 0 <= float(done.stdout) <= 1
    assert done.stderr == ""


# Text features


@pytest.mark.parametrize(
    ("text", "name", "expected"),
    [
        ("one two three", "words", np.log(4)),
        ("", "words", 0),
        ("a\nb\nc", "lines", np.log(3)),
        ("ab12", "digits", 0.5),
        ("Anna and Bob", "capitals", 2 / 3),
        ("é1", "non_ascii", 0.5),
        ("why?", "question", 1),
        ("why", "question", 0),
        ("def f(x): return x", "code", 1),
        ("for (i = 0; i < n; i++) {", "code", 1),
        ("Tell me about the sea (and boats).", "code", 0),
        ("what is 3 + 4", "maths", 1),
        ("solve x^2 = 9 for 2*x", "maths", 1),
        ("set it to 40 %", "maths", 1),
        ("turn on the 2 lamps", "maths", 0),
    ],
)
def test_text_features(text, name, expected):
    features = text_features.text_features(text)
    assert features[text_features.NAMES.index(name)] == pytest.approx(expected)

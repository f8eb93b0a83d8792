"""The encoder's graph against BERT written out in numpy, on random weights of a tiny BERT."""

import json
import math

import numpy as np
import pytest

from edge_agent.onnx_file import read_facts
from edge_agent.router import Encoder
from edge_agent.training.encoder_export import (
    INPUTS,
    EncoderFiles,
    encoder_graph,
    first_layers,
    quantize,
    whole_encoder,
    write_encoder,
)
from edge_agent.training.encoder_parity import Reference, encoder_parity
from edge_agent.training.static_encoder import static_graph
from tests.tiny_router import VOCABULARY, tiny_tokenizer

CONFIG = {
    "model_type": "bert",
    "hidden_act": "gelu",
    "position_embedding_type": "absolute",
    "hidden_size": 32,
    "num_attention_heads": 4,
    "num_hidden_layers": 2,
    "intermediate_size": 64,
    "layer_norm_eps": 1e-12,
}
TEXTS = ["hello there", "what is 2 + 2?", "x " * 50]


def random_weights():
    random = np.random.default_rng(3)
    size, wide = CONFIG["hidden_size"], CONFIG["intermediate_size"]
    linears = {"attention.self.query": (size, size), "attention.self.key": (size, size)}
    linears |= {"attention.self.value": (size, size), "attention.output.dense": (size, size)}
    linears |= {"intermediate.dense": (wide, size), "output.dense": (size, wide)}
    tables = {"word": len(VOCABULARY), "position": 512, "token_type": 2}
    weights = {f"embeddings.{name}_embeddings.weight": random.normal(0, 1, (n, size)) for name, n in tables.items()}
    norms = ["embeddings"]
    for layer in ("encoder.layer.0", "encoder.layer.1"):
        for name, shape in linears.items():
            weights[f"{layer}.{name}.weight"] = random.normal(0, 0.3, shape)
            weights[f"{layer}.{name}.bias"] = random.normal(0, 0.3, shape[0])
        norms += [f"{layer}.attention.output", f"{layer}.output"]
    for name in norms:
        weights[f"{name}.LayerNorm.weight"] = random.normal(1, 0.1, size)
        weights[f"{name}.LayerNorm.bias"] = random.normal(0, 0.1, size)
    return {name: value.astype(np.float32) for name, value in weights.items()}


def write_safetensors(path, tensors):
    header, data = {"__metadata__": {"format": "pt"}}, b""
    for name, value in tensors.items():
        header[name] = {"dtype": "F32", "shape": value.shape, "data_offsets": [len(data), len(data) + value.nbytes]}
        data += value.tobytes()
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + data)


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    directory = tmp_path_factory.mktemp("bert")
    write_safetensors(directory / "model.safetensors", random_weights())
    (directory / "config.json").write_text(json.dumps(CONFIG))
    (directory / "tokenizer.json").write_bytes(tiny_tokenizer())
    return directory


def bert(weights, ids):
    """Mean-pooled, L2-normalised BERT, as the papers have it."""

    def linear(x, name):
        return x @ weights[f"{name}.weight"].T + weights[f"{name}.bias"]

    def norm(x, name):
        x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-12)
        return x * weights[f"{name}.LayerNorm.weight"] + weights[f"{name}.LayerNorm.bias"]

    tables = {name: weights[f"embeddings.{name}_embeddings.weight"] for name in ("word", "position", "token_type")}
    x = norm(tables["word"][ids] + tables["position"][: len(ids)] + tables["token_type"][0], "embeddings")
    for layer in ("encoder.layer.0", "encoder.layer.1"):
        query, key, value = (linear(x, f"{layer}.attention.self.{n}") for n in ("query", "key", "value"))
        heads = []
        for q, k, v in zip(*(np.split(part, 4, axis=-1) for part in (query, key, value)), strict=True):
            attention = np.exp(q @ k.T / math.sqrt(8))
            heads.append(attention / attention.sum(-1, keepdims=True) @ v)
        x = norm(linear(np.concatenate(heads, -1), f"{layer}.attention.output.dense") + x, f"{layer}.attention.output")
        wide = linear(x, f"{layer}.intermediate.dense")
        gelu = wide * 0.5 * (1 + np.vectorize(math.erf)(wide / math.sqrt(2)))
        x = norm(linear(gelu, f"{layer}.output.dense") + x, f"{layer}.output")
    mean = x.mean(0)
    return mean / np.linalg.norm(mean)


@pytest.mark.parametrize("text", ["hello there", "", "what is 2 + 2? " * 5])
def test_the_graph_computes_bert(source, tmp_path, text):
    (tmp_path / "model.onnx").write_bytes(encoder_graph(source, quantized=False))
    (tmp_path / "tokenizer.json").write_bytes(tiny_tokenizer())
    encoder = Encoder(tmp_path, inputs=INPUTS, max_tokens=128)
    assert encoder.embed(text) == pytest.approx(bert(random_weights(), encoder.token_ids(text)), abs=1e-5)


def test_the_int8_graph_is_int8_and_close_to_float(source):
    model, reference = encoder_graph(source), encoder_graph(source, quantized=False)
    facts = read_facts(model)
    assert {"MatMulInteger", "DynamicQuantizeLinear"} <= facts.operators
    assert facts.domains == {""}
    assert len(model) < 0.7 * len(reference)
    files = EncoderFiles(model, reference, tiny_tokenizer())
    assert encoder_parity(files.encoder(), Reference.of(files.encoder(twin=True), TEXTS)).cosine_mean > 0.99


def test_the_first_layers_alone_are_a_shorter_bert(source, tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(CONFIG | {"num_hidden_layers": 1}))
    for name in ("model.safetensors", "tokenizer.json"):
        (tmp_path / name).write_bytes((source / name).read_bytes())
    assert first_layers(source, 1).model == encoder_graph(tmp_path)
    assert first_layers(source, 2).model == encoder_graph(source)
    with pytest.raises(ValueError, match="first: expected 1 to 2 layers, found 3"):
        first_layers(source, 3)


def test_exporting_twice_gives_the_same_directory(source, tmp_path):
    files, encoders = whole_encoder(source), tmp_path / "encoders"
    first = write_encoder(files, encoders, "tiny-bert", {"source": "0"}, twins=tmp_path / "float32", texts=TEXTS)
    names = ["encoder.json", "float32.npz", "model.onnx", "tokenizer.json"]
    assert sorted(file.name for file in first.iterdir()) == names
    assert write_encoder(files, encoders, "tiny-bert", {"source": "0"}, texts=TEXTS) == first
    assert list(encoders.iterdir()) == [first]
    assert (tmp_path / "float32" / first.name / "model.onnx").read_bytes() == files.twin


def test_an_encoder_far_from_its_twin_is_not_written(source, tmp_path):
    whole = whole_encoder(source)
    files = EncoderFiles(whole.model, static_graph(np.eye(len(VOCABULARY), 32, dtype=np.float32)), whole.tokenizer)
    with pytest.raises(ValueError, match="tiny-bert is too far from float32: cosine_mean"):
        write_encoder(files, tmp_path, "tiny-bert", {}, texts=TEXTS)
    assert list(tmp_path.iterdir()) == []


def test_another_architecture_is_refused_by_name(source, tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({**CONFIG, "model_type": "roberta"}))
    with pytest.raises(ValueError, match="config.json: model_type: expected bert, found roberta"):
        encoder_graph(tmp_path)


def test_quantization_has_one_scale_for_each_row_and_loses_half_a_step_at_most():
    weight = np.random.default_rng(0).normal(size=(5, 9)) * np.array([[1], [10], [0.1], [0], [1]])
    values, scales = quantize(weight, axis=1)
    assert values.dtype == np.int8
    assert scales.shape == (5, 1)
    assert np.all(np.abs(values * scales - weight) <= scales / 2 + 1e-9)

"""Encoders beside each other, under the same kind of head: time from text to score, where it goes, bytes and memory.

python -m benchmarks.router_latency [ENCODER ...] [--rounds N]

Without arguments: those of router_models/encoders. The last row is always a float32 twin of MiniLM-L6 with random
weights, since neither time nor memory depends on their values; ratios are to the first row, round by round.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

from benchmarks.table import median, print_table, ratio, spread
from edge_agent import text_features
from edge_agent.router import Encoder, _session
from edge_agent.router_card import ENCODER_MODEL, TOKENIZER
from edge_agent.training.encoder_export import INPUTS, IR_VERSION, MAX_TOKENS, OPSET, graph_of

TOKENS = (16, 64, 128)
SHAPE = {"hidden_size": 384, "intermediate_size": 1536, "num_hidden_layers": 6, "num_attention_heads": 12}
VOCABULARY, POSITIONS = 30522, 512
WORDS = "please turn the light in the kitchen down a little and tell me how long it takes to boil an egg".split()  # noqa: SIM905
"""One token each."""
WARM_UP = 3

MEMORY = """
import sys
from pathlib import Path
import numpy, onnxruntime, tokenizers
from edge_agent.router import Encoder

def anonymous_kb():
    return int(next(line for line in open("/proc/self/status") if line.startswith("RssAnon")).split()[1])

before = anonymous_kb()
encoder = Encoder(Path(sys.argv[1]), inputs=sys.argv[2].split(","), max_tokens=128)
for n in range(1, 201):
    encoder.embed("the " * n)
print((anonymous_kb() - before) / 1024)
"""


class Scorer:
    """An encoder and a head: what a router does with a text, part by part."""

    def __init__(self, encoder: Encoder, head: onnxruntime.InferenceSession):
        self.encoder, self.head = encoder, head

    def score(self, text: str) -> None:
        self.headed(self.encoder.features(text))

    def headed(self, features: np.ndarray[Any, Any]) -> None:
        self.head.run(["score"], {"features": features[None, :]})

    def parts(self, text: str) -> dict[str, Callable[[], object]]:
        features, ids = self.encoder.features(text), np.array([self.encoder.token_ids(text)])
        values = {"input_ids": ids, "attention_mask": np.ones_like(ids)}
        return {
            "tokenizer": lambda: self.encoder.token_ids(text),
            "graph": lambda: self.encoder._session.run(["embedding"], values),
            "text features": lambda: text_features.text_features(text),
            "head": lambda: self.headed(features),
        }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("encoders", type=Path, nargs="*", help="directories; default those of router_models/encoders")
    parser.add_argument("--rounds", type=int, default=40)
    arguments = parser.parse_args()
    paths = arguments.encoders or sorted(path.parent for path in Path("router_models/encoders").glob("*/encoder.json"))
    with tempfile.TemporaryDirectory() as temporary:
        twin = Path(temporary, "float32")
        twin.mkdir()
        (twin / ENCODER_MODEL).write_bytes(float32_twin())
        shutil.copy(paths[0] / TOKENIZER, twin)
        directories = {path.name: path for path in [*paths, twin]}
        scorers = {name: scorer(path, Path(temporary)) for name, path in directories.items()}
        latency(scorers, arguments.rounds)
        where_time_goes(scorers, arguments.rounds)
        space(directories)


def scorer(directory: Path, temporary: Path) -> Scorer:
    """An encoder under a logistic head of its length."""
    encoder = Encoder(directory, inputs=INPUTS, max_tokens=MAX_TOKENS)
    path = temporary / f"head-{encoder.dimension}.onnx"
    path.write_bytes(head(encoder.dimension + len(text_features.NAMES)))
    return Scorer(encoder, _session(path, 1))


def head(n_features: int) -> bytes:
    """A logistic head."""
    nodes = [
        helper.make_node("MatMul", ["features", "weight"], ["product"]),
        helper.make_node("Sigmoid", ["product"], ["score"]),
    ]
    inputs = [helper.make_tensor_value_info("features", TensorProto.FLOAT, ["batch", n_features])]
    outputs = [helper.make_tensor_value_info("score", TensorProto.FLOAT, ["batch", 1])]
    weight = numpy_helper.from_array(np.ones((n_features, 1), np.float32), "weight")
    graph = helper.make_graph(nodes, "head", inputs, outputs, [weight])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION)
    return bytes(model.SerializeToString())


def float32_twin() -> bytes:
    """A BERT of the shipped encoder's shape with random weights."""
    random, size, wide = np.random.default_rng(0), SHAPE["hidden_size"], SHAPE["intermediate_size"]
    shapes: dict[str, tuple[int, ...]] = {
        "embeddings.word_embeddings.weight": (VOCABULARY, size),
        "embeddings.position_embeddings.weight": (POSITIONS, size),
        "embeddings.token_type_embeddings.weight": (2, size),
    }
    norms = ["embeddings"]
    for layer in range(SHAPE["num_hidden_layers"]):
        name = f"encoder.layer.{layer}"
        square = [f"{name}.attention.self.{part}" for part in ("query", "key", "value")]
        linears = {linear: (size, size) for linear in [*square, f"{name}.attention.output.dense"]}
        linears |= {f"{name}.intermediate.dense": (wide, size), f"{name}.output.dense": (size, wide)}
        shapes |= {f"{linear}.weight": shape for linear, shape in linears.items()}
        shapes |= {f"{linear}.bias": shape[:1] for linear, shape in linears.items()}
        norms += [f"{name}.attention.output", f"{name}.output"]
    shapes |= {f"{norm}.LayerNorm.{part}": (size,) for norm in norms for part in ("weight", "bias")}
    tensors = {name: random.normal(0, 0.05, shape).astype(np.float32) for name, shape in shapes.items()}
    return graph_of(tensors, {**SHAPE, "layer_norm_eps": 1e-12}, quantized=False)


def text_of(n_tokens: int) -> str:
    """Ordinary words; with [CLS] and [SEP] so many tokens."""
    return " ".join(islice(cycle(WORDS), n_tokens - 2))


def timed(what: Callable[[], object]) -> float:
    """Milliseconds of one call."""
    start = time.perf_counter()
    what()
    return 1000 * (time.perf_counter() - start)


def latency(scorers: dict[str, Scorer], rounds: int) -> None:
    rows = {name: [name] for name in scorers}
    for n_tokens in TOKENS:
        text = text_of(n_tokens)
        times: dict[str, list[float]] = {name: [] for name in scorers}
        for _ in range(rounds + WARM_UP):
            for name, one in scorers.items():
                assert len(one.encoder.token_ids(text)) == n_tokens
                times[name].append(timed(lambda one=one, text=text: one.score(text)))  # type: ignore[misc]
        kept = {name: values[WARM_UP:] for name, values in times.items()}
        first = next(iter(kept.values()))
        for name, values in kept.items():
            rows[name] += [spread(values, " ms", 2), f"{ratio(values, first):.2f}"]
    head = ["encoder", *(cell for n in TOKENS for cell in (f"{n} tokens", "ratio"))]
    print_table("Text to score, one thread, batch 1", head, list(rows.values()))


def where_time_goes(scorers: dict[str, Scorer], rounds: int, *, n_tokens: int = 64) -> None:
    rows = []
    for name, one in scorers.items():
        parts = one.parts(text_of(n_tokens))
        medians = [median([timed(part) for _ in range(rounds + WARM_UP)][WARM_UP:]) for part in parts.values()]
        rows.append([name, *(f"{value:.3f} ms" for value in medians)])
    print_table(f"Where the time goes at {n_tokens} tokens", ["encoder", *parts], rows)


def space(directories: dict[str, Path]) -> None:
    rows = []
    for name, directory in directories.items():
        command = [sys.executable, "-c", MEMORY, str(directory), ",".join(INPUTS)]
        found = [float(subprocess.run(command, check=True, capture_output=True).stdout) for _ in range(3)]
        size = (directory / ENCODER_MODEL).stat().st_size
        rows.append([name, f"{size / 2**20:.1f} MiB", f"{median(found):.0f} MiB"])
    print_table("Encoder", ["", "file", "RssAnon after 200 texts, tokenizer included"], rows)


if __name__ == "__main__":
    main()

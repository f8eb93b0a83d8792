"""A random-weight llama of half a megabyte, for tests. Speaks lower-case nonsense; knows nothing of the program.

Its vocabulary is byte-level BPE with Qwen's control tokens and its chat template knows tools, so whatever works on it
works on Qwen2.5. `python -m tests.tiny_gguf FILE` writes one.
"""

from __future__ import annotations

import os
import string
from pathlib import Path

import gguf
import numpy as np
from numpy.typing import NDArray

N_LAYERS, N_EMBD, N_HEADS, N_FF, N_CTX = 2, 64, 4, 128, 2048
MERGES = ["t h", "h e", "th e", "i n", "e r", "a n", "Ġ t", "Ġ a", "Ġ th", "Ġth e"]
CONTROL_TOKENS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]

CHAT_TEMPLATE = """\
{%- set system = messages[0].content if messages[0].role == 'system' else 'You are a tiny model.' %}
{{- '<|im_start|>system\\n' + system }}
{%- if tools %}
    {{- '\\n\\n# Tools\\n<tools>' }}
    {%- for tool in tools %}{{ '\\n' }}{{ tool | tojson }}{% endfor %}
    {{- '\\n</tools>\\nCall one with <tool_call>{"name": ..., "arguments": ...}</tool_call>' }}
{%- endif %}
{{- '<|im_end|>\\n' }}
{%- for message in (messages[1:] if messages[0].role == 'system' else messages) %}
    {%- if message.role == 'tool' %}
        {{- '<|im_start|>user\\n<tool_response>\\n' + message.content + '\\n</tool_response><|im_end|>\\n' }}
    {%- else %}
        {{- '<|im_start|>' + message.role + '\\n' + (message.content or '') }}
        {%- for call in message.tool_calls or [] %}
            {{- '\\n<tool_call>\\n{"name": "' + call.function.name + '", "arguments": ' }}
            {{- call.function.arguments | tojson }}
            {{- '}\\n</tool_call>' }}
        {%- endfor %}
        {{- '<|im_end|>\\n' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}
"""
"""Like Qwen2.5's, `arguments | tojson` included: arguments must arrive as an object, not as JSON text."""


def make_tiny_gguf(path: Path, *, seed: int = 0) -> Path:
    """Write the model whose weights follow from `seed`; the same seed gives the same bytes."""
    partial = path.with_name(path.name + ".part")
    writer = gguf.GGUFWriter(partial, "llama")
    tokens = _vocabulary()
    _add_shape(writer)
    _add_tokenizer(writer, tokens)
    for name, weights in _weights(tokens, np.random.default_rng(seed)).items():
        writer.add_tensor(name, weights.astype(np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    os.replace(partial, path)
    return path


def _vocabulary() -> list[str]:
    return [*_byte_symbols(), *(merge.replace(" ", "") for merge in MERGES), *CONTROL_TOKENS]


def _byte_symbols() -> list[str]:
    """GPT-2's printable stand-in for each of the 256 bytes, in byte order; the space is Ġ."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = [byte for byte in range(256) if byte not in printable]
    return [chr(byte) if byte in printable else chr(256 + others.index(byte)) for byte in range(256)]


def _add_shape(writer: gguf.GGUFWriter) -> None:
    writer.add_name("tiny random llama")
    writer.add_context_length(N_CTX)
    writer.add_embedding_length(N_EMBD)
    writer.add_block_count(N_LAYERS)
    writer.add_feed_forward_length(N_FF)
    writer.add_head_count(N_HEADS)
    writer.add_head_count_kv(N_HEADS)
    writer.add_rope_dimension_count(N_EMBD // N_HEADS)
    writer.add_layer_norm_rms_eps(1e-6)
    writer.add_file_type(gguf.LlamaFileType.ALL_F32)


def _add_tokenizer(writer: gguf.GGUFWriter, tokens: list[str]) -> None:
    kinds = [gguf.TokenType.CONTROL if token in CONTROL_TOKENS else gguf.TokenType.NORMAL for token in tokens]
    writer.add_vocab_size(len(tokens))
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("qwen2")
    writer.add_token_list(tokens)
    writer.add_token_types(kinds)
    writer.add_token_merges(MERGES)
    writer.add_bos_token_id(tokens.index("<|endoftext|>"))
    writer.add_eos_token_id(tokens.index("<|im_end|>"))
    writer.add_pad_token_id(tokens.index("<|endoftext|>"))
    writer.add_add_bos_token(False)
    writer.add_chat_template(CHAT_TEMPLATE)


def _weights(tokens: list[str], rng: np.random.Generator) -> dict[str, NDArray[np.float64]]:
    """Random everywhere but in channel 0: constant in every embedding, unseen and untouched by the layers, it carries
    each token's bias to the logits. That is how plain text wins over control tokens and broken UTF-8."""

    def normal(n_out: int, n_in: int, gain: float) -> NDArray[np.float64]:
        return rng.normal(0, gain / np.sqrt(n_in), (n_out, n_in))

    weights = {
        "token_embd.weight": rng.normal(0, 0.3, (len(tokens), N_EMBD))
    }  # small: the context outweighs the last token
    for layer in range(N_LAYERS):
        block = {
            "attn_norm": np.ones(N_EMBD),
            "attn_q": normal(N_EMBD, N_EMBD, 2.0),
            "attn_k": normal(N_EMBD, N_EMBD, 2.0),
            "attn_v": normal(N_EMBD, N_EMBD, 1.0),
            "attn_output": normal(N_EMBD, N_EMBD, 8.0),
            "ffn_norm": np.ones(N_EMBD),
            "ffn_gate": normal(N_FF, N_EMBD, 1.5),
            "ffn_up": normal(N_FF, N_EMBD, 1.5),
            "ffn_down": normal(N_EMBD, N_FF, 4.0),
        }
        block["attn_norm"][0] = block["ffn_norm"][0] = 0
        block["attn_output"][0] = block["ffn_down"][0] = 0
        weights |= {f"blk.{layer}.{name}.weight": value for name, value in block.items()}
    weights["output_norm.weight"] = np.ones(N_EMBD)
    weights["output.weight"] = normal(len(tokens), N_EMBD, 2.0)
    weights["token_embd.weight"][:, 0] = 32.0
    weights["output.weight"][:, 0] = [_bias(token) for token in tokens]
    return weights


def _bias(token: str) -> float:
    """How likely a token is whatever came before, in units of the constant channel."""
    if set(token) <= set(string.ascii_lowercase + "Ġ"):
        return 1.0
    if token == "<|im_end|>":  # sampled about once in two thousand tokens, greedily never
        return 0.5
    if token in "}]":  # before other punctuation, so that JSON under a grammar comes to its end
        return 0.0
    if token == "Ċ" or token.isascii() and token not in CONTROL_TOKENS:
        return -1.0
    return -5.0

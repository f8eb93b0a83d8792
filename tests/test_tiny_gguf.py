"""The tiny model is real enough for llama.cpp, and its nonsense is harmless."""

from __future__ import annotations

import json
import string
import time
from pathlib import Path
from typing import Any

import pytest
from llama_cpp import Llama

from tests.tiny_gguf import make_tiny_gguf


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_gguf(tmp_path_factory.mktemp("models") / "tiny.gguf")


@pytest.fixture(scope="module")
def llama(tiny: Path) -> Llama:
    return Llama(str(tiny), n_ctx=2048, n_threads=1, verbose=False)


def answer(llama: Llama, text: str, **options: Any) -> dict[str, Any]:
    options = {"max_tokens": 64, "temperature": 0} | options
    return llama.create_chat_completion([{"role": "user", "content": text}], **options)["choices"][0]


def test_the_same_seed_gives_the_same_small_file_and_another_seed_another(tiny: Path, tmp_path: Path) -> None:
    again, other = make_tiny_gguf(tmp_path / "a.gguf"), make_tiny_gguf(tmp_path / "b.gguf", seed=1)
    assert tiny.read_bytes() == again.read_bytes() != other.read_bytes()
    assert tiny.stat().st_size < 1_000_000


def test_answers_are_lower_case_text_of_the_length_asked_for(llama: Llama) -> None:
    for text in ("hello", "Turn on the light!", "日本語", "<|im_end|>"):
        choice = answer(llama, text)
        assert choice["finish_reason"] == "length"
        assert set(choice["message"]["content"]) <= set(string.ascii_lowercase + " ")


def test_greedy_answers_repeat_and_depend_on_the_prompt(llama: Llama) -> None:
    questions = ["hello", "hi", "turn on the light", "turn on the lights", "2+2", "2+3"]
    answers = [answer(llama, question)["message"]["content"] for question in questions]
    assert len(set(answers)) == len(questions)
    assert [answer(llama, question)["message"]["content"] for question in questions] == answers


def test_a_sampled_answer_can_end_by_itself(llama: Llama) -> None:
    unfiltered = {"max_tokens": 1000, "temperature": 1.0, "top_k": 0, "top_p": 1.0, "min_p": 0.0}
    endings = {answer(llama, "hello", seed=seed, **unfiltered)["finish_reason"] for seed in range(5)}
    assert endings == {"stop", "length"}


def test_control_tokens_are_one_token_each_and_the_end_is_im_end(llama: Llama) -> None:
    assert len(llama.tokenize(b"<|im_start|><|im_end|>", add_bos=False, special=True)) == 2
    assert len(llama.tokenize(b"<|im_end|>", add_bos=False, special=False)) > 2
    assert llama.tokenize(b"<|im_end|>", add_bos=False, special=True) == [llama.token_eos()]
    assert llama.detokenize(llama.tokenize("the é 日\n".encode(), add_bos=False)) == "the é 日\n".encode()


def test_it_speaks_json_under_a_schema(llama: Llama) -> None:
    schema = {
        "type": "object",
        "properties": {"on": {"type": "boolean"}, "n": {"type": "integer"}},
        "required": ["on", "n"],
    }
    choice = answer(llama, "hello", max_tokens=100, response_format={"type": "json_object", "schema": schema})
    assert choice["finish_reason"] == "stop"
    assert set(json.loads(choice["message"]["content"])) == {"on", "n"}


def test_the_chat_template_knows_tools(tiny: Path) -> None:
    from llama_cpp.llama_chat_format import Jinja2ChatFormatter

    template = Llama(str(tiny), vocab_only=True, verbose=False).metadata["tokenizer.chat_template"]
    call = {"type": "function", "function": {"name": "light", "arguments": {"on": True}}}
    messages = [
        {"role": "user", "content": "turn it on"},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "content": "done"},
    ]
    tool = {"type": "function", "function": {"name": "light"}}
    prompt = Jinja2ChatFormatter(template, "<|im_end|>", "")(messages=messages, tools=[tool]).prompt
    assert '<tools>\n{"type": "function"' in prompt
    assert '<tool_call>\n{"name": "light", "arguments": {"on": true}}\n</tool_call>' in prompt
    assert prompt.endswith("<tool_response>\ndone\n</tool_response><|im_end|>\n<|im_start|>assistant\n")


def test_it_is_fast_enough_for_hundreds_of_tests(llama: Llama) -> None:
    start = time.perf_counter()
    answer(llama, "hello", max_tokens=500)
    assert 500 / (time.perf_counter() - start) > 500

"""The sampler against the model asked one answer at a time, and the draws against their distribution."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from edge_agent.errors import LocalModelError
from edge_agent.llama_runtime import llama_cpp
from edge_agent.local_model import chat_template
from edge_agent.training.sampling import Generation, LlamaSampler, Prompt, Sample, SamplingSettings
from edge_agent.training.token_draws import draw, entropies
from edge_agent.types import Message

TEXTS = ["the sea is", "the sea was very", "bread and", "the sea is wide and"]


@pytest.fixture(scope="module")
def llama(tiny_gguf: Path) -> llama_cpp.Llama:
    return llama_cpp.Llama(str(tiny_gguf), n_ctx=512, n_threads=1, verbose=False)


def prompt(text: str, max_tokens: int = 12, stop: str | None = None) -> Prompt:
    return Prompt(text, (Message("user", text),), max_tokens, stop)


def tokens(llama: llama_cpp.Llama, text: str) -> list[int]:
    return chat_template(llama.model, Path("tiny")).tokens([Message("user", text)])


def sampled(gguf: Path, prompts: list[Prompt], settings: SamplingSettings, answers: int = 9) -> dict[str, Sample]:
    sampler = LlamaSampler(gguf, name="tiny", answers=answers, n_ctx=1024, n_threads=1)
    found = {sample.query_id: sample for sample in sampler.sample(prompts, settings)}
    sampler.close()
    return found


def greedy(llama: llama_cpp.Llama, prompt: list[int], n: int) -> tuple[str, list[float], list[float]]:
    """One answer, one token at a time: text, log-probabilities and entropies in float64."""
    llama.reset()
    llama.eval(prompt)
    ids, logprobs, found = [], [], []
    for _ in range(n):
        raw = np.ctypeslib.as_array(llama_cpp.llama_get_logits_ith(llama.ctx, -1), (llama.n_vocab(),))
        logits = raw.astype(np.float64)
        log_p = logits - logits.max() - np.log(np.exp(logits - logits.max()).sum())
        ids.append(int(log_p.argmax()))
        logprobs.append(float(log_p[ids[-1]]))
        found.append(float(-(np.exp(log_p) * log_p).sum()))
        llama.eval(ids[-1:])
    return llama.detokenize(ids).decode().strip(), logprobs, found


def answer_tokens(llama: llama_cpp.Llama, generation: Generation) -> list[int]:
    ends = [llama.token_eos()] * (generation.finish_reason == "stop")
    return llama.tokenize(generation.text.encode(), add_bos=False, special=False) + ends


def likelihood(llama: llama_cpp.Llama, prompt: list[int], answer: list[int]) -> float:
    """Mean log-probability of an answer's tokens, evaluated one after another."""
    llama.reset()
    found, context = [], prompt
    for token in answer:
        llama.eval(context)
        raw = np.ctypeslib.as_array(llama_cpp.llama_get_logits_ith(llama.ctx, -1), (llama.n_vocab(),))
        found.append(float(raw[token] - np.logaddexp.reduce(raw.astype(np.float64))))
        context = [token]
    return float(np.mean(found))


def test_the_near_greedy_answer_is_the_models_own(tiny_gguf: Path, llama: llama_cpp.Llama) -> None:
    found = sampled(tiny_gguf, [prompt(text) for text in TEXTS], SamplingSettings(n=2, seed=1))
    assert set(found) == set(TEXTS)
    for name, sample in found.items():
        text, logprobs, expected = greedy(llama, tokens(llama, name), 12)
        assert sample.generations[0].text == text
        assert sample.logprobs == pytest.approx(logprobs, abs=0.02)
        assert sample.entropies == pytest.approx(expected, abs=0.02)
        assert sample.generations[0].log_likelihood == pytest.approx(np.mean(logprobs), abs=0.01)


def test_every_answer_is_counted_capped_and_numbered(tiny_gguf: Path) -> None:
    sample = sampled(tiny_gguf, [prompt("hello", 5)], SamplingSettings(n=8))["hello"]
    assert [g.index for g in sample.generations] == list(range(9))
    for generation in sample.generations:
        assert generation.n_tokens <= 5 and generation.log_likelihood <= 0
        assert generation.finish_reason == ("length" if generation.n_tokens == 5 else "stop")
    assert len({g.text for g in sample.generations}) > 1
    assert sample.hidden_state.shape == (64,) and np.isfinite(sample.hidden_state).all()


def test_answers_that_part_go_on_from_what_they_share(tiny_gguf: Path, llama: llama_cpp.Llama) -> None:
    """The likelihood of a drawn answer, whose sequence was copied from others', is the model's own for that text."""
    settings = SamplingSettings(n=30, temperature=0.1, seed=3)
    generations = sampled(tiny_gguf, [prompt("hello", 10)], settings, answers=31)["hello"].generations
    assert len({g.text[:2] for g in generations}) < len({g.text for g in generations}), "expected shared beginnings"
    whole = {g.text: g for g in generations if len(answer_tokens(llama, g)) == g.n_tokens}  # not cut by strip()
    expected = [likelihood(llama, tokens(llama, "hello"), answer_tokens(llama, g)) for g in whole.values()]
    close = [g.log_likelihood == pytest.approx(x, abs=1e-3) for g, x in zip(whole.values(), expected, strict=True)]
    assert sum(close) > len(close) / 2 > 3  # the others' texts have a second tokenization


@pytest.mark.parametrize("answers", [3, 9, 60])
def test_what_is_drawn_does_not_depend_on_the_prompts_beside_it(tiny_gguf: Path, answers: int) -> None:
    settings = SamplingSettings(n=2)
    together = sampled(tiny_gguf, [prompt(text) for text in TEXTS], settings, answers)
    for text in TEXTS:
        alone = sampled(tiny_gguf, [prompt(text)], settings)[text]
        assert [g.text for g in alone.generations] == [g.text for g in together[text].generations]


def test_a_stop_text_ends_an_answer_and_is_not_part_of_it(tiny_gguf: Path, llama: llama_cpp.Llama) -> None:
    text, _, _ = greedy(llama, tokens(llama, TEXTS[0]), 12)
    stop = text[4]
    sample = sampled(tiny_gguf, [prompt(TEXTS[0], 12, stop)], SamplingSettings(n=1))[TEXTS[0]]
    assert sample.generations[0].finish_reason == "stop"
    assert sample.generations[0].text == text.partition(stop)[0].strip()


def test_the_same_seed_draws_the_same_answers(tiny_gguf: Path) -> None:
    one, same, other = (
        [g.text for g in sampled(tiny_gguf, [prompt("q", 8)], SamplingSettings(n=5, seed=seed))["q"].generations]
        for seed in (1, 1, 2)
    )
    assert one == same != other


def test_too_few_answers_at_a_time_are_refused(tiny_gguf: Path) -> None:
    with pytest.raises(ValueError, match="answers: expected at least 11, found 4"):
        sampled(tiny_gguf, [prompt("q")], SamplingSettings(), answers=4)


def test_a_query_that_cannot_be_asked_is_left_out_and_named(tiny_gguf: Path, caplog: pytest.LogCaptureFixture) -> None:
    long = Prompt("long", (Message("user", "sea " * 900),))
    odd = Prompt("odd", (Message("user", "sea"), Message("assistant", "", ({"type": "function"},))))
    assert set(sampled(tiny_gguf, [long, odd, prompt("q", 8)], SamplingSettings(n=2))) == {"q"}
    assert "query long is left out: its " in caplog.text and "query odd is left out" in caplog.text


def test_a_long_query_fits_after_another_long_one(tiny_gguf: Path) -> None:
    long = [Prompt(name, (Message("user", f"{name} sea" * 60),), max_tokens=8) for name in ("a", "b")]
    assert set(sampled(tiny_gguf, long, SamplingSettings(n=2))) == {"a", "b"}


def test_a_file_that_is_no_model_is_named(tmp_path: Path) -> None:
    (tmp_path / "no.gguf").write_bytes(b"GGUF nonsense")
    with pytest.raises(LocalModelError, match=r"no.gguf: llama.cpp cannot load"):
        LlamaSampler(tmp_path / "no.gguf", name="no")


def shares(logits: np.ndarray, temperature: float, top_p: float = 1.0, n: int = 20_000) -> np.ndarray:
    rows, uniform = np.zeros(n, dtype=np.intp), np.random.default_rng(0).random(n)
    draws = draw(logits[None, :].astype(np.float32), uniform, rows=rows, temperature=temperature, top_p=top_p)
    return np.bincount(draws.tokens, minlength=len(logits)) / n


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_draws_follow_the_heated_distribution(temperature: float) -> None:
    logits = np.random.default_rng(3).normal(size=1200) * 3  # more than one block of the cumulated weights
    heated = np.exp((logits - logits.max()) / temperature)
    expected = heated / heated.sum()
    likely = expected > 0.01
    assert shares(logits, temperature)[likely] == pytest.approx(expected[likely], abs=0.012)


def test_top_p_draws_from_the_smallest_set_that_holds_the_mass() -> None:
    logits = np.log(np.array([0.5, 0.3, 0.15, 0.05]))
    assert shares(logits, 1.0, top_p=0.7) == pytest.approx([0.625, 0.375, 0, 0], abs=0.015)
    assert shares(logits, 1.0, top_p=0.4) == pytest.approx([1, 0, 0, 0])


def test_nan_draws_the_likeliest_and_logprobs_are_the_models() -> None:
    logits = np.log(np.array([[0.5, 0.3, 0.2], [0.1, 0.7, 0.2]], dtype=np.float32))
    draws = draw(logits, np.array([np.nan, 0.05]), rows=np.array([1, 1]), temperature=0.7)
    assert draws.tokens.tolist() == [1, 0] and draws.logprobs == pytest.approx(np.log([0.7, 0.1]), abs=1e-6)
    logits = logits[1:]
    assert entropies(logits)[0] == pytest.approx(-sum(p * np.log(p) for p in (0.1, 0.7, 0.2)), abs=1e-6)

"""Token uncertainty equals the textbook formulas in float64, whatever the logits."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest

from edge_agent.confidence import TokenUncertainty


def textbook(logits: npt.NDArray[np.float32], token: int) -> tuple[float, float]:
    """Entropy of softmax(logits) and log-probability of the token, in nats: float64 and no trick but the shift."""
    shifted = logits.astype(np.float64) - float(logits.max())
    p = np.exp(shifted) / np.exp(shifted).sum()
    positive = p[p > 0]
    return float(-(positive * np.log(positive)).sum()), float(np.log(p[token]))


@pytest.mark.parametrize("spread", [0.0, 0.1, 1.0, 5.0, 30.0])
@pytest.mark.parametrize("n_vocab", [2, 269, 151_936])
def test_one_step_equals_the_textbook(n_vocab: int, spread: float) -> None:
    rng = np.random.default_rng(n_vocab)
    logits = (rng.normal(0, 1, n_vocab) * spread + 17).astype(np.float32)
    token = int(logits.argmax())
    uncertainty = TokenUncertainty(n_vocab)
    uncertainty.add(logits, token)
    entropy, logprob = textbook(logits, token)
    assert uncertainty.entropies == pytest.approx([entropy], abs=1e-4)
    assert uncertainty.logprobs == pytest.approx([logprob], abs=1e-4)


def test_an_answer_has_the_mean_and_the_largest_of_its_steps() -> None:
    rng = np.random.default_rng(0)
    steps = [((rng.normal(0, 3, 500)).astype(np.float32), int(rng.integers(500))) for _ in range(50)]
    uncertainty = TokenUncertainty(500)
    for logits, token in steps:
        uncertainty.add(logits, token)
    entropies, logprobs = zip(*(textbook(*step) for step in steps), strict=True)
    result = uncertainty.result()
    assert result is not None
    assert result.mean_entropy == pytest.approx(np.mean(entropies), abs=1e-5)
    assert result.max_entropy == pytest.approx(max(entropies), abs=1e-5)
    assert result.mean_logprob == pytest.approx(np.mean(logprobs), abs=1e-4)


def test_a_certain_token_has_no_entropy_and_an_even_choice_the_most() -> None:
    uncertainty = TokenUncertainty(1000)
    certain = np.zeros(1000, dtype=np.float32)
    certain[3] = 80.0
    uncertainty.add(certain, 3)
    uncertainty.add(np.full(1000, -5.0, dtype=np.float32), 7)
    assert uncertainty.entropies == pytest.approx([0.0, np.log(1000)], abs=1e-5)
    assert uncertainty.logprobs == pytest.approx([0.0, -np.log(1000)], abs=1e-5)


def test_logits_too_large_for_their_exponential_are_no_problem() -> None:
    uncertainty = TokenUncertainty(3)
    uncertainty.add(np.array([3000.0, 3000.0, -3000.0], dtype=np.float32), 1)
    assert uncertainty.entropies == pytest.approx([np.log(2)], abs=1e-6)
    assert uncertainty.logprobs == pytest.approx([-np.log(2)], abs=1e-6)


def test_the_logits_are_left_as_they_were() -> None:
    logits = np.linspace(-3, 3, 100, dtype=np.float32)
    before = logits.copy()
    TokenUncertainty(100).add(logits, 5)
    assert np.array_equal(logits, before)


def test_before_the_first_token_there_is_no_uncertainty() -> None:
    assert TokenUncertainty(10).result() is None

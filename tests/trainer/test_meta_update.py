from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.func import functional_call

from metarm.records import Ascent
from trainer.meta_update import (
    BackwardLoss,
    MetaUpdate,
    StepReport,
    centering_loss,
    contrast,
    difference_loss,
    preference_loss,
)

SCORES = st.one_of(st.integers(-4, 4).map(float), st.floats(-12, 12))  # integers produce ties
GROUPS = st.lists(st.lists(SCORES, min_size=1, max_size=6), min_size=1, max_size=6)
NO_CLIPPING = 1e9


def sigmoid(x: float) -> float:
    return 1.0 / (1.0 + math.exp(-x))


def grid(groups: list[list[float]], fill: float = 0.0) -> tuple[Tensor, Tensor]:
    """(m, k) scores in float64 and their mask; shorter groups are padded with `fill`."""
    width = max(len(group) for group in groups)
    scores = torch.tensor([[*g, *([fill] * (width - len(g)))] for g in groups], dtype=torch.float64)
    mask = torch.tensor([[i < len(g) for i in range(width)] for g in groups])
    return scores, mask


@given(GROUPS, st.floats(-50, 50))
def test_the_difference_loss_equals_the_papers_sum_over_unordered_pairs(
    groups: list[list[float]], fill: float
) -> None:
    values = difference_loss(*grid(groups, fill))
    for value, r in zip(values.tolist(), groups, strict=True):
        k = len(r)
        expected = 2 / k**2 * sum(sigmoid(abs(r[i] - r[j])) for i in range(k) for j in range(i + 1, k))
        assert value == pytest.approx(expected, rel=1e-12, abs=1e-12)
        assert (k - 1) / (2 * k) - 1e-12 <= value < max((k - 1) / k, 1e-12)


@given(st.lists(SCORES, min_size=2, max_size=6), st.floats(-10, 10))
def test_the_difference_loss_depends_only_on_score_differences(r: list[float], shift: float) -> None:
    value = difference_loss(*grid([r])).item()
    assert difference_loss(*grid([[x + shift for x in r]])).item() == pytest.approx(value, rel=1e-9)
    assert difference_loss(*grid([r[::-1]])).item() == pytest.approx(value, rel=1e-12)


@pytest.mark.parametrize("k", [2, 3, 5])
def test_the_difference_loss_has_its_minimum_and_a_zero_gradient_at_equal_scores(k: int) -> None:
    scores = torch.full((2, k), 1.7, dtype=torch.float64, requires_grad=True)
    value = difference_loss(scores, torch.ones(2, k, dtype=torch.bool))
    value.sum().backward()  # type: ignore[no-untyped-call]
    assert value.tolist() == pytest.approx([(k - 1) / (2 * k)] * 2)
    assert scores.grad is not None
    assert torch.equal(scores.grad, torch.zeros_like(scores))


def test_tied_scores_do_not_repel_each_other() -> None:
    scores = torch.tensor([[1.0, 1.0, 3.0]], dtype=torch.float64, requires_grad=True)
    difference_loss(scores, torch.ones(1, 3, dtype=torch.bool)).sum().backward()  # type: ignore[no-untyped-call]
    assert scores.grad is not None
    first, second, third = scores.grad[0].tolist()
    slope = 2 / 9 * sigmoid(2.0) * (1 - sigmoid(2.0))
    assert first == second == pytest.approx(-slope)
    assert third == pytest.approx(2 * slope)


def test_masked_positions_get_no_gradient() -> None:
    scores, mask = grid([[1.0, 2.0], [0.5, -1.0, 4.0]], fill=9.0)
    scores.requires_grad_()
    difference_loss(scores, mask).sum().backward()  # type: ignore[no-untyped-call]
    assert scores.grad is not None
    assert scores.grad[0, 2] == 0
    assert (scores.grad[mask] != 0).all()


def test_gradients_of_the_difference_loss_agree_with_finite_differences() -> None:
    scores, mask = grid([[0.3, -1.2, 2.5, 0.9], [1.0, 1.8], [4.0, -4.0, 0.1], [0.7]])
    assert torch.autograd.gradcheck(lambda s: difference_loss(s, mask), (scores.requires_grad_(),))


@given(st.lists(st.tuples(SCORES, SCORES, st.floats(0, 3)), min_size=1, max_size=8))
def test_the_preference_loss_is_bradley_terry_with_the_margin_of_trl(
    rows: list[tuple[float, float, float]],
) -> None:
    chosen, rejected, margin = torch.tensor(rows, dtype=torch.float64).unbind(1)
    expected = [math.log1p(math.exp(-(c - r - m))) for c, r, m in rows]
    assert preference_loss(chosen, rejected, margin).tolist() == pytest.approx(expected, rel=1e-9, abs=1e-12)


def test_the_preference_loss_stays_finite_for_distant_scores() -> None:
    far = torch.tensor([1e4, -1e4])
    assert preference_loss(-far, far, torch.zeros(2)).tolist() == [2e4, 0.0]


def test_gradients_of_the_preference_loss_agree_with_finite_differences() -> None:
    generator = torch.Generator().manual_seed(0)
    chosen, rejected = torch.randn(2, 6, dtype=torch.float64, generator=generator).requires_grad_().unbind(0)
    margin = torch.rand(6, dtype=torch.float64, generator=generator)
    assert torch.autograd.gradcheck(lambda c, r: preference_loss(c, r, margin), (chosen, rejected))


@given(st.lists(st.tuples(SCORES, SCORES, st.floats(0, 3)), min_size=1, max_size=8), st.floats(0, 0.499))
def test_label_smoothing_equals_that_of_conservative_dpo(
    rows: list[tuple[float, float, float]], share: float
) -> None:
    chosen, rejected, margin = torch.tensor(rows, dtype=torch.float64).unbind(1)
    gaps = [c - r - m for c, r, m in rows]
    expected = [(1 - share) * math.log1p(math.exp(-d)) + share * math.log1p(math.exp(d)) for d in gaps]
    found = preference_loss(chosen, rejected, margin, share).tolist()
    assert found == pytest.approx(expected, rel=1e-9, abs=1e-12)


def test_zero_label_smoothing_equals_the_plain_loss_bit_for_bit() -> None:
    chosen, rejected, margin = torch.randn(3, 1000, generator=torch.Generator().manual_seed(0)) * 9
    plain = -torch.nn.functional.logsigmoid(chosen - rejected - margin)
    assert torch.equal(preference_loss(chosen, rejected, margin, 0.0), plain)
    assert not torch.equal(preference_loss(chosen, rejected, margin, 1e-3), plain)


def test_a_smoothed_loss_is_minimal_where_the_predicted_probability_equals_the_label() -> None:
    gap = torch.tensor([math.log(0.9 / 0.1)], dtype=torch.float64, requires_grad=True)
    preference_loss(gap, torch.zeros(1), torch.zeros(1), 0.1).sum().backward()  # type: ignore[no-untyped-call]
    assert gap.grad is not None
    assert gap.grad.item() == pytest.approx(0.0, abs=1e-12)


def test_the_centering_loss_is_the_squared_sum_of_a_pair() -> None:
    chosen, rejected = torch.tensor([1.0, -2.0, 0.5]), torch.tensor([2.0, 2.0, 0.25])
    assert centering_loss(chosen, rejected).tolist() == [9.0, 0.0, 0.5625]


def test_gradients_of_the_loss_options_agree_with_finite_differences() -> None:
    generator = torch.Generator().manual_seed(0)
    chosen, rejected = torch.randn(2, 6, dtype=torch.float64, generator=generator).requires_grad_().unbind(0)
    margin = torch.rand(6, dtype=torch.float64, generator=generator)
    assert torch.autograd.gradcheck(lambda c, r: preference_loss(c, r, margin, 0.2), (chosen, rejected))
    assert torch.autograd.gradcheck(centering_loss, (chosen, rejected))


@given(st.lists(st.tuples(SCORES, SCORES), min_size=1, max_size=6), st.floats(0, 3))
def test_the_contrast_is_the_log_probability_that_the_reference_plus_margin_beats_the_sample(
    rows: list[tuple[float, float]], margin: float
) -> None:
    references, samples = torch.tensor(rows, dtype=torch.float64).unbind(1)
    expected = [math.log(sigmoid(reference + margin - sample)) for reference, sample in rows]
    assert contrast(references, samples, margin).tolist() == pytest.approx(expected, rel=1e-9, abs=1e-12)


def test_gradients_of_the_contrast_agree_with_finite_differences() -> None:
    references, samples = torch.randn(2, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    inputs = (references.requires_grad_(), samples.requires_grad_())
    assert torch.autograd.gradcheck(lambda r, s: contrast(r, s, 0.8), inputs)


class Setting:
    """A small reward network, labelled pairs and unlabelled groups of random features."""

    def __init__(self, dtype: torch.dtype = torch.float64, seed: int = 0) -> None:
        torch.manual_seed(seed)
        self.network = nn.Sequential(nn.Linear(5, 7), nn.Tanh(), nn.Linear(7, 1)).to(dtype)
        self.chosen, self.rejected = torch.randn(2, 16, 5, dtype=dtype)
        self.samples = torch.randn(6, 4, 5, dtype=dtype)
        self.parameters = list(self.network.parameters())

    def preference(self, parameters: dict[str, Tensor] | None = None) -> Tensor:
        """L"""
        chosen, rejected = self._score(self.chosen, parameters), self._score(self.rejected, parameters)
        return preference_loss(chosen, rejected, torch.zeros_like(chosen)).mean()

    def difference(self, parameters: dict[str, Tensor] | None = None) -> Tensor:
        """J"""
        scores = self._score(self.samples, parameters)
        return difference_loss(scores, torch.ones(scores.shape, dtype=torch.bool)).mean()

    def _score(self, features: Tensor, parameters: dict[str, Tensor] | None) -> Tensor:
        values: dict[str, Tensor] = dict(self.network.named_parameters()) if parameters is None else parameters
        scores: Tensor = functional_call(self.network, values, (features,))
        return scores[..., 0]

    def gradient_at_the_ascended_point(self, rate: float) -> list[Tensor]:
        """∇L(θ + η∇J(θ)), by torch.autograd.grad alone."""
        gradients = torch.autograd.grad(self.difference(), self.parameters)
        named = zip(self.network.named_parameters(), gradients, strict=True)
        ascended = {n: (p.detach() + rate * g).requires_grad_() for (n, p), g in named}
        return list(torch.autograd.grad(self.preference(ascended), list(ascended.values())))


def backward(loss: Callable[[], Tensor]) -> Callable[[], float]:
    def run() -> float:
        value = loss()
        value.backward()  # type: ignore[no-untyped-call]
        return value.item()

    return run


class StubObjective:
    """The objective J for an update, computed by a function that accumulates its gradient."""

    def __init__(self, run: BackwardLoss, value: Callable[[], Tensor] | None = None) -> None:
        self._run = run
        self._value = value

    def backward(self) -> float:
        return self._run()

    def hessian_product(
        self, parameters: Sequence[nn.Parameter], vectors: Sequence[Tensor], scale: float
    ) -> None:
        assert self._value is not None
        gradients = torch.autograd.grad(self._value(), parameters, create_graph=True, materialize_grads=True)
        along = torch.stack([(g * v).sum() for g, v in zip(gradients, vectors, strict=True)]).sum()
        (scale * along).backward(inputs=list(parameters))  # type: ignore[no-untyped-call]


def update(
    parameters: Sequence[nn.Parameter],
    optimizer: torch.optim.Optimizer,
    preference: BackwardLoss,
    difference: BackwardLoss | None,
    *,
    ascent_rate: float,
    max_grad_norm: float,
) -> StepReport:
    """One update with the "sgd" ascent; without `difference`, one vanilla step."""
    steps = MetaUpdate(parameters, optimizer, "sgd", ascent_rate, max_grad_norm=max_grad_norm)
    return steps.step(preference, StubObjective(difference) if difference else None)


@pytest.mark.parametrize("rate", [0.01, 1.0, 30.0])
def test_the_applied_gradient_is_that_at_the_ascended_point(rate: float) -> None:
    setting = Setting()
    before = [p.detach().clone() for p in setting.parameters]
    expected = setting.gradient_at_the_ascended_point(rate)
    vanilla = torch.autograd.grad(setting.preference(), setting.parameters)
    report = update(
        setting.parameters,
        torch.optim.SGD(setting.parameters, lr=0.5),
        backward(setting.preference),
        backward(setting.difference),
        ascent_rate=rate,
        max_grad_norm=NO_CLIPPING,
    )
    for parameter, old, g in zip(setting.parameters, before, expected, strict=True):
        torch.testing.assert_close(parameter.detach(), old - 0.5 * g, rtol=1e-12, atol=1e-14)
    assert not torch.allclose(expected[0], vanilla[0], rtol=1e-6, atol=0)  # differs from the vanilla gradient
    norm = math.sqrt(sum(float((g**2).sum()) for g in expected))
    assert report.grad_norm == pytest.approx(norm, rel=1e-12)


def test_the_ascent_raises_the_difference_loss() -> None:
    setting = Setting()
    seen: list[float] = []

    def preference() -> float:
        seen.append(setting.difference().item())
        return backward(setting.preference)()

    report = update(
        setting.parameters,
        torch.optim.SGD(setting.parameters, lr=0.1),
        preference,
        backward(setting.difference),
        ascent_rate=0.1,
        max_grad_norm=NO_CLIPPING,
    )
    assert report.difference is not None
    assert seen[0] > report.difference


def test_the_report_contains_the_loss_after_the_ascent_and_the_difference_before_it() -> None:
    setting = Setting()
    difference = setting.difference().item()
    gradients = torch.autograd.grad(setting.difference(), setting.parameters)
    named = zip(setting.network.named_parameters(), gradients, strict=True)
    loss = setting.preference({n: p.detach() + 3.0 * g for (n, p), g in named}).item()
    report = update(
        setting.parameters,
        torch.optim.SGD(setting.parameters, lr=0.1),
        backward(setting.preference),
        backward(setting.difference),
        ascent_rate=3.0,
        max_grad_norm=NO_CLIPPING,
    )
    assert report.difference == pytest.approx(difference, rel=1e-12)
    assert report.loss == pytest.approx(loss, rel=1e-12)


def test_an_ascent_with_rate_zero_equals_a_vanilla_step_bit_for_bit() -> None:
    metarm, vanilla = Setting(torch.float32), Setting(torch.float32)
    optimizers = [torch.optim.AdamW(s.parameters, lr=1e-2, weight_decay=0.1) for s in (metarm, vanilla)]
    for _ in range(5):
        limits = {"ascent_rate": 0.0, "max_grad_norm": 0.05}
        a = update(
            metarm.parameters, optimizers[0], backward(metarm.preference), backward(metarm.difference), **limits
        )
        b = update(vanilla.parameters, optimizers[1], backward(vanilla.preference), None, **limits)
        assert (a.loss, a.grad_norm) == (b.loss, b.grad_norm)
        assert b.difference is None
    for left, right in zip(metarm.parameters, vanilla.parameters, strict=True):
        assert torch.equal(left, right)


@pytest.mark.parametrize("seed", range(5))
def test_parameters_are_restored_bit_for_bit_before_the_optimizer_steps(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)

    def wild(*shape: int) -> Tensor:
        """Float32 numbers of every magnitude from 1e-30 to 1e15."""
        return torch.randn(shape, generator=generator) * 10 ** (
            45 * torch.rand(shape, generator=generator) - 30
        )

    parameters = [nn.Parameter(wild(50, 40)), nn.Parameter(wild(1000)), nn.Parameter(wild(3))]
    pulls = [wild(50, 40), wild(1000), None]  # J does not depend on the last parameter
    original = [p.detach().clone() for p in parameters]
    ascended: list[bool] = []

    def difference() -> float:
        total = sum((p * c).sum() for p, c in zip(parameters, pulls, strict=True) if c is not None)
        assert isinstance(total, Tensor)
        total.backward()  # type: ignore[no-untyped-call]
        return total.item()

    def preference() -> float:
        ascended.append(not torch.equal(parameters[0], original[0]))
        for parameter in parameters:
            parameter.grad = torch.ones_like(parameter)
        return 0.0

    update(
        parameters,
        torch.optim.SGD(parameters, lr=0.0),
        preference,
        difference,
        ascent_rate=0.37,
        max_grad_norm=1.0,
    )
    assert ascended == [True]
    for parameter, value in zip(parameters, original, strict=True):
        assert torch.equal(parameter.detach().view(torch.int32), value.view(torch.int32))


@pytest.mark.parametrize("ascent_rate", [0.0, 5.0])
def test_the_moments_of_the_optimizer_reflect_only_the_update_and_not_the_ascent(ascent_rate: float) -> None:
    setting = Setting(torch.float64)
    expected = setting.gradient_at_the_ascended_point(ascent_rate)
    optimizer = torch.optim.AdamW(setting.parameters, lr=1e-3, betas=(0.9, 0.95))
    update(
        setting.parameters,
        optimizer,
        backward(setting.preference),
        backward(setting.difference),
        ascent_rate=ascent_rate,
        max_grad_norm=NO_CLIPPING,
    )
    for parameter, g in zip(setting.parameters, expected, strict=True):
        state = optimizer.state[parameter]
        assert int(state["step"]) == 1
        torch.testing.assert_close(state["exp_avg"], (1 - 0.9) * g, rtol=1e-10, atol=1e-15)
        torch.testing.assert_close(state["exp_avg_sq"], (1 - 0.95) * g**2, rtol=1e-10, atol=1e-18)


def test_gradients_are_clipped_to_the_maximum_norm_and_the_norm_before_is_reported() -> None:
    setting = Setting()
    gradients = torch.autograd.grad(setting.preference(), setting.parameters)
    norm = math.sqrt(sum(float((g**2).sum()) for g in gradients))
    limit = norm / 10
    report = update(
        setting.parameters,
        torch.optim.SGD(setting.parameters, lr=0.1),
        backward(setting.preference),
        None,
        ascent_rate=0.0,
        max_grad_norm=limit,
    )
    assert report.grad_norm == pytest.approx(norm, rel=1e-12)
    applied = [p.grad for p in setting.parameters]
    for left, right in zip(applied, gradients, strict=True):
        assert left is not None
        torch.testing.assert_close(left, right * limit / norm, rtol=1e-4, atol=0)


def test_leftover_gradients_do_not_affect_an_update() -> None:
    clean, dirty = Setting(), Setting()
    for parameter in dirty.parameters:
        parameter.grad = torch.full_like(parameter, 1e3)
    for setting in (clean, dirty):
        update(
            setting.parameters,
            torch.optim.SGD(setting.parameters, lr=0.1),
            backward(setting.preference),
            backward(setting.difference),
            ascent_rate=0.5,
            max_grad_norm=NO_CLIPPING,
        )
    for left, right in zip(clean.parameters, dirty.parameters, strict=True):
        assert torch.equal(left, right)


def test_an_error_in_the_loss_is_raised_and_nothing_is_applied() -> None:
    setting = Setting()
    optimizer = torch.optim.AdamW(setting.parameters, lr=0.1)
    before = copy.deepcopy(optimizer.state_dict())

    def fails() -> float:
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        update(
            setting.parameters,
            optimizer,
            fails,
            backward(setting.difference),
            ascent_rate=0.5,
            max_grad_norm=1.0,
        )
    assert optimizer.state_dict() == before


class Variant:
    """One step of a variant by gradient descent with rate 1 from a fixed start, so that θ - θ_next is g."""

    def __init__(
        self, ascent: Ascent, rate: float, optimizer: type[torch.optim.Optimizer] = torch.optim.SGD
    ) -> None:
        self.setting = Setting()
        self.before = [p.detach().clone() for p in self.setting.parameters]
        self.optimizer = optimizer(self.setting.parameters, lr=1.0)  # type: ignore[call-arg]
        self.steps = MetaUpdate(
            self.setting.parameters, self.optimizer, ascent, rate, max_grad_norm=NO_CLIPPING
        )

    def run(self) -> StepReport:
        difference = StubObjective(backward(self.setting.difference), self.setting.difference)
        return self.steps.step(backward(self.setting.preference), difference)

    def applied(self) -> list[Tensor]:
        """g"""
        self.run()
        return [b - p.detach() for b, p in zip(self.before, self.setting.parameters, strict=True)]


def hessian_product(
    loss: Callable[[], Tensor], parameters: list[nn.Parameter], v: list[Tensor]
) -> list[Tensor]:
    gradients = torch.autograd.grad(loss(), parameters, create_graph=True)
    along = torch.stack([(g * w).sum() for g, w in zip(gradients, v, strict=True)]).sum()
    return [h.detach() for h in torch.autograd.grad(along, parameters, materialize_grads=True)]


def gradients_of(loss: Callable[[], Tensor], parameters: list[nn.Parameter]) -> list[Tensor]:
    return list(torch.autograd.grad(loss(), parameters))


def assert_close(found: Sequence[Tensor], expected: Sequence[Tensor], rtol: float = 1e-8) -> None:
    for left, right in zip(found, expected, strict=True):
        torch.testing.assert_close(left, right, rtol=rtol, atol=1e-10)


@pytest.mark.parametrize("ascent", ["joint", "conservative"])
@pytest.mark.parametrize("rate", [0.3, 5.0])
def test_a_step_descends_the_preference_loss_minus_the_weighted_objective(ascent: Ascent, rate: float) -> None:
    setting = Setting()
    expected = gradients_of(lambda: setting.preference() - rate * setting.difference(), setting.parameters)
    assert_close(Variant(ascent, rate).applied(), expected)


@pytest.mark.parametrize("rate", [0.3, 5.0])
def test_second_order_applies_the_gradient_through_the_ascent(rate: float) -> None:
    setting = Setting()
    named = dict(setting.network.named_parameters())
    inner = torch.autograd.grad(setting.difference(), list(named.values()), create_graph=True)
    ascended = {name: p + rate * g for (name, p), g in zip(named.items(), inner, strict=True)}
    expected = list(torch.autograd.grad(setting.preference(ascended), list(named.values())))
    assert_close(Variant("second_order", rate).applied(), expected)


@pytest.mark.parametrize("rate", [0.3, 5.0])
def test_first_and_second_order_differ_by_the_hessian_of_the_difference(rate: float) -> None:
    setting = Setting()
    first, second = Variant("sgd", rate).applied(), Variant("second_order", rate).applied()
    at_ascended = setting.gradient_at_the_ascended_point(rate)
    product = hessian_product(setting.difference, setting.parameters, at_ascended)
    assert_close([s - f for f, s in zip(first, second, strict=True)], [rate * h for h in product])
    assert max(float(h.abs().max()) for h in product) > 1e-4


def test_for_a_small_ascent_the_gradient_changes_by_the_hessian_of_the_preference_loss() -> None:
    rate = 1e-5
    setting = Setting()
    plain = gradients_of(setting.preference, setting.parameters)
    inner = gradients_of(setting.difference, setting.parameters)
    product = hessian_product(setting.preference, setting.parameters, inner)
    changed = Variant("sgd", rate).applied()
    slopes = [(c - p) / rate for c, p in zip(changed, plain, strict=True)]
    for slope, expected in zip(slopes, product, strict=True):
        torch.testing.assert_close(slope, expected, rtol=1e-3, atol=1e-6)
    assert max(float(h.abs().max()) for h in product) > 1e-3


@pytest.mark.parametrize("ascent", ["adam", "shared_adam"])
def test_the_first_step_of_an_adam_ascent_moves_each_parameter_by_the_rate(ascent: Ascent) -> None:
    variant = Variant(ascent, 0.02, torch.optim.Adam)
    inner = gradients_of(variant.setting.difference, variant.setting.parameters)
    seen: list[list[Tensor]] = []

    def preference() -> float:
        seen.append([p.detach().clone() for p in variant.setting.parameters])
        return backward(variant.setting.preference)()

    variant.steps.step(preference, StubObjective(backward(variant.setting.difference)))
    moved = [a - b for a, b in zip(seen[0], variant.before, strict=True)]
    for move, gradient in zip(moved, inner, strict=True):
        clear = gradient.abs() > 1e-4
        torch.testing.assert_close(move[clear], 0.02 * gradient[clear].sign(), rtol=1e-3, atol=0)


@pytest.mark.parametrize("ascent", ["sgd", "adam", "joint", "second_order", "shared_adam"])
def test_only_shared_adam_changes_the_moments_of_the_trainers_optimizer(ascent: Ascent) -> None:
    variant = Variant(ascent, 0.02, torch.optim.Adam)
    variant.run()
    counts = {int(variant.optimizer.state[p]["step"]) for p in variant.setting.parameters}
    assert counts == ({2} if ascent == "shared_adam" else {1})
    group = variant.optimizer.param_groups[0]
    assert (group["lr"], group["weight_decay"]) == (1.0, 0)


def test_shared_moments_hold_the_descent_of_minus_the_difference_then_the_update() -> None:
    variant = Variant("shared_adam", 0.02, torch.optim.Adam)
    inner = gradients_of(variant.setting.difference, variant.setting.parameters)
    variant.run()
    for parameter, first in zip(variant.setting.parameters, inner, strict=True):
        assert parameter.grad is not None
        expected = 0.9 * (0.1 * -first) + 0.1 * parameter.grad
        torch.testing.assert_close(variant.optimizer.state[parameter]["exp_avg"], expected)


def test_the_moments_of_the_adam_ascent_persist_between_steps() -> None:
    variant = Variant("adam", 0.02)
    parameters = variant.setting.parameters
    copies = [nn.Parameter(p.detach().clone()) for p in parameters]
    reference = torch.optim.Adam(copies, lr=0.02)
    ascended: list[Tensor] = []  # θ' of the last step

    def preference() -> float:
        ascended[:] = [p.detach().clone() for p in parameters]
        return backward(variant.setting.preference)()

    for _ in range(3):
        gradients = gradients_of(variant.setting.difference, parameters)
        for at, parameter, inner in zip(copies, parameters, gradients, strict=True):
            at.data.copy_(parameter.detach())
            at.grad = -inner
        reference.step()
        variant.steps.step(preference, StubObjective(backward(variant.setting.difference)))
        assert_close(ascended, [at.detach() for at in copies])


@pytest.mark.parametrize("ascent", ["sgd", "joint", "second_order", "conservative"])
def test_every_variant_with_rate_zero_equals_vanilla_bit_for_bit(ascent: Ascent) -> None:
    for found, expected in zip(Variant(ascent, 0.0).applied(), Variant("none", 0.0).applied(), strict=True):
        assert torch.equal(found, expected)


@pytest.mark.parametrize("ascent", ["adam", "shared_adam"])
@pytest.mark.parametrize("fails", ["difference", "preference"])
def test_parameters_are_restored_after_a_failure(ascent: Ascent, fails: str) -> None:
    variant = Variant(ascent, 0.5, torch.optim.Adam)

    def fail() -> float:
        raise ValueError(fails)

    losses = {
        "difference": backward(variant.setting.difference),
        "preference": backward(variant.setting.preference),
    }
    losses[fails] = fail
    with pytest.raises(ValueError, match=fails):
        variant.steps.step(losses["preference"], StubObjective(losses["difference"]))
    for parameter, before in zip(variant.setting.parameters, variant.before, strict=True):
        assert torch.equal(parameter, before)


def test_the_ascent_none_does_not_compute_the_difference() -> None:
    variant = Variant("none", 1.0)

    def never() -> float:
        raise AssertionError("asked")

    assert variant.steps.step(backward(variant.setting.preference), StubObjective(never)).difference is None


@pytest.mark.parametrize("ascent", ["sgd", "adam", "shared_adam", "joint", "conservative"])
def test_a_cached_gradient_replaces_a_difference_that_is_not_given(ascent: Ascent) -> None:
    moved = []
    for recompute in (True, False):
        setting = Setting()
        optimizer = torch.optim.SGD(setting.parameters, lr=0.1, momentum=0.5)
        steps = MetaUpdate(setting.parameters, optimizer, ascent, 0.3, max_grad_norm=NO_CLIPPING, reuse=True)
        gradient = torch.autograd.grad(setting.difference(), setting.parameters)

        def leave(setting: Setting = setting, gradient: Sequence[Tensor] = gradient) -> float:
            for parameter, value in zip(setting.parameters, gradient, strict=True):
                parameter.grad = value.clone()
            return 0.5

        first = steps.step(backward(setting.preference), StubObjective(leave))
        second = steps.step(backward(setting.preference), StubObjective(leave) if recompute else None)
        assert first.difference == 0.5
        assert second.difference == (0.5 if recompute else None)
        moved.append([parameter.detach().clone() for parameter in setting.parameters])
    for stale, fresh in zip(*moved, strict=True):
        assert torch.equal(stale, fresh)


def test_no_gradient_is_cached_unless_it_is_reused() -> None:
    moved = []
    for ascent in ("sgd", "none"):
        setting = Setting()
        optimizer = torch.optim.SGD(setting.parameters, lr=0.1)
        steps = MetaUpdate(setting.parameters, optimizer, ascent, 0.0, max_grad_norm=NO_CLIPPING)
        steps.step(backward(setting.preference), StubObjective(backward(setting.difference)))
        assert steps.step(backward(setting.preference), None).difference is None
        moved.append([parameter.detach().clone() for parameter in setting.parameters])
    assert all(torch.equal(one, other) for one, other in zip(*moved, strict=True))

"""Loss laws: their areas and formulas by hand, fits that find known parameters, intervals that cover them."""

from __future__ import annotations

import numpy as np
import pytest

from clsuite.errors import UsageError
from clsuite.prediction.curve import Curve, block_means
from clsuite.prediction.fit import fit
from clsuite.prediction.laws import Annealing, Continual, WithoutAnnealing
from clsuite.prediction.multi_power import MultiPower
from clsuite.prediction.rates import Rates, annealing_area, forward_area
from clsuite.prediction.scores import rank_correlation, scores
from clsuite.prediction.study import choose_momentum, study
from clsuite.prediction.uncertainty import uncertainty

pytestmark = pytest.mark.unit

ANNEALING = {"L0": 2.6, "A": 0.43, "C": 0.4, "alpha": 0.5}
MULTI_POWER = {"L0": 3.0, "A": 0.5, "B": 300.0, "alpha": 0.5, "C": 2.0, "beta": 0.6, "gamma": 0.6}
CONTINUAL = {"L0": 2.6, "A": 0.43, "C1": 0.3, "C2": 0.5, "B": 0.4, "alpha": 0.5, "E": 4.0, "beta": 0.5}
LAWS = [(Annealing(0.99), ANNEALING), (MultiPower(), MULTI_POWER), (Continual(0.99), CONTINUAL), (WithoutAnnealing(), {"L0": 2.6, "A": 0.43, "alpha": 0.5})]


def rates(shape: str, steps: int = 2000, peak: float = 1e-3, warmup: int = 100) -> Rates:
    n = np.arange(steps)
    z = np.clip((n - warmup) / (steps - warmup), 0, 1)
    factor = {
        "constant": np.ones(steps),
        "cosine": 0.1 + 0.45 * (1 + np.cos(np.pi * z)),
        "wsd": np.where(z < 0.8, 1.0, 1 - 4.5 * (z - 0.8)),
        "two stages": np.where(z < 0.4, 1.0, 0.3),
    }[shape]
    return Rates(peak * np.where(n < warmup, (n + 1) / max(warmup, 1), factor), warmup)


def continued(shape: str, rewarm: float, steps: int = 1500) -> Rates:
    """Pre-training, then as many steps from a rewarmed rate down to a tenth of it."""
    before, n = rates(shape, steps), np.arange(steps)
    after = rewarm * 1e-3 * (0.1 + 0.45 * (1 + np.cos(np.pi * n / steps)))
    return Rates(np.concatenate([before.values, after]), before.warmup, steps)


def curve(law, true, run: Rates, name: str, noise: float = 0.0, correlation: float = 0.0, seed: int = 0, every: int = 20) -> Curve:
    """Losses of a law with known parameters, times exp(noise of an autoregressive process)."""
    steps = np.arange(run.warmup, len(run), every)
    rng = np.random.default_rng(seed)
    errors = [rng.normal()]
    for _ in steps[1:]:
        errors.append(correlation * errors[-1] + np.sqrt(1 - correlation**2) * rng.normal())
    return Curve(name, run, steps, law.predict(true, run, steps) * np.exp(noise * np.array(errors)))


# -- areas --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("shape", "s1", "s2"),
    [
        ("constant", 1.0, {0.999: 0.0, 0.99: 0.0}),
        ("cosine to a tenth", 0.55045, {0.999: 0.340931, 0.99: 0.085974}),
        ("linear end", 0.91045, {0.999: 0.083920, 0.99: 0.051029}),
    ],
)
def test_areas_have_their_golden_values(shape, s1, s2):
    """T = 1000, peak 1e-3, no warm-up, z = t/T; computed outside this project."""
    z = np.arange(1000) / 1000
    factor = {"constant": np.ones(1000), "cosine to a tenth": 0.1 + 0.45 * (1 + np.cos(np.pi * z)), "linear end": np.where(z < 0.8, 1, 1 - 4.5 * (z - 0.8))}
    values = 1e-3 * factor[shape]
    assert forward_area(values)[-1] == pytest.approx(s1, abs=1e-6)
    for momentum, expected in s2.items():
        assert annealing_area(values, momentum)[-1] == pytest.approx(expected, abs=1e-6)


def test_the_annealing_area_is_its_recursion():
    values = np.random.default_rng(0).uniform(0, 1, 50)
    m = area = 0.0
    for i, found in enumerate(annealing_area(values, 0.9)):
        m = 0.9 * m + (values[i - 1] - values[i] if i else 0.0)
        area += m
        assert found == pytest.approx(area, abs=1e-12)


def test_warm_up_counts_in_s1_and_not_in_s2():
    warm = Rates(np.array([0.5, 1.0, 0.5]), warmup=1)
    # S1 = 2; after warm-up 1.0 -> 0.5, so S2 = 0.5 and the rise before it counts for nothing
    assert Annealing(0.5).predict({"L0": 2.0, "A": 1.0, "C": 0.1, "alpha": 1.0}, warm)[-1] == pytest.approx(2 + 1 / 2 - 0.1 * 0.5)


# -- laws ---------------------------------------------------------------------------------------------------------


def test_laws_of_three_steps_by_hand():
    run = Rates(np.array([1.0, 0.5, 0.5]))
    # S1 = 2, m = 0, .5, .25 and S2 = .75
    assert Annealing(0.5).predict({"L0": 2, "A": 1, "C": 0.1, "alpha": 1}, run)[-1] == pytest.approx(2 + 0.5 - 0.075)
    assert WithoutAnnealing().predict({"L0": 2, "A": 1, "alpha": 1}, run)[-1] == pytest.approx(2.5)
    # one change of .5 to .5; S_k = 1, x = 1 / .5 = 2, G = 1 - 1/3
    power = {"L0": 2, "A": 1, "B": 0.3, "alpha": 1, "C": 1, "beta": 1, "gamma": 1}
    assert MultiPower().predict(power, run)[-1] == pytest.approx(2 + 0.5 - 0.3 * 0.5 * 2 / 3)
    # boundary before the last update: S2_pt = .5, S2_cpt = .5 - 1, S1_cpt = 1
    late = Rates(np.array([1.0, 0.5, 1.0]), boundary=2)
    shift = {"L0": 2, "A": 1, "C1": 0.1, "C2": 0.2, "B": 0.3, "alpha": 1, "E": 1, "beta": 1}
    assert Continual(0.5).predict(shift, late)[-1] == pytest.approx(2 + 1 / 2.5 - 0.1 * 0.5 + 0.2 * 0.5 + 0.3 * 0.5)


def test_the_multi_power_sum_is_its_double_loop():
    rng = np.random.default_rng(1)
    values = np.repeat(rng.uniform(1e-4, 1e-3, 30), 4)  # falls and rises, and steps without a change
    run, p = Rates(values, warmup=7), MULTI_POWER
    found = MultiPower().predict(p, run)
    for t in range(7, len(values)):
        gain = 0.0
        for k in range(8, t + 1):
            x = values[k] ** -p["gamma"] * values[k : t + 1].sum()
            gain += (values[k - 1] - values[k]) * (1 - (1 + p["C"] * x) ** -p["beta"])
        assert found[t] == pytest.approx(p["L0"] + p["A"] * values[: t + 1].sum() ** -p["alpha"] - p["B"] * gain, rel=1e-10)


def test_blocks_do_not_change_the_multi_power_law(monkeypatch):
    run = rates("cosine", 600)
    whole = MultiPower().predict(MULTI_POWER, run)
    monkeypatch.setattr("clsuite.prediction.multi_power.BLOCK", 1000)
    np.testing.assert_allclose(MultiPower().predict(MULTI_POWER, run), whole, rtol=1e-12)


@pytest.mark.parametrize(("shape", "fewer"), [("wsd", 2), ("cosine", 8)])
def test_changes_taken_together_hardly_move_a_loss(shape, fewer):
    law, run, steps = MultiPower(), rates(shape, 24_000, 3e-4, 2000), np.arange(2000, 24_000, 128)
    values = np.array([MULTI_POWER[p.name] for p in law.parameters])
    exact, together = law.prepare(run, steps), law.prepare(run, steps, exact=False)
    assert len(together.drops) < len(exact.drops) / fewer
    assert np.abs(law.evaluate(values, together)[0] - law.evaluate(values, exact)[0]).max() < 1e-5


def test_a_rate_of_zero_has_a_loss():
    run = Rates(np.append(rates("wsd", 500).values, 0.0), 100)
    for law, true in LAWS[:2]:
        losses = law.predict(true, run)
        assert np.isfinite(losses).all() and abs(losses[-1] - losses[-2]) < 0.05


@pytest.mark.parametrize(("law", "true"), LAWS, ids=lambda x: getattr(x, "name", ""))
def test_derivatives_are_those_of_the_losses(law, true):
    run = continued("cosine", 0.5, 300) if law.needs_boundary else rates("cosine", 400)
    prepared = law.prepare(run, np.arange(150, len(run), 10))
    values = np.array([true[p.name] for p in law.parameters])
    _, slopes = law.evaluate(values, prepared)
    for k, value in enumerate(values):
        step = np.zeros_like(values)
        step[k] = 1e-5 * value
        numeric = (law.evaluate(values + step, prepared)[0] - law.evaluate(values - step, prepared)[0]) / (2 * step[k])
        np.testing.assert_allclose(slopes[:, k], numeric, rtol=1e-5, atol=1e-9)


def test_rewarming_makes_a_bump():
    """The annealing area falls when the rate rises, so the loss of a rewarmed run lies above that of one that holds its rate."""
    low = np.concatenate([rates("cosine").values, np.full(200, 1e-4)])
    high = np.concatenate([rates("cosine").values, np.full(200, 1e-3)])
    assert (np.diff(annealing_area(high[100:], 0.99))[1900:1950] < 0).all()
    difference = Annealing(0.99).predict(ANNEALING, Rates(high, 100)) - Annealing(0.99).predict(ANNEALING, Rates(low, 100))
    assert difference[2000:2050].min() > 0 and difference[2050] > 0.003
    without = WithoutAnnealing().predict({"L0": 2.6, "A": 0.43, "alpha": 0.5}, Rates(high, 100))
    assert (np.diff(without[1999:2050]) < 0).all()


def test_a_prediction_needs_the_parameters_of_its_law():
    with pytest.raises(UsageError, match="unknown parameter of the law 'annealing' 'apha'; did you mean 'alpha'"):
        Annealing().predict({**ANNEALING, "apha": 1.0}, rates("cosine"))
    with pytest.raises(UsageError, match="needs 'C'"):
        Annealing().predict({"L0": 2.6, "A": 0.43, "alpha": 0.5}, rates("cosine"))
    with pytest.raises(UsageError, match="lambda = 1 is not valid"):
        Annealing(1.0)


# -- fits ---------------------------------------------------------------------------------------------------------


def test_fits_find_the_parameters_of_exact_curves():
    law = Annealing(0.99)
    found = fit(law, [curve(law, ANNEALING, rates(s), s) for s in ("cosine", "constant")])
    assert found.parameters == pytest.approx(ANNEALING, rel=1e-4)
    power = MultiPower()
    found = fit(power, [curve(power, MULTI_POWER, rates(s), s) for s in ("cosine", "constant", "two stages")])
    assert found.parameters == pytest.approx(MULTI_POWER, rel=0.02)
    other = rates("wsd")
    np.testing.assert_allclose(found.predict(other).losses[100:], power.predict(MULTI_POWER, other)[100:], atol=1e-4)
    assert found.at_limit() == []


@pytest.mark.parametrize("shift", [0.4, -0.4])
def test_the_continual_law_finds_forgetting_and_learning(shift):
    """B > 0: the loss on the first data rises; B < 0: that on the second falls."""
    law, true = Continual(0.99), {**CONTINUAL, "B": shift}
    found = fit(law, [curve(law, true, continued(s, r), f"{s} {r}") for s, r in (("cosine", 1.0), ("wsd", 0.3), ("cosine", 0.2))])
    assert found.parameters == pytest.approx(true, rel=0.02)


def test_intervals_cover_known_parameters():
    """20 seeds, residuals that resemble their neighbours: 95 % intervals miss each parameter at most four times (p < 0.003)."""
    law, held = Annealing(0.99), rates("wsd")
    end = np.array([len(held) - 1])
    truth = float(law.predict(ANNEALING, held, end)[0])
    hits = dict.fromkeys([*ANNEALING, "final loss"], 0)
    widths = []
    for seed in range(20):
        found = fit(law, [curve(law, ANNEALING, rates(s), s, 0.002, 0.7, 2 * seed + k) for k, s in enumerate(("cosine", "constant"))])
        for name, (low, high) in found.intervals().items():
            hits[name] += low <= ANNEALING[name] <= high
        widths.append(np.diff(found.intervals()["C"])[0] / ANNEALING["C"])
        prediction = found.predict(held, end)
        measured = truth * np.exp(0.002 * np.random.default_rng(1000 + seed).normal())
        hits["final loss"] += bool(prediction.low[0] <= measured <= prediction.high[0])
    assert min(hits.values()) >= 16, hits
    assert np.median(widths) < 0.5  # an interval that says nothing would cover too


def test_intervals_of_the_continual_law_cover():
    law = Continual(0.99)
    hits = dict.fromkeys(CONTINUAL, 0)
    for seed in range(10):
        runs = (("cosine", 1.0), ("wsd", 0.3), ("cosine", 0.2))
        found = fit(law, [curve(law, CONTINUAL, continued(s, r), f"{s} {r}", 0.001, 0.5, 3 * seed + k) for k, (s, r) in enumerate(runs)])
        for name, (low, high) in found.intervals().items():
            hits[name] += low <= CONTINUAL[name] <= high
    assert min(hits.values()) >= 7, hits


def test_intervals_know_that_neighbours_resemble_each_other():
    law = Annealing(0.99)
    width, correlation = {}, {}
    for true in (0.0, 0.9):
        found = [fit(law, [curve(law, ANNEALING, rates(s), s, 0.001, true, 2 * k + j) for j, s in enumerate(("cosine", "constant"))]) for k in range(5)]
        width[true] = np.mean([np.diff(f.intervals()["L0"])[0] for f in found])
        correlation[true] = np.mean([f.trust.correlation for f in found])
    assert width[0.9] > 2 * width[0.0]
    assert correlation[0.0] < 0.15 and correlation[0.9] == pytest.approx(0.9, abs=0.06)


def test_what_residuals_do_not_see_has_no_finite_interval():
    x = np.linspace(1, 2, 60)
    jacobian = np.stack([np.ones(60), x, 2 * x, np.zeros(60)], axis=1)  # the second and third only together, the fourth not at all
    found = uncertainty(jacobian, 1e-4 * np.random.default_rng(0).normal(size=60), [60], 1e-3)
    variance = np.diag(found.covariance)
    assert np.isfinite(variance[0]) and np.isinf(variance[1:]).all()


def test_least_squares_and_its_errors_where_nothing_is_clipped():
    """White residuals within delta: the covariance is sigma^2 (J'J)^-1 of the textbook."""
    rng = np.random.default_rng(0)
    jacobian = np.stack([np.ones(2000), rng.normal(size=2000)], axis=1)
    noise = 1e-4 * rng.normal(size=2000)
    residuals = noise - jacobian @ np.linalg.lstsq(jacobian, noise, rcond=None)[0]
    found = uncertainty(jacobian, residuals, [1000, 1000], 1e-3)
    expected = residuals @ residuals / 1998 * np.linalg.inv(jacobian.T @ jacobian)
    np.testing.assert_allclose(np.sqrt(np.diag(found.covariance)), np.sqrt(np.diag(expected)), rtol=0.1)
    assert found.spread == pytest.approx(1e-4, rel=0.1)


def test_outliers_hardly_move_a_fit():
    law = Annealing(0.99)
    curves = [curve(law, ANNEALING, rates(s), s, 0.0005, seed=k) for k, s in enumerate(("cosine", "constant"))]
    for c in curves:
        c.losses[::15] *= 1.1
    found = fit(law, curves).parameters  # least squares would put L0 about 0.7 % higher
    assert found["L0"] == pytest.approx(ANNEALING["L0"], rel=0.003) and found == pytest.approx(ANNEALING, rel=0.05)


def test_a_fit_draws_no_random_number():
    law = Annealing(0.99)
    curves = [curve(law, ANNEALING, rates(s), s, 0.002, seed=k) for k, s in enumerate(("cosine", "constant"))]
    np.random.seed(1)
    first = fit(law, curves)
    np.random.seed(2)
    assert np.array_equal(fit(law, curves).values, first.values)


def test_the_fitting_curves_choose_lambda():
    law = Annealing(0.99)
    curves = [curve(law, ANNEALING, rates(s), s, 0.0005, seed=k) for k, s in enumerate(("cosine", "two stages"))]
    assert choose_momentum("annealing", curves).law.momentum == 0.99
    with pytest.raises(UsageError, match="no lambda to choose"):
        choose_momentum("multi_power", curves)


def test_what_cannot_be_fitted_is_refused():
    law = Annealing(0.99)
    flat = curve(law, ANNEALING, rates("constant"), "flat")
    for name in ("annealing", "multi_power"):
        with pytest.raises(UsageError, match=r"flat: all rates are equal: . cannot be fitted"):
            study([flat], [], [], name)
    shifted = Continual(0.99)
    one = curve(shifted, CONTINUAL, continued("cosine", 0.5), "one")
    with pytest.raises(UsageError, match="needs at least 2 curves to fit, but 1 is given"):
        fit(shifted, [one])
    with pytest.raises(UsageError, match="flat: the law 'continual' needs the step at which the data change"):
        fit(shifted, [one, flat])
    with pytest.raises(UsageError, match="one: the data change at step 1500, but the law 'annealing' holds for one data set"):
        fit(law, [one])
    still = [curve(shifted, CONTINUAL, continued("constant", r), f"still {r}") for r in (1.0, 0.5)]
    with pytest.raises(UsageError, match="all rates are equal before the boundary: C1 cannot be fitted"):
        fit(shifted, still)


def test_a_study_sets_the_law_beside_the_fit_without_annealing():
    law = Annealing(0.99)
    fitting = [curve(law, ANNEALING, rates(s), s, 0.0005, seed=k) for k, s in enumerate(("cosine", "constant"))]
    held = [curve(law, ANNEALING, rates("wsd", n), f"wsd {n}", 0.0005, seed=n) for n in (1000, 2000, 3000)]
    document = study(fitting, held, [], "annealing", 0.99).document()
    judged = {c["name"]: c for c in document["curves"]}
    assert [c["fitted"] for c in document["curves"]] == [True, True, False, False, False]
    for name in ("wsd 1000", "wsd 2000", "wsd 3000"):
        assert judged[name]["r2"] > 0.9995
        assert judged[name]["mean_absolute_error"] < judged[name]["without_annealing"]["mean_absolute_error"] / 2
        assert abs(judged[name]["final_loss_error"]) < abs(judged[name]["without_annealing"]["final_loss_error"]) / 3
        assert judged[name]["final_loss_error"] == pytest.approx(judged[name]["predicted_final_loss"]["value"] - judged[name]["final_loss"])
        assert 0.8 < judged[name]["inside_interval"] <= 1
    assert document["rank"]["over"] == "held-out curves" and document["rank"]["law"] == {"kendall": 1.0, "spearman": 1.0, "n": 3}
    with pytest.raises(UsageError, match="two curves are called 'cosine'"):
        study(fitting, fitting[:1], [])


# -- numbers ------------------------------------------------------------------------------------------------------


def test_scores_by_hand():
    found = scores(np.array([1.0, 2.0, 4.0]), np.array([1.0, 2.0, 3.0]))
    assert found == pytest.approx({"mean_absolute_error": 1 / 3, "root_mean_squared_error": 1 / 3**0.5, "r2": 0.5, "worst_error": 1.0, "final_loss_error": 1.0})


def test_rank_correlations_by_hand():
    assert rank_correlation([1, 2, 3], [1, 3, 2]) == pytest.approx({"kendall": 1 / 3, "spearman": 0.5, "n": 3})
    assert rank_correlation([1, 1, 1], [1, 2, 3]) == {"kendall": None, "spearman": None, "n": 3}
    assert rank_correlation([1, 2], [1, 2]) is None


def test_long_curves_become_means_of_neighbours():
    steps, losses = block_means(np.arange(0, 30, 3), np.arange(10.0), most=5)
    assert steps.tolist() == [0, 6, 12, 18, 24] and losses.tolist() == [0.5, 2.5, 4.5, 6.5, 8.5]
    same = np.arange(5)
    assert block_means(same, same + 0.0, most=5)[0] is same

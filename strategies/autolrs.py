"""AutoLRS: the learning rate of every stage of training is found by short trials before it."""

from __future__ import annotations

import math
import warnings
from typing import Any

import numpy as np
import torch
from torch import Tensor

from clsuite.batch import Batch
from clsuite.errors import UsageError
from clsuite.schedule import Constant
from clsuite.settings import setting
from clsuite.strategy import Modifier, Strategy
from clsuite.stream import Experience

SMOOTHINGS = 10
OUTLIERS = 0.03
CONFIDENCE = 1.96
"""Standard deviations below the mean that the next rate is chosen by (ours)."""
RATES = 201
"""Places of the log-uniform range that are looked at."""


class AutoLRS(Modifier):
    """AutoLRS: trials of several rates before every stage; the stage trains at the one whose forecast loss is lowest.

    Source: AutoLRS (from memory: Jin et al. 2021, arXiv 2105.10762), an arms-length re-implementation from notes on code, README and
    abstract. A stage of tau steps: model and optimizer are kept in memory; `candidates` rates, the first at random, the others by Bayesian
    optimisation (Gaussian process, lower confidence bound, log-uniform range), are each trained at for tau / 10 steps; L(t) = a exp(b t) + c with
    b < 0 is fitted to their smoothed losses; everything is put back, and the rate with the lowest L(tau) trains tau steps. tau doubles with every
    stage. Trials are charged: searching costs as much as training.

    Departures. Trials train on samples of the experience drawn by the part's own generator, the same ones for every candidate, without
    augmentation, with the workload's loss alone, clipped as training is (parts that add a penalty or rewrite gradients take no part). The
    training loss decides throughout, where the source turns to validation loss in long stages. Smoothing: a quadratic spline, ten times, its
    tolerance from second differences; c >= 0, and b not too close to 0 (see `forecast`). A rate at which the loss becomes non-finite is not
    chosen. Every border begins with a stage of `first_stage` again; a stage ends with its experience. Trials take at least `least_trial`
    steps, where the source's shortest take 100: ten steps from random weights can forecast badly. Warm-up is the schedule's, which must
    be `constant`; while it lasts nothing is searched, and it rises to training.learning_rate.
    """

    needs = frozenset({"borders"})
    claims = frozenset({"sets_rates"})

    first_stage: int = setting(1000, ge=2, search=[100, 300, 1000], help="steps of the first stage (tau)")
    longest_stage: int = setting(8000, ge=2, help="steps that a stage doubles up to")
    candidates: int = setting(10, ge=1, help="rates that are tried before a stage")
    least_trial: int = setting(10, ge=3, help="steps a trial takes at least; else a tenth of the stage")
    low: float | None = setting(None, gt=0, help="smallest rate (null: a tenth of training.learning_rate)")
    high: float | None = setting(None, gt=0, help="largest rate (null: ten times training.learning_rate)")

    def setup(self) -> None:
        run = self.run
        if type(run.schedule) is not Constant or run.training.border_peak_scale != 1.0:
            what = f"border_peak_scale = {run.training.border_peak_scale:g}" if type(run.schedule) is Constant else f"schedule = '{run.schedule.name}'"
            raise UsageError(
                f"training.{what} and strategy 'autolrs' both decide the learning rate (valid: schedule = constant with any warmup, border_peak_scale = 1)"
            )
        if "incremental" not in run.base.offers and type(run.base).training_step is not Strategy.training_step:
            raise UsageError(f"strategy 'autolrs' cannot be used here: '{run.base.name}' does not learn from the batches that come by")
        if run.training.accumulation > 1:
            raise UsageError(
                f"training.accumulation = {run.training.accumulation} is not possible with strategy 'autolrs': its trials take whole batches (valid: 1)"
            )
        if self.first_stage > self.longest_stage:
            raise UsageError(f"strategy.autolrs.first_stage = {self.first_stage} must be at most strategy.autolrs.longest_stage = {self.longest_stage}")
        self.peak = float(run.training.learning_rate or 0.0)
        self.range = [self.peak / 10 if self.low is None else self.low, self.peak * 10 if self.high is None else self.high]
        if self.range[0] >= self.range[1]:
            raise UsageError(f"strategy.autolrs.low = {self.range[0]:g} must be below strategy.autolrs.high = {self.range[1]:g}")
        self.stage = self.first_stage
        self.left = 0
        self.chosen = self.peak
        self.stages: list[dict[str, Any]] = []

    def before_experience(self, experience: Experience) -> None:
        self.stage, self.left = self.first_stage, 0

    def before_step(self, batch: Batch) -> None:
        if self.left or self._warming_up():
            return
        run = self.run
        remaining = run.plan_of(run.experience).steps - run.progress.experience_step
        length = max(1, min(self.stage, remaining))
        run.workload.begin_step()  # no trial sees the labels of the step that waits
        found = self.search(length)
        self.stages = [*self.stages, {"experience": run.experience, "step": run.step, "length": length, **found}]
        self.chosen, self.left = found["chosen"], length
        self.stage = min(2 * self.stage, self.longest_stage)
        run.workload.begin_step()  # the trials were steps of their own
        run.workload.note_labels(batch.ids)

    def _warming_up(self) -> bool:
        run = self.run
        return run.timeline.factor(run.experience, run.progress.experience_step, run.step, run.on_branch) < 1

    def rate_factor(self, factor: float) -> float:
        return factor * self.chosen / self.peak if self.left else factor

    def after_step(self) -> None:
        self.left = max(0, self.left - 1)

    # -- the search ---------------------------------------------------------------------------------------------

    def search(self, length: int) -> dict[str, Any]:
        """Rates that were tried for a stage of `length` steps, their forecasts (null: non-finite losses) and the one chosen."""
        steps = max(self.least_trial, length // 10)
        batches, kept = self._draw(steps), self._keep()
        rates: list[float] = []
        losses: list[list[float]] = []
        forecasts: list[float | None] = []
        done = self.steps(self.candidates * steps)
        for _ in range(self.candidates):
            if losses and not math.isfinite(losses[0][0]):
                break  # the model itself has diverged: the step that follows will say so
            rates.append(self.propose(rates, [clipped(f, losses[0][0]) for f in forecasts]))
            losses.append([])
            for k in range(steps):
                next(done)
                if k == 0 or math.isfinite(losses[-1][-1]):
                    losses[-1].append(self._try(batches[k], rates[-1]))
            complete = len(losses[-1]) == steps and all(map(math.isfinite, losses[-1]))
            forecasts.append(forecast(np.array(losses[-1]), max(length, steps)) if complete else None)
            self._put_back(kept)
        good = [(f, r) for f, r in zip(forecasts, rates, strict=True) if f is not None]
        return {"rates": rates, "forecasts": forecasts, "chosen": min(good)[1] if good else min(rates)}

    def _draw(self, steps: int) -> list[np.ndarray]:
        run = self.run
        ids = np.concatenate([run.stream.ids(e.segments) for e in run.plan_of(run.experience).content])
        rng, size = self.generator("samples"), min(run.batch_size, len(ids))
        return [rng.choice(ids, size, replace=False) for _ in range(steps)]

    def _try(self, ids: np.ndarray, rate: float) -> float:
        """One step at a rate, with the optimizer as it is; the loss before it."""
        run, optimizer = self.run, self.run.optimizer
        assert optimizer is not None
        for group in optimizer.param_groups:
            group["lr"] = group["peak"] * rate / self.peak
        waiting = run._pending_backward
        loss = self.loss(self.samples(ids))
        value = float(loss.detach())
        if not math.isfinite(value):
            run._pending_backward = waiting  # a pass without a step, so without a backward one
            return value  # what diverges here must not end the run
        limit = run.training.clip_norm
        hook = None if limit is None else optimizer.register_step_pre_hook(lambda *_: _clip(list(self.model.parameters()), limit))
        try:
            self.update(loss, optimizer)
        finally:
            if hook is not None:
                hook.remove()
        return value

    def propose(self, rates: list[float], forecasts: list[float]) -> float:
        """The next rate: at random, then where mean - 1.96 standard deviations of a Gaussian process over log rates is lowest."""
        low, high = (math.log(r) for r in self.range)
        if not rates:
            return math.exp(self.generator("first").uniform(low, high))
        places = np.linspace(0.0, 1.0, RATES)
        tried = (np.log(rates) - low) / (high - low)
        mean, deviation = gaussian_process(tried, np.array(forecasts), places)
        bound = np.where(np.abs(places[:, None] - tried).min(1) < 0.5 / (RATES - 1), np.inf, mean - CONFIDENCE * deviation)
        return min(max(math.exp(low + float(places[int(bound.argmin())]) * (high - low)), self.range[0]), self.range[1])

    # -- exactly as it was --------------------------------------------------------------------------------------

    def _keep(self) -> dict[str, Any]:
        run, optimizer = self.run, self.run.optimizer
        assert optimizer is not None
        return {
            "model": run.snapshot(),
            "optimizer": {p: {k: _copied(v) for k, v in state.items()} for p, state in optimizer.state.items()},
            "rates": [group["lr"] for group in optimizer.param_groups],
            "random": torch.get_rng_state(),
            "device_random": torch.cuda.get_rng_state_all() if run.device.type == "cuda" else [],
        }

    def _put_back(self, kept: dict[str, Any]) -> None:
        run, optimizer = self.run, self.run.optimizer
        assert optimizer is not None
        run.restore_snapshot(kept["model"])
        optimizer.zero_grad(set_to_none=True)
        optimizer.state.clear()
        for p, state in kept["optimizer"].items():
            optimizer.state[p] = {k: _copied(v) for k, v in state.items()}
        for group, rate in zip(optimizer.param_groups, kept["rates"], strict=True):
            group["lr"] = rate
        torch.set_rng_state(kept["random"])
        if kept["device_random"]:
            torch.cuda.set_rng_state_all(kept["device_random"])

    def report(self) -> dict[str, Any]:
        return {"stages": self.stages}


def _clip(parameters: list[Tensor], limit: float) -> None:
    torch.nn.utils.clip_grad_norm_(parameters, limit)


def _copied(value: Any) -> Any:
    return value.clone() if isinstance(value, Tensor) else value


def clipped(found: float | None, start: float) -> float:
    """A forecast as the Gaussian process sees it: what is worse than one and a half times the first loss says no more than that."""
    return 1.5 * start if found is None else min(found, 1.5 * start)


def smoothed(losses: np.ndarray) -> np.ndarray:
    """Losses [steps] without the 3 % of their first half that lie farthest from a smooth curve (NaN there), smoothed ten times."""
    from scipy.interpolate import UnivariateSpline

    def smooth(t: np.ndarray, y: np.ndarray) -> np.ndarray:
        noise = float(np.mean(np.diff(y, 2) ** 2)) / 6  # of white noise around a slow curve, the variance
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return UnivariateSpline(t, y, k=2, s=len(y) * noise)(t)

    t, half = np.arange(len(losses), dtype=float), len(losses) // 2
    away = np.abs(losses - smooth(t, losses))[:half]
    kept = np.ones(len(losses), dtype=bool)
    kept[np.argsort(-away, kind="stable")[: int(OUTLIERS * half)]] = False
    found = np.full(len(losses), np.nan)
    y = losses[kept]
    for _ in range(SMOOTHINGS):
        y = smooth(t[kept], y)
    found[kept] = y
    return found


def forecast(losses: np.ndarray, at: int) -> float:
    """L(at) of a exp(b t) + c, b < 0 and c >= 0, fitted by least squares to the smoothed losses of steps 0, 1, ...

    For every b the best a and c follow from a linear problem. -b is looked for from 1 / (2 steps) to 10 / steps, on a grid and then between its
    places: a curve that bends less within a trial is not told from a straight line, and a line carried on tenfold would always win (ours).
    """
    from scipy.optimize import minimize_scalar

    y = smoothed(losses)
    t, y = np.flatnonzero(~np.isnan(y)).astype(float), y[~np.isnan(y)]

    def fitted(log_speed: float) -> tuple[float, float, float]:
        """The squared error at b = -exp(log_speed), a and c."""
        e = np.exp(-math.exp(log_speed) * t)
        a, c = np.linalg.lstsq(np.stack([e, np.ones_like(e)], 1), y, rcond=None)[0]
        if c < 0:
            a, c = float(e @ y / (e @ e)), 0.0
        return float(((a * e + c - y) ** 2).sum()), float(a), float(c)

    grid = np.linspace(math.log(0.5 / len(losses)), math.log(10 / len(losses)), 61)
    best = int(np.argmin([fitted(g)[0] for g in grid]))
    around = (float(grid[max(0, best - 1)]), float(grid[min(len(grid) - 1, best + 1)]))
    log_speed = float(minimize_scalar(lambda g: fitted(g)[0], bounds=around, method="bounded", options={"xatol": 1e-6}).x)
    log_speed = min(log_speed, float(grid[best]), key=lambda g: fitted(g)[0])
    _, a, c = fitted(log_speed)
    return a * math.exp(-math.exp(log_speed) * at) + c


def gaussian_process(x: np.ndarray, y: np.ndarray, at: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation at points `at` of a Gaussian process (Matern 5/2) through values y at x, both in 0..1."""
    from sklearn.gaussian_process import GaussianProcessRegressor
    from sklearn.gaussian_process.kernels import ConstantKernel, Matern

    kernel = ConstantKernel(1.0, (0.01, 100.0)) * Matern(0.3, (0.05, 3.0), nu=2.5)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a length scale at its bound is an answer
        process = GaussianProcessRegressor(kernel, alpha=1e-4, normalize_y=True).fit(x[:, None], y)
        mean, deviation = process.predict(at[:, None], return_std=True)
    return mean, deviation

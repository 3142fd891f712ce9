"""What tests of regularising parts share: a linear classifier whose gradients are written down here, and what runs hold at their borders."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from clsuite.strategy import Modifier

from .strategy_runs import execute

LINEAR = ["model.hidden=[]", "training.precision=float64"]
"""A linear classifier, whose gradients are written down below: weight [10, 64] and bias [10]."""
PENALTIES = {"ewc": {"fisher_samples": 20}, "si": {}, "mas": {"importance_samples": 20}}
GRADUAL = {"name": "blurry", "dataset": "digits", "experiences": 5, "gradual": True}
"""A stream without borders."""


def around(name, base="naive", **settings):
    return {"name": f"{base}+{name}", name: settings}


def flat(model):
    return torch.cat([p.detach().flatten().clone() for p in model.parameters()])


def digests(run):
    found = []
    execute(run, lambda r: found.append(r.weights_digest()))
    return found


def noted_at_borders(register, look=lambda part: None):
    """Put `spy` last in a strategy: at every border it notes weights, and what `look(part before it)` gives, in the list that this returns."""

    class Spy(Modifier):
        seen = []

        def after_experience(self, experience):
            Spy.seen.append((flat(self.model), look(self.run.parts[1])))

    register("spy", Spy)
    return Spy.seen


def spied(name, **settings):
    return {"name": f"naive+{name}+spy", name: settings}


def samples_of(run, i):
    """Pixels [samples, 64] and labels of an experience, read from the source."""
    ids = run.stream.ids(run.stream.experiences[i].segments)
    images = run.stream.source.images("train")[ids].reshape(len(ids), -1) / 255.0
    return torch.from_numpy(images), torch.from_numpy(run.stream.labels_of(ids))


def of_linear(weights, x, errors):
    """Gradients [samples, 650] of a linear classifier, given those of its outputs [samples, 10]."""
    return torch.cat([(errors[:, :, None] * x[:, None, :]).flatten(1), errors], 1)


def outputs_of(weights, x):
    return x @ weights[:640].view(10, 64).T + weights[640:]


def cross_entropy_gradients(weights, x, y):
    return of_linear(weights, x, outputs_of(weights, x).softmax(1) - F.one_hot(y, 10))


def fisher_by_hand(run, i, weights):
    return cross_entropy_gradients(weights, *samples_of(run, i)).square().mean(0)


def gradient_of(run, part, at):
    """The penalty's gradient at given weights."""
    now = flat(run.model)
    torch.nn.utils.vector_to_parameters(at, run.model.parameters())
    found = torch.cat([g.flatten() for g in torch.autograd.grad(part.penalty(), list(run.model.parameters()))])
    torch.nn.utils.vector_to_parameters(now, run.model.parameters())
    return found

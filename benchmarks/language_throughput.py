"""The engine against a bare loop over a transformers network, on text: seconds a trained token, alternating in one run.

    python benchmarks/language_throughput.py [--model gpt_neox] [--size xxs] [--batch 16] [--steps 60] [--rounds 7]

Both train the same network (same initial weights, bytes of the language reference that every Python carries, windows of
128 tokens) on the same windows in the same order: AdamW (fused) with decay on matrices, gradients clipped at norm 1,
cosine from the first step to a tenth of the peak. Compared is training alone: the engine's own count of training
seconds, in which evaluation, probes and making the run are left out, against the bare loop's seconds around its steps,
which evaluates nothing. The bare loop knows nothing of this package but where tokens and initial weights lie. Trained
weights are compared too: a faster loop that learns something else would be no comparison.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import time
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

CONTEXT, RATE, BETAS, DECAY, CLIP, MINIMUM = 128, 3e-3, (0.9, 0.95), 0.1, 1.0, 0.1


def bare_loop(network: Any, tokens: np.ndarray, order: np.ndarray, batch: int) -> float:
    """Seconds of training a `...ForCausalLM`, as one would write it for this workload alone."""
    network.train()
    matrices, others = ([p for p in network.parameters() if (p.ndim > 1) == big] for big in (True, False))
    optimizer = torch.optim.AdamW([{"params": matrices}, {"params": others, "weight_decay": 0.0}], RATE, BETAS, weight_decay=DECAY, fused=True)
    steps = -(-len(order) // batch)
    offsets = np.arange(CONTEXT + 1)
    parameters = list(network.parameters())
    started = time.perf_counter()
    for step in range(steps):
        first = order[step * batch : (step + 1) * batch] * CONTEXT
        windows = torch.from_numpy(tokens[first[:, None] + offsets].astype(np.int64))
        logits = network(input_ids=windows[:, :-1], use_cache=False).logits
        loss = F.cross_entropy(logits.flatten(0, 1), windows[:, 1:].flatten())
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, CLIP)
        rate = RATE * (MINIMUM + (1 - MINIMUM) * 0.5 * (1 + math.cos(math.pi * step / steps)))
        for group in optimizer.param_groups:
            group["lr"] = rate
        optimizer.step()
    return time.perf_counter() - started


def made(arguments: argparse.Namespace) -> Any:
    """A run of the engine that has not begun."""
    from clsuite.experiment.cell import make_run
    from clsuite.experiment.spec import resolve

    scenario = {"name": "llm_pretraining", "corpora": ["python_reference"], "tokens": arguments.steps * arguments.batch * CONTEXT, "context": CONTEXT}
    training = {"batch_size": arguments.batch, "learning_rate": RATE, "schedule": {"name": "cosine", "minimum": MINIMUM}}
    raw: dict[str, Any] = {
        "scenario": {**scenario, "validation_tokens": CONTEXT, "probe_tokens": 0},
        "model": {"name": arguments.model, "size": arguments.size},
        "training": training,
        "device": "cpu",
    }
    return make_run(resolve(raw), torch.device("cpu"))


def engine(run: Any) -> float:
    """Seconds of the engine's training."""
    from clsuite.training.checkpoint import Checkpoints
    from clsuite.training.loop import Loop

    loop = Loop(run, Checkpoints(None, "", {}))
    loop.execute()
    return loop.seconds["training"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--model", default="gpt_neox", choices=["gpt_neox", "llama"])
    parser.add_argument("--size", default="xxs")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--rounds", type=int, default=7)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    from transformers import GPTNeoXForCausalLM, LlamaForCausalLM

    kind = {"gpt_neox": GPTNeoXForCausalLM, "llama": LlamaForCausalLM}[arguments.model]

    def pair(turn: int) -> tuple[float, float, float]:
        """Seconds of the engine and of the bare loop, which take turns in going first, and how far their weights are apart."""
        run = made(arguments)
        network = kind(run.model.config)
        network.base_model.load_state_dict(run.model.body.state_dict())
        network.get_output_embeddings().load_state_dict(run.model.head.state_dict())
        order, tokens = run.stream.experiences[0].segments[0].indices, run.stream.source.corpora[0].tokens("train")
        seconds = {}
        for who in ("engine", "bare") if turn % 2 else ("bare", "engine"):
            seconds[who] = engine(run) if who == "engine" else bare_loop(network, tokens, order, arguments.batch)
        body = dict(network.base_model.named_parameters())
        apart = max(float((p - body[name]).detach().abs().max()) for name, p in run.model.body.named_parameters())
        return seconds["engine"], seconds["bare"], apart

    pair(0)  # warm up both
    rows = [pair(k) for k in range(arguments.rounds)]
    ratios = [a / b for a, b, _ in rows]
    tokens = arguments.steps * arguments.batch * CONTEXT
    found = {
        "model": f"{arguments.model} {arguments.size}",
        "batch": arguments.batch,
        "tokens_a_round": tokens,
        "rounds": arguments.rounds,
        "engine_tokens_a_second": round(tokens / statistics.median(a for a, _, _ in rows)),
        "bare_tokens_a_second": round(tokens / statistics.median(b for _, b, _ in rows)),
        "ratio_median": round(statistics.median(ratios), 3),
        "ratio_range": [round(min(ratios), 3), round(max(ratios), 3)],
        "largest_difference_of_weights": max(apart for _, _, apart in rows),
    }
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()

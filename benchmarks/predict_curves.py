"""How well loss laws predict held-out curves of a 25M model: the table that is accepted or not, in one command.

python benchmarks/predict_curves.py [FOLDER]

FOLDER holds the nine curves (default: loss-curves under CLSUITE_DATA). A curve passes with a mean absolute error of at most 0.01 and R2 of at least 0.99.
"""

from __future__ import annotations

import argparse
import os
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

from clsuite.prediction.curve import Curve
from clsuite.prediction.laws import MOMENTUM
from clsuite.prediction.reader import read_curve
from clsuite.prediction.study import study

TWO = ("25M_cosine_24000", "25M_constant_24000")
THREE = (*TWO, "25M_wsdcon_9")
STUDIES = (("annealing", TWO, MOMENTUM), ("annealing", TWO, None), ("annealing", THREE, MOMENTUM), ("multi_power", THREE, MOMENTUM))
ERROR, R2 = 0.01, 0.99


HEAD = "".join(f" {name:>7}" for name in ("MAE", "RMSE", "R2", "worst", "final", "inside"))


def numbers(scores: dict[str, Any]) -> str:
    """The columns of HEAD."""
    shown = [f"{scores[key]:7.4f}" for key in ("mean_absolute_error", "root_mean_squared_error", "r2", "worst_error")]
    inside = f"{100 * scores['inside_interval']:6.0f}%" if "inside_interval" in scores else f"{'':7}"
    return " " + " ".join([*shown, f"{scores['final_loss_error']:+7.4f}", inside])


def show(law: str, fitting: tuple[str, ...], momentum: float | None, curves: dict[str, Curve]) -> None:
    """One law on one fitting set: every curve, with the fit without annealing beside it."""
    started = time.perf_counter()
    found = study([curves[name] for name in fitting], [c for name, c in curves.items() if name not in fitting], [], law, momentum)
    seconds = time.perf_counter() - started
    document = found.document()
    lam = f", lambda {document['lambda']:g}" + (" (chosen on the fitting curves)" if momentum is None else "") if "lambda" in document else ""
    print(f"\n{found.fit.law.title}{lam}; fitted on {', '.join(name.removeprefix('25M_') for name in fitting)}; {seconds:.2f} s")
    print(
        "  "
        + ", ".join(
            f"{k} {v['value']:.4g} [{v['interval'][0]:.4g}, {v['interval'][1]:.4g}]" + " (at a limit)" * v["at_limit"]
            for k, v in document["parameters"].items()
        )
    )
    print(f"  {'curve':<18} {'':8}{HEAD}   | without annealing:{HEAD}")
    for c in document["curves"]:
        verdict = "fitted" if c["fitted"] else "pass" if c["mean_absolute_error"] <= ERROR and c["r2"] >= R2 else "MISSED"
        print(f"  {c['name'].removeprefix('25M_'):<18} {verdict:<8}{numbers(c)}   |{'':19}{numbers(c['without_annealing'])}")
    rank = document["rank"]
    for key, title in (("law", "law"), ("without_annealing", "without annealing")):
        print(
            f"  rank of final losses, {rank['over']}, {title}: Kendall {rank[key]['kendall']:.3f}, Spearman {rank[key]['spearman']:.3f}, n = {rank[key]['n']}"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, nargs="?", default=Path(os.environ.get("CLSUITE_DATA", ".")) / "loss-curves")
    folder = parser.parse_args().folder
    curves = {path.stem: read_curve(path) for path in sorted(folder.glob("25M_*.csv"))}
    missing = set(THREE) - set(curves)
    if missing:
        parser.error(f"{folder} has no {', '.join(sorted(missing))}.csv: give the folder of the curves, or set CLSUITE_DATA")
    print(f"{len(curves)} curves; errors are predicted - measured, in nats; intervals 95 %")
    for law, fitting, momentum in STUDIES:
        show(law, fitting, momentum, curves)


if __name__ == "__main__":
    main()

"""Built-in strategies and modifiers: one file each, found through this catalogue.

`family` is one of reference, replay, regularisation, architecture, prototype, optimisation, analysis; `kind` is strategy (a
base, stands first) or modifier; `world: text`, it acts on language models only. `source` says what was followed; a method without official code is labelled.
"""

from typing import Any

CATALOGUE = {
    "naive": ".naive:Naive",
    "joint": ".joint:Joint",
    "cumulative": ".cumulative:Cumulative",
    "downstream_only": ".downstream_only:DownstreamOnly",
    "replay": ".replay:Replay",
    "der": ".der:DER",
    "derpp": ".derpp:DERpp",
    "stream_replay": ".stream_replay:StreamReplay",
    "temperature_sampling": ".temperature_sampling:TemperatureSampling",
    "skill_it": ".skill_it:SkillIt",
    "gdumb": ".gdumb:GDumb",
    "ncm": ".ncm:NCM",
    "er_ace": ".er_ace:ERACE",
    "mir": ".mir:MIR",
    "icarl": ".icarl:ICaRL",
    "bic": ".bic:BiC",
    "wa": ".wa:WA",
    "slda": ".slda:SLDA",
    "fpf": ".fpf:FPF",
    "refresh": ".refresh:Refresh",
    "slow_learner": ".slow_learner:SlowLearner",
    "alignment": ".alignment:Alignment",
    "half_fine_tuning": ".half_fine_tuning:HalfFineTuning",
    "dynamic_ema": ".dynamic_ema:DynamicEMA",
    "instruction_residual": ".instruction_residual:InstructionResidual",
    "autolrs": ".autolrs:AutoLRS",
    "sensitivity": ".sensitivity:Sensitivity",
    "ewc": ".ewc:EWC",
    "si": ".si:SI",
    "mas": ".mas:MAS",
    "lwf": ".lwf:LwF",
    "agem": ".agem:AGEM",
}

FACTS: dict[str, dict[str, Any]] = {
    "naive": {"kind": "strategy", "family": "reference", "source": "lower reference"},
    "joint": {"kind": "strategy", "family": "reference", "source": "upper reference"},
    "cumulative": {"kind": "strategy", "family": "reference", "source": "reference with an unlimited memory"},
    "downstream_only": {"kind": "strategy", "family": "reference", "source": "reference without what came before"},
    "replay": {"kind": "strategy", "family": "replay", "source": "Chaudhry et al. 2019, arXiv 1902.10486"},
    "der": {"kind": "strategy", "family": "replay", "source": "Buzzega et al. 2020, arXiv 2004.07211"},
    "derpp": {"kind": "strategy", "family": "replay", "source": "Buzzega et al. 2020, arXiv 2004.07211"},
    "stream_replay": {"kind": "modifier", "family": "replay", "source": "Ibrahim et al. 2024, arXiv 2403.08763"},
    "temperature_sampling": {"kind": "modifier", "family": "replay", "source": "Li et al. 2024, arXiv 2410.04579 (Cooldown)"},
    "skill_it": {"kind": "modifier", "family": "replay", "source": "Chen et al. 2023, arXiv 2307.14430; re-implemented from notes on paper and code"},
    "gdumb": {"kind": "strategy", "family": "replay", "source": "Prabhu et al. 2020, ECCV, and its code"},
    "ncm": {"kind": "strategy", "family": "prototype", "source": "Janson et al. 2022, arXiv 2210.04428"},
    "er_ace": {"kind": "strategy", "family": "replay", "source": "Caccia et al. 2022, arXiv 2104.05025"},
    "mir": {"kind": "strategy", "family": "replay", "source": "Aljundi et al. 2019, arXiv 1908.04742"},
    "icarl": {"kind": "strategy", "family": "replay", "source": "Rebuffi et al. 2017, arXiv 1611.07725"},
    "bic": {"kind": "strategy", "family": "replay", "source": "Wu et al. 2019, arXiv 1905.13260"},
    "wa": {"kind": "strategy", "family": "replay", "source": "Zhao et al. 2020, arXiv 1911.07053"},
    "slda": {"kind": "strategy", "family": "prototype", "source": "Hayes & Kanan 2020, arXiv 1909.01520"},
    "fpf": {"kind": "modifier", "family": "optimisation", "source": "Zhao et al. 2023, arXiv 2304.04158; re-implemented from the abstract"},
    "refresh": {"kind": "modifier", "family": "optimisation", "source": "Wang et al. 2024, arXiv 2403.13249"},
    "slow_learner": {"kind": "modifier", "family": "optimisation", "source": "Zhang et al. 2023, arXiv 2303.05118 (SLCA, first stage)"},
    "alignment": {"kind": "modifier", "family": "prototype", "source": "Zhang et al. 2023, arXiv 2303.05118 (SLCA, second stage)"},
    "half_fine_tuning": {
        "kind": "modifier",
        "family": "regularisation",
        "world": "text",
        "source": "arXiv 2404.18466; re-implemented from notes on the paper",
    },
    "dynamic_ema": {
        "kind": "modifier",
        "family": "optimisation",
        "source": "Qiao et al. 2025, arXiv 2410.10868; re-implemented from notes on paper and official repository",
    },
    "instruction_residual": {
        "kind": "modifier",
        "family": "optimisation",
        "world": "text",
        "source": "arXiv 2410.10739; re-implemented from the abstract and notes",
    },
    "autolrs": {"kind": "modifier", "family": "optimisation", "source": "AutoLRS; arms-length re-implementation from notes on code, README and abstract"},
    "sensitivity": {"kind": "modifier", "family": "analysis", "source": "after Zhao et al. 2023, arXiv 2304.04158; the measure is ours"},
    "ewc": {"kind": "modifier", "family": "regularisation", "source": "Kirkpatrick et al. 2017, arXiv 1612.00796; Schwarz et al. 2018, arXiv 1805.06370"},
    "si": {"kind": "modifier", "family": "regularisation", "source": "Zenke et al. 2017, arXiv 1703.04200"},
    "mas": {"kind": "modifier", "family": "regularisation", "source": "Aljundi et al. 2018, arXiv 1711.09601"},
    "lwf": {"kind": "modifier", "family": "regularisation", "source": "Li & Hoiem 2016, arXiv 1606.09282"},
    "agem": {"kind": "modifier", "family": "replay", "source": "Chaudhry et al. 2019, arXiv 1812.00420"},
}

ALIASES: dict[str, dict[str, Any]] = {
    "kfpf": {
        "name": "naive",
        "modifiers": [{"name": "fpf", "times": 9}],
        "source": "Zhao et al. 2023, arXiv 2304.04158; re-implemented from the abstract",
    },
    "slca": {
        "name": "naive",
        "modifiers": [{"name": "slow_learner", "keep_old_heads": True}, {"name": "alignment"}],
        "training": {"logit_mask": "experience"},
        "source": "Zhang et al. 2023, arXiv 2303.05118",
    },
}

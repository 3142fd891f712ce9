"""What is known of Avalanche's classes beyond their signatures: names, values they leave open, search spaces, and why some cannot be run.

Everything here is by class or parameter name and only adds to what introspection finds: a class or parameter that no table knows is
treated by its signature alone.
"""

from __future__ import annotations

from typing import Any

NAMES = {"PackNet": "packnet"}
"""Names that splitting the class name would not give."""

VARIANTS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "online": ("EWC", "EWC with one penalty that is carried on (mode online)", {"mode": "online", "decay_factor": 1.0}),
}
"""By the word before the name: the class it is a variant of, its description, and the defaults that differ."""

SUPPLIED = frozenset(
    {
        *("self", "model", "optimizer", "criterion", "train_mb_size", "train_epochs", "train_passes", "eval_mb_size", "device"),
        *("plugins", "evaluator", "eval_every", "peval_mode", "verbose", "num_workers"),
    }
)
"""Parameters that the run gives, whatever the class."""

FIXED = frozenset(
    {"generator_strategy", "buffer_transform", "augmentations", "storage_policy", "excluded_parameters", "scaler", "untrained_solver", "reduction"}
)
"""Parameters that are no settings and keep their defaults."""

REAL = frozenset({"alpha", "beta", "gamma", "temperature", "lambda_e", "lamb", "ewc_lambda", "si_lambda"})
"""Parameters that are real numbers though their default is written as a whole one or not at all."""

CHOICES: dict[tuple[str, str], list[str]] = {
    ("EWC", "mode"): ["separate", "online"],
    ("FeatureDistillationPlugin", "mode"): ["cosine"],  # Avalanche 0.6 also names mse, and then calls mse_loss with an argument it does not have
    ("MaskedCrossEntropy", "mask"): ["seen", "new", "old", "all"],
    ("PNN", "adapter"): ["mlp", "linear"],
}
"""Texts that a parameter may be."""

DEFAULTS: dict[tuple[str, str], Any] = {
    ("AGEM", "patterns_per_exp"): 200,
    ("EWC", "ewc_lambda"): 1.0,
    ("GEM", "patterns_per_exp"): 200,
    ("ICaRL", "memory_size"): 200,
    ("LFL", "lambda_e"): 1.0,
    ("MIR", "batch_size_mem"): 10,
    ("PackNet", "post_prune_epochs"): 1,
    ("RARPlugin", "batch_size_mem"): 10,
    ("SynapticIntelligence", "si_lambda"): 1.0,
}
"""Values of parameters that Avalanche leaves open (or sets to one that is of no use): ours."""

Searched = list[Any] | tuple[float, float] | None
"""Values to choose from, both ends of a logarithmic range, or None: not searched."""

_SIZES: Searched = [200, 500, 1000]
_WEIGHT: Searched = (1e-2, 1e4)

SEARCH: dict[str | tuple[str, str], Searched] = {
    "mem_size": _SIZES,
    "memory_size": _SIZES,
    "max_buffer_size": _SIZES,
    "patterns_per_exp": [50, 100, 200],
    "patterns_per_experience": [50, 100, 200],
    "sample_size": [32, 64, 128],
    "batch_size": None,
    "batch_size_mem": [10, 32, 64],
    "buffer_mb_size": [10, 32, 64],
    "subsample": [50, 100, 200],
    "ewc_lambda": _WEIGHT,
    "si_lambda": _WEIGHT,
    "lambda_reg": _WEIGHT,
    "lambda_e": (1e-3, 1e2),
    "alpha": (0.1, 10.0),
    "temperature": [1.0, 2.0, 4.0],
    "decay_factor": None,
    "delta_t": [5, 10, 20],
    "ewc_alpha": [0.5, 0.7, 0.9],
    "eps": None,
    "base_temp": None,
    "memory_strength": [0.0, 0.5, 1.0],
    "mem_strength": [1, 5, 10],
    "post_prune_epochs": None,
    "prune_proportion": [0.25, 0.5, 0.75],
    "replay_size": None,
    "weight_replay_loss_factor": None,
    "nhid": None,
    "num_layers": None,
    "shrink1": None,
    "shrink2": None,
    "shrinkage_param": (1e-6, 1e-1),
    "tukey1": [0.5, 1.0],
    "iter_fgsm": None,
    "decay_factor_fgsm": None,
    "max_it_cnt": None,
    "stage_2_epochs": [50, 100, 200],
    "val_percentage": [0.05, 0.1, 0.2],
    "projection": None,
    ("BiC", "T"): None,  # Avalanche 0.6 divides by 2 whatever it says
    ("CoPE", "T"): (0.05, 1.0),
    ("CoPE", "alpha"): [0.9, 0.95, 0.99, 0.999],
    ("DER", "alpha"): (0.05, 1.0),
    ("DER", "beta"): [0.0, 0.25, 0.5, 1.0],
    ("MAS", "alpha"): [0.25, 0.5, 0.75],
    ("MER", "beta"): (0.01, 1.0),
    ("MER", "gamma"): (0.01, 1.0),
    ("SCR", "temperature"): (0.05, 0.5),
}
"""Search spaces of well-known parameters (ours), a class's own before those of the name."""

PARTS: dict[str, str] = {"ICaRLLossPlugin": "ICaRL", "TrainGeneratorAfterExpPlugin": "GenerativeReplay", "VAETraining": "GenerativeReplay"}
"""Classes that are a part of a strategy that is wrapped."""

REASONS: dict[str, str] = {
    "AETraining": "trains an autoencoder, not a classifier",
    "AR1": "builds a MobileNetV1 of its own with pretrained weights that it downloads, and takes no other model",
    "CheckpointPlugin": "writes checkpoints; clsuite writes its own at the borders of experiences",
    "Clock": "counts iterations within a strategy, and is in all of them",
    "EarlyStoppingPlugin": "stops by accuracy on test data, which clsuite's protocols exclude",
    "ExpertGateStrategy": "builds AlexNets of its own with pretrained weights that it downloads, and takes no other model",
    "LRSchedulerPlugin": "takes a scheduler object; learning rates that change are training.schedule with clsuite's own strategies",
    "LearningToPrompt": "builds a prompt ViT-B of its own with pretrained weights that it downloads, and takes no other model",
    "ObjectDetectionTemplate": "is for object detection, which clsuite has no data for",
    "PeriodicEval": "evaluates within training; clsuite evaluates after each experience",
}
"""Why a class cannot be run, where its signature does not say."""

OPTIONAL: dict[str, str] = {"lamaml": "higher"}
"""Modules that import a package if it is there, and are of no use without."""

MADE = frozenset(
    {
        *("feature_extractor", "classifier", "slda_model", "input_size", "num_classes", "n_classes", "p_size"),
        *("output_layer_name", "cwr_layer_name", "last_layer_name", "name_ext_layer"),
    }
)
"""Parameters that are made of the run's network and stream (`avalanche_models`)."""

MODELS: dict[str, tuple[str, frozenset[str]]] = {
    "PNNStrategy": ("PNN", frozenset({"in_features"})),
    "GenerativeReplay": ("MlpVAE", frozenset({"shape", "n_classes"})),
    **dict.fromkeys(("CurrentDataNCMUpdate", "MemoryNCMUpdate", "NCMOracle"), ("NCMClassifier", frozenset())),
    **dict.fromkeys(("CurrentDataFeCAMUpdate", "MemoryFeCAMUpdate", "FeCAMOracle"), ("FeCAMClassifier", frozenset())),
}
"""By class: a class of `avalanche.models` that it needs, whose parameters are settings too, less those that the run gives."""

EXTRA: dict[str, list[dict[str, Any]]] = {
    "SCR": [{"name": "projection", "types": ["int"], "default": 128, "ge": 1, "help": "outputs of the two-layer projection that the contrastive loss is on"}],
}
"""Settings of what clsuite makes for a class."""

MULTI_TASK = frozenset({"PNNStrategy", "PackNet"})
"""Classes that must be told the task of every sample, in training and when they predict."""

NEW_CLASSES = MULTI_TASK | {"BiC", "ICaRL"}
"""Classes that fail where a class comes back in a later experience."""

ONLINE = frozenset({"CoPE"})
"""Classes that take each batch for an experience, and stop after it."""

ONCE = frozenset({"JointTraining"})
"""Classes that train on all experiences at once, and no second time."""

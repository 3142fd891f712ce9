"""Built-in strategies and modifiers: one file each, found through this catalogue.

`family` is one of replay, regularisation, architecture, prototype, optimisation, reference, analysis. `source` says what
was followed; a method without official code is labelled.
"""

CATALOGUE = {
    "naive": ".naive:Naive",
    "replay": ".replay:Replay",
}

FACTS = {
    "naive": {"family": "reference", "source": "lower reference"},
    "replay": {"family": "replay", "source": "Chaudhry et al. 2019, arXiv 1902.10486"},
}

ALIASES: dict[str, dict] = {}

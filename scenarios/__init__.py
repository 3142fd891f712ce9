"""Built-in scenarios: one file each, found through this catalogue."""

CATALOGUE = {
    "avalanche": ".avalanche:Avalanche",
    "blurry": ".blurry:Blurry",
    "class_incremental": ".class_incremental:ClassIncremental",
    "domain_incremental": ".domain_incremental:DomainIncremental",
    "llm_pretraining": ".llm_pretraining:LLMPretraining",
    "power_law": ".power_law:PowerLaw",
    "scole": ".scole:SCoLe",
}

FACTS = {
    "avalanche": {"source": "Lomonaco et al. 2021, arXiv 2104.00405, and the sources of the benchmarks it names"},
    "blurry": {"source": "own definition: a share of each class outside its main experience, or classes that fade in and out"},
    "class_incremental": {"source": "van de Ven and Tolias 2019, arXiv 1904.07734 (class- and task-incremental learning)"},
    "domain_incremental": {"source": "Goodfellow et al. 2013, arXiv 1312.6211 (permuted); Lopez-Paz and Ranzato 2017, arXiv 1706.08840 (rotated)"},
    "llm_pretraining": {"source": "Gupta et al. 2023, arXiv 2308.04014; Ibrahim et al. 2024, arXiv 2403.08763 (corpora and sizes are ours)"},
    "power_law": {"source": "Gandhi et al. 2024, arXiv 2401.10393 (rule from the abstract; constants, readings and controls are ours)"},
    "scole": {"source": "Lesort et al. 2023, arXiv 2207.04543, and its code (TLESORT/SCoLe-SCaling-Continual-Learning)"},
}

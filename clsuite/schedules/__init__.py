"""Learning-rate schedules by family; `clsuite.schedule` is the contract and the catalogue."""

"""What tests against Avalanche share."""

from __future__ import annotations

import torch


class Samples(torch.utils.data.TensorDataset):
    """Tensors as a data set with the `targets` that Avalanche divides by."""

    @property
    def targets(self):
        return self.tensors[1].tolist()

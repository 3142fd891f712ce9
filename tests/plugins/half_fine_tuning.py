"""Half fine-tuning: in every experience a random half of the tensors stays as it is."""

from clsuite.strategy import Modifier


class HalfFineTuning(Modifier):
    """HFT: half of the hidden parameter tensors, drawn at every border, get no gradient; the head always learns."""

    claims = {"rewrites_gradients"}
    needs = {"borders"}

    def before_experience(self, experience):
        hidden = [name for name, _ in self.model.named_parameters() if not name.startswith("head")]
        self.frozen = sorted(self.generator("halves").choice(hidden, len(hidden) // 2, replace=False).tolist())

    def on_gradients(self):
        for name in self.frozen:
            self.model.get_parameter(name).grad = None

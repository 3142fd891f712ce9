"""The networks by name. Nothing heavy is imported here: a builder is loaded when it is asked for."""

CATALOGUE = {
    "mlp": ".mlp:MLP",
    "cnn": ".cnn:CNN",
    "resnet18": ".resnet:ResNet18",
    "resnet20": ".resnet:ResNet20",
    "resnet32": ".resnet:ResNet32",
    "resnet56": ".resnet:ResNet56",
    "vit": ".vit:ViT",
    "gpt_neox": ".language:GPTNeoX",
    "llama": ".language:Llama",
}

FACTS = {
    "mlp": {"source": "two hidden layers of 100 ReLU units: Lopez-Paz & Ranzato 2017 (GEM), arXiv 1706.08840"},
    "cnn": {"source": "Lesort et al. 2023 (SCoLe), arXiv 2207.04543; TLESORT/SCoLe-SCaling-Continual-Learning Models/model.py"},
    "resnet18": {"source": "He et al. 2016, arXiv 1512.03385, with a 3x3 stem for small images; width 20 is the reduced form of GEM, arXiv 1706.08840"},
    "resnet20": {"source": "He et al. 2016, arXiv 1512.03385, section 4.2, option A shortcuts; akamaster/pytorch_resnet_cifar10"},
    "resnet32": {"source": "He et al. 2016, arXiv 1512.03385, section 4.2, option A shortcuts; akamaster/pytorch_resnet_cifar10"},
    "resnet56": {"source": "He et al. 2016, arXiv 1512.03385, section 4.2, option A shortcuts; akamaster/pytorch_resnet_cifar10"},
    "vit": {"source": "Dosovitskiy et al. 2021, arXiv 2010.11929; networks and weights of timm (huggingface/pytorch-image-models)"},
    "gpt_neox": {"source": "Pythia's architecture: Biderman et al. 2023, arXiv 2304.01373; networks of transformers (GPTNeoXForCausalLM)"},
    "llama": {"source": "Touvron et al. 2023, arXiv 2302.13971; networks of transformers (LlamaForCausalLM)"},
}

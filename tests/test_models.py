"""Networks: what they compute, how many parameters they have and which, and the weight files they start from."""

from __future__ import annotations

import importlib
import io
import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from clsuite.errors import MissingData, UsageError
from clsuite.models import CATALOGUE, FACTS
from clsuite.models.base import Model, Network
from clsuite.models.cnn import CNN
from clsuite.models.mlp import MLP
from clsuite.models.resnet import ResNet18, ResNet20, ResNet32, ResNet56
from clsuite.models.vit import ViT

SMALL_VIT = {"pretrained": False, "image_size": 32}
Changes = dict[str, torch.Tensor | None]
BUILDERS = [MLP(), CNN(), ResNet18(width=4), ResNet20(), ResNet32(), ResNet56(), ViT(**SMALL_VIT)]
NAMED = pytest.mark.parametrize("model", BUILDERS, ids=lambda model: model.name)


def build(model: Model, shape: tuple[int, int, int] = (3, 32, 32), classes: int = 10, data_root: str | None = None) -> Network:
    torch.manual_seed(0)
    return model.build(shape, classes, data_root)


def parameters(network: Network) -> int:
    return sum(p.numel() for p in network.parameters() if p.requires_grad)


def same(a: Network, b: Network) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a.state_dict().values(), b.state_dict().values(), strict=True))


@pytest.fixture
def nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty data root, with no other root in reach."""
    monkeypatch.delenv("CLSUITE_DATA", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (tmp_path / "weights").mkdir()
    return tmp_path


def weight_file(root: Path, name: str = "small", classes: int = 10, metadata: dict[str, str] | None = None, changes: Changes | None = None) -> Network:
    """Write a resnet20 under the names of the published files (`linear`, no batch counters); `changes` replace or remove tensors."""
    torch.manual_seed(7)
    source = ResNet20().build((3, 32, 32), classes, None)
    with torch.no_grad():
        for buffer in source.buffers():
            if buffer.is_floating_point():
                buffer.uniform_(0.5, 1.5)
    tensors = {n.replace("head.", "linear."): t.contiguous() for n, t in source.state_dict().items() if not n.endswith("num_batches_tracked")}
    tensors = {n: t for n, t in {**tensors, **(changes or {})}.items() if t is not None}
    save_file(tensors, root / "weights" / f"{name}.safetensors", metadata)
    return source


@pytest.mark.unit
def test_the_catalogue_names_builders_and_loads_no_torch() -> None:
    assert set(CATALOGUE) == set(FACTS)
    for name, target in CATALOGUE.items():
        module, _, attribute = target.partition(":")
        assert getattr(importlib.import_module(module, "clsuite.models"), attribute).name == name
    code = "import clsuite.models, sys; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False, env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}).returncode == 0


@pytest.mark.unit
@NAMED
@pytest.mark.parametrize("shape", [(3, 32, 32), (1, 28, 28), (3, 17, 23)], ids=str)
def test_scores_are_the_head_on_the_features(model: Model, shape: tuple[int, int, int]) -> None:
    network = build(model, shape, classes=7).eval()
    x = torch.randn(2, *shape)
    with torch.no_grad():
        features = network.features(x)
        assert features.shape == (2, network.head.in_features)
        assert network(x).shape == (2, 7)
        assert torch.equal(network(x), network.head(features))
        assert not torch.allclose(features[0], features[1])


@pytest.mark.unit
@NAMED
def test_the_seed_decides_the_initial_weights(model: Model) -> None:
    torch.manual_seed(1)
    other = model.build((3, 32, 32), 10, None)
    assert same(build(model), build(model))
    assert not same(build(model), other)


@pytest.mark.unit
@pytest.mark.parametrize(
    ("model", "shape", "classes", "count"),
    [
        (MLP(), (1, 28, 28), 10, 89_610),  # 784*100+100 + 100*100+100 + 100*10+10
        (MLP(hidden=[]), (1, 28, 28), 10, 7_850),
        (CNN(), (1, 28, 28), 10, 21_840),  # 260 + 5020 + 320*50+50 + 510
        (ResNet18(), (3, 32, 32), 10, 11_173_962),  # kuangliu/pytorch-cifar
        (ResNet18(width=20), (3, 32, 32), 100, 1_109_240),  # the reduced network of GEM, as in Mammoth
        (ResNet20(), (3, 32, 32), 10, 269_722),  # akamaster/pytorch_resnet_cifar10
        (ResNet32(), (3, 32, 32), 10, 464_154),
        (ResNet56(), (3, 32, 32), 10, 853_018),
    ],
)
def test_parameter_counts_are_the_published_ones(model: Model, shape: tuple[int, int, int], classes: int, count: int) -> None:
    assert parameters(build(model, shape, classes)) == count


@pytest.mark.unit
def test_cnn_resizes_only_what_is_smaller_than_28() -> None:
    assert build(CNN(), (1, 8, 8)).get_parameter("fc.weight").shape == (50, 320)
    assert build(CNN(), (3, 32, 32)).get_parameter("fc.weight").shape == (50, 500)


@pytest.mark.unit
@NAMED
def test_groups_partition_the_parameters(model: Model) -> None:
    network = build(model)
    groups = network.groups()
    names = [name for name, _ in network.named_parameters()]
    assert groups["all"] == names
    assert sorted(name for kind, members in groups.items() if kind != "all" for name in members) == sorted(names)
    assert groups["head"] == ["head.weight", "head.bias"]


@pytest.mark.unit
def test_groups_are_what_their_names_say() -> None:
    mlp = build(MLP(hidden=[5, 6, 7])).groups()
    assert mlp["first_layer"] == ["hidden.0.weight", "hidden.0.bias"]
    assert [kind for kind in mlp if kind.startswith("block:")] == ["block:hidden.1", "block:hidden.2"]
    assert build(MLP(hidden=[])).groups()["first_layer"] == []

    cnn = build(CNN()).groups()
    assert cnn["first_layer"] == ["conv1.weight", "conv1.bias"]
    assert [kind for kind in cnn if kind.startswith("block:")] == ["block:conv2", "block:fc"]

    resnet = build(ResNet20()).groups()
    assert resnet["first_layer"] == ["conv1.weight"]
    assert len(resnet["norm"]) == 2 * 19  # a scale and a shift for each convolution
    assert [kind for kind in resnet if kind.startswith("block:")] == ["block:layer1", "block:layer2", "block:layer3"]
    assert len(resnet["block:layer2"]) == 6

    vit = build(ViT(**SMALL_VIT)).groups()
    assert vit["first_layer"] == ["backbone.patch_embed.proj.weight", "backbone.patch_embed.proj.bias"]
    assert len(vit["norm"]) == 2 * 25  # two in each of twelve blocks, one at the end
    assert [kind for kind in vit if kind.startswith("block:blocks")] == [f"block:blocks.{i}" for i in range(12)]


@pytest.mark.unit
def test_select_joins_groups_in_model_order_without_duplicates() -> None:
    network = build(ResNet20())
    chosen = network.select("head+norm+first_layer+norm")
    ids = [id(p) for p in chosen]
    assert ids == [id(p) for p in network.parameters() if id(p) in set(ids)]
    assert len(ids) == len(set(ids)) == 38 + 2 + 1
    assert [id(p) for p in network.select("all+head")] == [id(p) for p in network.parameters()]
    assert build(MLP()).select("norm") == []


@pytest.mark.unit
def test_select_names_the_valid_kinds() -> None:
    with pytest.raises(UsageError, match=r"unknown parameter group 'norms'; did you mean 'norm'\? \(valid: all, block:layer1.*first_layer, head, norm\)$"):
        build(ResNet20()).select("head+norms")


@pytest.mark.unit
def test_settings_out_of_bounds_are_refused() -> None:
    with pytest.raises(UsageError, match="hidden"):
        MLP(hidden=[100, 0])
    with pytest.raises(UsageError, match="width"):
        ResNet18(width=0)


@pytest.mark.unit
def test_weights_come_back_as_written(nowhere: Path) -> None:
    source = weight_file(nowhere, "small").eval()
    by_name, by_path = ResNet20(weights="small"), ResNet20(weights=str(nowhere / "weights" / "small.safetensors"))
    assert by_name.pretrained and not ResNet20().pretrained
    x = torch.randn(4, 3, 32, 32)
    for network in (build(by_name, data_root=str(nowhere)), build(by_path)):
        assert same(network, source)
        assert torch.equal(network.eval()(x), source(x))
    assert by_name.normalisation is None


@pytest.mark.unit
def test_weights_are_found_in_the_environments_root(nowhere: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = weight_file(nowhere)
    monkeypatch.setenv("CLSUITE_DATA", str(nowhere))
    assert same(build(ResNet20(weights="small"), data_root=str(nowhere / "empty")), source)


@pytest.mark.unit
def test_a_head_with_other_classes_starts_afresh(nowhere: Path) -> None:
    source = weight_file(nowhere)
    network = build(ResNet20(weights="small"), classes=4, data_root=str(nowhere))
    assert network.head.out_features == 4
    assert torch.equal(network.head.weight, build(ResNet20(), classes=4).head.weight)
    assert torch.equal(network.get_parameter("conv1.weight"), source.get_parameter("conv1.weight"))


@pytest.mark.unit
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"layer1.0.conv1.weight": torch.zeros(16, 8, 3, 3)}, r"'layer1.0.conv1.weight' of shape \[16, 8, 3, 3\], the network needs \[16, 16, 3, 3\]"),
        ({"layer3.2.bn2.running_var": None}, "has no tensor 'layer3.2.bn2.running_var'"),
        ({"layer4.0.conv1.weight": torch.zeros(1)}, "has a tensor 'layer4.0.conv1.weight' that this network lacks"),
        ({"linear.weight": None}, "has no tensor 'head.weight'"),
        ({"linear.weight": torch.zeros(5, 32), "linear.bias": torch.zeros(5)}, r"'head.weight' of shape \[5, 32\]"),
        ({"linear.bias": torch.zeros(9)}, r"'head.bias' of shape \[9\]"),
    ],
    ids=["shape", "missing", "unexpected", "no head", "head width", "head bias"],
)
def test_weights_that_do_not_fit_are_refused_in_one_line(nowhere: Path, changes: Changes, message: str) -> None:
    weight_file(nowhere, changes=changes)
    with pytest.raises(UsageError, match=message) as caught:
        build(ResNet20(weights="small"), data_root=str(nowhere))
    assert "\n" not in str(caught.value)


@pytest.mark.unit
def test_weights_that_are_not_there_or_not_readable_are_refused(nowhere: Path) -> None:
    with pytest.raises(MissingData, match=r"model\.weights = 'absent': no such file") as caught:
        build(ResNet20(weights="absent"), data_root=str(nowhere))
    assert str(nowhere / "weights" / "absent.safetensors") in str(caught.value) and "\n" not in str(caught.value)
    with pytest.raises(UsageError, match="without folders"):
        build(ResNet20(weights="../absent"), data_root=str(nowhere))
    (nowhere / "weights" / "broken.safetensors").write_bytes(b"not tensors")
    with pytest.raises(UsageError, match=r"broken.safetensors cannot be read"):
        build(ResNet20(weights="broken"), data_root=str(nowhere))


@pytest.mark.unit
def test_normalisation_comes_from_the_file_or_is_the_known_one(nowhere: Path) -> None:
    weight_file(nowhere, "told", metadata={"mean": json.dumps([0.1, 0.2, 0.3]), "std": json.dumps([1, 2, 3])})
    weight_file(nowhere, "resnet20-cifar10", metadata={"source": "elsewhere"})
    weight_file(nowhere, "wrong", metadata={"mean": "[0.1]", "std": "[1]"})
    for name, expected in (("told", ((0.1, 0.2, 0.3), (1.0, 2.0, 3.0))), ("resnet20-cifar10", ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))):
        model = ResNet20(weights=name)
        build(model, data_root=str(nowhere))
        assert model.normalisation == expected
    with pytest.raises(UsageError, match="metadata mean/std"):
        build(ResNet20(weights="wrong"), data_root=str(nowhere))


@pytest.mark.unit
def test_a_grey_image_is_repeated_for_three_channel_weights(nowhere: Path) -> None:
    source = weight_file(nowhere).eval()
    network = build(ResNet20(weights="small"), shape=(1, 28, 28), data_root=str(nowhere)).eval()
    x = torch.randn(2, 1, 28, 28)
    assert torch.equal(network(x), source(x.repeat(1, 3, 1, 1)))
    assert build(ResNet20(), shape=(1, 28, 28)).get_parameter("conv1.weight").shape == (16, 1, 3, 3)


@pytest.mark.unit
def test_vit_without_network_is_random_only_when_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    huggingface = pytest.importorskip("huggingface_hub.constants")
    monkeypatch.setattr(huggingface, "HF_HUB_OFFLINE", True)  # read from the environment at import
    monkeypatch.setattr(huggingface, "HF_HUB_CACHE", str(tmp_path))
    model = ViT()
    assert model.pretrained and not ViT(pretrained=False).pretrained
    with pytest.raises(UsageError, match=r"no pretrained weights could be had .*; set model.pretrained=false for random weights$") as caught:
        build(model)
    assert "\n" not in str(caught.value)
    random = ViT(**SMALL_VIT)
    assert build(random)(torch.randn(2, 3, 32, 32)).shape == (2, 10)
    assert random.normalisation is None


@pytest.mark.unit
@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"architecture": "vit_tiny_patch16_24"}, "did you mean 'vit_tiny_patch16_224'"),
        ({"architecture": "resnet18", "pretrained": False, "image_size": 32}, "resnet18 takes no image size"),
        ({"pretrained": False, "image_size": 8}, "smaller than one patch"),
    ],
)
def test_vit_refuses_what_it_cannot_build(settings: dict[str, object], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        build(ViT(**settings))


def cifar10_test_images() -> tuple[torch.Tensor, torch.Tensor]:
    """The 2,000 test images in 0..1 and their labels; sheets hold 10 x 10 images of 32 x 32."""
    from PIL import Image

    folder = Path(os.environ["CLSUITE_DATA"]) / "cifar10-subset"
    with zipfile.ZipFile(folder / "test2000.webp.zip") as sheets:
        pixels = np.concatenate([np.asarray(Image.open(io.BytesIO(sheets.read(name))).convert("RGB")) for name in sorted(sheets.namelist())])
    images = pixels.reshape(-1, 10, 32, 10, 32, 3).swapaxes(2, 3).reshape(-1, 32, 32, 3)
    labels = np.load(folder / "labels.npz")["test"].astype(np.int64)
    return torch.from_numpy(images.copy()).permute(0, 3, 1, 2).float() / 255, torch.from_numpy(labels)


@pytest.mark.data
@pytest.mark.skipif(not os.environ.get("CLSUITE_DATA"), reason="needs the real data sets: set CLSUITE_DATA to their folder")
@pytest.mark.parametrize(
    ("model", "images", "accuracy"),  # accuracies of an independent NumPy forward pass on the same images
    [(ResNet20(weights="resnet20-cifar10"), 2000, 91.65), (ResNet32(weights="resnet32-cifar10"), 500, 93.2), (ResNet56(weights="resnet56-cifar10"), 500, 94.0)],
    ids=["resnet20", "resnet32", "resnet56"],
)
def test_published_weights_have_their_published_accuracy(model: Model, images: int, accuracy: float) -> None:
    network = build(model).eval()
    mean, std = (torch.tensor(v)[:, None, None] for v in model.normalisation or ((), ()))
    x, y = cifar10_test_images()
    with torch.no_grad():
        guesses = torch.cat([network((part - mean) / std).argmax(1) for part in x[:images].split(100)])
    correct = int((guesses == y[:images]).sum())
    assert 100 * correct / images == pytest.approx(accuracy, abs=0.1)

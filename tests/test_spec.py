"""Specifications: one spelling of every cell, one hash for every spelling, and one clear line for what is not valid."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import clsuite
from clsuite.errors import UsageError
from clsuite.experiment.identity import cell_hash, source_digests
from clsuite.experiment.overrides import parse_overrides, parse_yaml
from clsuite.experiment.spec import COMPONENTS, resolve
from clsuite.settings import setting
from clsuite.strategy import Modifier

pytestmark = pytest.mark.unit


def spec_of(*overrides, **values):
    raw = parse_overrides(overrides, COMPONENTS)
    return resolve({**raw, **{k: {**raw.get(k, {}), **v} if isinstance(v, dict) else v for k, v in values.items()}})


def hash_of(*overrides, **values):
    return cell_hash(spec_of(*overrides, **values))


def refused(*overrides, **values):
    with pytest.raises(UsageError) as caught:
        spec_of(*overrides, **values)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# -- overrides --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("items", "expected"),
    [
        (["seed=3"], {"seed": 3}),
        (["training.learning_rate=1e-3", "training.batch_size=8"], {"training": {"learning_rate": 0.001, "batch_size": 8}}),
        (["strategy=replay", "strategy.buffer_size=5"], {"strategy": {"name": "replay", "buffer_size": 5}}),
        (["strategy.refresh.steps=2", "strategy=derpp+refresh"], {"strategy": {"refresh": {"steps": 2}, "name": "derpp+refresh"}}),
        (["strategy={name: derpp, alpha: 0.5}"], {"strategy": {"name": "derpp", "alpha": 0.5}}),
        (["strategy=./my file.py:A"], {"strategy": {"name": "./my file.py:A"}}),
        (["a.b=[1, 2]", "a.c=null", "a.d=true", "a.e=x=y", "a.f="], {"a": {"b": [1, 2], "c": None, "d": True, "e": "x=y", "f": None}}),
    ],
)
def test_overrides_become_nested_values(items, expected):
    assert parse_overrides(items, COMPONENTS) == expected


@pytest.mark.parametrize(
    ("items", "message"),
    [
        (["seed"], "'seed' is not key=value"),
        (["=3"], "the key has an empty part"),
        (["a..b=3"], "the key has an empty part"),
        (["a.=3"], "the key has an empty part"),
        (["seed=1", "seed=1"], "the key 'seed' is given twice"),
        (["strategy=naive", "strategy.name=replay"], "the key 'strategy.name' is given twice"),
        (["a=1", "a.b=2"], "'a' was given a value before"),
        (["a.b=2", "a=1"], "the key 'a' is given twice"),
        (["a=${b}"], "interpolation"),
        (["a=[1, 2"], "'a=[1, 2'"),
        (["a={x: 1, x: 2}"], "key 'x' is given twice"),
    ],
)
def test_overrides_are_strict(items, message):
    with pytest.raises(UsageError) as caught:
        parse_overrides(items, COMPONENTS)
    assert message in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "value"),
    [("1e-3", 0.001), ("1E5", 1e5), ("-2.5e+2", -250.0), (".5", 0.5), ("1", 1), ("1.0", 1.0), ("e3", "e3"), ("1e", "1e"), ("'1e-3'", "1e-3"), ("true", True)],
)
def test_numbers_are_read_as_people_write_them(text, value):
    found = parse_yaml(text, "x")
    assert found == value and type(found) is type(value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: 1\nb: 2\na: 3", "line 3: key 'a' is given twice"),
        ("x:\n  a: 1\n  a: 1", "line 3: key 'a' is given twice"),
        ("a: &n [1]\nb: *n", "line 2: aliases"),
        ("a: &n {x: 1}\nb:\n  <<: *n", "aliases"),
        ("a: !!python/object/apply:os.system ['true']", "line 1"),
        ("a: !mine 3", "line 1"),
        ("a: [1", "line"),
        ("? [1]\n: 2\n? [1]\n: 3", "given twice"),
    ],
)
def test_yaml_is_safe_and_strict(text, message):
    with pytest.raises(UsageError) as caught:
        parse_yaml(text, "file.yaml")
    assert str(caught.value).startswith("file.yaml:") and message in str(caught.value) and "\n" not in str(caught.value)


# -- resolve ----------------------------------------------------------------------------------------------------


def test_settings_left_out_take_the_defaults_of_the_data(tiny):
    digits = spec_of("strategy=replay").spec
    assert {k: digits["training"][k] for k in ("epochs", "batch_size", "learning_rate")} == {"epochs": 10, "batch_size": 16, "learning_rate": 0.1}
    assert digits["strategy"]["buffer_size"] == 50
    memory = spec_of("strategy=replay", "scenario.experiences=3", scenario={"dataset": tiny.name}).spec
    assert memory["training"]["epochs"] == tiny.defaults["epochs"] and memory["strategy"]["buffer_size"] == tiny.defaults["buffer_size"]
    assert spec_of("training.epochs=3").spec["training"]["epochs"] == 3


def test_a_canonical_form_resolves_to_itself():
    cell = spec_of("strategy=derpp+refresh", "strategy.alpha=0.3", "strategy.refresh.steps=2", "training.schedule.name=cosine", "seed=4")
    assert resolve(cell.spec).spec == cell.spec
    assert cell_hash(resolve(cell.spec)) == cell_hash(cell)


ONE_SPELLING = {
    "an integer for a float": [["training.learning_rate=1"], ["training.learning_rate=1.0"], ["training.learning_rate=1e0"]],
    "a default that is spelled out": [
        ["strategy=naive"],
        ["seed=0"],
        ["training.epochs=10", "scenario.dataset=digits", "scenario=class_incremental"],
    ],
    "a data set's default": [["strategy=replay"], ["strategy=replay", "strategy.buffer_size=50", "strategy.buffer=reservoir"]],
    "schedule": [["training.schedule.name=cosine"], ["training.schedule={name: cosine}"], ["training.schedule={minimum: 0, warmup: 0, name: cosine}"]],
    "modifiers": [
        ["strategy=derpp+refresh", "strategy.refresh.steps=2", "strategy.alpha=1"],
        ["strategy={name: derpp, alpha: 1.0, modifiers: [{name: refresh, steps: 2}]}"],
        ["strategy={name: derpp+refresh, alpha: 1.0, refresh: {steps: 2}}"],
        ["strategy.name=derpp", "strategy.alpha=1.0", "strategy.modifiers=[refresh]", "strategy.refresh={steps: 2}"],
    ],
    "an alias": [["strategy=kfpf"], ["strategy=naive+fpf", "strategy.fpf.times=9"], ["strategy=fpf", "strategy.fpf.times=9"]],
    "a modifier first": [["strategy=ewc+fpf", "strategy.ewc.strength=3"], ["strategy=naive+ewc+fpf", "strategy.ewc.strength=3.0"]],
}


@pytest.mark.parametrize("name", ONE_SPELLING)
def test_every_spelling_of_a_cell_has_one_form_and_one_hash(name):
    cells = [spec_of(*overrides) for overrides in ONE_SPELLING[name]]
    assert all(cell.spec == cells[0].spec for cell in cells)
    assert len({cell_hash(cell) for cell in cells}) == 1
    assert "1.0" in repr(cells[0].spec["training"]["learning_rate"]) or name != "an integer for a float"


def test_the_order_of_modifiers_counts():
    assert hash_of("strategy=replay+fpf+slow_learner") != hash_of("strategy=replay+slow_learner+fpf")


REFUSED = {
    "unknown key": (["sed=1"], {}, "unknown key 'sed'; did you mean 'seed'?"),
    "unknown setting": (["training.epoch=1"], {}, "unknown setting 'training.epoch'; did you mean 'epochs'?"),
    "unknown setting of a strategy": (["strategy=replay", "strategy.bufer_size=1"], {}, "unknown setting 'strategy.bufer_size'; did you mean 'buffer_size'?"),
    "unknown setting of a modifier": (["strategy=replay+fpf", "strategy.fpf.time=3"], {}, "unknown setting 'strategy.fpf.time'; did you mean 'times'?"),
    "unknown strategy": (["strategy=reply"], {}, "unknown strategy 'reply'; did you mean 'replay'?"),
    "unknown scenario": (["scenario=class_incrementl"], {}, "unknown scenario 'class_incrementl'; did you mean 'class_incremental'?"),
    "unknown model": (["model=mpl"], {}, "unknown model 'mpl'; did you mean 'mlp'?"),
    "unknown schedule": (["training.schedule.name=cosin"], {}, "unknown schedule 'cosin'; did you mean 'cosine'?"),
    "unknown data": (["scenario.dataset=digit"], {}, "unknown data set 'digit'; did you mean 'digits'?"),
    "text for a number": (["training.epochs=many"], {}, "training.epochs = 'many' is not valid: expected a whole number or null"),
    "number in quotes": (["training.epochs='3'"], {}, "training.epochs = '3' is not valid"),
    "float for an integer": (["training.epochs=3.0"], {}, "training.epochs = 3.0 is not valid"),
    "true for a number": (["training.epochs=true"], {}, "training.epochs = True is not valid"),
    "out of bounds": (["training.epochs=0"], {}, "training.epochs = 0 is out of bounds: expected a finite value >= 1"),
    "not finite": (["training.learning_rate=.inf"], {}, "training.learning_rate = inf is out of bounds"),
    "wrong choice": (["training.optimizer=sgdd"], {}, "did you mean 'sgd'?"),
    "negative seed": (["seed=-1"], {}, "seed = -1 is not valid: expected a whole number >= 0"),
    "true as seed": ([], {"seed": True}, "seed = True is not valid"),
    "float as seed": (["seed=1.0"], {}, "seed = 1.0 is not valid"),
    "list as seed": (["seed=[1, 2]"], {}, "seed = [1, 2] is not valid"),
    "phase": (["phase=evaluations"], {}, "did you mean 'evaluation'?"),
    "device": (["device=gpu"], {}, "device = 'gpu' is not valid"),
    "a value for a group": (["training=3"], {}, "training = 3 is not valid"),
    "settings of a modifier first": (["strategy=fpf", "strategy.times=3"], {}, "strategy.times is a setting of the modifier 'fpf': write strategy.fpf.times"),
    "two bases": (["strategy=naive+replay"], {}, "strategy 'replay' is a base strategy and can only stand first"),
    "settings of a modifier that is not there": (["strategy=replay", "strategy.fpf.times=3"], {}, "strategy=replay+fpf"),
    "empty place": (["strategy=replay+"], {}, "names joined by '+'"),
    "momentum of adam": (["training.optimizer=adam", "training.momentum=0.9"], {}, "training.momentum = 0.9 applies to sgd only"),
    "two sizes of one memory": (["strategy=replay+fpf", "strategy.buffer_size=5", "strategy.fpf.buffer_size=6"], {}, "share one memory"),
    "modifiers that are no list": (["strategy=replay", "strategy.modifiers=fpf"], {}, "strategy.modifiers = 'fpf' is not valid"),
    "schedule that is no name": (["training.schedule=[1]"], {}, "training.schedule = [1] is not valid"),
    "schedule whose name is a number": (["training.schedule.name=3"], {}, "unknown schedule '3'"),
    "number as name": ([], {"strategy": {"name": 3}}, "strategy = 3 is not valid"),
    "missing file": (["strategy=./nowhere.py:A"], {}, "strategy file './nowhere.py' does not exist"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_is_not_valid_is_refused_in_one_line(what):
    overrides, values, message = REFUSED[what]
    assert message in refused(*overrides, **values)


# -- hashes -----------------------------------------------------------------------------------------------------

OTHER = {
    "scenario": {
        "dataset": None,
        "samples_per_class": 9,
        "keep_classes": 6,
        "experiences": 2,
        "first_classes": 4,
        "class_order": [9, 8, 7, 6, 5, 4, 3, 2, 1, 0],
    },
    "model": {"hidden": [7]},
    "strategy": {"buffer_size": 7, "buffer": "class_balanced", "insert": "always", "replay_batch": 3, "combine": "sum"},
    "training": {
        "epochs": 3,
        "betas": [0.8, 0.9],
        "epsilon": 1e-6,
        "border_start_from": "pre_decay",
        "border_rewarm": 5,
        "accumulation": 2,
        "sharding": "shard",
        "border_peak_scale": 0.5,
        "decayed": "matrices",
        "compile": True,
        "batch_size": 5,
        "optimizer": "adam",
        "learning_rate": 0.3,
        "momentum": 0.9,
        "weight_decay": 0.1,
        "clip_norm": 1.0,
        "schedule": {"name": "cosine"},
        "border_optimizer": "keep",
        "border_schedule": "extend",
        "logit_mask": "seen",
        "augmentation": ["flip"],
        "crop_padding": 2,
        "brightness": 0.1,
        "normalise": "dataset",
        "evaluate_every": 2,
        "probe_every": 3,
        "threads": 2,
        "precision": "float64",
    },
    "evaluation": {"mask": "seen"},
    "protocol": {"split": "classes", "split_seed": 1, "swap": True, "halves": "in_order", "tuning_dataset": None, "first": 2, "held_out": 0.1},
}


def test_the_hash_changes_with_every_setting(tiny):
    base = {"strategy": {"name": "replay"}, "protocol": {"split": "samples"}, "scenario": {"name": "class_incremental"}, "model": {"name": "mlp"}}
    cell = resolve(base)
    declared = {
        "scenario": cell.scenario,
        "model": cell.model,
        "strategy": cell.parts[0],
        "training": cell.training,
        "evaluation": cell.evaluation,
        "protocol": cell.scenario.split,
    }
    hashes = {"nothing": cell_hash(cell)}
    for group, component in declared.items():
        for name in component.declared():
            assert name in OTHER[group], f"'{group}.{name}' is a setting without another value in OTHER: add one"
            value = OTHER[group][name]
            if value is None:
                continue
            hashes[f"{group}.{name}"] = cell_hash(resolve({**base, group: {**base.get(group, {}), name: value}}))
    for key, value in (("seed", 1), ("phase", "tuning"), ("until", 1), ("strategy", "derpp"), ("model", "cnn"), ("scenario", "blurry")):
        hashes[key] = cell_hash(resolve({**base, key: value}))
    hashes["scenario.dataset"] = cell_hash(resolve({**base, "scenario": {"dataset": tiny.name}}))
    hashes["schedule's setting"] = cell_hash(resolve({**base, "training": {"schedule": {"name": "cosine", "minimum": 0.1}}}))
    hashes["modifier's setting"] = cell_hash(resolve({**base, "strategy": "replay+fpf"}))
    hashes["modifier's other setting"] = cell_hash(resolve({**base, "strategy": {"name": "replay+fpf", "fpf": {"times": 3}}}))
    assert len(set(hashes.values())) == len(hashes), sorted(hashes.items(), key=lambda pair: pair[1])


def test_the_second_data_set_of_a_split_is_part_of_the_hash(tiny):
    rng = np.random.default_rng(1)
    other = clsuite.images(rng.integers(0, 255, (12, 8, 8), dtype=np.uint8), np.arange(12) % 6, rng.integers(0, 255, (6, 8, 8), dtype=np.uint8), np.arange(6))
    found = {hash_of(protocol={"split": "datasets", "tuning_dataset": name}) for name in (tiny.name, other.name)}
    assert len(found) == 2


def test_a_setting_added_later_enters_the_hash_only_when_it_is_used(register):
    class Early(Modifier):
        a: int = setting(1)

    class Later(Modifier):
        a: int = setting(1)
        b: int = setting(5, since=2)

    register("grown", Early)
    old, old_a = hash_of("strategy=naive+grown"), hash_of("strategy=naive+grown", "strategy.grown.a=2")
    register("grown", Later)
    assert hash_of("strategy=naive+grown") == old == hash_of("strategy=naive+grown", "strategy.grown.b=5")
    assert hash_of("strategy=naive+grown", "strategy.grown.a=2") == old_a != old
    assert hash_of("strategy=naive+grown", "strategy.grown.b=6") not in (old, old_a)
    Later.revision = 2
    assert hash_of("strategy=naive+grown") != old


def test_the_same_data_has_the_same_hash_in_every_layout(tmp_path):
    rng = np.random.default_rng(2)
    x, y = rng.integers(0, 255, (12, 8, 8), dtype=np.uint8), np.repeat(np.arange(4), 3)
    x_test, y_test = rng.integers(0, 255, (4, 8, 8), dtype=np.uint8), np.arange(4)
    for split, images, labels in (("train", x, y), ("test", x_test, y_test)):
        for k, (image, label) in enumerate(zip(images, labels, strict=True)):
            folder = tmp_path / split / f"class{label}"
            folder.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image).save(folder / f"{k:02d}.png")
    names = [
        clsuite.images(x, y, x_test, y_test).name,
        clsuite.images(x, y, x_test, y_test, name="another title").name,
        clsuite.images(x[..., None], y, x_test[:, None], y_test).name,
        clsuite.images(x / 255, y.astype(np.int32), x_test / 255, y_test).name,
        f"folder:{tmp_path}",
    ]
    assert len({hash_of("scenario.experiences=2", scenario={"dataset": name}) for name in names}) == 1
    changed = x.copy()
    changed[0, 0, 0] ^= 1
    assert hash_of("scenario.experiences=2", scenario={"dataset": clsuite.images(changed, y, x_test, y_test).name}) != hash_of(
        "scenario.experiences=2", scenario={"dataset": names[0]}
    )


def test_a_plug_in_file_counts_by_its_content(tmp_path):
    file = tmp_path / "mine.py"
    text = "from clsuite.strategy import Strategy\n\nclass Mine(Strategy):\n    '''One.'''\n"
    hashes = []
    for content in (text, text.replace("One", "Two"), text):
        file.write_text(content)
        hashes.append(hash_of(f"strategy={file}:Mine"))
    assert hashes[0] == hashes[2] != hashes[1]


def test_what_changes_the_numbers_changes_the_hash() -> None:
    """Each of these pairs once shared a hash, so that the second run was answered with the first's result."""

    def of(*items: str, **values: Any) -> str:
        return cell_hash(resolve({**parse_overrides(items, COMPONENTS), **values}))

    few = "scenario.samples_per_class=20"
    assert of(few) != of(few, "protocol.split_seed=1")
    plug_in = str(Path(__file__).parent / "plugins" / "remembers.py") + ":Remembers"
    sizes = [of(f"strategy={plug_in}+fpf", f"strategy.fpf.buffer_size={size}") for size in (30, 300)]
    assert sizes[0] != sizes[1]


def test_a_method_goes_with_all_the_files_its_rule_stands_in() -> None:
    derpp = source_digests(resolve({"strategy": "derpp", "scenario": "power_law"}))
    assert {"clsuite", "clsuite_strategies", "clsuite_scenarios"} <= derpp.keys()

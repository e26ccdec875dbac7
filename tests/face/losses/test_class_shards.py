"""Files of class weights in one process: what is written, what is refused and that nothing changes then."""

import copy

import pytest
import torch
from accelerate import Accelerator
from torch.testing import assert_close

from common.runtime.checkpoint import CheckpointError, load_checkpoint, save_checkpoint
from face.losses import AdaFace, ArcFace, PartialFC, load_class_shards, save_class_shards

CLASSES, FEATURES = 10, 3


def head_of(classes=CLASSES, features=FEATURES, margin=None, seed=0):
    return PartialFC(features, classes, margin or AdaFace(), seed=seed)


def trained(make, margin=None, steps=2):
    """A head and its optimizer, which has another parameter too."""
    head = head_of(margin=margin, seed=1)
    other = torch.nn.Parameter(torch.ones(2))
    optimizer = make([{"params": [other]}, {"params": [head.weight]}])
    for step in range(steps):
        embeddings = torch.randn(4, FEATURES, generator=torch.Generator().manual_seed(step))
        (head(embeddings, torch.tensor([1, 4, 9, 4])) + other.sum()).backward()
        optimizer.step()
        optimizer.zero_grad()
    return head, optimizer


def adamw(parameters):
    return torch.optim.AdamW(parameters, lr=0.1)


def sgd(parameters):
    return torch.optim.SGD(parameters, lr=0.1, momentum=0.9)


@pytest.fixture
def saved(tmp_path):
    head, optimizer = trained(adamw)
    (name,) = save_class_shards(tmp_path, "run-00002", head, optimizer)
    assert name == "run-00002-classes-00000-of-00001.pt"
    return tmp_path / name


def cut(path, *ranges, **changes):
    """The file as several would have it; `changes` are of the last."""
    contents = load_checkpoint(path)
    paths = []
    for number, (first, end) in enumerate(ranges):
        part = copy.deepcopy(contents) | {"first_class": first, "weight": contents["weight"][first:end].clone()}
        if part["optimizer"]:
            kept = part["optimizer"]["kept"]
            part["optimizer"]["kept"] = {k: v[first:end].clone() if v.ndim else v for k, v in kept.items()}
        if number == len(ranges) - 1:
            for name, change in changes.items():
                change(part[name])
        paths.append(path.with_name(f"part{number}.pt"))
        save_checkpoint(paths[-1], part)
    return paths


def state(head, optimizer):
    kept = {
        number: optimizer.state[p] for number, p in enumerate(p for g in optimizer.param_groups for p in g["params"])
    }
    return copy.deepcopy((head.state_dict(), kept))


def refuses(message, paths, head, optimizer=None, error=ValueError):
    before = state(head, optimizer or adamw([head.weight]))
    with pytest.raises(error, match=message):
        load_class_shards(paths, head, optimizer)
    assert_close(state(head, optimizer or adamw([head.weight])), before, rtol=0, atol=0)


@pytest.mark.parametrize("make", [adamw, sgd])
def test_all_comes_back_and_other_parameters_stay(make, tmp_path):
    head, optimizer = trained(make)
    names = save_class_shards(tmp_path / "new", "run", head, optimizer)
    again, its_optimizer = trained(make, steps=1)
    others = copy.deepcopy(its_optimizer.state[its_optimizer.param_groups[0]["params"][0]])
    load_class_shards([tmp_path / "new" / name for name in names], again, its_optimizer)
    assert_close(again.state_dict(), head.state_dict(), rtol=0, atol=0)
    assert its_optimizer.state[again.weight].keys() == optimizer.state[head.weight].keys()
    for name, value in optimizer.state[head.weight].items():
        assert torch.equal(its_optimizer.state[again.weight][name], value), name
    assert_close(its_optimizer.state[its_optimizer.param_groups[0]["params"][0]], others, rtol=0, atol=0)


def test_parts_in_any_order(saved):
    head, optimizer = trained(adamw)
    again = head_of()
    its_optimizer = adamw([again.weight])
    load_class_shards(cut(saved, (4, 9), (9, 10), (0, 4)), again, its_optimizer)
    assert torch.equal(again.weight, head.weight)
    for name, value in optimizer.state[head.weight].items():
        assert torch.equal(its_optimizer.state[again.weight][name], value), name


def test_weights_without_the_optimizer(saved):
    head = head_of()
    optimizer = adamw([head.weight])
    load_class_shards([saved], head)
    assert torch.equal(head.weight, trained(adamw)[0].weight)
    assert not optimizer.state


def test_an_optimizer_before_its_first_step(tmp_path):
    (name,) = save_class_shards(tmp_path, "run", *trained(adamw, steps=0))
    head, optimizer = trained(adamw)
    load_class_shards([tmp_path / name], head, optimizer)
    assert head.weight not in optimizer.state
    assert len(optimizer.state) == 1


def test_an_optimizer_that_accelerate_has_wrapped(saved):
    head, plain = trained(adamw, steps=0)
    load_class_shards([saved], head, Accelerator(cpu=True).prepare(plain))
    assert int(plain.state[head.weight]["step"]) == 2


def test_other_numbers_are_refused(saved):
    refuses(f"{saved.name}: num_classes: expected 11, found 10", [saved], head_of(classes=11))
    refuses(f"{saved.name}: num_features: expected 4, found 3", [saved], head_of(features=4))


def test_missing_classes_are_named(saved):
    head = head_of()
    refuses("expected the files of all classes, got no path", [], head)
    refuses(r"part0.pt: expected classes from 0 on, found 2 to 9", cut(saved, (2, 10)), head)
    refuses(r"part1.pt: expected classes from 4 on, found 5 to 9", cut(saved, (0, 4), (5, 10)), head)
    refuses(r"part1.pt: expected classes from 4 on, found 3 to 9", cut(saved, (0, 4), (3, 10)), head)
    refuses(r"part1.pt: expected classes to 9 in the last file, found 4 to 7", cut(saved, (0, 4), (4, 8)), head)
    refuses(r"run-00002-classes-00000-of-00001.pt: expected classes from 10 on", [saved, saved], head)


def test_other_files_are_refused(saved, tmp_path):
    head = head_of()
    save_checkpoint(tmp_path / "model.pt", {"model": {}})
    refuses(r"model.pt: expected class weights with the keys .*, found \['model'\]", [tmp_path / "model.pt"], head)
    refuses("gone.pt: no such checkpoint", [tmp_path / "gone.pt"], head, error=FileNotFoundError)


def test_another_margin_is_refused(saved, tmp_path):
    refuses(r"pt: margin: does not fit the model", [saved], head_of(margin=ArcFace()), error=CheckpointError)
    (name,) = save_class_shards(tmp_path, "arcface", head_of(margin=ArcFace()))
    refuses(r"arcface-.*pt: margin: does not fit the model", [tmp_path / name], head_of(), error=CheckpointError)


def test_another_optimizer_is_refused(saved, tmp_path):
    refuses("pt: optimizer: expected SGD, found AdamW", [saved], *trained(sgd))
    (name,) = save_class_shards(tmp_path, "without", head_of())
    refuses("pt: optimizer: expected AdamW, found none", [tmp_path / name], *trained(adamw))
    head = head_of()
    refuses(r"the optimizer \(SGD\) does not have partial_fc.weight", [saved], head, sgd([torch.ones(1)]))
    with pytest.raises(ValueError, match=r"the optimizer \(SGD\) does not have partial_fc.weight"):
        save_class_shards(tmp_path, "run", head, sgd([torch.ones(1)]))


def test_files_of_several_savings_are_refused(saved):
    parts = cut(saved, (0, 4), (4, 10), optimizer=lambda saved: saved["kept"]["step"].add_(1))
    refuses(r"part1.pt: optimizer.step: expected 2.0 as in .*part0.pt, found 3.0", parts, *trained(adamw))
    parts = cut(saved, (0, 4), (4, 10), optimizer=lambda saved: saved["kept"].pop("exp_avg"))
    refuses(r"part1.pt: optimizer: expected \['exp_avg', 'exp_avg_sq', 'step'\] as in", parts, *trained(adamw))


def test_what_cannot_be_cut_by_classes_is_refused(tmp_path):
    head, optimizer = trained(lambda parameters: torch.optim.Adafactor(parameters))
    message = r"Adafactor: optimizer.row_var: expected the weight's shape \[10, 3\] or a number, found \[10, 1\]"
    with pytest.raises(ValueError, match=message):
        save_class_shards(tmp_path, "run", head, optimizer)
    assert not list(tmp_path.iterdir())

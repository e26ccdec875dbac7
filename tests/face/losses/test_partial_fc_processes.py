"""PartialFC in two and in three processes is PartialFC in one: losses, gradients, weights, and training through files.

Three processes are started once for all tests of this file. Rows and classes are spread unevenly.
"""

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.testing import assert_close

from face.losses import AdaFace, ArcFace, CosFace, PartialFC, load_class_shards, save_class_shards

CLASSES, FEATURES, INPUTS = 2050, 4, 5  # a block of initial weights is 1024 classes: shards cut through them
SIZES = {1: [8], 2: [3, 5], 3: [4, 0, 4]}
LABELS = torch.tensor([0, 2049, -1, 1024, 1024, 700, 3, -1])
MARGINS = {
    "arcface": lambda: ArcFace(scale=16),
    "cosface": lambda: CosFace(scale=16),
    "adaface": lambda: AdaFace(t_alpha=0.5, scale=16),
}
OPTIMIZERS = {
    "adamw": lambda parameters: torch.optim.AdamW(parameters, lr=0.01),
    "sgd": lambda parameters: torch.optim.SGD(parameters, lr=0.1, momentum=0.9, weight_decay=5e-4),
}
GROUPS = (2, 3)


def head_of(margin="arcface", **settings):
    return PartialFC(FEATURES, CLASSES, MARGINS[margin](), seed=7, **settings).double()


def inputs(step=0):
    return torch.randn(8, INPUTS, dtype=torch.float64, generator=torch.Generator().manual_seed(step)) * 9


def model_of():
    model = nn.Linear(INPUTS, FEATURES).double()
    with torch.no_grad():
        for number, parameter in enumerate(model.parameters()):
            parameter.normal_(generator=torch.Generator().manual_seed(50 + number))
    return model


def share(rows, processes=1, process=0):
    return rows.split(SIZES[processes])[process]


def train(head, optimizer, steps, **where):
    """Steps over a batch of two rows fewer every other time, as at an epoch's end; the losses."""
    losses = []
    model = model_of()
    for step in steps:
        with torch.no_grad():
            embeddings, labels = share(model(inputs(step)), **where), share(LABELS.roll(step), **where)
        if step % 2 and where.get("process", 0) == 0:
            embeddings, labels = embeddings[2:], labels[2:]
        loss = head(embeddings, labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.detach())
    return torch.stack(losses)


# What every process does, and what one does alone


def loss_and_gradients(margin, wrap, where):
    model, head = wrap(model_of()), head_of(margin)
    loss = head(model(share(inputs(), **where)), share(LABELS, **where))
    loss.backward()
    return {
        "loss": loss.detach(),
        "model": {name.removeprefix("module."): p.grad for name, p in model.named_parameters()},
        "weight": head.weight.grad,
        "margin": head.margin.state_dict(),
    }


def gradient_of_embeddings(where):
    embeddings = share(model_of()(inputs()).detach(), **where).requires_grad_()
    head = head_of()
    sizes = SIZES[where["processes"]] if where else None
    head(embeddings, share(LABELS, **where), batch_sizes=sizes).backward()
    return embeddings.grad


def sampled(where):
    head = head_of("cosface", sampling_rate=0.01, generator=torch.Generator().manual_seed(where["process"]))
    loss = head(model_of()(share(inputs(), **where)), share(LABELS, **where))
    loss.backward()
    drawn = torch.nonzero(head.weight.grad.abs().sum(1))[:, 0] + head.first_class
    return {"loss": loss.detach(), "drawn": drawn, "weight": head.weight.grad}


def message_of(call):
    try:
        call()
    except ValueError as error:
        return str(error)
    return "no error"


def messages(where):
    wrong = LABELS.clone()
    wrong[0] = CLASSES  # a row of the first process
    embeddings = model_of()(share(inputs(), **where)).detach()
    head = head_of()
    return [
        message_of(lambda: head(embeddings, share(wrong, **where))),
        message_of(lambda: PartialFC(FEATURES, where["processes"] - 1, CosFace())),
    ]


def through_files(folder, where):
    """From two processes' hands to three: `same` is passed on as it is, `trained` is trained in each."""
    processes = where["processes"]
    losses = {}
    for name, make in OPTIMIZERS.items():
        for kind in ("same", "trained"):
            head = head_of("adaface")
            optimizer = make([head.weight])
            before = sorted((folder / f"{kind}-{processes - 1}").glob(f"{name}-*.pt"))
            load_class_shards(before, head, optimizer)
            if kind == "trained":
                losses[name] = train(head, optimizer, [processes, processes + 1], **where)
            written = save_class_shards(folder / f"{kind}-{processes}", name, head, optimizer)
            assert all((folder / f"{kind}-{processes}" / file).exists() for file in written)
    return losses


def _process(process, folder):
    torch.set_num_threads(1)
    for processes in GROUPS:
        if process < processes:
            dist.init_process_group(
                "gloo", init_method=f"file://{folder}/meet-{processes}", rank=process, world_size=processes
            )
            where = {"processes": processes, "process": process}
            head = head_of()
            found = {
                "initial": head.weight.detach(),
                "embeddings": gradient_of_embeddings(where),
                "sampled": sampled(where),
                "messages": messages(where),
                "unlabelled": head(torch.ones(1 + process, FEATURES), torch.full((1 + process,), -1)).detach(),
                "training": through_files(folder, where),
            }
            found |= {margin: loss_and_gradients(margin, DistributedDataParallel, where) for margin in MARGINS}
            dist.destroy_process_group()
            found["later"] = message_of(lambda head=head: head(torch.ones(1, FEATURES), torch.tensor([0])))
            torch.save(found, folder / f"found-{processes}-{process}.pt")


@pytest.fixture(scope="module")
def folder(tmp_path_factory, run_processes):
    """Where the processes left what they found, after one alone had trained for two steps."""
    folder = tmp_path_factory.mktemp("processes")
    for name, make in OPTIMIZERS.items():
        head = head_of("adaface")
        optimizer = make([head.weight])
        train(head, optimizer, [0, 1])
        for kind in ("same", "trained"):
            save_class_shards(folder / f"{kind}-1", name, head, optimizer)
    run_processes(_process, (folder,), max(GROUPS))
    return folder


@pytest.fixture(params=GROUPS)
def found(request, folder):
    """What each process found."""
    return [torch.load(folder / f"found-{request.param}-{process}.pt") for process in range(request.param)]


def test_initial_weights_are_slices_of_one_processs(found):
    shards = [process["initial"] for process in found]
    assert torch.equal(torch.cat(shards), head_of().weight.detach())
    assert max(map(len, shards)) - min(map(len, shards)) <= 1


@pytest.mark.parametrize("margin", MARGINS)
def test_loss_and_gradients(margin, found):
    expected = loss_and_gradients(margin, lambda model: model, {})
    for process in found:
        assert_close(process[margin]["loss"], expected["loss"])
        assert_close(process[margin]["model"], expected["model"])
        assert_close(process[margin]["margin"], expected["margin"])
    assert_close(torch.cat([process[margin]["weight"] for process in found]), expected["weight"])


def test_gradient_of_embeddings_is_scaled_for_a_mean_over_processes(found):
    gradients = torch.cat([process["embeddings"] for process in found])
    assert_close(gradients, len(found) * gradient_of_embeddings({}))


def test_sampling_is_over_what_each_process_drew(found):
    drawn = torch.cat([process["sampled"]["drawn"] for process in found])
    assert set(LABELS.tolist()) - {-1} <= set(drawn.tolist())
    assert len(drawn) == sum(int(0.01 * len(process["initial"])) for process in found)
    whole = head_of("cosface")
    part = PartialFC(FEATURES, len(drawn), whole.margin).double()
    part.weight.data.copy_(whole.weight.data[drawn])
    places = torch.tensor([drawn.tolist().index(label) if label >= 0 else -1 for label in LABELS.tolist()])
    loss = part(model_of()(inputs()), places)
    loss.backward()
    gradient = torch.zeros_like(whole.weight)
    gradient[drawn] = part.weight.grad
    for process in found:
        assert_close(process["sampled"]["loss"], loss.detach())
    assert_close(torch.cat([process["sampled"]["weight"] for process in found]), gradient)


def test_a_batch_without_labels(found):
    assert [float(process["unlabelled"]) for process in found] == [0] * len(found)


def test_all_processes_are_told_what_is_wrong(found):
    for process in found:
        assert f"num_classes is {CLASSES}; got -1 to {CLASSES}" in process["messages"][0]
        expected = f"num_classes must be >= {len(found)}, one for each process, got {len(found) - 1}"
        assert process["messages"][1] == expected
        assert process["later"] == f"built for {len(found)} process(es), called in 1"


def state(head, optimizer):
    return {"weight": head.weight.detach(), "kept": optimizer.state[head.weight], "margin": head.margin.state_dict()}


def read_back(folder, kind, name):
    head = head_of("adaface")
    optimizer = OPTIMIZERS[name]([head.weight])
    load_class_shards(sorted((folder / kind).glob(f"{name}-*.pt")), head, optimizer)
    return head, optimizer


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_files_pass_through_other_numbers_of_processes_unchanged(name, folder):
    """One to two, to three, to one; and what is kept is of every kind that the optimizer has."""
    assert len(list((folder / "same-3").glob(f"{name}-classes-*-of-00003.pt"))) == 3
    before, after = (state(*read_back(folder, kind, name)) for kind in ("same-1", "same-3"))
    assert_close(after, before, rtol=0, atol=0)
    assert set(after["kept"]) == {"adamw": {"step", "exp_avg", "exp_avg_sq"}, "sgd": {"momentum_buffer"}}[name]


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_training_goes_on_in_other_numbers_of_processes(name, folder):
    """Two steps in one, two in two, two in three, then two more in one."""
    alone = head_of("adaface")
    optimizer = OPTIMIZERS[name]([alone.weight])
    losses = {steps[0]: train(alone, optimizer, steps) for steps in ([0, 1], [2, 3])}
    for process in range(2):
        training = torch.load(folder / f"found-2-{process}.pt")["training"]
        assert_close(training[name], losses[2])
    again, its_optimizer = read_back(folder, "trained-2", name)
    assert_close(state(again, its_optimizer), state(alone, optimizer))
    train(alone, optimizer, [3, 4])
    again, its_optimizer = read_back(folder, "trained-3", name)
    assert_close(state(again, its_optimizer), state(alone, optimizer))
    assert_close(train(again, its_optimizer, [5, 6]), train(alone, optimizer, [5, 6]))

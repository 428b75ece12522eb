"""Recorded gradients: the same training as without, a recording for each case and shape, and what is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor

pytest.importorskip("lightning_fabric")
pytest.importorskip("torchmetrics")

from posegeom_models.graphs import UNRECORDED, Gradients, Graphs, Recording, copied
from posegeom_models.training import Descent, TrainingConfig, launch, train
from tests.regression import Numbers, TwoLosses, same


class Named(NamedTuple):
    """A tuple with names in a batch."""

    first: Tensor
    second: Tensor | None


class Recordable(TwoLosses):
    """Two losses without noise."""

    recordable = True

    def __init__(self) -> None:
        super().__init__()
        self.networks["body"][2].p = 0.0


class Recorder:
    """What CUDA's recorder is on a GPU: Python runs once, and replays read the inputs and write the same results."""

    def __init__(self) -> None:
        self.recorded = 0

    def __call__(self, compute: Callable[[Any], Gradients], batch: Any) -> Recording:
        self.recorded += 1
        inputs, kept = copied(batch)
        gradients = compute(kept)
        results = [*gradients.terms.values(), *(value for value in gradients.found if value is not None)]

        def replay() -> None:
            again = compute(kept)
            fresh = [*again.terms.values(), *(value for value in again.found if value is not None)]
            for result, value in zip(results, fresh, strict=True):
                result.copy_(value)

        return Recording(inputs, replay, gradients)


def trained(graphs: Graphs | None, steps: int = 9) -> tuple[TwoLosses, list[dict[str, float]]]:
    recipe, source = Recordable(), Numbers(8)
    config = TrainingConfig(steps=steps, batch_size=8, accelerator="cpu")
    values = []
    for step in range(steps):
        descent = Descent(launch(config), recipe.optimizers, source, config, step, graphs)
        recipe.step(descent, source.batch(step, 0, 1), step)
        values.append(descent.finite_values())
    return recipe, values


def test_replayed_training_is_the_training_without() -> None:
    recorder = Recorder()
    (replayed, terms), (plain, wanted) = trained(Graphs(recorder)), trained(None)
    assert recorder.recorded == 2  # one for each loss
    assert terms == wanted
    assert same(replayed.networks, plain.networks)


def test_each_case_and_shape_is_recorded_for_itself_after_a_few_times() -> None:
    recorder = Recorder()
    graphs = Graphs(recorder)

    def times(factor: float) -> Callable[[tuple[Tensor, None]], Gradients]:
        return lambda batch: Gradients({"sum": factor * batch[0].sum()}, [None])

    for count in range(UNRECORDED):
        assert graphs.gradients("a", times(2.0), (torch.full((3,), float(count)), None)).terms["sum"] == 6 * count
    assert recorder.recorded == 0
    for count in range(4):
        assert graphs.gradients("a", times(2.0), (torch.full((3,), float(count)), None)).terms["sum"] == 6 * count
        # Another shape, and another case: neither is answered with the first one's recording.
        assert graphs.gradients("a", times(2.0), (torch.full((5,), float(count)), None)).terms["sum"] == 10 * count
        assert graphs.gradients("b", times(3.0), (torch.full((3,), float(count)), None)).terms["sum"] == 9 * count
    assert recorder.recorded == 3


def test_copies_have_the_tuples_names_and_none_where_there_is_none() -> None:
    batch = (torch.zeros(2), (None, torch.ones(3)), Gradients({}, []))
    with pytest.raises(TypeError, match="tuples or lists of tensors and None, got dict"):
        copied(batch)
    number = torch.arange(2)
    tensors, kept = copied((torch.zeros(2), None, Named(torch.tensor(4.0), None), [number]))
    assert [value.tolist() for value in tensors] == [[0, 0], 4, [0, 1]]
    assert kept[1] is None
    assert kept[2].first is tensors[1]
    assert kept[2].second is None
    assert kept[3] == [tensors[2]]
    assert tensors[2] is not number


@pytest.mark.parametrize("field", ["devices", "machines", "accumulate"])
def test_graphs_are_of_one_process_and_whole_batches(field: str) -> None:
    with pytest.raises(ValueError, match="graphs must be false where devices, machines or accumulate is above 1"):
        TrainingConfig(graphs=True, **{field: 2})


def test_losses_that_change_cannot_be_recorded_and_a_cpu_records_none(tmp_path: Path) -> None:
    config = TrainingConfig(steps=9, batch_size=8, accelerator="cpu", graphs=True)
    with pytest.raises(ValueError, match=r"training\.graphs must be false: this model's losses change"):
        train(TwoLosses(), Numbers(8), config, tmp_path, launch(config), quiet=True)
    recipe = Recordable()
    train(recipe, Numbers(8), config, tmp_path, launch(config), quiet=True)
    assert same(recipe.networks, trained(None)[0].networks)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_replays_the_training_that_it_would_do_without(tmp_path: Path) -> None:
    lines = []
    for graphs in (False, True):
        config = TrainingConfig(steps=40, batch_size=8, accelerator="cuda", graphs=graphs, log_every=5)
        folder = tmp_path / str(graphs)
        train(Recordable(), Numbers(8), config, folder, launch(config), quiet=True)
        lines.append([json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()])
    for plain, replayed in zip(*lines, strict=True):
        for name in ("fit/squared", "shape/absolute", "shape/small"):
            assert replayed[name] == pytest.approx(plain[name], rel=1e-4)

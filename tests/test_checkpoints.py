"""Checkpoints on disk: damaged, foreign and half-written ones."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import nn

pytest.importorskip("lightning_fabric")
pytest.importorskip("torchmetrics")

from safetensors.torch import load_file, save_file

from posegeom_models import checkpoints
from tests.regression import TwoLosses, run


def test_damaged_and_foreign_checkpoints_are_refused_by_name(tmp_path: Path) -> None:
    recipe = run(tmp_path, steps=4)
    newest = checkpoints.find(tmp_path / "checkpoints")[-1]
    with pytest.raises(ValueError, match=r"of another model: 0\.bias is absent there and \(3,\) here"):
        newest.restore(nn.Sequential(nn.Linear(2, 3)))
    path = newest.path / "networks.safetensors"
    path.write_bytes(path.read_bytes()[:50])
    with pytest.raises(ValueError, match="cannot be read"):
        newest.restore(recipe.networks)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("state.json", "{}"),
        ("state.json", "[]"),
        ("state.json", "[" * 100_000),
        ("state.json", "no JSON"),
        ("state.json", {"seconds": "long"}),
        ("state.json", {"slots": []}),
        ("state.json", {"optimizers": {"fit": 5}}),
        ("state.json", {"optimizers": {"fit": {"groups": [], "state": {}}}}),
        ("state.json", {"optimizers": {"fit": {"groups": [{"lr": "high", "params": [0, 1]}], "state": {}}}}),
        ("state.json", {"optimizers": {"fit": {"groups": [], "state": {"x": {}}}}}),
        ("optimizers.safetensors", {}),
        ("optimizers.safetensors", {"fit/0/exp_avg": torch.zeros(1, 8)}),
        ("optimizers.safetensors", "all of another shape"),
        ("optimizers.safetensors", "no tensors"),
    ],
)
def test_a_damaged_checkpoint_is_named_and_moves_nothing(tmp_path: Path, name: str, content: object) -> None:
    run(tmp_path, steps=4)
    newest = checkpoints.find(tmp_path / "checkpoints")[-1]
    path = newest.path / name
    if content == "all of another shape":
        save_file({key: torch.zeros(7, 7) for key in load_file(path)}, path)
    elif isinstance(content, str):
        path.write_text(content)
    elif name == "state.json" and isinstance(content, dict):
        path.write_text(json.dumps(json.loads(path.read_text()) | content))
    else:
        save_file(content, path)
    recipe = TwoLosses()
    before = {key: value.clone() for key, value in recipe.networks.state_dict().items()}
    with pytest.raises(ValueError, match=f"checkpoint {newest.path} cannot be read"):
        newest.restore(recipe.networks, recipe.optimizers)
    assert all(torch.equal(value, before[key]) for key, value in recipe.networks.state_dict().items())


def test_what_a_kill_left_half_written_or_half_deleted_is_swept(tmp_path: Path) -> None:
    run(tmp_path, steps=4)
    folder = tmp_path / "checkpoints"
    for name in (".step_00000008.tmp", ".step_00000006.tmp", "step_00000002"):
        (folder / name).mkdir()
        (folder / name / "networks.safetensors").write_bytes(b"half")
    (folder / "step_by_step").mkdir()  # nobody's but its owner's
    run(tmp_path, steps=8)
    assert {path.name for path in folder.iterdir()} == {"step_00000004", "step_00000008", "step_by_step"}

"""What leaves Python: exported programs and ONNX files hold plain PyTorch operators alone, on every machine."""

from __future__ import annotations

import warnings

import pytest
import torch
from torch import Tensor

import posegeom as pg

SIZE = (8, 9)
PUPPET = pg.Puppet.capsules(pg.BODY_17, (16, 16))


class Draw(torch.nn.Module):
    """Every operator that has a fast form."""

    def forward(self, points: Tensor, depth: Tensor) -> tuple[Tensor, ...]:
        drawn = pg.puppet_segmentation(points, depth, PUPPET, SIZE)
        return (
            pg.joint_heatmaps(points, SIZE, 2.0),
            pg.limb_maps(points, pg.BODY_17.bones, SIZE, 1.5),
            pg.skeleton_image(points, pg.BODY_17.bones, SIZE, 0.2),
            pg.part_maps(points, PUPPET, SIZE).shape,
            drawn.maps,
            drawn.foreground,
        )


@pytest.fixture
def inputs() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return torch.rand(2, 17, 2, generator=generator) * 8, torch.rand(2, 17, generator=generator) + 3


def test_an_exported_program_holds_plain_operators_alone(inputs: tuple[Tensor, Tensor]) -> None:
    batch = torch.export.Dim("batch", min=2, max=64)
    program = torch.export.export(Draw(), inputs, dynamic_shapes=({0: batch}, {0: batch}))
    assert not any("posegeom" in str(node.target) for node in program.graph.nodes)
    wider = tuple(torch.cat((value, value, value)) for value in inputs)
    for got, expected in zip(program.module()(*wider), Draw()(*wider), strict=True):
        torch.testing.assert_close(got, expected)


def test_an_onnx_file_computes_the_same(inputs: tuple[Tensor, Tensor]) -> None:
    pytest.importorskip("onnxscript")
    reference = pytest.importorskip("onnx.reference")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.onnx.export(Draw().eval(), inputs, dynamo=True, verbose=False)
    names = [value.name for value in program.model_proto.graph.input]
    evaluator = reference.ReferenceEvaluator(program.model_proto)
    outputs = evaluator.run(None, dict(zip(names, (value.numpy() for value in inputs), strict=True)))
    for got, expected in zip(outputs, Draw()(*inputs), strict=True):
        torch.testing.assert_close(torch.from_numpy(got), expected, rtol=1e-5, atol=1e-5)

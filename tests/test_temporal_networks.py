"""The networks of 003: the paper's shapes, boxes, codes, what is drawn into a box, and what is read from codes."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

pytest.importorskip("torchvision")

import posegeom as pg
from posegeom_models.temporal.networks import (
    Codes,
    Decoder,
    Detector,
    Encoder,
    NetworkConfig,
    TemporalNetworks,
    bump,
)
from posegeom_models.temporal.regressors import (
    PoseRegressor,
    ResidualBlock,
    Statistics,
    in_box,
    out_of_box,
    regressor,
)

SMALL = NetworkConfig(
    size=32,
    reduction=2,
    detector="stack",
    crop=16,
    encoder="pyramid",
    width=4,
    keys=6,
    time_variant=24,
    time_invariant=8,
    maps=8,
    decoder_widths=(8, 4),
    decoder_normalised=True,
    hidden=16,
)


def linear_layers(network: nn.Module) -> list[tuple[int, int]]:
    return [(each.in_features, each.out_features) for each in network.modules() if isinstance(each, nn.Linear)]


def test_the_papers_networks_have_the_papers_shapes() -> None:
    config = NetworkConfig()
    detector, encoder, decoder = Detector(config).eval(), Encoder(config).eval(), Decoder(config).eval()
    with torch.no_grad():
        boxes = detector(torch.rand(1, 3, 500, 500))
        codes = encoder(torch.rand(1, 3, 128, 128))
        image, mask = decoder(codes)
    assert boxes.shape == (1, 4)
    assert (codes.variant.shape, codes.invariant.shape) == ((1, 600), (1, 129))
    assert (image.shape, mask.shape) == ((1, 3, 128, 128), (1, 1, 128, 128))
    assert linear_layers(decoder) == [(600, 128 * 16 * 16), (129, 128 * 16 * 16)]
    convolutions = [each for each in decoder.modules() if isinstance(each, nn.Conv2d)]
    assert [each.out_channels for each in convolutions] == [128] * 3 + [64] * 3 + [32] * 3 + [4]
    assert not any(isinstance(each, nn.BatchNorm2d) for each in decoder.modules())
    assert linear_layers(regressor("plain", 600, 51, 2048, 0.5)) == [(600, 2048), (2048, 2048), (2048, 51)]
    residual = regressor("residual", 600, 51, 1024, 0.0)
    assert linear_layers(residual) == [(600, 1024)] + [(1024, 1024)] * 6 + [(1024, 51)]


def test_a_residual_block_adds_to_what_it_is_given() -> None:
    block = ResidualBlock(4)
    for parameter in block.parameters():
        nn.init.zeros_(parameter)
    values = torch.randn(3, 4)
    torch.testing.assert_close(block(values), values)


@pytest.mark.parametrize("kind", ["stack", "resnet18"])
def test_boxes_begin_in_the_middle_and_stay_within_their_bounds(kind: str) -> None:
    torch.manual_seed(0)
    config = replace(SMALL, size=64, detector=kind, first_extent=(0.4, 0.6))
    detector = Detector(config).eval()
    image = torch.rand(2, 3, 64, 64)
    torch.testing.assert_close(detector(image), torch.tensor([[0.4, 0.6, 0.0, 0.0]] * 2), rtol=0, atol=1e-5)
    for layer in (detector.boxes, detector.heat):
        if layer is not None:
            nn.init.normal_(layer.weight, 0, 50)
            assert layer.bias is not None
            nn.init.normal_(layer.bias, 0, 50)
    boxes = detector(torch.rand(8, 3, 64, 64))
    assert bool(((boxes[:, :2] >= 0.2) & (boxes[:, :2] <= 1.0)).all())
    assert bool((boxes[:, 2:].abs() <= 0.8).all())


def test_the_stacks_box_is_where_its_map_answers() -> None:
    """A map that answers in column 6 and row 1 of 8 x 8 cells alone, and in both of two columns to the same degree."""
    detector = Detector(replace(SMALL, border=0.8)).eval()
    assert detector.heat is not None
    nn.init.constant_(detector.heat.weight, 100.0)
    maps = torch.zeros(2, 16, 8, 8)
    maps[0, :, 1, 6] = 1.0
    maps[1, :, 4, [2, 3]] = 1.0
    detector.trunk.forward = lambda images: maps  # type: ignore[assignment, method-assign]
    boxes = detector(torch.rand(2, 3, 32, 32))
    expected = 0.8 * torch.tensor([[2 * 6.5 / 8 - 1, 2 * 1.5 / 8 - 1], [2 * 3 / 8 - 1, 2 * 4.5 / 8 - 1]])
    torch.testing.assert_close(boxes[:, 2:], expected, rtol=0, atol=1e-5)


def test_encoders_share_all_but_their_output_layers() -> None:
    torch.manual_seed(0)
    encoder = Encoder(SMALL).eval()
    crops, jittered = torch.rand(3, 3, 16, 16), torch.rand(3, 3, 16, 16)
    both, plain, other = encoder(crops, jittered), encoder(crops), encoder(jittered)
    torch.testing.assert_close(both.variant, other.variant)  # of the jittered crop
    torch.testing.assert_close(both.invariant, plain.invariant)  # of the crop as it is
    apart = {name.split(".")[0] for name, _ in encoder.named_parameters()}
    assert apart == {"trunk", "variant", "invariant"}
    whole = Encoder(replace(SMALL, split=False))(crops)
    assert whole.variant.shape == (3, 24 + 8)
    assert whole.invariant.shape == (3, 0)


@pytest.mark.parametrize("side", [16, 20])
def test_a_stack_reads_its_maps_place_by_place(side: int) -> None:
    """A spot in one corner or the other is another code, which an average over the maps would not tell."""
    torch.manual_seed(0)
    encoder = Encoder(replace(SMALL, encoder="stack", crop=side)).eval()
    crops = torch.zeros(2, 3, side, side)
    crops[0, :, :8, :8] = crops[1, :, :8, -8:] = 1.0
    codes = encoder(crops)
    assert codes.variant.shape == (2, 24)
    assert float((codes.variant[0] - codes.variant[1]).detach().norm() / codes.variant[0].detach().norm()) > 1e-3


def test_each_code_has_its_own_half_of_the_decoders_maps() -> None:
    torch.manual_seed(0)
    decoder = Decoder(SMALL).eval()
    codes = Codes(torch.randn(2, 24), torch.randn(2, 8))
    assert decoder.side == 4
    maps = [spread(code) for spread, code in zip(decoder.spread, codes, strict=True)]
    assert [tuple(each.shape) for each in maps] == [(2, 8 * 16)] * 2
    one = Decoder(replace(SMALL, split=False))
    assert linear_layers(one) == [(32, 2 * 8 * 16)]  # as many maps from the one code


def test_the_bump_by_hand() -> None:
    window = bump(4)  # pixels at ±0.25 and ±0.75
    inner = math.exp(1 - 1 / (1 - math.sqrt(2 * 0.25**4)))
    edge = math.exp(1 - 1 / (1 - math.sqrt(0.25**4 + 0.75**4)))
    corner = math.exp(1 - 1 / (1 - math.sqrt(2 * 0.75**4)))
    row = [corner, edge, edge, corner]
    assert window[0].tolist() == pytest.approx(row, abs=1e-6)
    assert window[1].tolist() == pytest.approx([edge, inner, inner, edge], abs=1e-6)
    assert float(bump(64)[0, 0]) == 0  # beyond the root of 1


def test_points_in_a_box_have_its_edges_at_one_and_come_back() -> None:
    boxes = torch.tensor([[0.5, 0.25, 0.25, -0.5]])  # in 64 pixels: x from 24 to 56, y from 8 to 24
    points = torch.tensor([[[39.5, 15.5], [55.5, 23.5], [23.5, 7.5]]])
    expected = torch.tensor([[[0.0, 0.0], [1.0, 1.0], [-1.0, -1.0]]])
    torch.testing.assert_close(in_box(points, boxes, 64), expected)
    torch.testing.assert_close(out_of_box(expected, boxes, 64), points)


def test_points_and_crops_agree_on_where_a_box_is() -> None:
    """A bright pixel is at the same place of its crop as its point is in the box."""
    image = torch.zeros(1, 1, 64, 64)
    image[0, 0, 20, 30] = 1.0
    boxes = torch.tensor([[0.25, 0.25, -0.05, -0.4]])
    place = pg.crop(image, boxes, (33, 33)).flatten().argmax().item()
    row, column = divmod(int(place), 33)
    said = in_box(torch.tensor([[[30.0, 20.0]]]), boxes, 64)[0, 0]
    assert (2 * column + 1) / 33 - 1 == pytest.approx(float(said[0]), abs=0.04)
    assert (2 * row + 1) / 33 - 1 == pytest.approx(float(said[1]), abs=0.04)


@pytest.fixture
def networks() -> TemporalNetworks:
    torch.manual_seed(0)
    return TemporalNetworks(SMALL, compared=False).eval()


def test_masks_are_nothing_outside_their_boxes(networks: TemporalNetworks) -> None:
    codes = Codes(torch.randn(1, 24), torch.randn(1, 8))
    boxes = torch.tensor([[0.25, 0.25, 0.5, 0.5]])  # pixels 20 to 28
    with torch.no_grad():
        drawn = networks.draw(codes, boxes)
    assert drawn.image.shape == (1, 3, 32, 32)
    inside = torch.zeros(32, 32, dtype=torch.bool)
    inside[19:29, 19:29] = True
    assert float(drawn.mask[0, 0][~inside].abs().max()) == 0
    assert float(drawn.mask[0, 0][inside].max()) > 0
    assert float(drawn.image[0, :, 0, 0].abs().max()) > 0  # the edge goes on


def test_the_test_time_path(networks: TemporalNetworks) -> None:
    image = torch.rand(2, 3, 32, 32)
    said = networks(image)
    assert said.boxes.shape == (2, 4)
    assert said.mask is not None
    assert said.mask.shape == (2, 1, 32, 32)
    assert (said.joints.shape, said.points.shape) == ((2, 17, 3), (2, 17, 2))
    torch.testing.assert_close(networks(image[1:]).joints, said.joints[1:])  # single frames, each for itself
    whole = TemporalNetworks(replace(SMALL, detector="none", decoder=False, split=False), compared=False).eval()
    said = whole(image)
    assert said.mask is None
    assert said.boxes.tolist() == [[1.0, 1.0, 0.0, 0.0]] * 2


def test_without_detector_the_crop_is_the_whole_image() -> None:
    networks = TemporalNetworks(replace(SMALL, detector="none", crop=32), compared=False)
    image = torch.rand(1, 3, 32, 32)
    torch.testing.assert_close(networks.crops(image, networks.boxes(image)), image)


def test_poses_are_told_in_the_labels_statistics() -> None:
    joints = torch.randn(50, 17, 3, generator=torch.Generator().manual_seed(0)) * 0.2 + 3
    statistics = Statistics.of(joints, 0)
    about = joints - joints[:, :1]
    torch.testing.assert_close(statistics.mean, about.mean(0))
    assert bool((statistics.deviation[0] == 1).all())  # the root's is none
    torch.testing.assert_close(statistics.deviation[1:], (about.var(0, correction=0)[1:]).sqrt())
    phi = PoseRegressor(regressor("plain", 24, 51, 16, 0.0), 17).eval()
    phi.adopt(statistics)
    last = phi.layers[-1]
    assert isinstance(last, nn.Linear)
    nn.init.zeros_(last.weight)
    nn.init.ones_(last.bias)
    said = phi(torch.randn(2, 24), torch.zeros(2, 17, 2))
    torch.testing.assert_close(said[1], statistics.mean + statistics.deviation)


def test_predicted_points_count_only_where_they_are_wanted() -> None:
    torch.manual_seed(0)
    code, points = torch.randn(3, 24), torch.randn(3, 17, 2)
    without = TemporalNetworks(SMALL, compared=False).phi.eval()
    torch.testing.assert_close(without(code, points), without(code, 0 * points))
    given = TemporalNetworks(replace(SMALL, with_points=True), compared=False).phi.eval()
    assert float((given(code, points) - given(code, 0 * points)).detach().abs().max()) > 0


def test_a_standardised_phi_reads_codes_in_any_units() -> None:
    """Once it has seen them, values a thousand times as large or as small, or elsewhere, say the same."""
    torch.manual_seed(0)
    layers = regressor("plain", 24, 51, 16, 0.0)
    codes, points = torch.randn(64, 24), torch.zeros(64, 17, 2)
    scale, shift = torch.logspace(-1, 3, 24), torch.linspace(-5, 5, 24)
    told = []
    for given in (codes, scale * codes + shift):
        phi = PoseRegressor(layers, 17, standardised=True)
        for _ in range(200):
            phi.units(given)  # its running statistics come near the codes' own
        told.append(phi.eval()(given, points))
    torch.testing.assert_close(told[1], told[0], rtol=1e-2, atol=1e-2)


def test_whole_images_become_crops_by_their_area() -> None:
    """A comb of columns that a crop of single pixels would see as black or white is grey in the mean."""
    networks = TemporalNetworks(replace(SMALL, detector="none", size=64, crop=8), compared=False)
    comb = (torch.arange(64) % 4 == 0).float().expand(1, 3, 64, 64)
    torch.testing.assert_close(networks.crops(comb, networks.boxes(comb)), torch.full((1, 3, 8, 8), 0.25))


def test_a_hidden_layer_of_the_decoder_is_between_each_code_and_its_maps() -> None:
    decoder = Decoder(replace(SMALL, decoder_hidden=12))
    assert linear_layers(decoder) == [(24, 12), (12, 8 * 16), (8, 12), (12, 8 * 16)]


def test_theta_has_a_width_of_its_own() -> None:
    weak = TemporalNetworks(replace(SMALL, hidden=16, weak_hidden=12), compared=False, weak=True)
    assert linear_layers(weak.theta) == [(24, 12)] + [(12, 12)] * 6 + [(12, 34)]
    assert NetworkConfig().weak_hidden == 1024


def test_geometry_is_computed_in_float32_under_autocast(networks: TemporalNetworks) -> None:
    boxes = torch.tensor([[0.37, 0.41, 0.13, -0.2]])
    image, code = torch.rand(1, 3, 32, 32), Codes(torch.randn(1, 24), torch.randn(1, 8))
    assert networks.decoder is not None
    patch = networks.decoder(code)
    networks.decoder.forward = lambda codes: patch  # type: ignore[method-assign]
    exact: list[Tensor] = [networks.crops(image, boxes), *networks.draw(code, boxes)]
    with torch.autocast("cpu", torch.bfloat16):
        halved = [networks.crops(image, boxes), *networks.draw(code, boxes)]
    for one, other in zip(halved, exact, strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"crop": 30}, r"crop must be a multiple of 2\^3, got 30"),
        ({"first_extent": (0.5, 0.1)}, r"ascending, got 0.2, \(0.5, 0.1\) and 1.0"),
        ({"features": ("layer9",)}, "features must be of stem, layer1, .*, got 'layer9'"),
        ({"regressor": "deep"}, "regressor must be one of plain, residual, got 'deep'"),
        ({"dropout": 1.0}, r"dropout must be in \[0, 1\), got 1.0"),
        ({"threshold": 1.0}, "threshold must be between 0 and 1, got 1.0"),
        ({"keys": 0}, "keys must be at least 1, got 0"),
    ],
)
def test_impossible_sizes_are_refused(settings: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        NetworkConfig(**settings)  # type: ignore[arg-type]

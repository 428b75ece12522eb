"""The losses of 000 (§3.3), with the paper's names; images in [0, 1], lengths in metres and shares of the side.

The notation Î_{a_s}^{p_z} of the paper is the image that the decoder draws of appearance a_s in pose p_z.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

import posegeom as pg
from posegeom.frames import compose
from posegeom_models.pgp.networks import PgpNetworks, in_view
from posegeom_models.pgp.paint import Paint
from posegeom_models.poses import Pose
from posegeom_models.supervision import heat_error, supervised, view_error
from posegeom_models.training import statistics_kept


def l_image_u(
    networks: PgpNetworks, source: Tensor, target: Tensor, pose: Pose, salient: Tensor, beta: float
) -> Mapping[str, Tensor]:
    """L_I^u = (1 − ŷ_{a_s}^{p_t}(L + 1) + β m_sal) ⊗ |Î_{a_s}^{p_t} − I_t|, uncertain of where the person is (§3.3a).

    Nothing is detached but I_t, which is data: through the weight, parts leave where the images disagree. The encoder
    and the whole decoder learn.

    Args:
        networks: E and D.
        source: (B, 3, H, W) I_s, which gives a_s.
        target: (B, 3, H, W) I_t.
        pose: p_t, of I_t in other colours: they must not change the pose.
        salient: (B, H, W) m_sal of I_t.
        beta: β.
    """
    image, said = networks.decoder(networks.drawn(pose).maps[:, :-1], networks.encoder.appearance(source))
    weight = 1 - said[:, -1] + beta * salient
    return {"image": pg.masked_l1(image, target, weight)}


def bone_error(joints: Tensor, skeleton: pg.Skeleton) -> Tensor:
    """|b − α| in metres: the bone-length constraint on joints (B, J, 3) that no T_fk made (§4.3)."""
    assert skeleton.lengths is not None  # the encoder's check
    lengths = torch.linalg.vector_norm(pg.bone_vectors(joints, skeleton), dim=-1).unbind(-1)
    # Bone by bone: all lengths in one tensor would be copied to the GPU in every step, and wait for it.
    apart = [length - known for length, known in zip(lengths, skeleton.lengths, strict=True)]
    return torch.stack(apart).abs().mean()


def l_image_c(networks: PgpNetworks, source: Tensor, target: Tensor, pose: Pose) -> Mapping[str, Tensor]:
    """L_I^c = w_fg ⊗ |Î_{a_s}^{p_z} − Î_{a_t}^{p_z}| + (1 − w_fg) ⊗ |Î_{a_s}^{p_z} − BG_c| (§3.3a).

    w_fg is of p_z, which is data. Both images learn: neither is the target. The appearance's branch, D and D_I learn.

    Args:
        networks: E and D.
        source: (B, 3, H, W) I_s, which gives a_s.
        target: (B, 3, H, W) I_t, which gives a_t.
        pose: p_z.
    """
    drawn = networks.drawn(pose)
    parts, foreground = drawn.maps[:, :-1], drawn.foreground
    of_source, of_target = (
        networks.decoder.image(torch.cat((parts, parts)), networks.encoder.appearance(torch.cat((source, target))))
    ).chunk(2)
    background = of_source.new_full((1, 1, 1), networks.config.background)
    return {
        "same": pg.masked_l1(of_source, of_target, foreground),
        "background": pg.masked_l1(of_source, background, 1 - foreground),
    }


def l_seg(networks: PgpNetworks, source: Tensor, pose: Pose) -> Mapping[str, Tensor]:
    """L_seg = (1 − w_unc) ⊗ CE(ŷ_{a_s}^{p_z}, y^{p_z}) + w_unc ⊗ SE(ŷ_{a_s}^{p_z}) (§3.3b).

    y^{p_z} is the target and has no gradient. Its points are q_z, and which part is before which is told by the pose
    p̂_z = E_p(Î_{a_s}^{p_z}) in the camera of q_z. The appearance's branch, D and D_seg learn.

    Args:
        networks: E and D.
        source: (B, 3, H, W) I_s, which gives a_s.
        pose: p_z.
    """
    decoder = networks.decoder
    levels = decoder.levels(networks.drawn(pose).maps[:, :-1])
    maps = decoder.common(levels, networks.encoder.appearance(source))
    said = decoder.parts_head(maps, levels).softmax(1)
    with torch.no_grad(), statistics_kept(networks):
        again = networks.encoder.pose(decoder.image_head(maps, levels).sigmoid())
        depth = in_view(again.joints, pose.rotation, pose.translation)[..., 2]
        drawn = networks.drawn(pose, depth)
        labels = pg.hard_segmentation(drawn.maps)
    return {"parts": pg.segmentation_uncertainty_loss(said, labels, drawn.uncertainty)}


def l_p3d(
    networks: PgpNetworks,
    source: Tensor,
    pose: Pose,
    scene: Tensor | None = None,
    lambda_points: float = 0.0,
    lambda_view: float = 0.0,
    lambda_heat: float = 0.0,
) -> Mapping[str, Tensor]:
    """L_{p_z^3D} = |p_z^3D − p̂_z^3D|, p̂_z^3D = E_p(Î_{a_s}^{p_z}), an energy (§3.3c).

    p_z^3D is data. Call this with the decoder or with the encoder frozen; the one that is not learns. The last three
    terms are none of the paper's: without them nothing but L_I^u says how the camera is turned.

    Args:
        networks: E and D.
        source: (B, 3, H, W) I_s, which gives a_s.
        pose: p_z.
        scene: (B, 3, H, W) what E_p sees behind the person in place of BG_c: Î + (1 − w_fg)(scene − BG_c).
        lambda_points: weight of |q_z − q̂_z|.
        lambda_view: weight of `posegeom_models.supervision.view_error`.
        lambda_heat: weight of `posegeom_models.supervision.heat_error`.
    """
    drawn = networks.drawn(pose)
    image = networks.decoder.image(drawn.maps[:, :-1], networks.encoder.appearance(source))
    if scene is not None:
        behind = 1 - drawn.foreground.unsqueeze(1)
        image = (image + behind * (scene - networks.config.background)).clamp(0, 1)
    with statistics_kept(networks.encoder):
        again = networks.encoder.pose(image)
    return _off(networks, again, pose, lambda_points, lambda_view, lambda_heat)


def _off(
    networks: PgpNetworks, again: Pose, pose: Pose, lambda_points: float, lambda_view: float, lambda_heat: float
) -> Mapping[str, Tensor]:
    """How far what E_p says is off the pose that it was shown."""
    side = networks.config.size
    terms = {"p_3D": (pose.joints - again.joints).abs().mean()}
    if lambda_points > 0:
        terms["q"] = lambda_points * (pose.points - again.points).abs().mean() / side
    if lambda_view > 0:
        terms["view"] = lambda_view * view_error(again, pose.in_camera)
    if lambda_heat > 0:
        terms["heat"] = lambda_heat * heat_error(again, pose.points, side)
    return terms


def l_painted(
    networks: PgpNetworks,
    pose: Pose,
    paint: Paint,
    beside: Tensor,
    lambda_points: float = 0.0,
    lambda_view: float = 0.0,
    lambda_heat: float = 0.0,
) -> Mapping[str, Tensor]:
    """The terms of L_{p_z^3D} for the puppet of p_z in random paint, a term that the paper does not have.

    p_z is data, and no decoder takes part: E_p alone learns. Drawings by D look all alike at first, and an E_p that has
    seen nothing else finds nobody in photographs; here people have any colours in any place.

    Args:
        networks: E, and the puppet.
        pose: p_z.
        paint: of the puppet.
        beside: (B, 3, H, W) photographs, which teach nothing: E_p's running statistics are to be theirs, for the test.
        lambda_points: weight of |q_z − q̂_z|.
        lambda_view: weight of `posegeom_models.supervision.view_error`.
        lambda_heat: weight of `posegeom_models.supervision.heat_error`.
    """
    with torch.no_grad():
        networks.encoder.pose(beside)
    with statistics_kept(networks.encoder):
        again = networks.encoder.pose(painted(networks.drawn(pose).maps, paint))
    return _off(networks, again, pose, lambda_points, lambda_view, lambda_heat)


def painted(maps: Tensor, paint: Paint) -> Tensor:
    """Part maps (B, L + 1, H, W), background last, in paint: images (B, 3, H, W)."""
    cloth = 1 + paint.strength.view(-1, 1, 1, 1) * (2 * paint.cloth - 1)
    figure = (maps[:, :-1].unsqueeze(2) * paint.colors[..., None, None]).sum(1) * cloth
    return (figure + maps[:, -1:] * paint.scene).clamp(0, 1)


def l_a(networks: PgpNetworks, source: Tensor, pose: Pose) -> Mapping[str, Tensor]:
    """L_{a_s} = |a_s − â_s|, â_s = E_a(Î_{a_s}^{p_z}), an energy (§3.3c).

    a_s is the target, without a gradient; as the decoder's input it has one. Call this with the decoder or with the
    encoder frozen; the one that is not learns.

    Args:
        networks: E and D.
        source: (B, 3, H, W) I_s, which gives a_s.
        pose: p_z.
    """
    appearance = networks.encoder.appearance(source)
    image = networks.decoder.image(networks.drawn(pose).maps[:, :-1], appearance)
    with statistics_kept(networks.encoder):
        again = networks.encoder.appearance(image)
    return {"a": (appearance.detach() - again).abs().mean()}


def l_lifted(networks: PgpNetworks, pose: Pose, found: Tensor) -> Mapping[str, Tensor]:
    """|p_z^3D − p̂^3D| + |R_z p_z^3D − R̂ p̂^3D| + |q_z − q̂| of the pose that E_p takes key points for.

    A term that the paper does not have. p_z is data, and no image shows it: only E_p's branches learn.

    Args:
        networks: E, with `lifted` branches.
        pose: p_z.
        found: (B, J, 2) q_z with errors, pixels.
    """
    again = networks.encoder.lift(found)
    terms = supervised(again, networks.config.size, pose.joints, pose.points)
    return {**terms, "view": view_error(again, pose.in_camera)}


def l_views(first: Pose, second: Pose, shift: Tensor) -> Mapping[str, Tensor]:
    """|p_3D − p_3D'| + |R_c' − R_12 R_c|: one pose, seen by two cameras whose extrinsics are known (§4.1).

    Both poses learn: neither is the target. Translations stay out of it: each view is a crop with a scale of its own.

    Args:
        first: of the first camera's images.
        second: of the second one's, at the same instants.
        shift: (B, 3, 3) R_12, from the first camera's axes to the second's.
    """
    return {
        "p_3D": (first.joints - second.joints).abs().mean(),
        "camera": (second.rotation - compose(shift, first.rotation)).abs().mean(),
    }

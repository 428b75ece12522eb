"""001's losses of skeleton images, L_D and L_Ω (eqs. 3, 9), and two terms for Φ that it does not have."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

FORMS = ("log", "lsgan")
"""Of L_D: eq. (3), or least squares as in the public code of the work that 001 takes its networks from."""


def l_d(real: Sequence[Tensor], fake: Sequence[Tensor], form: str) -> Tensor:
    """What D descends: −L_D (eq. 3), or ½ E(D(w) − 1)² + ½ E D(s)²; the mean over scales and patches.

    Eq. (3) is the game's value, which D maximises; the sum of eq. (12) has it with the sign that is right for Φ alone.

    Args:
        real: logits of w at each scale.
        fake: logits of s, detached from Φ.
        form: one of `FORMS`.
    """
    losses = []
    for true, false in zip(real, fake, strict=True):
        if form == "log":
            # −log D(w) − log(1 − D(s)) of sigmoids, without their rounding.
            losses.append(_softplus(-true).mean() + _softplus(false).mean())
        else:
            losses.append(((true - 1) ** 2).mean() / 2 + (false**2).mean() / 2)
    return torch.stack(losses).mean()


def l_d_of_phi(fake: Sequence[Tensor], form: str) -> Tensor:
    """What Φ descends: E log(1 − D(s)) (eq. 3), or E(D(s) − 1)²; the mean over scales and patches. D is frozen.

    Args:
        fake: logits of s at each scale.
        form: one of `FORMS`.
    """
    losses = [-_softplus(logits).mean() if form == "log" else ((logits - 1) ** 2).mean() for logits in fake]
    return torch.stack(losses).mean()


def _softplus(logits: Tensor) -> Tensor:
    return torch.nn.functional.softplus(logits.float())


def l_omega(said: Tensor, points: Tensor, again: tuple[Tensor, Tensor] | None, weight: float) -> Tensor:
    """L_Ω = ‖Ω(κ(u)) − u‖² + λ ‖κ(y) − s‖² (eq. 9), as means over coordinates and over pixels.

    s is the target of the second term and has no gradient from it: else both sides could agree on an empty image.

    Args:
        said: (P, J, 2) Ω(κ(u)), in [−1, 1] over the image.
        points: (P, J, 2) u, likewise.
        again: κ(y) (B, C, S, S) in [−1, 1], y = Ω(s), and s; None leaves out the second term.
        weight: λ.
    """
    unpaired = ((said - points) ** 2).mean()
    return unpaired if again is None else unpaired + weight * ((again[0] - again[1].detach()) ** 2).mean()


def legible(image: Tensor, again: Tensor) -> Tensor:
    """‖κ(y) − s‖² for Φ, the mean over pixels: s is to be the skeleton image of what Ω reads in it, which is data here.

    It is the second term of eq. (9) with its sides exchanged. Without it a Φ that learns by what Ω reads draws blobs
    that Ω reads as it should, and no skeletons; L_D alone is slow to forbid them.

    Args:
        image: (B, C, S, S) s.
        again: (B, C, S, S) κ(y) in [−1, 1].
    """
    return ((image - again.detach()) ** 2).mean()


def reconstruction(image: Tensor, redrawn: Tensor) -> Tensor:
    """|x − x̂|, x̂ from κ(y) and another frame of the same clip: a term that 001 does not have.

    Nothing in eq. (12) ties s = Φ(x) to what x shows: a Φ that draws any plausible skeleton satisfies it. The work that
    001 takes its networks from has such a term.
    """
    return (image - redrawn).abs().mean()

"""001's losses of skeleton images, L_D and L_Ω (eqs. 3, 9), and a reconstruction that it does not have."""

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


def l_omega(said: Tensor, points: Tensor, again: Tensor, image: Tensor, weight: float) -> Tensor:
    """L_Ω = ‖Ω(κ(u)) − u‖² + λ ‖κ(y) − s‖² (eq. 9), as means over coordinates and over pixels.

    s is the target of the second term and has no gradient from it: else both sides could agree on an empty image.

    Args:
        said: (B, J, 2) Ω(κ(u)), in [−1, 1] over the image.
        points: (B, J, 2) u, likewise.
        again: (B, 1, S, S) κ(y) in [−1, 1], y = Ω(s).
        image: (B, 1, S, S) s.
        weight: λ.
    """
    return ((said - points) ** 2).mean() + weight * ((again - image.detach()) ** 2).mean()


def reconstruction(image: Tensor, redrawn: Tensor) -> Tensor:
    """|x − x̂|, x̂ from κ(y) and another frame of the same clip: a term that 001 does not have.

    Nothing in eq. (12) ties s = Φ(x) to what x shows: a Φ that draws any plausible skeleton satisfies it. The work that
    001 takes its networks from has such a term.
    """
    return (image - redrawn).abs().mean()

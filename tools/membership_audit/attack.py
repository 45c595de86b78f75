"""Whether a model's denoising loss tells the patients it was trained on from others. Arrays in, numbers out.

The attack of the auditor who has the model, not of a reader of its images. Owns the statistics by group; the losses are
computed in tools/runtime.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from config.errors import UserError, name_some
from tools.evaluation.accuracy import weighted_area
from tools.evaluation.checks import as_groups
from tools.evaluation.resampling import FEWEST_GROUPS

FALSE_POSITIVE_RATES = (0.01, 0.05)
_REPEATS = 1000
_SEED = 0


@dataclass(frozen=True)
class MembershipAudit:
    """AUC of members against held-out groups with its 95% bootstrap interval over groups, None where a side has too few
    of them; 0.5 tells nothing.

    `true_positive_rates` holds, for each of FALSE_POSITIVE_RATES, the share of member groups that a threshold on the
    loss finds while it takes at most this share of the held-out groups for members.
    """

    auc: float
    interval: tuple[float, float] | None
    true_positive_rates: tuple[float, ...]
    num_members: int
    num_held_out: int

    @property
    def found(self) -> bool:
        """Whether the interval lies above chance."""
        return self.interval is not None and self.interval[0] > 0.5

    @property
    def verdict(self) -> str:
        """One sentence. An audit that finds nothing does not show that nothing can be found."""
        if self.interval is None:
            return (f"unproven: {self.num_members} and {self.num_held_out} groups are too few for an interval, at least "
                    f"{FEWEST_GROUPS} a side are needed: AUC {self.auc:.3f}")
        counts = f"AUC {self.auc:.3f} ({self.interval[0]:.3f} to {self.interval[1]:.3f})"
        if self.found:
            return f"membership found: the denoising loss tells trained groups from others, {counts}"
        return f"no membership found by the denoising loss at n = {self.num_members} and {self.num_held_out}: {counts}"

    def to_dict(self) -> dict[str, Any]:
        """The numbers under the keys of membership.json."""
        rates = dict(zip((f"true_positive_rate_at_{rate:g}" for rate in FALSE_POSITIVE_RATES), self.true_positive_rates,
                         strict=True))
        values = {key: value for key, value in asdict(self).items() if key != "true_positive_rates"}
        interval = None if self.interval is None else list(self.interval)
        return {**values, "interval": interval, **rates, "verdict": self.verdict}


def audit_membership(
    members: np.ndarray, member_groups: Sequence[str], held_out: np.ndarray, held_out_groups: Sequence[str], *,
    repeats: int = _REPEATS, seed: int = _SEED,
) -> MembershipAudit:
    """Compare losses (N,) of the images trained on with losses (M,) of others, averaged over each group.

    Raises:
        UserError: a loss that is not finite, fewer than two groups on a side, or a group on both.

    Source: Carlini et al. 2022, arXiv 2112.03570, for judging by true positives at few false ones; Matsumoto et al. 2023,
    arXiv 2302.03262, for the denoising loss as the statistic.
    """
    shared = sorted(set(map(str, member_groups)) & set(map(str, held_out_groups)))
    if shared:
        raise UserError(f"expected held-out groups that are not trained on, found {len(shared)} on both sides: "
                        f"{name_some(shared)}; split by patient or embryo")
    inside = _group_means(members, member_groups, "members")
    outside = _group_means(held_out, held_out_groups, "held-out images")
    interval = None
    if min(len(inside), len(outside)) >= FEWEST_GROUPS:
        rng = np.random.default_rng(seed)
        draws = [_area(rng.choice(inside, len(inside)), rng.choice(outside, len(outside))) for _ in range(repeats)]
        low, high = np.percentile(draws, [2.5, 97.5])
        interval = (float(low), float(high))
    return MembershipAudit(
        auc=_area(inside, outside), interval=interval,
        true_positive_rates=tuple(_true_positive_rate(inside, outside, rate) for rate in FALSE_POSITIVE_RATES),
        num_members=len(inside), num_held_out=len(outside),
    )


def _group_means(losses: np.ndarray, groups: Sequence[str], name: str) -> np.ndarray:
    losses = np.asarray(losses, dtype=np.float64)
    broken = np.flatnonzero(~np.isfinite(losses))
    if len(broken):
        raise UserError(f"{name}: {len(broken)} of {len(losses)} denoising losses are NaN or infinite (the first is of "
                        f"image {broken[0]}); the checkpoint is damaged or has diverged")
    numbers, count = as_groups(groups, len(losses))
    return np.bincount(numbers, weights=losses, minlength=count) / np.bincount(numbers, minlength=count)


def _area(members: np.ndarray, held_out: np.ndarray) -> float:
    """Chance that a member's loss is below another's, ties counting half."""
    member = np.repeat([True, False], (len(members), len(held_out)))
    return float(weighted_area(member, -np.concatenate([members, held_out]), np.ones((1, len(member))))[0])


def _true_positive_rate(members: np.ndarray, held_out: np.ndarray, rate: float) -> float:
    allowed = int(rate * len(held_out) + 1e-9)
    return float((members < np.sort(held_out)[allowed]).mean())

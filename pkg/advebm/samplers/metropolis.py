"""The Metropolis adjustment of Langevin dynamics, which shows how far its chains are from the energy's own distribution."""

from dataclasses import replace

import torch
from torch import Tensor

from advebm.energy import Energy, evaluated
from advebm.samplers.sgld import Langevin
from advebm.samplers.streams import Streams


def adjustable(chain: Langevin) -> bool:
    """Whether the chain's steps are those of Langevin dynamics at one temperature."""
    changed = chain.normalised or chain.precondition is not None or chain.momentum or chain.noise_last is not None
    return chain.noise > 0 and not changed


def temperature(chain: Langevin) -> float:
    """T = noise^2 / (2 step_size), at which small steps of the chain sample exp(-E / T)."""
    return chain.noise**2 / (2 * chain.step_size)


def shorter(chain: Langevin, factor: float) -> Langevin:
    """The chain with a step size of that factor, at the same temperature."""
    return replace(chain, step_size=factor * chain.step_size, noise=factor**0.5 * chain.noise)


def adjusted(chain: Langevin, energy: Energy, x: Tensor, streams: Streams) -> tuple[Tensor, Tensor]:
    """The images after the chain's steps where each is taken with probability min(1, a), else not,

        a = exp((E(x) - E(x')) / T) q(x | x') / q(x' | x),

    x' ~ q(. | x) = N(x - step_size dE/dx, noise^2 I): it leaves exp(-E / T) invariant at any step size (Roberts and Tweedie
    1996). The gradient is clamped as the chain's is. Images of a chain that clips stay in [0, 1], by reflection. Also
    returns the mean of min(1, a) over the steps, (B,): 1 where they need no adjustment. The chain must be adjustable."""
    assert adjustable(chain), "the chain has no temperature, or other steps"
    T, limit = temperature(chain), torch.inf if chain.clamp_grad is None else chain.clamp_grad
    if chain.clip:
        of_box, energy = energy, lambda x: of_box(reflected(x))
    e, g = evaluated(energy, x)
    taken = e.new_zeros(e.shape)
    for _ in range(chain.steps):
        moved = x - chain.step_size * g.clamp(-limit, limit)
        proposal = moved + chain.noise * streams.normal(*x.shape[1:])
        e_new, g_new = evaluated(energy, proposal)
        back = proposal - chain.step_size * g_new.clamp(-limit, limit)
        ratio = (proposal - moved).square().sum((1, 2, 3)) - (x - back).square().sum((1, 2, 3))
        a = ((e - e_new) / T + ratio / (2 * chain.noise**2)).clamp_max(0).exp()
        taken += a / chain.steps
        move = streams.uniform(1)[:, 0] < a
        wide = move.view(-1, 1, 1, 1)
        x, g, e = torch.where(wide, proposal, x), torch.where(wide, g_new, g), torch.where(move, e_new, e)
    return (reflected(x) if chain.clip else x), taken


def reflected(x: Tensor) -> Tensor:
    """x in [0, 1], reflected at both ends. The energy of reflected images has the energy's distribution on the box."""
    return 1 - (1 - x % 2).abs()

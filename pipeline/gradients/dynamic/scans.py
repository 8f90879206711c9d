"""How tangents pass a selective scan: a short filter, then a state that decays at a rate set by what is heard.

    c = filter(x),  u = silu(c),  (d, B, C) = P u,  s = softplus(Q d + b)
    h_t = exp(s_t A) h_(t - 1) + s_t B_t u_t,  y_t = C_t h_t + D u_t,  out_t = O (y_t silu(z_t))

Once the short filter has passed what was heard, nothing but the decay is left, which needs no steps.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from pipeline.gradients.dynamic.mixers import Called, Rule, heard_alone, with_first_tensor
from pipeline.gradients.dynamic.steps import Advance, Remembered, convolved, through
from pipeline.gradients.passes.layout import Layout
from pipeline.gradients.routes.recurrent import SAME

#: Parts of a selective scan, by the names that Mamba's own code gives them.
PARTS = ("in_proj", "conv1d", "x_proj", "dt_proj", "out_proj")
#: Its weights beside these.
WEIGHTS = ("A_log", "D")

Windows = Float[Tensor, "frame width lag frequency"]
States = Float[Tensor, "frame width state"]


@dataclass(frozen=True)
class Heard:
    """What a selective scan computes at each frame around one sound."""

    filtered: Float[Tensor, "frame width"]
    gate: Float[Tensor, "frame width"]
    drive: Float[Tensor, "frame width"]
    rate: Float[Tensor, "frame width"]
    enter: Float[Tensor, "frame state"]
    leave: Float[Tensor, "frame state"]

    @property
    def used(self) -> Float[Tensor, "frame width"]:
        """u, what enters the states."""
        return nn.functional.silu(self.filtered)


@dataclass(frozen=True)
class Scan:
    """A selective scan around one sound."""

    module: nn.Module
    heard: Heard
    decay: Float[Tensor, "width state"]
    direct: Float[Tensor, "width"]

    def weight(self, name: str) -> Tensor:
        """The weight of one of its linear parts."""
        part = getattr(self.module, name)
        weight: Tensor = part.weight.detach()
        return weight

    def run(self, start: int, stop: int, state: Float[Tensor, "width state"]) -> States:
        """The states at frames ``start`` to ``stop - 1``, the one before them first."""
        heard = self.heard
        rate = heard.rate[start:stop]
        kept = torch.exp(rate.unsqueeze(-1) * self.decay)
        entered = (rate * heard.used[start:stop]).unsqueeze(-1) * heard.enter[start:stop].unsqueeze(1)
        states = [state]
        for keep, enter in zip(kept, entered, strict=True):
            states.append(keep * states[-1] + enter)
        return torch.stack(states)

    def output(self, states: States, start: int, stop: int) -> Float[Tensor, "frame width"]:
        """y, what is read out of the states."""
        leave, used = self.heard.leave[start:stop], self.heard.used[start:stop]
        return (states @ leave.unsqueeze(-1)).squeeze(-1) + self.direct * used

    def stream(self, lags: int) -> Advance:
        module = self.module
        taps = module.conv1d.weight.detach()[:, 0].flip(-1).transpose(0, 1)  # type: ignore[union-attr, operator]
        before = Remembered(min(len(taps), lags) - 1)
        tail = _Tail(self, lags)
        last: dict[str, Tensor] = {}

        def advance(given: Tensor, start: int, stop: int) -> Tensor:
            both = through(self.weight("in_proj"), given)
            branch, gated = both.chunk(2, dim=1)
            filtered = convolved(lambda shift: taps[shift], len(taps), before.extend(branch), branch, lags)
            state = last.get("state", torch.zeros_like(self.decay))
            states = self.run(start, stop, state)
            last["state"] = states[-1]
            y = self._through_states(filtered, states, start, stop, last, tail)
            gate = self.heard.gate[start:stop]
            read = y * nn.functional.silu(gate)[:, :, None, None]
            slope = self.output(states[1:], start, stop) * _silu_slope(gate)
            read[:, :, : gated.shape[2]] += gated * slope[:, :, None, None]
            return through(self.weight("out_proj"), read)

        return advance

    def _through_states(
        self, filtered: Windows, states: States, start: int, stop: int, last: dict[str, Tensor], tail: "_Tail"
    ) -> Windows:
        """d y: lag by lag as long as something is still heard, then by the decay alone."""
        now = slice(start, stop)
        heard, n_frames, reach, n_bands = self.heard, len(filtered), filtered.shape[2], filtered.shape[3]
        used = filtered * _silu_slope(heard.filtered[now])[:, :, None, None]
        rank = self.weight("dt_proj").shape[1]
        n_states = self.decay.shape[1]
        inner, enter, leave = through(self.weight("x_proj"), used).split([rank, n_states, n_states], dim=1)
        rate = through(self.weight("dt_proj"), inner) * torch.sigmoid(heard.drive[now])[:, :, None, None]
        out = self.direct[:, None, None] * used
        kept = torch.exp(heard.rate[now].unsqueeze(-1) * self.decay)
        # d h / d s, d h / d B and d h / d u at each frame, all of them per state.
        by_rate = kept * self.decay * states[:-1] + (heard.used[now].unsqueeze(-1) * heard.enter[now].unsqueeze(1))
        by_enter = (heard.rate[now] * heard.used[now]).unsqueeze(-1)
        by_used = heard.rate[now].unsqueeze(-1) * heard.enter[now].unsqueeze(1)
        earlier = last.get("tangents", used.new_zeros((reach, *self.decay.shape, n_bands)))
        ends = []
        tangents = used.new_zeros((n_frames, *self.decay.shape, n_bands))
        for lag in range(reach):
            moved = torch.cat([earlier[lag - 1 : lag], tangents[:-1]]) if lag else torch.zeros_like(tangents)
            tangents = kept.unsqueeze(-1) * moved
            tangents += by_rate.unsqueeze(-1) * rate[:, :, None, lag]
            tangents += by_enter.unsqueeze(-1) * enter[:, None, :, lag]
            tangents += by_used.unsqueeze(-1) * used[:, :, None, lag]
            out[:, :, lag] += (heard.leave[now][:, None, None] @ tangents).squeeze(2)
            out[:, :, lag] += states[1:] @ leave[:, :, lag]
            ends.append(tangents[-1])
        last["tangents"] = torch.stack(ends)
        return tail.follow(out, tangents, start, stop)


class _Tail:
    """What is left of tangents after the last lag at which anything was heard: the states' decay, frame by frame."""

    def __init__(self, scan: Scan, lags: int) -> None:
        self._scan, self._lags = scan, lags
        self._elapsed = scan.heard.rate.cumsum(0)
        self._pending: Tensor | None = None

    def follow(
        self, out: Windows, tangents: Float[Tensor, "frame width state frequency"], start: int, stop: int
    ) -> Windows:
        """``out``, known for its lags, with the lags after these."""
        reach, lags = out.shape[2], self._lags
        ahead = lags - reach
        if ahead == 0:
            return out
        n_frames, width, _, n_bands = tangents.shape
        known = len(self._elapsed)
        frames = torch.arange(start, stop, device=out.device)
        later = (frames.unsqueeze(1) + torch.arange(1, ahead + 1, device=out.device)).clamp_max(known - 1)
        elapsed = self._elapsed[later] - self._elapsed[frames].unsqueeze(1)
        # From each frame's states to what is read out of them at the frames after: (frame, width, ahead, state).
        weights = torch.exp(elapsed.transpose(1, 2).unsqueeze(-1) * self._scan.decay.unsqueeze(1))
        weights *= self._scan.heard.leave[later].unsqueeze(1)
        coming = weights @ tangents
        before = self._pending
        if before is None:
            before = coming.new_zeros((ahead, *coming.shape[1:]))
        whole = torch.cat([before, coming])
        self._pending = whole[-ahead:].clone()
        full = out.new_zeros((n_frames, width, lags, n_bands))
        full[:, :, :reach] = out
        for step in range(1, ahead + 1):
            full[:, :, reach - 1 + step] = whole[ahead - step : ahead - step + n_frames, :, step - 1]
        return full


def _silu_slope(value: Tensor) -> Tensor:
    open_by = torch.sigmoid(value)
    return open_by * (1 + value * (1 - open_by))


def scan_rule(calls: list[Called], n_frames: int, by_lag: bool) -> Rule | None:
    """A part that has the parts of a selective scan, by their usual names, and gives what one gives."""
    call = calls[0]
    module = call.module
    named = all(isinstance(getattr(module, name, None), nn.Module) for name in PARTS)
    if len(calls) > 1 or not named or not all(isinstance(getattr(module, name, None), Tensor) for name in WEIGHTS):
        return None
    given, gave = (call.arguments[0] if call.arguments else None), call.gave
    if not isinstance(given, Tensor) or not isinstance(gave, Tensor) or given.shape[:2] != (1, n_frames):
        return None
    with torch.no_grad():
        try:
            step = _written_out(module, given)
            same = _gives(step, gave)
        except (RuntimeError, TypeError, ValueError, AttributeError):
            return None
    if not same:
        return None
    return Rule(
        "scan",
        (call,),
        Layout("stimulus", 1, tuple(given.shape), 1, n_frames),
        Layout("stimulus", 1, tuple(gave.shape), 1, n_frames),
        (step,),
        gave,
        heard_alone,
        lambda leaf, _: with_first_tensor(call.gave, leaf),
    )


def _written_out(module: nn.Module, given: Float[Tensor, "1 frame width"]) -> Scan:
    parts = {name: getattr(module, name) for name in PARTS}
    # The usual code keeps these two in float32 whatever the model's precision.
    decay = -torch.exp(module.A_log.detach().float()).to(given)  # type: ignore[operator, union-attr]
    direct = module.D.detach().float().to(given)  # type: ignore[operator, union-attr]
    branch, gate = parts["in_proj"](given).chunk(2, dim=-1)
    filtered = parts["conv1d"](branch.transpose(1, 2))[0, :, : given.shape[1]].T
    used = nn.functional.silu(filtered)
    rank = parts["dt_proj"].in_features
    inner, enter, leave = parts["x_proj"](used).split([rank, decay.shape[1], decay.shape[1]], dim=-1)
    drive = parts["dt_proj"](inner)
    return Scan(module, Heard(filtered, gate[0], drive, nn.functional.softplus(drive), enter, leave), decay, direct)


def _gives(step: Scan, gave: Float[Tensor, "1 frame width"]) -> bool:
    """Whether the scan written out gives what the module gave."""
    states = step.run(0, gave.shape[1], torch.zeros_like(step.decay))[1:]
    y = step.output(states, 0, gave.shape[1])
    out = getattr(step.module, "out_proj")(y * nn.functional.silu(step.heard.gate))  # noqa: B009
    return torch.allclose(out, gave[0], rtol=SAME, atol=SAME * float(gave.abs().amax()) + 1e-30)

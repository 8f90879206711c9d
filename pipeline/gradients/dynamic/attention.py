"""How tangents pass an attention layer: by each frame's own question, and by the frames that it looks back at.

With probabilities p_tj over all past frames j and o_t = sum_j p_tj v_j,

    d o_t = sum_j p_tj (v_j - o_t) (k_j . d q_t + q_t . d k_j) / sqrt(n) + sum_j p_tj d v_j.

The sum over d q_t is one matrix per frame, over the whole past; d k_j and d v_j of a frame that the window does not
hold are 0, so that these sums go over as many frames as there are lags.
"""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from pipeline.gradients.dynamic.mixers import Called, Rule, heard_alone, with_first_tensor
from pipeline.gradients.dynamic.steps import Advance, Remembered, through
from pipeline.gradients.passes.layout import Layout
from pipeline.gradients.routes.recurrent import SAME

#: Lags per lag of what is heard, from which on a product for each lag is cheaper than one of all.
FEW = 8


@dataclass(frozen=True)
class Attention:
    """An attention layer around one sound: its questions, keys and values per head, and who may look at whom."""

    to_each: Float[Tensor, "three_heads_size width"]
    to_output: Float[Tensor, "output heads_size"]
    questions: Float[Tensor, "head frame size"]
    keys: Float[Tensor, "head frame size"]
    values: Float[Tensor, "head frame size"]
    mask: Float[Tensor, "head_or_1 frame frame"]

    @property
    def scale(self) -> float:
        """What a question times a key is divided by."""
        return math.sqrt(self.questions.shape[-1])

    def probabilities(self, start: int, stop: int) -> Float[Tensor, "head frame past"]:
        """How much frames ``start`` to ``stop - 1`` look at each frame up to theirs."""
        scores = self.questions[:, start:stop] @ self.keys[:, :stop].transpose(1, 2) / self.scale
        return torch.softmax(scores + self.mask[:, start:stop, :stop], dim=-1)

    def stream(self, lags: int) -> Advance:
        keys_before, values_before = Remembered(lags - 1), Remembered(lags - 1)
        n_heads, _, size = self.questions.shape

        def advance(given: Tensor, start: int, stop: int) -> Tensor:
            each = through(self.to_each, given).unflatten(1, (3, n_heads, size))
            asked, keys, values = each.unbind(1)
            share = self.probabilities(start, stop)
            seen = share @ self.values[:, :stop]
            own = _own_question(share, seen, self.keys[:, :stop], self.values[:, :stop]) / self.scale
            out = (own @ asked.flatten(3)).unflatten(-1, asked.shape[3:])
            band = _Band(share.transpose(0, 1), seen.transpose(0, 1), start, stop, lags)
            out = self._looked_at(out, band, keys_before.extend(keys), values_before.extend(values))
            return through(self.to_output, out.flatten(1, 2))

        return advance

    def _looked_at(
        self,
        out: Float[Tensor, "frame head size lag frequency"],
        band: "_Band",
        keys: Float[Tensor, "frame head size lag frequency"],
        values: Float[Tensor, "frame head size lag frequency"],
    ) -> Float[Tensor, "frame head size lag frequency"]:
        """``out`` and what comes through the frames that are looked at, the window's own."""
        n_frames, n_heads, size, reach, n_bands = out.shape
        lags, start, stop = band.lags, band.start, band.stop
        n_lags = min(lags, reach + len(keys) - n_frames)
        out = nn.functional.pad(out, (0, 0, 0, n_lags - reach))
        questions = self.questions[:, start:stop].transpose(0, 1)
        # Where each frame looked at brings many lags, one product of all of them is cheaper than one for each.
        few = FEW * reach <= n_lags
        at_lags = out.new_zeros((0 if few else n_frames, n_heads, n_lags, n_lags, n_bands))
        differences = out.new_zeros((0 if few else n_frames, n_heads, size, n_lags))
        before = len(keys) - n_frames
        for shift in range(min(n_lags, stop)):
            kept = min(reach, n_lags - shift)
            share, value = band.at(shift, self.values)
            earlier = slice(before - shift, len(keys) - shift)
            out[:, :, :, shift : shift + kept].addcmul_(share[..., None, None, None], values[earlier, :, :, :kept])
            matched = (questions.unsqueeze(2) @ keys[earlier, :, :, :kept].flatten(3)).squeeze(2)
            difference = share.unsqueeze(-1) * (value - band.seen) / self.scale
            if few:
                turned = difference[..., None, None] * matched.unflatten(-1, (1, kept, n_bands))
                out[:, :, :, shift : shift + kept] += turned
                continue
            at_lags[:, :, shift, shift : shift + kept] = matched.unflatten(-1, (kept, n_bands))
            differences[..., shift] = difference
        if not few:
            out += (differences @ at_lags.flatten(3)).unflatten(-1, (n_lags, n_bands))
        return out


@dataclass(frozen=True)
class _Band:
    """What a block of frames looks at, frame by frame back."""

    share: Float[Tensor, "frame head past"]
    seen: Float[Tensor, "frame head size"]
    start: int
    stop: int
    lags: int

    def at(
        self, shift: int, values: Float[Tensor, "head frame size"]
    ) -> tuple[Float[Tensor, "frame head"], Float[Tensor, "frame head size"]]:
        """How much each frame looks at the one ``shift`` before, and the value there; 0 before the sound."""
        past = torch.arange(self.start, self.stop, device=self.share.device) - shift
        index = past.clamp_min(0)
        share = self.share.gather(2, index.view(-1, 1, 1).expand(-1, self.share.shape[1], 1)).squeeze(2)
        return share * (past >= 0).unsqueeze(1), values[:, index].transpose(0, 1)


def _own_question(share: Tensor, seen: Tensor, keys: Tensor, values: Tensor) -> Float[Tensor, "frame head size size"]:
    """sum_j p_tj (v_j - o_t) k_j for each frame t."""
    pairs = (values.unsqueeze(3) * keys.unsqueeze(2)).flatten(2)
    size = values.shape[-1]
    outer = (share @ pairs).unflatten(-1, (size, size)) - seen.unsqueeze(3) * (share @ keys).unsqueeze(2)
    return outer.transpose(0, 1)


def attention_rule(calls: list[Called], n_frames: int, by_lag: bool) -> Rule | None:
    """torch's own multi-head attention of a sequence to itself, each frame to the frames up to it."""
    call = calls[0]
    if len(calls) > 1 or type(call.module) is not nn.MultiheadAttention or len(call.arguments) != 3:
        return None
    given = call.arguments[0]
    gave = call.gave[0]
    module = call.module
    alone = all(other.data_ptr() == given.data_ptr() and other.shape == given.shape for other in call.arguments)
    plain = module.in_proj_weight is not None and module.bias_k is None and not module.add_zero_attn
    axis = 1 if module.batch_first else 0
    if not alone or not plain or given.dim() != 3 or given.shape[axis] != n_frames or given.shape[1 - axis] != 1:
        return None
    if call.named.get("key_padding_mask") is not None:
        return None
    with torch.no_grad():
        step = _written_out(module, given.squeeze(1 - axis), call.named.get("attn_mask"))
        if step is None or not _gives(step, module, gave.squeeze(1 - axis)):
            return None
    layout = Layout("stimulus" if axis else "frame", axis, tuple(given.shape), 1, n_frames)
    return Rule(
        "attention",
        (call,),
        layout,
        layout,
        (step,),
        gave,
        heard_alone,
        lambda leaf, _: with_first_tensor(call.gave, leaf),
    )


def _written_out(
    module: nn.MultiheadAttention, frames: Float[Tensor, "frame width"], mask: Tensor | None
) -> Attention | None:
    n_frames, n_heads = len(frames), module.num_heads
    each = nn.functional.linear(frames, module.in_proj_weight, module.in_proj_bias)
    questions, keys, values = each.unflatten(1, (3, n_heads, -1)).permute(1, 2, 0, 3).contiguous().unbind(0)
    if mask is None:
        return None
    if mask.dtype == torch.bool:
        mask = torch.zeros_like(mask, dtype=frames.dtype).masked_fill(mask, -math.inf)
    mask = mask.to(frames.dtype).view(-1, n_frames, n_frames)
    later = torch.ones(n_frames, n_frames, dtype=torch.bool, device=mask.device).triu(1)
    if not bool((mask[:, later] == -math.inf).all()) or len(mask) not in (1, n_heads):
        return None
    return Attention(module.in_proj_weight.detach(), module.out_proj.weight.detach(), questions, keys, values, mask)


def _gives(step: Attention, module: nn.MultiheadAttention, gave: Float[Tensor, "frame width"]) -> bool:
    """Whether the layer written out gives what the module gave."""
    seen = torch.cat(
        [
            step.probabilities(start, min(start + 64, len(gave))) @ step.values[:, : min(start + 64, len(gave))]
            for start in range(0, len(gave), 64)
        ],
        dim=1,
    )
    bias = module.out_proj.bias
    out = nn.functional.linear(seen.transpose(0, 1).flatten(1), step.to_output, None if bias is None else bias.detach())
    return torch.allclose(out, gave, rtol=SAME, atol=SAME * float(gave.abs().amax()) + 1e-30)

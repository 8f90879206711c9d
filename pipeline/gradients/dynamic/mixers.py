"""Parts of a model that mix frames by a rule written out here, and the model cut open at what they give.

A part is taken for what a rule knows only where the rule gives what the part gave. With the outputs of all such parts
cut off as leaves of their own, what remains of the model is short ways from one of them to the next.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map

from pipeline.gradients.dynamic.graph import NoWayError, Place, edge_of, nearest
from pipeline.gradients.dynamic.steps import Step
from pipeline.gradients.passes.layout import Layout
from pipeline.gradients.torch_state.copies import parts_of


@dataclass(frozen=True)
class Called:
    """One call of one part: all that it was given, and all that it gave."""

    name: str
    module: nn.Module
    arguments: tuple[Any, ...]
    named: dict[str, Any]
    gave: Any


@dataclass(frozen=True)
class Rule:
    """What a part that mixes frames does to tangents.

    ``takes`` gives, of the arguments of its calls, the tensors that it hears, ``inputs`` their layouts; ``steps`` are
    applied one after the other, the first to what ``takes`` gave. ``gives`` puts the leaf that stands for the part's
    output, cut into ``pieces`` once, into the shape of what the part returned, call by call.
    """

    name: str
    calls: tuple[Called, ...]
    layout_in: Layout
    layout_out: Layout
    steps: tuple[Step, ...]
    value: Tensor
    takes: Callable[[Sequence[tuple[tuple[Any, ...], dict[str, Any]]]], Tensor]
    gives: Callable[[Any, int], Any]
    pieces: Callable[[Tensor], Any] = lambda leaf: leaf


RuleMaker = Callable[[list[Called], int, bool], Rule | None]
"""From the calls of one part, the sound's frames and the order to go in, a rule; None for a part of another kind."""


@dataclass(frozen=True)
class Mixer:
    """A part that was cut out: what it was given in the model cut open, and the leaf in place of its output."""

    rule: Rule
    given: Place
    gave: Place


@dataclass(frozen=True)
class Opened:
    """One forward pass of the model cut open at its mixers.

    ``besides`` are leaves in place of what mixers returned beside what their rules give.
    """

    mixers: tuple[Mixer, ...]
    stimulus: Tensor
    response: Tensor
    besides: tuple[Tensor, ...]

    @property
    def hears_besides(self) -> bool:
        """Whether the response follows any of these, as the last state of a recurrence."""
        return bool(nearest(edge_of(self.response), [edge_of(leaf) for leaf in self.besides]))


def listen(model: nn.Module, leaf: Tensor) -> tuple[Tensor, list[Called], Tensor]:
    """The answer to ``leaf``, every call of every part in the order in which they ended, and what stands for the leaf.

    ``model`` must be the caller's own copy: hooks are put on its parts and taken off again.
    """
    stimulus = leaf.view_as(leaf)
    calls: list[Called] = []
    with ExitStack() as stack:
        for name, module in parts_of(model):

            def note(module: nn.Module, given: Any, named: Any, gave: Any, name: str = name) -> None:
                calls.append(Called(name, module, detached(given), detached(dict(named)), detached(gave)))

            stack.callback(module.register_forward_hook(note, with_kwargs=True).remove)
        answer = model(stimulus)
    return answer, calls, stimulus


def detached(value: Any) -> Any:
    """A structure of tensors without the graph that they hang on."""
    return tree_map(lambda leaf: leaf.detach() if isinstance(leaf, Tensor) else leaf, value)


def rules_for(calls: Sequence[Called], n_frames: int, by_lag: bool, known_rules: Sequence[RuleMaker]) -> list[Rule]:
    """Rules for the parts that any is known for, outermost parts first, in the order of the calls."""
    found: list[Rule] = []
    by_part: dict[str, list[Called]] = {}
    for call in calls:
        by_part.setdefault(call.name, []).append(call)
    taken: set[str] = set()
    for name in sorted(by_part, key=lambda name: name.count(".")):
        if any(name == other or name.startswith(f"{other}.") for other in taken):
            continue
        for known in known_rules:
            rule = known(by_part[name], n_frames, by_lag)
            if rule is not None:
                found.append(rule)
                taken.add(name)
                break
    order = {id(call): number for number, call in enumerate(calls)}
    return sorted(found, key=lambda rule: order[id(rule.calls[0])])


def cut_open(model: nn.Module, rules: Sequence[Rule], leaf: Tensor) -> Opened:
    """The model run once more with every mixer's output a leaf of its own."""
    stimulus = leaf.view_as(leaf)
    heard: list[list[tuple[tuple[Any, ...], dict[str, Any]]]] = [[] for _ in rules]
    leaves = []
    besides: list[Tensor] = []
    with ExitStack() as stack:
        for number, rule in enumerate(rules):
            free = rule.value.detach().clone().requires_grad_(True)
            leaves.append(free.view_as(free))
            stack.enter_context(_replaced(rule, rule.pieces(leaves[-1]), heard[number], besides))
        response = model(stimulus)
    mixers = []
    for rule, gave, given in zip(rules, leaves, heard, strict=True):
        taken = rule.takes(given)
        if taken.grad_fn is not None:
            mixers.append(Mixer(rule, Place(edge_of(taken), rule.layout_in), Place(edge_of(gave), rule.layout_out)))
    return Opened(tuple(mixers), stimulus, response, tuple(besides))


@contextmanager
def _replaced(
    rule: Rule, pieces: Any, heard: list[tuple[tuple[Any, ...], dict[str, Any]]], besides: list[Tensor]
) -> Iterator[None]:
    """The part answers with pieces of its leaf and computes nothing."""
    module = rule.calls[0].module
    before = vars(module).get("forward")

    def forward(*arguments: Any, **named: Any) -> Any:
        heard.append((arguments, named))
        gave = rule.gives(pieces, len(heard) - 1)
        besides.extend(leaf for leaf in tree_leaves(gave) if isinstance(leaf, Tensor) and _is_free(leaf))
        return gave

    vars(module)["forward"] = forward
    try:
        yield
    finally:
        if before is None:
            del vars(module)["forward"]
        else:
            vars(module)["forward"] = before


def heard_alone(calls: Sequence[tuple[tuple[Any, ...], dict[str, Any]]]) -> Tensor:
    """What a part that is called once hears: its first tensor, if no other that it is given may follow the sound.

    Raises
    ------
    NoWayError
        If another one may, as an initial state or a mask that was computed from the sound.
    """
    heard, *others = (leaf for leaf in tree_leaves(calls[0]) if isinstance(leaf, Tensor))
    if any(other.requires_grad and other.data_ptr() != heard.data_ptr() for other in others):
        raise NoWayError("a part hears more than its first tensor")
    return heard


def _is_free(leaf: Tensor) -> bool:
    return leaf.is_leaf and leaf.requires_grad


def with_first_tensor(structure: Any, tensor: Tensor) -> Any:
    """What a part returned with ``tensor`` in place of its first tensor, and the others as leaves of their own."""
    done = [False]

    def walk(value: Any) -> Any:
        if isinstance(value, Tensor):
            if done[0]:
                return value.detach().requires_grad_(value.is_floating_point())
            done[0] = True
            return tensor
        if isinstance(value, tuple) and hasattr(value, "_fields"):
            return type(value)(*map(walk, value))
        if isinstance(value, (tuple, list)):
            return type(value)(map(walk, value))
        return value

    return walk(structure)

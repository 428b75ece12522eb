"""The gradients of a step's losses, recorded once as CUDA graphs and then replayed.

Where networks are small, a GPU waits for its launches, of which an iteration of Algorithm 1 of 000 has thousands. A
graph is launched as one.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable, Iterator
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor

Batch = TypeVar("Batch")

UNRECORDED = 3
"""How often a computation runs as it is before it is recorded: kernels are compiled and libraries take memory."""


class Gradients(NamedTuple):
    """What a loss and its derivatives are.

    Attributes:
        terms: of the loss, by name.
        found: a gradient for each parameter; None where it had no part in the loss.
    """

    terms: dict[str, Tensor]
    found: list[Tensor | None]


class Recording(NamedTuple):
    """A computation that can be made again.

    Attributes:
        inputs: the tensors that it reads; whoever wants it made for others copies these into them.
        replay: makes it again, from what is in the inputs.
        gradients: where the results are after that, until the next replay of any recording.
    """

    inputs: list[Tensor]
    replay: Callable[[], object]
    gradients: Gradients


class Graphs:
    """Recordings of one training, by what was computed and by the shapes of what it was computed of.

    What is recorded must follow from the batch, from the weights and from the key alone, and never look at a value on
    the CPU: Python runs only while it is recorded. Random numbers are drawn anew in every replay.

    Args:
        record: makes a recording of a computation for a batch; tests on a CPU have another one than CUDA's.
    """

    def __init__(self, record: Callable[[Callable[[Any], Gradients], Any], Recording] | None = None) -> None:
        self._record = recorded_by_cuda() if record is None else record
        self._recordings: dict[Hashable, Recording] = {}
        self._times: Counter[Hashable] = Counter()

    def gradients(self, key: Hashable, compute: Callable[[Batch], Gradients], batch: Batch) -> Gradients:
        """compute(batch), by a replay from the fourth time on that this key has a batch of these shapes."""
        leaves = list(_leaves(batch))
        shapes = [None if leaf is None else (leaf.shape, leaf.dtype) for leaf in leaves]
        place = (key, *shapes)
        self._times[place] += 1
        if self._times[place] <= UNRECORDED:
            return compute(batch)
        if place not in self._recordings:
            self._recordings[place] = self._record(compute, batch)
        recording = self._recordings[place]
        for kept, given in zip(recording.inputs, (leaf for leaf in leaves if leaf is not None), strict=True):
            kept.copy_(given)
        recording.replay()
        return recording.gradients


def recorded_by_cuda() -> Callable[[Callable[[Any], Gradients], Any], Recording]:
    """A recorder whose recordings share memory: each one's results hold until the next replay."""
    pool = torch.cuda.graph_pool_handle()

    def record(compute: Callable[[Any], Gradients], batch: Any) -> Recording:
        inputs, kept = copied(batch)
        graph = torch.cuda.CUDAGraph()
        # Other threads, such as the one that pins the next batch's memory, go on meanwhile.
        with torch.cuda.graph(graph, pool=pool, capture_error_mode="thread_local"):
            gradients = compute(kept)
        return Recording(inputs, graph.replay, gradients)

    return record


def copied(batch: Any) -> tuple[list[Tensor], Any]:
    """Copies of a batch's tensors, in the order in which `Graphs` copies into them, and the batch made of these."""
    tensors = [leaf.clone() for leaf in _leaves(batch) if leaf is not None]
    return tensors, _made_of(batch, iter(tensors))


def _leaves(value: Any) -> Iterator[Tensor | None]:
    """The tensors of (named) tuples and lists in one another, in order, and None where there is none.

    Raises:
        TypeError: something else: what it holds would be that of the recorded batch for ever.
    """
    if isinstance(value, (tuple, list)):  # pinned memory makes lists of tuples without names
        for each in value:
            yield from _leaves(each)
    elif value is None or isinstance(value, Tensor):
        yield value
    else:
        raise TypeError(
            f"a recorded batch must be tuples or lists of tensors and None, got {type(value).__name__} in it"
        )


def _made_of(value: Any, tensors: Iterator[Tensor]) -> Any:
    """The same tuples and lists with other tensors."""
    if isinstance(value, (tuple, list)):
        parts = [_made_of(each, tensors) for each in value]
        return type(value)(*parts) if hasattr(value, "_fields") else type(value)(parts)
    return next(tensors) if isinstance(value, Tensor) else value

"""Which share of a GPU each task takes."""

import sys
from collections.abc import Callable
from typing import Any, Literal

from pipeline.plan.config import ConfigError
from pipeline.plan.run_plan import RunPlan
from pipeline.plan.run_weight import weight_of

#: Memory of a GPU that each process takes before it computes anything: CUDA itself, and torch's kernels.
PROCESS_BYTES = 700 * 2**20

#: Tasks on one GPU at most; further ones only wait for each other.
MOST_TASKS = 16

#: Part of a GPU's memory that is given away; drivers and fragmentation take some.
USABLE = 0.9

#: Seconds within which a machine with a GPU has to say how large it is.
ANSWER_S = 120.0


def gpus_per_task(asked: float | Literal["auto"] | None, plan: RunPlan, say: Callable[[str], None]) -> float:
    """Share of a GPU per task on the Ray that is connected; 0 for CPUs.

    ``asked``: A share; ``"auto"`` for as many tasks on a GPU as its memory takes; None for a whole GPU where there are
    any. Raises `ConfigError` if the share depends on GPUs, and the cluster has none.
    """
    import ray

    if isinstance(asked, float | int):
        return float(asked)
    resources = ray.cluster_resources()
    if resources.get("GPU", 0) > 0:
        return 1.0 if asked is None else _fitting(plan, say)
    if asked == "auto":
        raise ConfigError(
            "--gpus auto takes the share of a task from the memory of the cluster's GPUs, and it has none, so nothing"
            " says how many fit; start it with GPUs, or give a share (0 for CPUs)"
        )
    if resources.get("CPU", 0) > 0:
        return 0.0
    say("the cluster has neither CPUs nor GPUs yet, so GPUs are asked for; use --gpus 0 where only CPU nodes will join")
    return 1.0


def share_of_gpu(task_bytes: int, gpu_bytes: int) -> float:
    """Share with which as many tasks run on a GPU as its memory takes: at least one, at most `MOST_TASKS`.

    Examples
    --------
    >>> share_of_gpu(2 * 2**30, 16 * 2**30)
    0.2
    >>> share_of_gpu(40 * 2**30, 16 * 2**30)
    1.0
    """
    tasks = int(USABLE * gpu_bytes / (task_bytes + PROCESS_BYTES))
    # Rounded down, so that so many shares are no more than one GPU.
    return int(10_000 / min(max(tasks, 1), MOST_TASKS)) / 10_000


def _fitting(plan: RunPlan, say: Callable[[str], None]) -> float:
    from pipeline.gradients.torch_state.memory import SHARE_OF_DEVICE

    gpu_bytes = _smallest_gpu()
    asked = plan.config.engine.memory_mib
    # Without a budget in the config, the engine's passes take up to this share of the device each.
    budget = int(SHARE_OF_DEVICE * gpu_bytes) if asked is None else asked * 2**20
    share = share_of_gpu(weight_of(plan).largest_task_bytes + budget, gpu_bytes)
    say(f"{int(1 / share)} task(s) on each GPU of {gpu_bytes / 2**30:.0f} GiB: each takes a share of {share:g}")
    return share


def _smallest_gpu() -> int:
    """Bytes of the smallest GPU, by asking each machine that has any."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    # By value: a worker that looked for it by name could find a lab's `tasks.py`.
    ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])
    ask: Any = ray.remote(num_cpus=0, num_gpus=0.01, max_calls=1)(_memory)
    nodes = [node["NodeID"] for node in ray.nodes() if node["Alive"] and node["Resources"].get("GPU", 0) > 0]
    answers = [
        ask.options(scheduling_strategy=NodeAffinitySchedulingStrategy(node, soft=False)).remote() for node in nodes
    ]
    ready, _ = ray.wait(answers, num_returns=len(answers), timeout=ANSWER_S)
    sizes = [size for answer in ready if (size := ray.get(answer))]
    if not sizes:
        raise ConfigError(
            f"--gpus auto: none of {len(nodes)} machine(s) with GPUs said within {ANSWER_S:.0f} s how large they are,"
            " so nothing says how many tasks fit; see that torch finds CUDA there, or give a share such as --gpus 0.5"
        )
    return min(sizes)


def _memory() -> int:
    """Bytes of the smallest GPU that torch sees; 0 without one."""
    import torch

    if not torch.cuda.is_available():
        return 0
    return min(torch.cuda.get_device_properties(at).total_memory for at in range(torch.cuda.device_count()))

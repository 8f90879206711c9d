"""Ray as the place where bundles are computed: tasks that stream their reports, and why they failed in our words."""

import os
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Any

from pipeline.plan.run_plan import RunPlan
from pipeline.plan.run_weight import weight_of
from pipeline.plan.shard_reports import Problem, ShardReport
from pipeline.plan.shards import Shard
from pipeline.text import of_error, printable
from tasks import importing
from tasks.allocating import keep_freed_memory
from tasks.executor import BundleEnded, Item, Started
from tasks.ledger import Assignment
from tasks.session import head_address, head_answers

#: Computes shards of one checkpoint on a worker, in order, and yields a report for each.
Work = Callable[[RunPlan, Sequence[Shard], str], Iterator[ShardReport]]

#: Ray ends a worker after each GPU task unless told otherwise, and every new one imports torch again.
CALLS_PER_GPU_WORKER = 50

#: Seconds between two looks at the cluster: nodes come and go.
LOOK_S = 5.0


class RayExecutor:
    """The Ray that this process is connected to.

    ``gpus``: Share of a GPU per task; 0 computes on CPUs. Bookkeeping only: nothing limits the memory of a task to it.
    ``head_s``: Time for which the head may not answer before nothing more is expected of it. Ray ends the driver after
    a minute of it, without a word that says how far the run came; leaving it takes up to 15 s.
    """

    def __init__(self, plan: RunPlan, work: Work, *, gpus: float = 0.0, head_s: float = 15.0) -> None:
        import ray

        self._plan, self._work, self._gpus, self._head_s = plan, work, gpus, head_s
        self._slots = 0
        self._looked: float | None = None
        self._silent: float | None = None
        self._lost: str | None = None
        self._plan_ref = ray.put(plan)
        # By value: a worker that looked for it by name could find a lab's `tasks.py`.
        ray.cloudpickle.register_pickle_by_value(importing)
        calls = CALLS_PER_GPU_WORKER if gpus else 0
        self._task: Any = ray.remote(num_cpus=1, max_retries=0, max_calls=calls, num_returns="streaming")(
            importing.compute_bundle
        )

    def submit(self, assignment: Assignment) -> Any:
        """A generator of the bundle's items, which Ray computes."""
        import ray

        return self._task.options(**self._options(assignment)).remote(
            [self._plan_ref],
            ray.cloudpickle.dumps((assignment, self._work)),
            "cuda" if self._gpus else "cpu",
            os.getcwd(),
            self._plan.config.folder,
        )

    def _options(self, assignment: Assignment) -> dict[str, Any]:
        options: dict[str, Any] = {}
        if self._gpus:
            options["num_gpus"] = min(max(1.0, self._gpus), self._gpus * 2**assignment.halvings)
        if assignment.halvings:
            wanted = weight_of(self._plan).largest_task_bytes * 2**assignment.halvings
            options["memory"] = min(wanted, int(0.9 * _largest_node_memory()))
        return options

    def poll(self, bundles: Sequence[Any], timeout_s: float) -> list[tuple[Any, Item]]:
        """One item of each bundle that has one, waiting for the first of them."""
        import ray

        bundles = list(bundles)
        ready, _ = ray.wait(bundles, num_returns=1, timeout=timeout_s)
        if ready:
            ready, _ = ray.wait(bundles, num_returns=len(bundles), timeout=0)
        return [(bundle, _next_of(bundle)) for bundle in ready]

    def cancel(self, bundle: Any) -> None:
        """End the worker: a gentle cancel does not interrupt a sleeping task, nor one inside a call into C."""
        import ray

        ray.cancel(bundle, force=True)

    def slots(self) -> int | None:
        """Tasks that fit the cluster; None while its head does not answer, where Ray would wait for it."""
        import ray

        now = time.monotonic()
        if self._slots and self._looked is not None and now - self._looked < LOOK_S:
            return None if self._silent is not None else self._slots
        self._looked = now
        if not self._head_is_there():
            return None
        resources = ray.cluster_resources()
        self._slots = int(resources.get("GPU", 0) / self._gpus) if self._gpus else int(resources.get("CPU", 0))
        return self._slots

    def _head_is_there(self) -> bool:
        if head_answers():
            self._silent = None
            return True
        now = time.monotonic()
        if self._silent is None:
            self._silent = now  # and not when it was last asked: this process may have been busy since
        silence = now - self._silent
        if silence > self._head_s:
            self._lost = (
                f"Ray's head at {head_address()} has not answered for {silence:.0f} s, so nothing can be computed any"
                " more; see to its machine, or start another cluster"
            )
        return False

    def why_lost(self) -> str | None:
        """That the head has been silent for too long."""
        return self._lost

    def shortage(self) -> str:
        """The resources of a task, and those of the cluster."""
        import ray

        request = f"1 CPU and {self._gpus:g} GPU" if self._gpus else "1 CPU"
        resources = ray.cluster_resources()
        has = f"{resources.get('CPU', 0):g} CPU, {resources.get('GPU', 0):g} GPU"
        nodes = sum(bool(node["Alive"]) for node in ray.nodes())
        return f"each task asks for {request}, and the cluster has {has} on {nodes} node(s)"


def _next_of(bundle: Any) -> Item:
    import ray

    try:
        item: Item = ray.get(next(bundle))
    except StopIteration:
        return BundleEnded()
    except ray.exceptions.RayError as error:
        return BundleEnded(classify(error), setup_failure(error))
    return item


def reports(
    plan_ref: Sequence[Any], assignment: Assignment, device: str, work: Work
) -> Iterator[Started | ShardReport]:
    """What a worker has to say: that it began, then one report per shard."""
    keep_freed_memory()
    plan = _shipped_plan(plan_ref[0])
    if assignment.halvings:
        plan = _with_less_memory(plan, assignment.halvings)
    yield Started(socket.gethostname())
    for report in work(plan, assignment.shards, device):
        yield report
        if report.problem is not None and report.problem.cause == "storage":
            return  # the next shard would only meet the same trouble


@lru_cache(maxsize=1)
def _shipped_plan(ref: Any) -> RunPlan:
    """The plan that the driver sent once, kept by the worker for its next bundles."""
    import ray

    return ray.get(ref)


def _with_less_memory(plan: RunPlan, halvings: int) -> RunPlan:
    engine = plan.config.engine
    smaller = max(1, (engine.memory_mib or 512) // 2**halvings)
    engine = engine.model_copy(update={"memory_mib": smaller})
    return replace(plan, config=plan.config.model_copy(update={"engine": engine}))


def classify(error: Exception) -> Problem:
    """The cause of an error that Ray raised in place of a report."""
    from ray import exceptions

    message = _first_line(error)
    if isinstance(error, exceptions.OutOfMemoryError):
        return Problem("out of memory", f"the machine ran out of memory, and Ray ended the worker: {message}")
    if isinstance(error, exceptions.WorkerCrashedError):
        return Problem("crash", "the worker process died while computing it (a crash in compiled code, or a kill)")
    if isinstance(error, exceptions.RayTaskError):
        cause = error.cause if isinstance(error.cause, BaseException) else error
        return Problem("storage" if isinstance(cause, OSError) else "compute", of_error(cause))
    return Problem("infrastructure", f"{type(error).__name__}: {message}")


def setup_failure(error: Exception) -> str | None:
    """Why workers cannot begin at all, where an error before their first sign of life says that; None otherwise.

    Their environment fails, or they lack a module that the plan or the work needs. A node or an object that was lost is
    not that: there, another worker may begin.
    """
    from ray import exceptions

    cause = error.cause if isinstance(error, exceptions.RayTaskError) else error
    lost = isinstance(cause, exceptions.RayError) and not isinstance(
        cause, (exceptions.RaySystemError, exceptions.RuntimeEnvSetupError)
    )
    if not isinstance(error, (exceptions.RayTaskError, exceptions.RuntimeEnvSetupError)) or lost:
        return None
    if isinstance(cause, exceptions.RuntimeEnvSetupError):
        return of_error(cause)  # its first line only says that something failed, what did stands below
    lines = str(cause).strip().splitlines() or [type(cause).__name__]
    return printable(
        lines[-1] if isinstance(cause, exceptions.RaySystemError) else f"{type(cause).__name__}: {lines[0]}"
    )


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


def _largest_node_memory() -> float:
    import ray

    return max((node["Resources"].get("memory", 0.0) for node in ray.nodes() if node["Alive"]), default=0.0)

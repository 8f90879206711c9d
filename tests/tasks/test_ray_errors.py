"""What an error of Ray's says of the work: whose fault it is, and whether another worker could do better."""

import pytest
from ray import exceptions

from tasks.on_ray import classify, setup_failure


def lost(kind):
    """What Ray raises where something of it failed."""
    return kind("of this node")


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (lost(exceptions.RuntimeEnvSetupError), "of this node"),
        (exceptions.RayTaskError("f", "trace", ModuleNotFoundError("No module named 'x'")), "ModuleNotFoundError"),
        (exceptions.RayTaskError("f", "trace", lost(exceptions.RaySystemError)), "of this node"),
        (exceptions.RayTaskError("f", "trace", exceptions.ObjectLostError("ab", None, "")), None),
        (exceptions.NodeDiedError("gone"), None),
        (exceptions.WorkerCrashedError(), None),
        (lost(exceptions.RaySystemError), None),
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_keeps_workers_from_beginning_is_told_from_what_another_worker_may_survive(error, says):
    told = setup_failure(error)
    assert (told is None) == (says is None)
    assert says is None or says in told


@pytest.mark.parametrize(
    ("error", "cause"),
    [
        (exceptions.OutOfMemoryError("full"), "out of memory"),
        (exceptions.WorkerCrashedError(), "crash"),
        (exceptions.RayTaskError("f", "trace", PermissionError(13, "read-only")), "storage"),
        (exceptions.RayTaskError("f", "trace", KeyError("x")), "compute"),
        (exceptions.NodeDiedError("gone"), "infrastructure"),
        (exceptions.ObjectLostError("ab", None, ""), "infrastructure"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_an_error_in_place_of_a_report_has_the_cause_that_decides_how_often_it_is_tried(error, cause):
    assert classify(error).cause == cause

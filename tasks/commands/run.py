"""`gradmap run`: compute what is missing, here or on Ray, and say how it ended."""

import argparse
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

from pipeline.plan.config import ConfigError, RunConfig, load_config
from pipeline.plan.urls import refuse_passing
from pipeline.text import counted, printable, readable_seconds
from tasks.allocating import Collecting, keep_freed_memory
from tasks.errors import ending_of, reason_of
from tasks.finished import COMPLETE, FAILURES, REFUSED, STOPPED, Finished, last_line, merged_failures, trust_line
from tasks.parsing import new_command
from tasks.progress import Progress
from tasks.signals import StopRequest
from tasks.terminal import BAD, DOUBTFUL, LONGEST_LINE, conclude, tell, tell_lines

#: GPUs per task: a number, "auto", or None for what the cluster has.
Share = float | Literal["auto"] | None

#: Failures and slow shards that are listed on the screen; the others are counted, and all are in the report.
LISTED = 20


def add_parser(commands: Any) -> None:
    """Describe the command to the argument parser."""
    parser = new_command(
        commands,
        run,
        "compute the shards that the cubes do not have yet, and nothing else",
        "run run.toml",
        "run run.toml --local",
        "run run.toml --address 10.0.0.1:6379 --gpus 0.5",
        "run run.toml --json run.json",
    )
    parser.add_argument("config", type=Path, help="run configuration (TOML)")
    add_execution_options(parser)
    parser.add_argument("--report", dest="json", metavar="FILE.json", help="the same as --json")


def add_execution_options(parser: argparse.ArgumentParser) -> None:
    """Where the work is done; the same for every command that computes maps."""
    where = parser.add_mutually_exclusive_group()
    where.add_argument("--local", action="store_true", help="in this process, without Ray")
    where.add_argument("--address", metavar="HOST:PORT", help="on this Ray cluster ('auto' on one of its machines)")
    parser.add_argument(
        "--gpus",
        type=_share,
        metavar="SHARE",
        help="GPUs per task; 0 for CPUs; auto for as many tasks on each as its memory takes (default: 1 where the"
        " cluster has GPUs)",
    )


def _share(text: str) -> float | Literal["auto"]:
    if text == "auto":
        return "auto"
    share = float(text)
    if not 0 <= share < float("inf"):
        raise argparse.ArgumentTypeError(f"{text} is no share of a GPU; give 0 or more, such as 0.5, or auto")
    return share


def run(arguments: argparse.Namespace) -> Finished:
    """What is missing, computed."""
    config = load_config(arguments.config)
    ended = compute(config, local=arguments.local, address=arguments.address, gpus=arguments.gpus)
    ended.tell()
    return ended.finished({"config": str(arguments.config)})


class Ended:
    """How a run ended: its report if it got as far as opening the store, the exit status, and whether by a signal."""

    def __init__(self, config: RunConfig, report: Any, reason: str = "", *, asked: bool = False) -> None:
        self.asked = asked
        self.store = config.store_location()
        self.report = report
        self.reason = reason or (report.reason if report is not None else "")
        self.status = self._status()

    def _status(self) -> int:
        if self.report is None or self.report.stopped or self.report.pending > 0:
            return STOPPED
        return FAILURES if self.report.failed > 0 else COMPLETE

    def counts(self) -> str:
        """What the last line says beside the ending."""
        if self.report is None:
            return "nothing was computed"
        report = self.report
        return (
            f"{counted(report.done, 'shard')} done ({report.computed:,} of them now), {report.failed:,} failed,"
            f" {report.pending:,} pending"
        )

    def as_json(self) -> dict[str, Any]:
        """Everything about the end, for other programs."""
        report = self.report
        content: dict[str, Any] = {"store": self.store, "reason": self.reason}
        if report is not None:
            names = ("done", "failed", "pending", "computed", "seconds", "engine_seconds", "by_cause")
            content |= {name: getattr(report, name) for name in (*names, "failures", "stragglers")}
            content["faults"] = dict(report.faults)
        return content

    def _health(self) -> str:
        """What the store says of its maps' health; nothing where it does not answer, which has been told already."""
        from pipeline.store.status import store_status

        try:
            return trust_line(store_status(self.store))
        except (OSError, ValueError):
            return ""

    def tell(self) -> None:
        """Print where the maps are, slow shards, failures and advice."""
        if self.report is not None:
            tell(f"store: {self.store}, in {readable_seconds(self.report.seconds)}")
            slow = [f"slow: {straggler}" for straggler in self.report.stragglers]
            tell_lines(slow, DOUBTFUL, most=LISTED, others=" slow shards; `--json` lists all")
            others = f"; `gradmap status {self.store}` lists all"
            tell_lines(merged_failures(self.report.failures), BAD, most=LISTED, others=others)
        if not self.asked and (health := self._health()):
            tell(health)
        if self.status == FAILURES:
            tell(f"failed shards stay aside: mend their cause, `gradmap verify --requeue {self.store}`, then run again")
        if self.status == STOPPED:
            reason = printable(self.reason or "it was asked to stop", LONGEST_LINE)
            tell(f"stopped: {reason}; the same command goes on where this one ended", BAD)

    def finished(self, more: Mapping[str, Any]) -> Finished:
        """The end as the command hands it over."""
        line = last_line(self.status, self.counts())
        return Finished(self.status, line, {**more, **self.as_json()}, at_once=self.asked)


def compute(config: RunConfig, *, local: bool = False, address: str | None = None, gpus: Share = None) -> Ended:
    """The end of a run that computes what is missing, with a progress display, until it is done or asked to stop."""
    refuse_passing(config.store_location())
    with Progress() as progress, StopRequest(lambda: _last_words(config, progress)) as stop:
        try:
            report = _executor(local, address, gpus, progress, stop)(config)
        except KeyboardInterrupt:
            return Ended(config, _reached(progress), "it was asked to stop", asked=True)
        except (Exception, SystemExit) as error:
            if _refused(error, progress):
                raise
            return Ended(config, _reached(progress), reason_of(error, ("run",)))
    asked = stop.asked and report.stopped
    return Ended(config, report, "it was asked to stop" if asked else "", asked=asked)


def _refused(error: BaseException, progress: Progress) -> bool:
    """Whether an error came before any compute, for a reason that the one who gave the command has to see to."""
    begun = progress.opened is not None and progress.opened.computed + progress.opened.failed > 0
    return not begun and not isinstance(error, OSError) and ending_of(error).status == REFUSED


def _executor(
    local: bool, address: str | None, gpus: Share, progress: Progress, stop: StopRequest
) -> Callable[[RunConfig], Any]:
    progress.busy("reading checkpoints and stimuli")
    if local:

        def compute(config: RunConfig) -> Any:
            with Collecting() as collecting:
                return _compute_here(config, "cuda" if gpus else "cpu", progress, stop, collecting)

        if gpus:
            _check_cuda(gpus)
        keep_freed_memory()
        return compute
    from tasks.cluster import Watch, run_on_ray

    def ready() -> None:
        stop.listen()
        progress.busy("waiting for the first worker")

    def begin() -> None:
        progress.busy("starting Ray")

    watch = Watch(progress.update, progress.say, stop, begin, ready, progress.reading)
    return lambda config: run_on_ray(config, address=address, gpus=gpus, watch=watch)


def _compute_here(config: RunConfig, device: str, progress: Progress, stop: StopRequest, collecting: Collecting) -> Any:
    """The report of a run in this process."""
    from pipeline.run.driver import run_locally

    def reading(done: int, total: int) -> None:
        if done == 1:  # which has had its packages imported
            collecting.resume()
        progress.reading(done, total)

    def update(opened: Any) -> None:
        if opened.computed <= 1:  # as has the first shard
            collecting.resume()
        progress.update(opened)

    _tell_of_a_crash(config, progress)
    return run_locally(config, report=update, stop=stop, device=device, reading=reading)


def _tell_of_a_crash(config: RunConfig, progress: Progress) -> None:
    """Say what the last local run of the store was at, where its process crashed."""
    from pipeline.run.crash_note import left_behind_at

    at = left_behind_at(config.store_location())
    if at is not None:
        progress.say(
            f"the last run of this store ended without a word while it computed {at}; if this one does as well, take"
            " that checkpoint out of `path`, or leave --local out: on Ray a model that crashes is set aside alone"
        )


def _check_cuda(gpus: Share) -> None:
    import torch

    if not torch.cuda.is_available():
        raise ConfigError(
            f"--gpus {gpus} --local asks for a GPU of this machine, and torch {torch.__version__} sees none, so every"
            " shard would fail; leave --gpus out to compute on CPUs, or install a torch with CUDA and see `nvidia-smi`"
        )


def _reached(progress: Progress) -> Any:
    """The counts at the moment something interrupted the run."""
    return None if progress.opened is None else progress.opened.summary(stopped=True)


def _last_words(config: RunConfig, progress: Progress) -> None:
    conclude(last_line(STOPPED, Ended(config, _reached(progress)).counts()))

"""A process that has imported everything and computed nothing; each command runs in a child of its own, to be killed.

A command costs its own work then, and not the seconds of importing torch.
"""

import json
import os
import resource
import signal
import subprocess
import sys
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Child:
    """A command under way, and the file that holds what it prints."""

    pid: int
    log: Path

    @property
    def said(self) -> str:
        return self.log.read_text()


class Zygote:
    """Starts `gradmap` commands in processes of their own."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.count = folder, 0
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.faults.zygote"],
            cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        assert self._answer() == "ready"

    def start(self, *argv: object, **how: Any) -> Child:
        """A command under way.

        ``die_at`` kills it by SIGKILL just before it gives the nth file whose path holds ``match`` its name;
        ``file_bytes`` limits the size of the files that it writes; ``env`` adds to its environment.
        """
        self.count += 1
        log = self.folder / f"child-{self.count}.log"
        self._send({"argv": [str(word) for word in argv], "log": str(log), **how})
        return Child(int(self._answer()), log)

    def wait(self, child: Child) -> int:
        """The exit status of a command, negative where a signal ended it."""
        self._send({"wait": child.pid})
        return int(self._answer())

    def run(self, *argv: object, **how: Any) -> tuple[int, str]:
        """The exit status of a command and what it printed."""
        child = self.start(*argv, **how)
        return self.wait(child), child.said

    def kill(self, child: Child) -> int:
        os.kill(child.pid, signal.SIGKILL)
        return self.wait(child)

    def close(self) -> None:
        self.process.stdin.close()
        self.process.wait(timeout=300)
        self.process.stdout.close()

    def _send(self, order: dict[str, Any]) -> None:
        self.process.stdin.write(json.dumps(order) + "\n")
        self.process.stdin.flush()

    def _answer(self) -> str:
        line = self.process.stdout.readline()
        assert line, "the zygote died"
        return line.strip()


def serve() -> None:
    """Obey orders, one JSON object a line."""
    import_everything()
    print("ready", flush=True)
    while line := sys.stdin.readline():
        order = json.loads(line)
        if "wait" in order:
            print(os.waitstatus_to_exitcode(os.waitpid(order["wait"], 0)[1]), flush=True)
            continue
        pid = os.fork()
        if pid == 0:
            obey(order)
        print(pid, flush=True)


#: What a command imports on its way, some of it late.
MODULES = (
    "dask.array",
    "sympy",
    "torch._functorch.eager_transforms",
    "torch._functorch.vmap",
    "torch._vmap_internals",
    "xarray",
    "pipeline.inputs.checkpoints",
    "pipeline.run",
    "pipeline.store",
    "tasks.cli",
    "tasks.commands.run",
    "tests.faults.lab",
)


def import_everything() -> None:
    for name in MODULES:
        import_module(name)
    sys.modules["xarray"].DataArray([0.0])  # looks which kinds of arrays are installed


def obey(order: dict[str, Any]) -> None:
    """Run one command in this process, and end it."""
    from tasks.cli import main

    status = 1
    try:
        log = os.open(order["log"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(log, 1)
        os.dup2(log, 2)
        os.environ.update(order.get("env", {}))
        if order.get("die_at") is not None:
            die_at(order["die_at"], order.get("match", ""))
        if order.get("file_bytes") is not None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (order["file_bytes"], order["file_bytes"]))
        status = main(order["argv"])
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else 1
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def die_at(number: int, match: str) -> None:
    """Kill this process at the moment at which the nth file would get its name: its bytes are written, it is not."""
    left = number

    def watch(event: str, arguments: tuple[Any, ...]) -> None:
        nonlocal left
        if event == "os.rename" and match in str(arguments[1]):
            left -= 1
            if left == 0:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(watch)


if __name__ == "__main__":
    serve()

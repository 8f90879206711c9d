"""A Ray to compute on: one of the command's own, started and stopped by it, or a cluster that is already there."""

import importlib.util
import logging
import os
import secrets
import shutil
import socket
import sys
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pipeline.plan.config import ConfigError
from pipeline.text import of_error, printable
from tasks.importing import searched_first, standing_in

#: Plans and reports are all that passes through the object store; Ray takes no less than this.
OBJECT_STORE_BYTES = 80 * 2**20

#: Times that a Ray of our own is started before a machine counts as too busy for one.
STARTS = 4

#: Messages that are not passed on: what happened to a worker stands in our own report, in fewer words. Ray reads this
#: when it is imported.
_SKIPPED_MESSAGES = {"RAY_DEDUP_LOGS_SKIP_REGEX": "A worker died or was killed while executing a task"}

#: Environment in which a Ray of the command's own runs, besides the token. The fourth has every server of it, metrics
#: among them, listen on loopback alone, as Ray does by default on a laptop; on Linux it would take all interfaces.
_QUIET = {
    **_SKIPPED_MESSAGES,
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_enable_metrics_collection": "0",
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_AUTH_TOKEN_PATH": None,
    "RAY_ADDRESS": None,
}


#: What Ray takes where nothing is said: loopback on systems where several machines are not one cluster.
_ON_THIS_SYSTEM = "0" if sys.platform in ("darwin", "win32") else "1"


@contextmanager
def local_ray(num_cpus: int | None = None, *, plan_bytes: int = 0, beside: str = ".") -> Iterator[None]:
    """A Ray on this machine that nobody without its random token can join; stopped when the context ends.

    The home folder is not touched: the token lives in the environment for as long as the context, and what Ray writes
    lies in a temporary folder that is removed afterwards. Where the process is connected to a Ray already, that one is
    used and left running.

    Parameters
    ----------
    num_cpus
        Number of tasks at a time; what the machine or its container has by default.
    plan_bytes
        Size of what is put into the object store, which holds at least that.
    beside
        The config's folder, where workers look for modules last.
    """
    if _connected():
        yield
        return
    folder = tempfile.mkdtemp(prefix=f"gradmap-{os.getpid()}-", dir=_short_temporary_folder())
    settings = {**_QUIET, "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
    settings["PYTHONPATH"] = searched_first([os.getcwd(), beside])
    try:
        with _environment(settings):
            import ray

            try:
                _start(folder, num_cpus, max(OBJECT_STORE_BYTES, 4 * plan_bytes))
                yield
            except SystemExit as exit_request:
                # While it starts, Ray answers SIGTERM itself, by leaving the interpreter.
                raise KeyboardInterrupt from exit_request
            finally:
                ray.shutdown()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _start(folder: str, num_cpus: int | None, object_store_bytes: int) -> None:
    """Start a Ray in that folder; again where a busy machine did not let it come up within Ray's own half minute."""
    import ray
    from ray.exceptions import RayError

    for left in reversed(range(STARTS)):
        try:
            with standing_in(folder):
                ray.init(
                    address="local",
                    num_cpus=num_cpus,
                    include_dashboard=False,
                    log_to_driver=False,
                    logging_level=logging.ERROR,
                    object_store_memory=object_store_bytes,
                    _temp_dir=folder,
                )
            return
        except (OSError, RuntimeError, ValueError, RayError) as error:
            raise ConfigError(
                f"a Ray of our own could not be started on this machine ({of_error(error, 200)}), so no worker can"
                " compute anything; see that memory, disk space below the temporary folder and processes are free, or"
                " compute in this process with --local"
            ) from error
        except Exception as error:  # Ray has no class of its own for a start that takes too long
            ray.shutdown()
            if not left or "timed out during startup" not in str(error):
                raise


@contextmanager
def attached_ray(address: str, modules: Iterable[str] = (), folder: str = ".") -> Iterator[None]:
    """The cluster at an address, left running when the context ends.

    Parameters
    ----------
    address
        ``host:port`` of the head, or ``"auto"`` on one of its machines.
    modules
        Names of modules, besides this package, that the config names: those that lie in the current folder or the
        config's are sent along. Inside a job nothing is sent, since the job brought its working folder.
    folder
        The config's.

    Raises
    ------
    ConfigError
        If the cluster cannot be reached, with what is missing.
    """
    if _connected():
        yield
        return
    _check_reachable(address)
    for name, value in _SKIPPED_MESSAGES.items():
        os.environ.setdefault(name, value)
    import ray
    from ray.exceptions import AuthenticationError

    environment: dict[str, Any] = {} if in_job() else {"runtime_env": {"py_modules": _folders_to_send(modules, folder)}}
    try:
        with tempfile.TemporaryDirectory(prefix="gradmap-") as empty, standing_in(empty):
            ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR, **environment)
    except SystemExit as exit_request:
        raise KeyboardInterrupt from exit_request
    except (ConnectionError, RuntimeError, ValueError, AuthenticationError) as error:
        ray.shutdown()
        raise ConfigError(_unreachable(address, error)) from error
    try:
        yield
    finally:
        ray.shutdown()


def _connected() -> bool:
    """Whether this process uses a Ray already; asked without importing it."""
    return "ray" in sys.modules and sys.modules["ray"].is_initialized()


def in_job() -> bool:
    """Whether this process is the entry point of a job that was submitted to a cluster."""
    return "RAY_JOB_CONFIG_JSON_ENV_VAR" in os.environ


def cluster_address(address: str | None) -> str | None:
    """The cluster that is meant: the one given, else the one whose job this is, else None for a Ray of our own.

    Raises `ConfigError` if it is a URL: that of Ray's dashboard, which takes jobs, or of its client.
    """
    meant = address or os.environ.get("RAY_ADDRESS") or None
    if meant is None or "://" not in meant:
        return meant
    said = "--address" if address else "RAY_ADDRESS in the environment"
    scheme, _, rest = printable(meant, 200).partition("://")
    shown = f"{scheme}://{rest.rpartition('@')[2]}"
    use = "takes jobs" if scheme.startswith("http") else "is for Ray's client, over which reports cannot be streamed"
    raise ConfigError(
        f"{said} is {shown}, which {use}, so no shard can be computed over it; give host:port of the head on one of the"
        " cluster's machines, submit the command there (`ray job submit --working-dir . -- python -m tasks run"
        " CONFIG`), or take it away for a Ray of this machine's own"
    )


def _check_reachable(address: str) -> None:
    """Refuse an address at which nobody answers; Ray itself would try it for most of a minute."""
    host, _, port = address.rpartition(":")
    if not host or not port.isdigit():
        return
    try:
        socket.create_connection((host, int(port)), timeout=5.0).close()
    except OSError as error:
        raise ConfigError(_unreachable(address, error)) from error


def head_address() -> str:
    """Where the head of the cluster that this process uses is."""
    import ray

    return str(ray.get_runtime_context().gcs_address)


def head_answers() -> bool:
    """Whether the head can be reached. Asking Ray anything of a head that is gone takes a minute, this does not."""
    host, _, port = head_address().rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=2.0).close()
    except (OSError, ValueError):
        return False
    return True


def _unreachable(address: str, error: Exception) -> str:
    mode = os.environ.get("RAY_AUTH_MODE")
    first_line = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    if mode is None:
        advice = (
            "RAY_AUTH_MODE is not set: a cluster with tokens needs RAY_AUTH_MODE=token and its RAY_AUTH_TOKEN (or"
            " RAY_AUTH_TOKEN_PATH) in the environment, one without needs RAY_AUTH_MODE=disabled"
        )
    elif mode.lower() == "token" and not (os.environ.get("RAY_AUTH_TOKEN") or os.environ.get("RAY_AUTH_TOKEN_PATH")):
        advice = "RAY_AUTH_MODE=token is set without RAY_AUTH_TOKEN or RAY_AUTH_TOKEN_PATH; set one of them"
    else:
        advice = (
            f"RAY_AUTH_MODE={mode} is set; see that it is the cluster's mode (and token), and that a Ray node runs on"
            " this machine, which `ray job submit` does not need"
        )
    return f"the Ray cluster at {address} cannot be used ({first_line}), so nothing can be computed there. {advice}"


def _folders_to_send(modules: Iterable[str], folder: str) -> list[str]:
    """Folders and files that make this package, and the config's own modules, importable on the workers."""
    near = [Path.cwd().resolve(), Path(folder).resolve()]
    found = {name: Path(__file__).resolve().parents[1] / name for name in ("pipeline", "tasks")}
    for name in sorted({module.partition(".")[0] for module in modules} - set(found)):
        spec = importlib.util.find_spec(name)
        if spec is None or spec.origin is None:
            continue
        origin = Path(spec.origin).resolve()
        inside = any(map(origin.is_relative_to, near)) and not origin.is_relative_to(Path(sys.prefix).resolve())
        if inside:
            found[name] = origin.parent if origin.name == "__init__.py" else origin
    return [str(path) for path in found.values()]


def _short_temporary_folder() -> str | None:
    """Where Ray's sockets may lie: their paths must stay below 107 characters, which long TMPDIRs do not leave."""
    default = tempfile.gettempdir()
    return default if len(default) <= 16 or not os.path.isdir("/tmp") else "/tmp"


@contextmanager
def _environment(settings: Mapping[str, str | None]) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in settings}
    _set(settings)
    try:
        yield
    finally:
        _set(before)


def _set(settings: Mapping[str, str | None]) -> None:
    for name, value in settings.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value
    from ray._private import ray_constants
    from ray._raylet import AuthenticationTokenLoader, Config  # type: ignore[attr-defined]

    # Ray reads which addresses it takes and the mode when it is imported, and the token once, and keeps them; a driver
    # with others than the processes it starts waits for them in vain.
    ray_constants.ENABLE_RAY_CLUSTER = os.environ.get("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", _ON_THIS_SYSTEM) != "0"
    Config.initialize("")
    AuthenticationTokenLoader.instance().reset_cache()

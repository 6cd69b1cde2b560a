"""Runs on a Ray cluster: one task each, resumed from its last checkpoint if its node dies."""

import socket
from collections.abc import Callable, Iterator, Sequence
from contextlib import chdir, contextmanager
from pathlib import Path

from normlab.errors import DivergedError, NormlabError, UsageError, one_line
from normlab.study.job import Job, run_job, with_advice
from normlab.study.local import INTERVAL, Outcome, Progress

RETRIES = 3


@contextmanager
def on_ray(
    address: str, *, cores: int, gpus: float = 0
) -> Iterator[Callable[[Sequence[Job]], Iterator[Progress]]]:
    """A function like `local.run_jobs` whose runs are tasks of a Ray cluster.

    Args:
        address: `local` starts a cluster on this machine; else the address of one, as in
            `ray.init`.
        cores: Cores of a cluster started here. Ray would take all cores of the machine, even if
            this process may use only some of them.
        gpus: GPUs that a run needs, or the share of one, beside a core.

    Raises:
        UsageError: Ray is not installed, no cluster answers, or the cluster lacks the GPU that runs
            need.
    """
    try:
        import ray
    except ImportError:
        raise UsageError("Ray is not installed: pip install 'normlab[ray]'") from None
    connects = not ray.is_initialized()
    if connects:
        try:
            _reach(address)
            # Ray has workers search the working folder of this call first, before a task is called,
            # and a stranger may have filled it. Only root can write into the root folder.
            with chdir("/"):
                ray.init(
                    address=address,
                    num_cpus=cores if address == "local" else None,
                    include_dashboard=False,
                    log_to_driver=False,
                    configure_logging=False,
                )
        except (OSError, RuntimeError, ValueError, ray.exceptions.RayError) as error:
            raise UsageError(
                f"no Ray cluster can be reached at {address}: {one_line(error)}"
            ) from None
    # One process per run, so that its peak memory is its own.
    options = {"num_cpus": 1, "num_gpus": gpus, "max_retries": RETRIES, "max_calls": 1}
    task = ray.remote(**options)(_without(str(Path.cwd())))

    def execute(jobs: Sequence[Job]) -> Iterator[Progress]:
        before = {job: _written(job) for job in jobs}
        waiting = {task.remote(job.to_json()): job for job in jobs}
        try:
            while waiting:
                ready, _ = ray.wait(list(waiting), timeout=INTERVAL)
                ended = {}
                for reference in ready:
                    job = waiting.pop(reference)
                    try:
                        ended[job] = Outcome(*ray.get(reference))
                    except ray.exceptions.RayError as error:
                        ended[job] = Outcome(f"Ray gave up on it: {one_line(error)}")
                started = (w for w in waiting.values() if _written(w) != before[w])
                yield Progress(tuple(started), ended)
        finally:
            for reference in waiting:
                ray.cancel(reference)  # it stops after its step, to be resumed
            if waiting:
                ray.wait(list(waiting), num_returns=len(waiting), timeout=30)

    try:
        if gpus and not ray.cluster_resources().get("GPU"):  # tasks would wait silently
            raise UsageError(
                f"the Ray cluster at {address} has no GPU: start a node with one, or use the CPU"
            )
        yield execute
    finally:
        if connects:
            ray.shutdown()


def _reach(address: str) -> None:
    """Checks whether a server answers at HOST:PORT; Ray itself would try for minutes."""
    host, colon, port = address.removeprefix("ray://").rpartition(":")
    if not colon and address not in ("local", "auto"):
        raise ValueError("expected HOST:PORT; for this machine's cores put --ray last")
    if colon:
        socket.create_connection((host, int(port)), timeout=10).close()


def _written(job: Job) -> int | None:
    """When a run's configuration was written: each start and each resume writes it."""
    try:
        return (job.out / "config.json").stat().st_mtime_ns
    except FileNotFoundError:
        return None


def _without(folder: str) -> Callable[[str], tuple[str, bool]]:
    """The task of a run, which Python looks for in other folders than the working folder.

    A program that called `ray.init` itself has workers search its working folder first, and a
    stranger may have filled it. A function within a function is sent as it is: nothing is imported
    before it is called.
    """

    def task(text: str) -> tuple[str, bool]:
        import os
        import sys

        sys.path[:] = [entry for entry in sys.path if entry != folder]
        if os.path.isdir(folder):  # noqa: PTH112 — pathlib may lie there
            os.chdir(folder)  # a custom normalization is looked for there, last
        from normlab.study.cluster import _run_job

        return _run_job(text)

    return task


def _run_job(text: str) -> tuple[str, bool]:
    """The fields of an `Outcome`. Only Ray's own errors are raised."""
    try:
        run_job(Job.from_json(text))
    except NormlabError as error:
        return with_advice(error), isinstance(error, DivergedError)
    return "", False

"""Runs on a Ray cluster: a task for each, tried again from its last checkpoint if its node dies."""

import socket
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from normlab.errors import DivergedError, NormlabError, UsageError
from normlab.study.job import Job, in_a_line, run_job
from normlab.study.local import INTERVAL, Outcome, Progress

RETRIES = 3


@contextmanager
def on_ray(
    address: str, *, cores: int, gpus: float = 0
) -> Iterator[Callable[[Sequence[Job]], Iterator[Progress]]]:
    """A function like `local.run_jobs` whose runs are tasks of a Ray cluster, while it is needed.

    Args:
        address: `local` to start one on this machine, else where one is, as `ray.init` takes it.
        cores: That a cluster started here has: Ray would take all of the machine's, also where this
            process may use some of them alone.
        gpus: That a run needs, or which part of one, beside a core.

    Raises:
        UsageError: Ray is not installed, no cluster answers there, or it has no GPU where runs need
            one.
    """
    try:
        import ray
    except ImportError:
        raise UsageError("Ray is not installed: pip install 'normlab[ray]'") from None
    connects = not ray.is_initialized()
    if connects:
        try:
            _reach(address)
            ray.init(
                address=address,
                num_cpus=cores if address == "local" else None,
                include_dashboard=False,
                log_to_driver=False,
                configure_logging=False,
            )
        except (OSError, RuntimeError, ValueError, ray.exceptions.RayError) as error:
            said = " ".join(str(error).split())
            raise UsageError(f"no Ray cluster can be had at {address}: {said}") from None
    # A process for each run, so that its memory is its own.
    options = {"num_cpus": 1, "num_gpus": gpus, "max_retries": RETRIES, "max_calls": 1}
    task = ray.remote(**options)(_run_job)

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
                        ended[job] = Outcome(f"Ray gave it up: {' '.join(str(error).split())}")
                started = (w for w in waiting.values() if _written(w) != before[w])
                yield Progress(tuple(started), ended)
        finally:
            for reference in waiting:
                ray.cancel(reference)  # it stops after its step, to be resumed
            if waiting:
                ray.wait(list(waiting), num_returns=len(waiting), timeout=30)

    try:
        if gpus and not ray.cluster_resources().get("GPU"):  # tasks would wait without a word
            raise UsageError(
                f"the Ray cluster at {address} has no GPU: start a node with one, or use the CPU"
            )
        yield execute
    finally:
        if connects:
            ray.shutdown()


def _reach(address: str) -> None:
    """Asks whether somebody answers at HOST:PORT, for Ray itself would ask for minutes."""
    host, colon, port = address.removeprefix("ray://").rpartition(":")
    if not colon and address not in ("local", "auto"):
        raise ValueError("expected HOST:PORT; for this machine's cores put --ray last")
    if colon:
        socket.create_connection((host, int(port)), timeout=10).close()


def _written(job: Job) -> int | None:
    """When a run's configuration was written, which it is when the run begins or goes on."""
    try:
        return (job.out / "config.json").stat().st_mtime_ns
    except FileNotFoundError:
        return None


def _run_job(text: str) -> tuple[str, bool]:
    """What `Outcome` is made of; errors of Ray's own are what is left to be raised."""
    try:
        run_job(Job.from_json(text))
    except NormlabError as error:
        return in_a_line(error), isinstance(error, DivergedError)
    return "", False

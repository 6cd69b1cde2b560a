"""A study on Ray: on a real cluster of two nodes on this machine, one of which dies."""

import dataclasses
import fcntl
import os
import time
from contextlib import contextmanager

import pytest

from holding import held, holding, release
from normlab.config import RunConfig, StudyConfig
from normlab.errors import UsageError
from normlab.study import cluster as on_cluster
from normlab.study import local
from normlab.study.compare import compare
from normlab.study.job import Job
from small_study import CONFIG, content, run_here

# With the default, 15, workers starve on a busy machine.
os.environ["RAY_worker_niceness"] = "0"  # noqa: SIM112
ray = pytest.importorskip("ray")
cluster_utils = pytest.importorskip("ray.cluster_utils")


LONGER = dataclasses.replace(CONFIG, epochs=3)  # a node dies in the middle of a run


@pytest.fixture(scope="module", autouse=True)
def alone(tmp_path_factory):
    """One cluster at a time on this machine: the suite's other workers wait."""
    with (tmp_path_factory.getbasetemp().parent / "cluster.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


@pytest.fixture
def hold(tmp_path, monkeypatch):
    """The cluster's runs wait while they write the checkpoint of their second epoch."""
    folder = tmp_path / "hold"
    environment = holding(folder, before="checkpoint-before.pt", turn=2, stdin=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    return folder


@pytest.fixture
def cluster():
    """A cluster of one node with one core."""
    head = {"num_cpus": 1, "wait": False}
    nodes = cluster_utils.Cluster(initialize_head=True, head_node_args=head)
    nodes.wait_for_nodes(timeout=600)
    yield nodes
    nodes.shutdown()


@pytest.fixture(scope="module")
def here(tmp_path_factory):
    """The same study, run in this process."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(local, "run_jobs", run_here)
        return compare(LONGER, tmp_path_factory.mktemp("here") / "study", quiet=True)


def lines(run):
    """The lines of a run's metrics.jsonl."""
    metrics = run / "metrics.jsonl"
    return metrics.read_text().splitlines() if metrics.exists() else []


@pytest.mark.slow(25)
def test_a_study_survives_the_death_of_a_node_with_the_same_numbers(
    hold, cluster, here, tmp_path, monkeypatch
):
    second = cluster.add_node(num_cpus=1, wait=False)
    cluster.wait_for_nodes(timeout=600)
    killed, first = [], {}
    on_ray = on_cluster.on_ray

    @contextmanager
    def on_ray_with_a_kill(address, **resources):
        """Kills the second node while two runs are held, one of them on that node."""
        with on_ray(address, **resources) as execute:

            def watched(jobs):
                for progress in execute(jobs):
                    if len(held(hold)) == 2 and not killed:
                        first.update({j.out: lines(j.out)[0] for j in jobs if lines(j.out)})
                        assert len(first) == 2
                        cluster.remove_node(second, allow_graceful=False)
                        killed.append(second)
                        release(hold)
                    yield progress
                end = time.monotonic() + 600
                while len([node for node in ray.nodes() if node["Alive"]]) > 1:
                    assert time.monotonic() < end
                    time.sleep(0.5)

            yield watched

    monkeypatch.setattr(on_cluster, "on_ray", on_ray_with_a_kill)
    study = compare(LONGER, tmp_path / "study", quiet=True, ray=cluster.address)
    assert killed
    for folder, line in first.items():  # seconds included: the epoch was not trained again
        assert lines(folder)[0] == line
    assert not ray.is_initialized()
    assert [result.state for result in study.results] == ["done"] * 4
    assert content(study.path) == content(here.path)


@pytest.mark.slow(5)
def test_a_failed_run_does_not_stop_the_others(cluster, tmp_path):
    config = dataclasses.replace(CONFIG, norms=("none", "ln"), seeds=1, learning_rate=1e6)
    study = compare(config, tmp_path / "study", quiet=True, ray=cluster.address)
    states = {result.arm: result for result in study.results}
    assert states["none"].state == "failed"
    assert "at learning rate" in states["none"].problem


@pytest.mark.slow(5)
def test_a_cluster_started_here_has_the_given_number_of_cores(tmp_path):
    job = Job(config=RunConfig(network=CONFIG.network), out=tmp_path, data=tmp_path / "none")
    (tmp_path / "config.json").touch()  # from an earlier start: the run has not started again
    with on_cluster.on_ray("local", cores=1) as execute:
        assert ray.cluster_resources()["CPU"] == 1
        reports = list(execute([job]))
    assert not any(progress.running for progress in reports)
    assert "none holds no data set" in reports[-1].ended[job].problem
    assert not ray.is_initialized()


def test_a_cluster_without_a_gpu_is_refused_if_runs_need_one(cluster):
    with (
        pytest.raises(UsageError, match=r"^the Ray cluster at [\d.]+:\d+ has no GPU: "),
        on_cluster.on_ray(cluster.address, cores=1, gpus=0.5),
    ):
        pass
    assert not ray.is_initialized()


def test_an_address_without_a_cluster_is_refused_in_one_line(tmp_path):
    config = StudyConfig(network="C:4 GAP FC", dataset="digits", recipe="demo")
    with pytest.raises(UsageError, match=r"^no Ray cluster can be reached at localhost:1: [^\n]*$"):
        compare(config, tmp_path / "study", quiet=True, ray="localhost:1")
    with pytest.raises(UsageError, match=r"at micro: expected HOST:PORT; .* put --ray last$"):
        compare(config, tmp_path / "study", quiet=True, ray="micro")


def test_a_job_survives_json(tmp_path):
    config = RunConfig(
        network="C:4 GAP FC", train_images=5, label_noise=0.5, augment=("shift",), activation="silu"
    )
    job = Job(config=config, out=tmp_path / "a b", data=tmp_path)
    assert Job.from_json(job.to_json()) == job
    assert "\n" not in job.to_json()

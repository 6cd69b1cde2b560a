"""The same study on Ray: on a real cluster of two nodes on this machine, one of which dies."""

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

os.environ["RAY_worker_niceness"] = "0"  # noqa: SIM112 — with its 15 a busy machine starves them
ray = pytest.importorskip("ray")
cluster_utils = pytest.importorskip("ray.cluster_utils")


LONGER = dataclasses.replace(CONFIG, epochs=3)  # so that a node dies in the middle of a run


@pytest.fixture(scope="module", autouse=True)
def alone(tmp_path_factory):
    """One cluster at a time on this machine: the suite's other workers wait for this one's end."""
    with (tmp_path_factory.getbasetemp().parent / "cluster.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


@pytest.fixture
def hold(tmp_path, monkeypatch):
    """Runs of the cluster wait after their second epoch, one of which has its checkpoint."""
    folder = tmp_path / "hold"
    environment = holding(folder, before="checkpoint-before.pt", turn=2, stdin=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    return folder


@pytest.fixture
def cluster():
    """A node with a core."""
    head = {"num_cpus": 1, "wait": False}
    nodes = cluster_utils.Cluster(initialize_head=True, head_node_args=head)
    nodes.wait_for_nodes(timeout=600)
    yield nodes
    nodes.shutdown()


@pytest.fixture(scope="module")
def here(tmp_path_factory):
    """The study in this process."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(local, "run_jobs", run_here)
        return compare(LONGER, tmp_path_factory.mktemp("here") / "study", quiet=True)


def lines(run):
    """Of the metrics of a run's folder."""
    metrics = run / "metrics.jsonl"
    return metrics.read_text().splitlines() if metrics.exists() else []


@pytest.mark.slow(25)
def test_a_study_gives_the_same_numbers_and_survives_the_death_of_a_node(
    hold, cluster, here, tmp_path, monkeypatch
):
    second = cluster.add_node(num_cpus=1, wait=False)
    cluster.wait_for_nodes(timeout=600)
    killed, first = [], {}
    on_ray = on_cluster.on_ray

    @contextmanager
    def and_kill(address, **resources):
        """Kills the second node while two runs, one of them its own, are held."""
        with on_ray(address, **resources) as carry:

            def watched(works):
                for look in carry(works):
                    if len(held(hold)) == 2 and not killed:
                        first.update({w.out: lines(w.out)[0] for w in works if lines(w.out)})
                        assert len(first) == 2
                        cluster.remove_node(second, allow_graceful=False)
                        killed.append(second)
                        release(hold)
                    yield look
                end = time.monotonic() + 600
                while len([node for node in ray.nodes() if node["Alive"]]) > 1:
                    assert time.monotonic() < end
                    time.sleep(0.5)

            yield watched

    monkeypatch.setattr(on_cluster, "on_ray", and_kill)
    study = compare(LONGER, tmp_path / "study", quiet=True, ray=cluster.address)
    assert killed
    for folder, line in first.items():  # with the seconds that it took: it was not trained again
        assert lines(folder)[0] == line
    assert not ray.is_initialized()
    assert [result.state for result in study.results] == ["done"] * 4
    assert content(study.path) == content(here.path)


@pytest.mark.slow(25)
def test_a_run_that_fails_fails_alone(cluster, tmp_path):
    config = dataclasses.replace(CONFIG, norms=("none", "ln"), seeds=1, learning_rate=1e6)
    study = compare(config, tmp_path / "study", quiet=True, ray=cluster.address)
    states = {result.arm: result for result in study.results}
    assert states["none"].state == "failed"
    assert "at learning rate" in states["none"].problem


@pytest.mark.slow(25)
def test_a_cluster_started_here_has_the_cores_it_is_given(tmp_path):
    work = Job(config=RunConfig(network=CONFIG.network), out=tmp_path, data=tmp_path / "none")
    (tmp_path / "config.json").touch()  # of a run that was stopped, not of one that has begun
    with on_cluster.on_ray("local", cores=1) as carry:
        assert ray.cluster_resources()["CPU"] == 1
        looks = list(carry([work]))
    assert not any(look.running for look in looks)
    assert "none holds no data set" in looks[-1].ended[work].problem
    assert not ray.is_initialized()


@pytest.mark.slow(25)
def test_a_cluster_without_a_gpu_is_refused_where_runs_need_one():
    with (
        pytest.raises(UsageError, match=r"^the Ray cluster at local has no GPU: "),
        on_cluster.on_ray("local", cores=1, gpus=0.5),
    ):
        pass
    assert not ray.is_initialized()


def test_no_cluster_at_an_address_is_one_line(tmp_path):
    config = StudyConfig(network="C:4 GAP FC", dataset="digits", recipe="demo")
    with pytest.raises(UsageError, match=r"^no Ray cluster can be reached at nowhere:1: [^\n]*$"):
        compare(config, tmp_path / "study", quiet=True, ray="nowhere:1")
    with pytest.raises(UsageError, match=r"at micro: expected HOST:PORT; .* put --ray last$"):
        compare(config, tmp_path / "study", quiet=True, ray="micro")


def test_a_work_goes_through_json(tmp_path):
    config = RunConfig(network="C:4 GAP FC", train_images=5, label_noise=0.5)
    work = Job(config=config, out=tmp_path / "a b", data=tmp_path)
    assert Job.from_json(work.to_json()) == work
    assert "\n" not in work.to_json()

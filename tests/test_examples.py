import runpy
from pathlib import Path

from normlab import RunConfig
from normlab.norms import registry
from normlab.training import train

EXAMPLES = Path(__file__).parent.parent / "examples"


def test_ones_own_normalization_trains_under_its_name(tmp_path, monkeypatch):
    monkeypatch.setattr(registry, "REGISTRY", dict(registry.REGISTRY))
    runpy.run_path(str(EXAMPLES / "own_normalization.py"))
    config = RunConfig(
        network="C:6 P C:8/l1 GAP FC", norm="l1", dataset="digits", recipe="demo", epochs=2
    )
    run = train(config, tmp_path / "run", quiet=True)
    assert run.last.train_loss < run.epochs[0].train_loss
    assert run.summary.rows[0].normalization == "l1"
    assert run.summary.rows[0].parameters == 27 * 6 + 2 * 6

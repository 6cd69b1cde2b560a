"""normlab: tiny image classifiers under a parameter budget, and which normalization suits them.

import normlab

config = normlab.RunConfig(network="seed-bn", dataset="digits", recipe="demo")
run = normlab.train(config, out="runs/first")
normlab.plots.curves([run])
normlab.write_report([run])
"""

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from normlab import analysis, augment, data, layout, norms, plots, statistics
    from normlab.classifier import Classifier
    from normlab.config import DataConfig, Execution, RunConfig, StudyConfig
    from normlab.data.describe import describe
    from normlab.errors import NormlabError
    from normlab.evaluation import Evaluation, evaluate
    from normlab.explanation import Explanation, explain
    from normlab.export.write import Exported, export_run
    from normlab.model import Network
    from normlab.norms import register
    from normlab.prediction import Prediction, Trained, load
    from normlab.recipes import RECIPES, Recipe
    from normlab.report.data_page import write_data_page
    from normlab.report.page import runs_table
    from normlab.report.study_page import write_study_report
    from normlab.report.write import write_report
    from normlab.run import Run
    from normlab.study.compare import compare
    from normlab.study.record import Study
    from normlab.summary import Summary, summarize
    from normlab.training import resume, train
    from normlab.zoo import ZOO

# Where each public name is defined. It is imported when it is first used: torch and its like take
# seconds, and `normlab --help` needs none of them.
_HOME = {
    "Classifier": "classifier",
    "DataConfig": "config",
    "Execution": "config",
    "RunConfig": "config",
    "StudyConfig": "config",
    "describe": "data.describe",
    "NormlabError": "errors",
    "Evaluation": "evaluation",
    "evaluate": "evaluation",
    "Explanation": "explanation",
    "explain": "explanation",
    "Exported": "export.write",
    "export_run": "export.write",
    "Network": "model",
    "Summary": "summary",
    "summarize": "summary",
    "register": "norms",
    "Prediction": "prediction",
    "Trained": "prediction",
    "load": "prediction",
    "RECIPES": "recipes",
    "Recipe": "recipes",
    "write_data_page": "report.data_page",
    "write_report": "report.write",
    "Run": "run",
    "Study": "study.record",
    "compare": "study.compare",
    "write_study_report": "report.study_page",
    "runs_table": "report.page",
    "resume": "training",
    "train": "training",
    "ZOO": "zoo",
}
_MODULES = ("analysis", "augment", "data", "layout", "norms", "plots", "statistics")

__all__ = [
    "RECIPES",
    "ZOO",
    "Classifier",
    "DataConfig",
    "Evaluation",
    "Execution",
    "Explanation",
    "Exported",
    "Network",
    "NormlabError",
    "Prediction",
    "Recipe",
    "Run",
    "RunConfig",
    "Study",
    "StudyConfig",
    "Summary",
    "Trained",
    "analysis",
    "augment",
    "compare",
    "data",
    "describe",
    "evaluate",
    "explain",
    "export_run",
    "layout",
    "load",
    "norms",
    "plots",
    "register",
    "resume",
    "runs_table",
    "statistics",
    "summarize",
    "train",
    "write_data_page",
    "write_report",
    "write_study_report",
]


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(importlib.import_module(f"normlab.{_HOME[name]}"), name)
    if name in _MODULES:
        return importlib.import_module(f"normlab.{name}")
    raise AttributeError(f"module 'normlab' has no attribute {name!r}")


def __dir__() -> list[str]:
    return [*__all__, "__version__"]

"""normlab: tiny image classifiers under a parameter budget, and which normalization suits them.

import normlab

config = normlab.RunConfig(network="seed-bn", dataset="digits", recipe="demo")
run = normlab.train(config, out="runs/first")
normlab.plots.curves([run])
normlab.write_report([run])
"""

import importlib
from typing import TYPE_CHECKING, Any

from normlab.version import __version__ as __version__

if TYPE_CHECKING:
    from normlab import data
    from normlab import notation as layout
    from normlab.classifier import Classifier
    from normlab.config import DataConfig, Execution, Limits, RunConfig, StudyConfig
    from normlab.data import augment
    from normlab.data.describe import describe
    from normlab.errors import NormlabError
    from normlab.export.browser.page import ExportedPage
    from normlab.export.exporter import Exported, export_run
    from normlab.findings import run as analysis
    from normlab.findings import statistics
    from normlab.inference.evaluate import Evaluation, evaluate
    from normlab.inference.explain import Explanation, explain
    from normlab.inference.predict import Prediction, Predictor, load
    from normlab.layers import norms
    from normlab.layers.norms import register
    from normlab.network.model import Network
    from normlab.network.replace import replace_norms
    from normlab.network.summary import Summary, summarize
    from normlab.network.zoo import ZOO
    from normlab.recipes import RECIPES, Recipe
    from normlab.report import plots
    from normlab.report.data_page import write_data_page
    from normlab.report.run_page import runs_table, write_report
    from normlab.report.study_page import write_study_report
    from normlab.runs.run import Run
    from normlab.study.compare import compare
    from normlab.study.record import Study
    from normlab.training.callbacks import Callback
    from normlab.training.loop import resume, train

# Where each public name is defined: `MODULE:NAME`, or a module. It is imported when it is first
# used: torch and its like take seconds, and `normlab --help` needs none of them.
_PUBLIC = {
    "Callback": "training.callbacks:Callback",
    "Classifier": "classifier:Classifier",
    "DataConfig": "config:DataConfig",
    "Evaluation": "inference.evaluate:Evaluation",
    "Execution": "config:Execution",
    "Explanation": "inference.explain:Explanation",
    "Exported": "export.exporter:Exported",
    "ExportedPage": "export.browser.page:ExportedPage",
    "Limits": "config:Limits",
    "Network": "network.model:Network",
    "NormlabError": "errors:NormlabError",
    "Prediction": "inference.predict:Prediction",
    "Predictor": "inference.predict:Predictor",
    "RECIPES": "recipes:RECIPES",
    "Recipe": "recipes:Recipe",
    "Run": "runs.run:Run",
    "RunConfig": "config:RunConfig",
    "Study": "study.record:Study",
    "StudyConfig": "config:StudyConfig",
    "Summary": "network.summary:Summary",
    "ZOO": "network.zoo:ZOO",
    "analysis": "findings.run",
    "augment": "data.augment",
    "compare": "study.compare:compare",
    "data": "data",
    "describe": "data.describe:describe",
    "evaluate": "inference.evaluate:evaluate",
    "explain": "inference.explain:explain",
    "export_run": "export.exporter:export_run",
    "layout": "notation",
    "load": "inference.predict:load",
    "norms": "layers.norms",
    "plots": "report.plots",
    "register": "layers.norms:register",
    "replace_norms": "network.replace:replace_norms",
    "resume": "training.loop:resume",
    "runs_table": "report.run_page:runs_table",
    "statistics": "findings.statistics",
    "summarize": "network.summary:summarize",
    "train": "training.loop:train",
    "write_data_page": "report.data_page:write_data_page",
    "write_report": "report.run_page:write_report",
    "write_study_report": "report.study_page:write_study_report",
}

__all__ = [
    "RECIPES",
    "ZOO",
    "Callback",
    "Classifier",
    "DataConfig",
    "Evaluation",
    "Execution",
    "Explanation",
    "Exported",
    "ExportedPage",
    "Limits",
    "Network",
    "NormlabError",
    "Prediction",
    "Predictor",
    "Recipe",
    "Run",
    "RunConfig",
    "Study",
    "StudyConfig",
    "Summary",
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
    "replace_norms",
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
    if name not in _PUBLIC:
        raise AttributeError(f"module 'normlab' has no attribute {name!r}")
    module, _, attribute = _PUBLIC[name].partition(":")
    imported = importlib.import_module(f"normlab.{module}")
    return getattr(imported, attribute) if attribute else imported


def __dir__() -> list[str]:
    return [*__all__, "__version__"]

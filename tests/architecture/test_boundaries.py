"""What each part of the code knows of the others, counted from the syntax trees."""

import ast

import pytest
import source_trees
from source_trees import ROOT

KANANA = sorted((ROOT / "kanana_jax").rglob("*.py"))
JOBS = sorted((ROOT / "kanana_jax" / "jobs").glob("*.py"))
CHOOSES = ROOT / "kanana_jax" / "train" / "optimizers.py"
OPTIMIZER_WORDS = {"tau", "clip", "clips", "clipped", "is_muon", "muon"}
WHOLE = {"TrainingConfig", "Config", "Sweep", "Pipeline"}
MOST_WITH_A_WHOLE_CONFIGURATION = 15


def _optimizer_names(parsed: ast.AST) -> list[str]:
    """Where a comparison looks at the name of an optimizer."""
    shown = (ast.unparse(one) for one in source_trees.compared(parsed))
    return [one for one in shown if f".{one}".endswith(".optimizer.name")]


@pytest.mark.parametrize(
    ("code", "num_found"),
    [
        ("if cfg.optimizer.name == 'adamw': pass", 1),
        ("x = optimizer.name in ('muon', 'muonclip')", 1),
        ("x = 'muon' != self.cfg.optimizer.name", 1),
        ("match cfg.optimizer.name:\n    case 'muon': pass", 1),
        ("x = TABLE[cfg.optimizer.name]", 1),
        ("report(cfg.optimizer.name)", 0),
        ("x = schedule.name == 'wsd'", 0),
    ],
)
def test_a_comparison_of_an_optimizers_name_is_found(code, num_found):
    assert len(_optimizer_names(ast.parse(code))) == num_found


def test_optimizers_are_told_apart_in_one_file():
    found = {file: _optimizer_names(source_trees.tree(file)) for file in KANANA if file != CHOOSES}
    assert {str(file): names for file, names in found.items() if names} == {}


def test_reports_know_no_optimizer():
    files = sorted((ROOT / "kanana_jax" / "report").glob("*.py"))
    found = {file.name: source_trees.words(source_trees.tree(file)) for file in files}
    assert len(files) > 10 and "sketch" in found["canvas.py"]
    knowing = {name: words & OPTIMIZER_WORDS for name, words in found.items()}
    assert {name: words for name, words in knowing.items() if words} == {}


def _defined(parsed: ast.Module) -> set[str]:
    assigned = [node for node in parsed.body if isinstance(node, ast.Assign)]
    names = {ast.unparse(target) for node in assigned for target in node.targets}
    defined = (ast.FunctionDef, ast.ClassDef)
    return names | {node.name for node in parsed.body if isinstance(node, defined)}


def test_a_job_is_short():
    jobs = [file for file in JOBS if {"run", "Config"} <= _defined(source_trees.tree(file))]
    assert {file.stem for file in jobs} >= {"pretrain", "sft", "preference"}
    lines = {file.name: len(file.read_text().splitlines()) for file in jobs}
    assert {name: number for name, number in lines.items() if number > 150} == {}


def _job_classes() -> set[str]:
    """The names of the configurations that jobs define, and of type variables for them."""
    found = set(WHOLE)
    for file in JOBS:
        for node in ast.walk(source_trees.tree(file)):
            if isinstance(node, ast.ClassDef):
                kinds = node.bases
            elif isinstance(node, ast.TypeVar):
                kinds = [node.bound] if node.bound else []
            else:
                continue
            if any("TrainingConfig" in ast.unparse(kind) for kind in kinds):
                found.add(node.name)
    return found


def _takes_a_whole_configuration(function: source_trees.Function, whole: set[str]) -> bool:
    """By the annotation of a parameter; config.DataConfig and the like are parts."""
    for one in source_trees.parameters(function):
        for node in ast.walk(one.annotation or ast.Constant(None)):
            named = (getattr(node, field, None) for field in ("attr", "id", "value"))
            texts = (name.rpartition(".")[2] for name in named if isinstance(name, str))
            if any(text in whole for text in texts):
                return True
    return False


def with_a_whole_configuration() -> list[str]:
    """The functions of kanana_jax that take all settings of a job."""
    whole = _job_classes()
    return [
        f"{file.relative_to(ROOT)}: {name}"
        for file in KANANA
        for name, function in source_trees.functions(source_trees.tree(file))
        if _takes_a_whole_configuration(function, whole)
    ]


def test_few_functions_take_all_settings_of_a_job():
    found = with_a_whole_configuration()
    assert any(one.startswith("kanana_jax/jobs/sweep.py") for one in found)
    assert "kanana_jax/jobs/initial.py: with_shape" in found
    assert len(found) <= MOST_WITH_A_WHOLE_CONFIGURATION, "\n".join(found)


def test_faults_are_made_without_replacing_our_code():
    """Processes that are killed have none of the test's patches."""
    files = sorted((ROOT / "tests" / "faults").glob("*.py"))
    assert len(files) > 5
    patching = {
        file.name: sorted(source_trees.words(source_trees.tree(file)) & {"monkeypatch", "setattr"})
        for file in files
    }
    assert {name: words for name, words in patching.items() if words} == {}


def test_names_of_test_files_differ():
    """pytest imports them by their name alone; a second of one name is not collected."""
    names = [file.name for file in (ROOT / "tests").rglob("*.py") if file.name != "conftest.py"]
    assert sorted(names) == sorted(set(names))

"""Runs an experiment: python -m kanana_jax.main --experiment=muon_stress [--set=path=value ...].

    --help                      lists the experiments and every setting with its type and range
    --experiment=NAME --help    lists its settings with their values
    --print_config              shows what would run, as JSON, and ends

An experiment of your own is named by its file, --experiment=path/to/mine.py, or as a module,
my_project.mine.
Running the same command again continues where it stopped. On several hosts every process runs it;
`kanana_jax.parallel.join` says how they find each other.

    exit code 0    done, or asked to stop by SIGTERM, SIGINT or SIGHUP and saved
              2    a setting or the data cannot be used, and nothing was written
              3    checkpoints were made and none of them can be used
              4    the disk took no results; running it again finishes it
"""

import importlib
import importlib.util
import io
import os
import re
import sys
import traceback
from pathlib import Path
from types import ModuleType
from typing import Any

from kanana_jax import config, errors, extras
from kanana_jax.config import paths

with extras.needed("train"):
    from absl import app, flags, logging

    from kanana_jax import parallel, workdir
    from kanana_jax.jobs import pretrain
    from kanana_jax.model import presets
    from kanana_jax.workdir import clock

_EXPERIMENT = flags.DEFINE_string(
    "experiment", None, "A module of experiments/, a .py file, or a dotted module name."
)
_SET = flags.DEFINE_multi_string(
    "set", [], 'path=value: overrides one setting; may be repeated. Lists: a,b or JSON, ["a,b"].'
)
_WORKDIR = flags.DEFINE_string("workdir", None, "Where results go; default runs/<experiment>.")
_PRINT_CONFIG = flags.DEFINE_bool("print_config", False, "Show what would run, and end.")

# Found by its place and not by its name: the user's project may have an experiments/ too.
_EXPERIMENTS = Path(__file__).parents[1] / "experiments"
_NO_EXPERIMENTS = ("notebooks",)


def experiment_names() -> list[str]:
    modules = [*_EXPERIMENTS.glob("[!_]*.py"), *_EXPERIMENTS.glob("*/__init__.py")]
    names = (path.parent.name if path.name == "__init__.py" else path.stem for path in modules)
    return sorted(name for name in names if name not in _NO_EXPERIMENTS)


def load_experiment(name: str | None) -> ModuleType:
    """The module: its `experiment()` gives a job's configuration, its `run` takes that.

    `name` is one of experiments/, a path that ends in .py, or a module with a dot in its name.
    ConfigError lists the names of experiments/.
    """
    module = _load(name or "")
    for function, does in (
        ("experiment", "returns the configuration"),
        ("run", "runs it: run = pretrain.run, of kanana_jax.jobs"),
    ):
        if not callable(getattr(module, function, None)):
            raise config.ConfigError(f"{name} must have a function {function}() that {does}")
    return module


def _configuration(module: ModuleType) -> Any:
    """What `experiment()` returns; raises ConfigError unless it can be a job's configuration."""
    cfg = module.experiment()
    if not all(hasattr(cfg, name) for name in ("name", "question", "edited", "listing")):
        raise config.ConfigError(
            "experiment() must return an instance of a job's configuration, got "
            f"{type(cfg).__name__}; pretrain.Config of kanana_jax.jobs is one"
        )
    return cfg


def _load(name: str) -> ModuleType:
    names = experiment_names()
    if name in names:
        return _load_ours(name)
    path = Path(name).expanduser()
    if path.suffix == ".py" and path.is_file():
        sys.path.insert(0, str(path.parent.absolute()))  # as python path/to/mine.py does
        return _import_file("__experiment__", path)
    if "." in name and path.suffix != ".py":
        sys.path.insert(0, os.getcwd())
        try:
            return importlib.import_module(name)
        except ModuleNotFoundError as error:
            if not f"{name}.".startswith(f"{error.name}."):
                raise  # a module that theirs imports
        except (TypeError, ValueError) as error:
            raise config.ConfigError(
                f"--experiment={config.shown(name)} is no module: {error}"
            ) from error
    raise config.ConfigError(
        f"--experiment must be one of {', '.join(names)}, a .py file that exists, or a module "
        f"such as my_project.mine; got {config.shown(name)}"
    )


def _load_ours(name: str) -> ModuleType:
    """A module of experiments/; a package of the user's with the same name stays as it is."""
    theirs = _take_experiments()
    try:
        _import_file("experiments", _EXPERIMENTS / "__init__.py")
        return importlib.import_module(f"experiments.{name}")
    finally:
        _take_experiments()
        sys.modules.update(theirs)


def _take_experiments() -> dict[str, ModuleType]:
    names = [name for name in sys.modules if name.partition(".")[0] == "experiments"]
    return {name: sys.modules.pop(name) for name in names}


def _import_file(name: str, path: Path) -> ModuleType:
    folders = [str(path.parent)] if path.name == "__init__.py" else None
    spec = importlib.util.spec_from_file_location(name, path, submodule_search_locations=folders)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


def help_text(name: str | None) -> str:
    """What --help prints: the experiments, or with the name of one its settings."""
    if name:
        cfg = _configuration(load_experiment(name))
        return f"{cfg.name}: {cfg.question}\n\n{cfg.listing()}\n"
    found = {one: _configuration(load_experiment(one)) for one in experiment_names()}
    width = max(map(len, found))
    experiments = "\n".join(f"  {one:{width}}  {cfg.question}" for one, cfg in found.items())
    example = pretrain.Config(name="NAME", question="QUESTION", model=presets.tiny())
    return (
        f"{__doc__}\nExperiments:\n{experiments}\n\nSettings of a training run, what they may "
        f"hold, and their defaults (of the model: the preset tiny):\n{example.listing()}\n"
    )


def main(argv: list[str]) -> None:
    logging.set_verbosity(logging.WARNING)  # Orbax logs a page per checkpoint below this
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # names that a terminal cannot show
    try:
        with errors.reported("kanana_jax"):
            _run(argv)
    except workdir.Stopped:
        sys.exit(0)
    except BrokenPipeError:  # whoever reads what is printed, such as head, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)
    except Exception:
        if not parallel.is_joined():
            raise
        # On exit, JAX would wait for the other processes, which wait for this one.
        traceback.print_exc()
        os._exit(1)


def _run(argv: list[str]) -> None:
    if argv[1:]:
        raise config.ConfigError(
            f"unexpected arguments {config.shown(argv[1:])}; settings are --set=a.b=c"
        )
    module = load_experiment(_EXPERIMENT.value)
    cfg = _configuration(module).edited(_SET.value)
    if _PRINT_CONFIG.value:
        print(config.to_json(cfg))
        return
    folder = f"runs/{cfg.name}" if _WORKDIR.value is None else _WORKDIR.value
    folder = paths.workdir(folder)
    parallel.join(os.environ)
    with clock.counting(earlier_s=clock.process_age_s()):
        module.run(cfg, folder)


def _parse(argv: list[str]) -> list[str]:
    """absl's parser, with our own --help, because absl's knows only flags."""
    if not any(one in ("--help", "-help", "-h") for one in argv):
        return app.parse_flags_with_usage(argv)
    given = re.findall(r"^--?experiment[=\n](.+)$", "\n".join(argv), re.MULTILINE)
    with errors.reported("kanana_jax"):
        print(help_text(given[-1] if given else None))
    sys.exit(0)


if __name__ == "__main__":
    app.run(main, flags_parser=_parse)

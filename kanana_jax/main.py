"""Runs an experiment: python -m kanana_jax.main --experiment=muon_stress [--set=path=value ...].

Running the same command again continues where it stopped. On several hosts every process runs it;
`kanana_jax.parallel.join` says how they find each other.

    exit code 0    done, or asked to stop by SIGTERM or SIGINT and saved
              2    a setting or the data cannot be used, and nothing was written
              3    checkpoints were made and none of them can be used
              4    the disk took no results; running it again finishes it
"""

import importlib
import os
import pkgutil
import sys
import traceback

from absl import app, flags, logging

import experiments
from kanana_jax import config, paths, train

_EXPERIMENT = flags.DEFINE_string("experiment", None, "Module of experiments/ to run.")
_SET = flags.DEFINE_multi_string(
    "set", [], 'path=value: overrides one setting; may be repeated. Lists: a,b or JSON, ["a,b"].'
)
_WORKDIR = flags.DEFINE_string("workdir", None, "Where results go; default runs/<experiment>.")


def experiment_names() -> list[str]:
    modules = pkgutil.iter_modules(experiments.__path__)
    return sorted(module.name for module in modules if not module.ispkg)


def load_experiment(name: str | None) -> config.Experiment:
    """Calls the `experiment` function of experiments/<name>.py; ConfigError lists the names."""
    names = experiment_names()
    if name not in names:
        raise config.ConfigError(
            f"--experiment must be one of {', '.join(names)}; got {config.shown(name)}"
        )
    return importlib.import_module(f"experiments.{name}").experiment()


def main(argv: list[str]) -> None:
    logging.set_verbosity(logging.WARNING)  # Orbax logs a page per checkpoint below this
    try:
        if argv[1:]:
            raise config.ConfigError(
                f"unexpected arguments {config.shown(argv[1:])}; settings are --set=a.b=c"
            )
        exp = config.edit_experiment(load_experiment(_EXPERIMENT.value), _SET.value)
        workdir = f"runs/{exp.name}" if _WORKDIR.value is None else _WORKDIR.value
        workdir = paths.workdir(workdir)
        train.join(os.environ)
        train.run(exp, workdir)
    except (
        config.ConfigError,
        train.CheckpointError,
        train.DataError,
        train.MismatchError,
    ) as error:
        print(f"kanana_jax: {error}", file=sys.stderr)
        sys.exit(2)
    except train.NoUsableCheckpointError as error:
        print(f"kanana_jax: {error}", file=sys.stderr)
        sys.exit(3)
    except train.StorageError as error:
        print(f"kanana_jax: {error}", file=sys.stderr)
        sys.exit(4)
    except train.Stopped:
        sys.exit(0)
    except Exception:
        if not train.is_joined():
            raise
        # At its exit JAX would wait for the others, which wait for this process.
        traceback.print_exc()
        os._exit(1)


if __name__ == "__main__":
    app.run(main)

"""One command for all programs: kanana-jax COMMAND [...], or python -m kanana_jax COMMAND [...].

kanana-jax --help               the commands
kanana-jax COMMAND --help       the flags of one, as python -m MODULE --help
"""

import runpy
import sys
from collections.abc import Sequence

COMMANDS = {
    "run": ("kanana_jax.main", "an experiment, from experiments/ or of your own"),
    "compare": ("kanana_jax.compare", "finished runs in one report"),
    "index": ("kanana_jax.report.index", "one page over the reports of a folder"),
    "convert": ("kanana_jax.convert", "models in and out, merges, growth and cuts"),
    "generate": ("kanana_jax.generate", "text of a model"),
    "serve": ("kanana_jax.generate.serve", "a model over OpenAI's HTTP interface"),
    "speech-bench": ("kanana_jax.generate.serve.bench", "how many listeners a speaker serves"),
    "bits-per-byte": ("kanana_jax.evaluate.bits_per_byte", "how well a model predicts text"),
    "preferences": ("kanana_jax.evaluate.preferences", "which answers of pairs a model prefers"),
    "tasks": ("kanana_jax.evaluate.tasks", "how many tasks with tools a model solves"),
    "hearing": ("kanana_jax.evaluate.speech", "how well a model hears and says"),
    "harness": ("kanana_jax.evaluate.harness", "lm_eval, which then knows these models"),
    "problems": ("kanana_jax.rollouts.tasks", "reasoning problems with checked traces"),
    "audit": ("kanana_jax.rollouts.audit", "what replies earn that solve nothing"),
    "corpora": ("kanana_jax.data.fetch_corpora", "text of the system's documentation packages"),
    "curate": ("kanana_jax.data.curate", "documents kept and dropped, with a report"),
    "synthesize": ("kanana_jax.synthesize", "text rewritten through an endpoint, and checked"),
    "agents": ("kanana_jax.synthesize.agentic", "conversations of agents with tools, replayed"),
    "speech": ("kanana_jax.speech", "a codec of speech and conversations with it, on toy voices"),
    "plan": ("kanana_jax.plan", "memory and collectives of machines that are not here"),
    "laws": ("kanana_jax.laws", "the rate of a larger run, from small ones"),
    "fp8-check": ("kanana_jax.fp8_check", "how far FP8 moves the gradients of a run"),
    "coordinates": ("kanana_jax.coordinates", "how activations move with width"),
}


def help_text() -> str:
    lines = [f"  {name:14} {what}" for name, (_, what) in COMMANDS.items()]
    return "\n".join([(__doc__ or "").strip(), "", "Commands:", *lines])


def main(arguments: Sequence[str] | None = None) -> int:
    """The exit code where no command ran; a command that runs ends the process as it does alone."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    if given[:1] in ([], ["--help"], ["-h"], ["help"]):
        print(help_text())
        return 0
    name, *rest = given
    if name not in COMMANDS:
        known = ", ".join(COMMANDS)
        print(f"kanana_jax: the command must be one of {known}; got {name!r}", file=sys.stderr)
        return 2
    module = COMMANDS[name][0]
    sys.argv = [f"kanana-jax {name}", *rest]
    runpy.run_module(module, run_name="__main__", alter_sys=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""What went wrong in a run and what was done about it: a line on the terminal and in events.jsonl.

Kinds: checkpoint_unusable, save_failed, save_succeeded, storage_failed, step_skipped, rewind,
max_logit_alarm, resharded, settings_changed, stopped; what a run begins with: lora, reference,
teacher; and what rounds bring: collected, played, mismatch.
"""

import json
import sys
import time
from pathlib import Path

from kanana_jax import parallel

EVENTS_NAME = "events.jsonl"


class Events:
    """Appends to `<directory>/events.jsonl`. A disk that takes no line does not stop the run.

    All processes take the same decisions; process 0 reports them.
    """

    def __init__(self, directory: Path):
        self._path = Path(directory) / EVENTS_NAME

    def report(self, kind: str, message: str) -> None:
        if not parallel.is_first():
            return
        show(f"{kind}: {message}")
        line = {"time": time.strftime("%Y-%m-%d %H:%M:%S %Z"), "kind": kind, "message": message}
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with self._path.open("a") as file:
                file.write(json.dumps(line) + "\n")
        except OSError:
            pass  # most likely what is being reported; the terminal has it


def show(line: str) -> None:
    print(f"kanana_jax: {line}", file=sys.stderr, flush=True)

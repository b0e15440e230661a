"""Where the time goes: steps and stages of each contender, processes of a local server, one traced request of each.

recorder = Recorder(url, {"A": ("ensemble_all", ""), "B": ("orchestrator", "1")}, metrics_url, server.pid)
for each turn, warm-up included:
    with recorder.turn("A"):
        ...                                       # the timed load; the recorder works before and after it
result.steps, result.stages, result.processes = recorder.steps(), recorder.stages(), recorder.processes()
result.timelines, notes = timelines(url, {"A": request, "B": request})
result.notes += recorder.notes + notes
"""

from dualpath.compare.breakdown.recorder import Recorder, TurnRows
from dualpath.compare.breakdown.timeline import timelines

__all__ = ["Recorder", "TurnRows", "timelines"]

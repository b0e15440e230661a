"""A running server, as it is watched and mended.

What Triton 2.51 does, by measurement: `load` alone leaves a model whose process has ended as it is; `unload` and `load`
give it new processes, and take the ensembles on it down and up. An unload waits for the model's requests, and for ever
for some that a killed process had, answered or not; a load does not wait for it. Their callers are failed within a
second, but those of a Python model that answers by senders, as `orchestrator` does, wait for ever: only a restart fails
them.
"""

import time
from collections.abc import Callable, Mapping
from contextlib import suppress

from dualpath.errors import UserError
from dualpath.extras import needs
from dualpath.repository import releases
from dualpath.serving.client import open_client
from dualpath.serving.loader import Versions, as_json, left_after, loadable, versions_in
from dualpath.serving.server import TritonServer
from dualpath.serving.triton_process import ServerFailed
from dualpath.serving.watch import processes
from dualpath.serving.watch.canary import Canaries, Canary
from dualpath.serving.watch.processes import Stub

with needs("cli"):
    from tritonclient.utils import InferenceServerException

_UNLOAD_S = 2.0
"""How long the requests of a broken model may take to end."""
_LOAD_S = 60.0
CALL_S = 2.0


class MendFailed(Exception):
    """A model could not be replaced. The message says why."""


class Plant:
    """A `TritonServer` that this process has started, as the watchdog sees and mends it.

    Args:
        triton: the server, started.
        report: gets a line if a replacement waits for another command.

    Attributes:
        models: those that it serves, by name.
    """

    def __init__(self, triton: TritonServer, report: Callable[[str], None]) -> None:
        self._triton, self._report = triton, report
        self._connect()

    def _connect(self) -> None:
        self._client = open_client(self._triton.grpc_url, certificate=self._triton.certificate)
        self._canaries = Canaries(self._client, time.monotonic)
        self._sweeper = processes.Sweeper(self._triton.shm_prefix, time.monotonic)
        self.models = sorted(self._versions("READY"))

    def close(self) -> None:
        """Close the connection; the server stays."""
        self._client.close()

    def death(self) -> str | None:
        """Say why the server ended, or None while it runs. Passes its log on."""
        if not self._triton.ready:
            return "its last start failed"
        try:
            self._triton.wait(0)
        except ServerFailed as error:
            return str(error).rstrip(".")
        return None

    def stubs(self) -> list[Stub]:
        """Return the living processes of its models."""
        return processes.stubs(self._triton.pid)

    def helpers(self) -> list[Stub]:
        """Return the living processes that instances have started, such as one that computes for all of a model's."""
        return processes.helpers(self._triton.pid)

    def end(self, helper: Stub) -> None:
        """Kill a helper; whoever needs it starts it again."""
        processes.end(helper)

    def server_stopped(self) -> bool:
        """Tell whether a signal holds the server itself."""
        return processes.is_stopped(self._triton.pid)

    def expected(self, model: str) -> int:
        """Return how many processes the ready versions of a model must have: none while it is loaded or unloaded."""
        with suppress(InferenceServerException):
            n_versions = len(self._versions("READY").get(model, ()))
            groups = self._client.get_model_config(model, client_timeout=CALL_S).config.instance_group
            return n_versions * sum(int(group.count) * max(1, len(group.gpus)) for group in groups)
        return 0

    def canaries(self) -> Mapping[str, Canary]:
        """Return each model's canary."""
        return self._canaries.states

    def ask(self) -> None:
        """Send each model's next canary; give back what dead processes hold in /dev/shm."""
        self._triton.close_shared_memory()
        self._sweeper.look(self._triton.pid)
        for model in self.models:
            self._canaries.send(model)

    def answered(self, model: str) -> int:
        """Return how many requests the model has answered; an error counts."""
        try:
            found = self._client.get_inference_statistics(model, client_timeout=CALL_S).model_stats
        except InferenceServerException:
            return 0
        return sum(it.inference_stats.success.count + it.inference_stats.fail.count for it in found)

    def cpu_s(self, model: str) -> float:
        """Return the CPU time of a model's processes; of the server itself for a model that has none."""
        own = [it.pid for it in (*self.stubs(), *self.helpers()) if it.model == model]
        return sum(map(processes.cpu_s, own or [self._triton.pid]))

    def replace(self, model: str) -> None:
        """Put new processes in the place of a model's, of the versions that are served.

        Raises:
            MendFailed: requests of the model do not end, or it cannot be loaded.
        """
        with releases.locked(self._triton.model_repository, self._report):
            self._replace(model)
        self._triton.skip_log()
        self._triton.close_shared_memory()

    def _replace(self, model: str) -> None:
        before = [stub for stub in self.stubs() if stub.model == model]
        for stub in before:
            if stub.stopped:  # resumed after a second, it would end the server
                processes.end(stub)
        try:
            left_after(lambda: self._versions("LOADING").get(model), _LOAD_S)  # the load of a command that was killed
            served = self._versions("READY")
            config = self._client.get_model_config(model, client_timeout=CALL_S).config
            self._client.unload_model(model, client_timeout=CALL_S)
            must_end = config.backend == "python" and not self._answers_by_return(model)
            if must_end and left_after(lambda: self._versions("READY", "UNLOADING").get(model), _UNLOAD_S):
                raise MendFailed(f"its requests do not end within {_UNLOAD_S:g} s of its unloading")
            again = as_json(loadable(config, served.get(model, set())))
            self._client.load_model(model, config=again, client_timeout=_LOAD_S)
            # The models that came down with it are loaded by what they were loaded with.
            if missing := left_after(lambda: sorted(served.keys() - self._versions("READY").keys()), _UNLOAD_S):
                raise MendFailed(f"{', '.join(missing)} did not come back with it")
        except InferenceServerException as error:
            raise MendFailed(" ".join(str(error.message()).split())) from None
        for stub in before:  # Triton forgets the others of a model of which one has ended
            processes.end(stub)

    def restart(self) -> None:
        """Start the server anew, whatever state it is in.

        Raises:
            MendFailed: it does not start.
        """
        self.close()
        try:
            self._triton.restart()
            self._connect()
        except (ServerFailed, UserError, InferenceServerException) as error:
            raise MendFailed(str(error)) from None

    def _answers_by_return(self, model: str) -> bool:
        """Tell whether a Python model's code shows that Triton itself fails the callers of a killed process."""
        folder = self._triton.model_repository / model
        code = "".join(path.read_text(errors="replace") for path in folder.glob("*/model.py"))
        return "answer_each(" in code and "Pipeline(" not in code

    def _versions(self, *states: str) -> dict[str, Versions]:
        return versions_in(self._client.get_model_repository_index(client_timeout=CALL_S).models, *states)

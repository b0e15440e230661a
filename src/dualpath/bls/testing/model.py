"""Serve a model.py in this process, as Triton's Python backend does: one thread initialises, executes and finalizes."""

from __future__ import annotations

import importlib.util
import json
import queue
import sys
import threading
import traceback
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from dualpath.bls.testing import backend
from dualpath.bls.testing.backend import InferenceRequest, InferenceResponse, TritonError
from dualpath.bls.testing.config import dtype_of, read_config, refusal, to_wire
from dualpath.bls.testing.received import PATIENCE_S, Arrays, Pending, ReceivedRequest

Children = Mapping[str, backend.FakeChild | Path | str]


class Model:
    """A served model.py.

    Attributes:
        name: the model's, that of its folder.
        config: its config, as Triton completes it.
        instance: the TritonPythonModel object.
    """

    def __init__(
        self, folder: Path | str, version: int = 1, parameters: Mapping[str, str] | None = None, gpu: int | None = None
    ) -> None:
        folder = Path(folder).absolute()
        self.name = folder.name
        self.config = read_config(folder)
        self.config["parameters"] |= {name: {"string_value": value} for name, value in (parameters or {}).items()}
        self.is_decoupled = backend.using_decoupled_model_transaction_policy(self.config)
        self._args = {
            "model_config": json.dumps(self.config),
            "model_instance_kind": "CPU" if gpu is None else "GPU",
            "model_instance_name": f"{self.config['instance_group'][0]['name']}_0",
            "model_instance_device_id": str(gpu or 0),
            "model_repository": str(folder),
            "model_version": str(version),
            "model_name": self.name,
        }
        self._work: queue.Queue[tuple[Callable[[], Any], Future[Any]] | None] = queue.Queue()
        self._pending: list[Pending] = []
        threading.Thread(target=self._run, name=self.name, daemon=True).start()
        self.instance: Any = self._do(lambda: self._load(folder / str(version) / self.config["default_model_filename"]))

    def infer(self, inputs: Mapping[str, npt.ArrayLike], **options: Any) -> Arrays:
        """Send a request, wait for its answer and return the outputs by name; options as for `start`.

        Raises:
            RequestFailed: Triton refused the request, or the model answered with an error.
        """
        return self.start(inputs, **options).result()

    def stream(self, inputs: Mapping[str, npt.ArrayLike], **options: Any) -> Iterator[Arrays]:
        """Send a request to a decoupled model and yield the outputs of each answer."""
        return self.start(inputs, **options).stream()

    def start(self, inputs: Mapping[str, npt.ArrayLike], **options: Any) -> Pending:
        """Send a request and return at once.

        Args:
            inputs: arrays by name, with the batch dimension if the model has one; BF16 as its bits, uint16.
            options: `parameters` by name, `timeout_s`, `request_id`, `outputs` (names; by default all), `trace`.
        """
        return self.start_together([inputs], **options)[0]

    def start_together(self, requests: Sequence[Mapping[str, npt.ArrayLike]], **options: Any) -> list[Pending]:
        """Send several requests that one `execute` receives, as with dynamic batching; options are for each."""
        pending = [self._request(inputs, **options) for inputs in requests]
        self._pending += pending
        if asked := [each.request for each in pending if not each.request.answered.is_set()]:
            self._submit(lambda: self._execute(asked))
        return pending

    def answer(self, call: InferenceRequest) -> Iterator[InferenceResponse]:
        """Answer a request of another model."""
        bf16 = {tensor.name() for tensor in call.inputs if tensor.is_bf16()}
        inputs = {tensor.name(): tensor.array() for tensor in call.inputs}
        outputs = call.requested_output_names
        if why := refusal(self.config, inputs, outputs, call.request_id):
            yield InferenceResponse(error=TritonError(f"Model {self.name} - Error when running inference: {why}"))
            return
        request = ReceivedRequest(
            {name: np.array(array) for name, array in inputs.items()},
            call.parameters, call.timeout, call.trace, call.request_id, outputs or self._outputs(), bf16,
            self.is_decoupled,
        )  # fmt: skip
        self._submit(lambda: self._execute([request]))
        index = 0
        while (response := request.answer(index, PATIENCE_S)) is not None:
            kept = [tensor for tensor in response.output_tensors() if not outputs or tensor.name() in outputs]
            yield InferenceResponse(kept, response.error())
            index += 1

    def metric(self, name: str, **labels: str) -> float:
        """Return the sum of a metric's values that have these labels. `bls.Metrics` passes them on once a second and
        as the model is finalized: ask after the block of `serve`."""
        wanted = set(labels.items())
        return sum(value for given, value in backend.METRICS[name].items() if wanted <= set(given))

    @property
    def calls(self) -> list[InferenceRequest]:
        """The calls that children received, in order."""
        return backend.CALLS

    @property
    def log(self) -> list[tuple[str, str]]:
        """What was logged: (level, text)."""
        return backend.LOGGED

    def close(self) -> None:
        """Finalize the model, and check that each request was answered exactly once and by Triton's rules."""
        try:
            self._do(getattr(self.instance, "finalize", lambda: None))  # after what waits to be executed
        finally:
            self._work.put(None)
        for pending in self._pending:
            assert pending.request.answered.is_set(), f"{self.name}: a request was never answered"
            pending.check()

    def _outputs(self) -> list[str]:
        return [tensor["name"] for tensor in self.config["output"]]

    def _request(
        self,
        inputs: Mapping[str, npt.ArrayLike],
        *,
        parameters: Mapping[str, Any] | None = None,
        timeout_s: float = 0,
        request_id: str = "",
        outputs: Collection[str] | None = None,
        trace: Any = None,
    ) -> Pending:
        dtypes = {tensor["name"]: dtype_of(tensor) for tensor in self.config["input"]}
        arrays = {name: to_wire(array, dtypes.get(name, "")) for name, array in inputs.items()}
        bf16 = [name for name in arrays if dtypes.get(name) == "BF16"]
        asked = list(outputs or self._outputs())
        timeout_us = round(timeout_s * 1e6)
        request = ReceivedRequest(arrays, parameters, timeout_us, trace, request_id, asked, bf16, self.is_decoupled)
        if why := refusal(self.config, arrays, outputs or (), request_id):
            request.take(InferenceResponse(error=TritonError(why, TritonError.INVALID_ARG)))
        return Pending(request, self.config, asked)

    def _execute(self, requests: list[ReceivedRequest]) -> None:
        try:
            answers = self.instance.execute(requests)
            if self.is_decoupled and answers is None:
                return
            if len(answers) != len(requests):
                raise _Wrong(
                    "Number of InferenceResponse objects do not match the number of InferenceRequest objects. "
                    f"InferenceRequest(s) size is:{len(requests)}, and InferenceResponse(s) size is:{len(answers)}\n"
                )
            for answer in answers:
                if answer is not None and not isinstance(answer, InferenceResponse):
                    raise _Wrong(
                        "Expected an 'InferenceResponse' object in the execute function return list, found type "
                        f"'{type(answer)}'."
                    )
        except Exception as error:
            message = f"Failed to process the request(s) for model '{self._args['model_instance_name']}', message: "
            for request in requests:
                request.take(InferenceResponse(error=TritonError(message + _as_triton_says(error))))
            return
        for request, answer in zip(requests, answers, strict=True):
            request.end_of_execute(answer)

    def _load(self, path: Path) -> Any:
        spec = importlib.util.spec_from_file_location(f"dualpath_tested_{self.name}", path)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.path.insert(0, str(path.parent))  # a model.py may import what lies beside it
        try:
            spec.loader.exec_module(module)
            instance = module.TritonPythonModel()
            if hasattr(instance, "initialize"):
                instance.initialize(self._args)
        finally:
            sys.path.remove(str(path.parent))
        return instance

    def _submit(self, function: Callable[[], Any]) -> Future[Any]:
        future: Future[Any] = Future()
        self._work.put((function, future))
        return future

    def _do(self, function: Callable[[], Any]) -> Any:
        return self._submit(function).result(PATIENCE_S)

    def _run(self) -> None:
        while work := self._work.get():
            function, future = work
            try:
                future.set_result(function())
            except BaseException as error:
                future.set_exception(error)


class _Wrong(Exception):
    """What Triton itself finds wrong with what `execute` returned."""


def _as_triton_says(error: Exception) -> str:
    if isinstance(error, _Wrong):
        return str(error)
    frames = traceback.extract_tb(error.__traceback__)[1:]
    lines = "".join(f"  {frame.filename}({frame.lineno}): {frame.name}\n" for frame in reversed(frames))
    return f"{type(error).__name__}: {error}\n\nAt:\n{lines}"


@contextmanager
def serve(
    folder: Path | str,
    *,
    children: Children | None = None,
    version: int = 1,
    parameters: Mapping[str, str] | None = None,
    gpu: int | None = None,
    error_codes: bool = True,
) -> Iterator[Model]:
    """Serve a model's folder, which holds config.pbtxt and the version's model.py, inside the block.

    Args:
        folder: the model's, in a model repository or not.
        children: what other models do, by name: a function from arrays by input name to arrays by output name; a
            generator function of such, which is a decoupled model; or the folder of another Python model. A function
            may raise `TritonError`, to choose the code, or any other exception.
        version: whose model.py is served.
        parameters: replace those of config.pbtxt.
        gpu: the number of the GPU that the instance is told to run on.
        error_codes: whether the code of a child's error reaches the model, as from Triton 25.04 on. In 24.10 each
            arrives as INTERNAL.
    Raises:
        AssertionError: the model broke one of Triton's rules: a request answered twice or never, say.
    """
    sys.modules.setdefault("triton_python_backend_utils", backend)
    backend.reset()
    backend.KEPT["error codes"] = error_codes
    with ExitStack() as models:
        for name, child in (children or {}).items():
            if isinstance(child, (Path, str)):
                child = models.enter_context(closing(Model(child)))
            backend.CHILDREN[name] = child
        yield models.enter_context(closing(Model(folder, version, parameters, gpu)))

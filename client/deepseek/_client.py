"""The synchronous client of any server that speaks the Open Inference Protocol over gRPC."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import TracebackType
from typing import Any, Self, TypeVar, Unpack

import grpc
from deepseek_api.errors import EngineUnavailableError, InferenceError
from deepseek_protos import inference_pb2 as pb
from deepseek_protos import inference_pb2_grpc

from deepseek._calls import (
    IMAGE_INPUT,
    MAX_ROWS,
    TEXT_INPUT,
    Image,
    Labels,
    batches,
    embeddings_of,
    images_of,
    labels_of,
    texts_of,
    top_k_parameters,
)
from deepseek._channel import TLSConfig, options, target_of, tls_of
from deepseek._generating import TIMEOUT_S, Chunk, Sampling, chunk_of, stream_request
from deepseek._rpc_errors import from_rpc_error
from deepseek._tensors import Array
from deepseek._wire import (
    Inputs,
    ModelMetadata,
    Parameter,
    Result,
    infer_request,
    metadata_of,
    result_of,
)

Response = TypeVar("Response")
POLL_SECONDS = 0.1


class Client:
    """Calls models on a server; safe to use from several threads.

    Every method raises a :class:`deepseek.DeepseekError` when it fails: an
    :class:`~deepseek.EngineUnavailableError` when no server answers or it is starting, a
    :class:`~deepseek.QueueFullError` when it is overloaded, an :class:`~deepseek.InferenceError`
    with the server's code and sentence otherwise.

    Args:
        url: ``host:port`` of the server's gRPC port.
        timeout: seconds that one request may take, unless the call says otherwise.
        tls: ``True`` for an encrypted connection with the system's authorities, or a
            :class:`~deepseek.TLSConfig`.
    """

    def __init__(
        self, url: str = "127.0.0.1:8001", *, timeout: float = 60.0, tls: TLSConfig | bool = False
    ) -> None:
        self.url = url
        self._timeout = timeout
        target, config = target_of(url), tls_of(url, tls)
        self._channel = (
            grpc.insecure_channel(target, options(None))
            if config is None
            else grpc.secure_channel(target, config.credentials(), options(config))
        )
        self._stub = inference_pb2_grpc.GRPCInferenceServiceStub(self._channel)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection; calls in flight are cancelled."""
        self._channel.close()

    def embed(
        self, model: str, texts: str | Sequence[str], *, timeout: float | None = None
    ) -> Array:
        """Vectors of texts: float32 ``[texts, dimensions]``, in the order of the texts."""
        results = [
            self.infer(model, {TEXT_INPUT: batch}, timeout=timeout)
            for batch in batches(texts_of(texts), MAX_ROWS)
        ]
        return embeddings_of(results)

    def classify(
        self,
        model: str,
        images: Image | Sequence[Image],
        *,
        top_k: int | None = None,
        timeout: float | None = None,
    ) -> list[Labels]:
        """For every picture its best labels with scores, best first.

        Args:
            model: name of an image classification model.
            images: encoded pictures (JPEG or PNG bytes) or paths of pictures.
            top_k: how many labels to return for each; by default as many as the model says, 5.
            timeout: seconds that one request may take.
        """
        parameters = top_k_parameters(top_k)
        results = [
            self.infer(model, {IMAGE_INPUT: batch}, parameters=parameters, timeout=timeout)
            for batch in batches(images_of(images), MAX_ROWS)
        ]
        return labels_of(results)

    def infer(
        self,
        model: str,
        inputs: Inputs,
        *,
        outputs: Sequence[str] = (),
        parameters: Mapping[str, Parameter] | None = None,
        timeout: float | None = None,
        request_id: str = "",
    ) -> Result:
        """Run one request with inputs by name.

        Args:
            model: name of the model.
            inputs: a NumPy array, or a list of str or bytes (sent as BYTES ``[n]``), by name.
            outputs: names of the outputs wanted; none means the model's default outputs.
            parameters: request parameters, for example ``{"priority": 1}``.
            timeout: seconds until the call gives up.
            request_id: comes back in the answer.
        """
        request = infer_request(
            model, inputs, outputs=outputs, parameters=parameters, request_id=request_id
        )
        return result_of(self._call(self._stub.ModelInfer, request, timeout))

    def generate(
        self,
        model: str,
        prompt: str | Sequence[int],
        *,
        timeout: float = TIMEOUT_S,
        request_id: str = "",
        **sampling: Unpack[Sampling],
    ) -> Iterator[Chunk]:
        """Generate; the answer comes in parts as they are made.

        Closing the iterator, or leaving its loop for good, ends the answer on the server.

        Args:
            model: name of a model that generates.
            prompt: a text, or token numbers.
            timeout: seconds that the whole answer may take.
            request_id: comes back in errors and logs.
            sampling: see :class:`deepseek.Sampling`; for example ``max_tokens=100``.
        """
        request = stream_request(model, prompt, sampling, request_id=request_id)
        call: Any = self._stub.ModelStreamInfer(iter([request]), timeout=timeout)
        try:
            for item in call:
                yield chunk_of(item)
        except grpc.RpcError as error:
            trailing = error.trailing_metadata() or ()
            raise from_rpc_error(error, url=self.url, trailing=trailing) from None
        finally:
            call.cancel()

    def complete(
        self,
        model: str,
        prompt: str | Sequence[int],
        *,
        timeout: float = TIMEOUT_S,
        **sampling: Unpack[Sampling],
    ) -> str:
        """The whole text of an answer; see :meth:`generate`."""
        return "".join(c.text for c in self.generate(model, prompt, timeout=timeout, **sampling))

    def metadata(self, model: str, *, timeout: float | None = None) -> ModelMetadata:
        """Inputs, outputs and platform of a model."""
        request = pb.ModelMetadataRequest(name=model)
        return metadata_of(self._call(self._stub.ModelMetadata, request, timeout))

    def ready(self, model: str | None = None, *, timeout: float = 5.0) -> bool:
        """Whether the server (or one of its models) answers inferences now."""
        try:
            if model is None:
                request = pb.ServerReadyRequest()
                return bool(self._call(self._stub.ServerReady, request, timeout).ready)
            named = pb.ModelReadyRequest(name=model)
            return bool(self._call(self._stub.ModelReady, named, timeout).ready)
        except InferenceError:
            return False

    def wait_ready(self, timeout: float = 120.0) -> None:
        """Return when the server is ready.

        Raises:
            EngineUnavailableError: it was not within ``timeout`` seconds.
        """
        deadline = time.monotonic() + timeout
        pause = threading.Event()
        while not self.ready(timeout=max(0.1, min(5.0, deadline - time.monotonic()))):
            if time.monotonic() >= deadline:
                raise EngineUnavailableError(
                    f"The server at {self.url} was not ready within {timeout:g} s.",
                    hint="Look at its log, or allow more time with 'timeout'.",
                    reason="NotReady",
                )
            pause.wait(POLL_SECONDS)

    def _call(
        self, method: Callable[..., Response], request: Any, timeout: float | None
    ) -> Response:
        try:
            return method(request, timeout=self._timeout if timeout is None else timeout)
        except grpc.RpcError as error:
            trailing = error.trailing_metadata() or ()
            raise from_rpc_error(error, url=self.url, trailing=trailing) from None

"""What a front end and an engine say to each other.

These types are the whole contract between the process that speaks gRPC and the process that owns
the device, and between the SDK and an engine inside its own process. They hold no NumPy and no
runtime objects, so that a front end stays small; tensors travel as raw little-endian bytes in the
layout of the Open Inference Protocol.
"""

from __future__ import annotations

import enum
import math
from collections.abc import AsyncGenerator, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import msgspec
from deepseek_api.errors import ConfigurationError

from deepseek_engine.generation.interface import GeneratorStats
from deepseek_engine.generation.requests import GenerationChunk, GenerationRequest
from deepseek_engine.generation.settings import AdapterConfig, GenerationSettings
from deepseek_engine.parallelism import ParallelismConfig

Buffer = bytes | bytearray | memoryview

DATATYPE_BYTES: dict[str, int] = {
    "BOOL": 1,
    "UINT8": 1,
    "UINT16": 2,
    "UINT32": 4,
    "UINT64": 8,
    "INT8": 1,
    "INT16": 2,
    "INT32": 4,
    "INT64": 8,
    "FP16": 2,
    "BF16": 2,
    "FP32": 4,
    "FP64": 8,
}
"""Bytes per element of every fixed-size datatype; ``BYTES`` is the one datatype not listed."""

_RESUME_PART = 0.75


class TensorSpec(msgspec.Struct, frozen=True, array_like=True):
    """Name, datatype and shape of a tensor; -1 marks a dimension that varies.

    Dimension 0 is the batch.
    """

    name: str
    datatype: str
    shape: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Tensor:
    """One tensor of a request or a response.

    ``data`` is contiguous, row-major and little-endian. For ``BYTES`` every element is a 4-byte
    little-endian length followed by that many bytes, as in ``raw_input_contents``.
    """

    name: str
    datatype: str
    shape: tuple[int, ...]
    data: Buffer


@dataclass(frozen=True, slots=True)
class InferenceRequest:
    """A checked request for one model."""

    model: str
    inputs: tuple[Tensor, ...]
    outputs: tuple[str, ...] = ()
    """Names of the outputs wanted; empty means the task's default outputs."""
    id: str = ""
    deadline: float | None = None
    """Seconds on the machine's monotonic clock (`time.monotonic`); ``None`` means no limit."""
    priority: int = 0
    """1 is served first, 2 next; 0 is the default and ranks behind every explicit priority."""
    parameters: Mapping[str, bool | int | float | str] = field(default_factory=dict)


class Timing(msgspec.Struct, frozen=True, array_like=True):
    """Where a request spent its time, in milliseconds, and in how large a batch it ran."""

    preprocess_ms: float
    queue_ms: float
    compute_ms: float
    postprocess_ms: float
    batch_rows: int


@dataclass(frozen=True, slots=True)
class InferenceResponse:
    """The answer to one request."""

    outputs: tuple[Tensor, ...]
    variant: str
    """Identifier of the bundle variant that answered."""
    precision: str
    random_weights: bool
    timing: Timing
    parameters: Mapping[str, bool | int | float | str] = field(default_factory=dict)
    """What else the answer says of itself, such as why a text ended."""


class ModelState(enum.StrEnum):
    """Life of a model inside an engine."""

    LOADING = "LOADING"
    READY = "READY"
    FAILED = "FAILED"


class WireTensor(msgspec.Struct, frozen=True, array_like=True):
    """A small tensor that travels inside a message header (probes only)."""

    name: str
    datatype: str
    shape: tuple[int, ...]
    data: bytes


class GenerationInfo(msgspec.Struct, frozen=True, kw_only=True):
    """What a caller must know of a model that generates."""

    vocabulary: int
    """Number of tokens."""
    context: int
    """Most tokens of a prompt and its answer together."""
    end_tokens: tuple[int, ...] = ()
    """Tokens that end an answer."""
    start_tokens: tuple[int, ...] = ()
    """Tokens that the tokenizer puts before every text."""
    max_sequences: int = 0
    """Most answers that are computed at once."""
    max_tokens: int = 0
    """Most tokens of an answer; 0: as many as the context leaves."""
    text: bool = True
    """Whether it takes and gives text; without a tokenizer only token numbers."""
    chat: bool = False
    """Whether it was made for conversations: its files have a chat template."""
    adapters: tuple[str, ...] = ()
    """Names of the LoRA adapters that a request may choose."""


class ModelInfo(msgspec.Struct, frozen=True):
    """What an engine knows of one model; the source of ModelMetadata and of status."""

    name: str
    state: ModelState
    reason: str = ""
    """Stable CamelCase reason when the state is FAILED."""
    message: str = ""
    """A sentence for a person when the state is FAILED; it never holds a path."""
    task: str = ""
    model_type: str = ""
    backend: str = ""
    precision: str = ""
    variant: str = ""
    digest: str = ""
    random_weights: bool = False
    max_batch_size: int = 0
    weight: float = 1.0
    memory_bytes: int = 0
    inputs: tuple[TensorSpec, ...] = ()
    """The inputs that metadata shows, for example one ``text``."""
    alternative_inputs: tuple[tuple[TensorSpec, ...], ...] = ()
    """Other complete sets of inputs that are accepted instead, for example raw token ids."""
    outputs: tuple[TensorSpec, ...] = ()
    """Every output that may be requested."""
    default_outputs: tuple[str, ...] = ()
    probe: tuple[WireTensor, ...] = ()
    """A small valid request: readiness is proven by an answer to it."""
    probe_parameters: dict[str, bool | int | float | str] = msgspec.field(default_factory=dict)
    """Parameters of that request."""
    generation: GenerationInfo | None = None
    """Of a model that generates; None for every other."""
    progress: float = 0.0
    """Part of the loading that is done, 0 to 1; meaningful while the state is LOADING."""
    stage: str = ""
    """What loading is busy with: waiting, verifying, opening or warming."""


class ModelStats(msgspec.Struct):
    """Counters of one model since its engine process started; they only grow, gauges aside."""

    waiting: int = 0
    """Requests that were admitted and have no part in a batch yet (gauge)."""
    running: int = 0
    """Rows of the batch that runs (gauge)."""
    device_seconds: float = 0.0
    requests: int = 0
    rows: int = 0
    batches: int = 0
    releases: dict[str, int] = msgspec.field(default_factory=dict)
    """Batches by the reason for which they were released: full, slack, idle."""
    batch_rows: dict[int, int] = msgspec.field(default_factory=dict)
    """Batches by their number of rows."""
    variant_rows: dict[str, int] = msgspec.field(default_factory=dict)
    """Rows by the variant that computed them."""
    precision: str = ""
    """The precision at which the next batch runs (gauge); empty until the model is loaded."""
    precision_switches: int = 0
    """How often the precision was lowered or raised again by the device's load."""
    fallbacks: dict[str, int] = msgspec.field(default_factory=dict)
    """Batches that did not run the back end's fastest way, by ``VARIANT/REASON``."""
    generation: GeneratorStats | None = None
    """Of a model that generates; its `waiting` and `running` are sequences, its `batches` steps."""


class MemoryStats(msgspec.Struct, frozen=True):
    """Memory of one device, as the allocator of its back ends reports it; bytes but for counts."""

    reserved_bytes: int = 0
    """What the allocator has taken from the system."""
    allocated_bytes: int = 0
    """The part of it that is in use."""
    inactive_split_bytes: int = 0
    """Free parts of blocks that are partly in use, which cannot be given back."""
    largest_free_bytes: int = 0
    """The largest request that needs no new memory from the system; 0 where it is not known."""
    alloc_retries: int = 0
    """How often the allocator had to free its cache and try again."""
    ooms: int = 0
    """How often there was not enough memory."""
    pool_bytes: int = 0
    """The configured size of the pool; 0: none was configured."""

    @property
    def fragmentation(self) -> float:
        """The part of the reserved memory that is not in use, 0 to 1."""
        if self.reserved_bytes <= 0:
            return 0.0
        return min(1.0, max(0.0, 1.0 - self.allocated_bytes / self.reserved_bytes))


class DeviceStats(msgspec.Struct, frozen=True):
    """One device, as it is now."""

    load: float = 0.0
    """Busy share of the last seconds, 0 to 1."""
    memory: MemoryStats | None = None
    """None where nothing manages the device's memory."""


class Heartbeat(msgspec.Struct):
    """Sent by the engine twice a second while its event loop lives."""

    sent_at: float
    """Monotonic seconds at which the loop sent it."""
    device_busy_since: float | None
    """Monotonic seconds at which the running batch started; ``None`` when idle."""
    models: dict[str, ModelInfo]
    stats: dict[str, ModelStats]
    devices: dict[str, DeviceStats] = msgspec.field(default_factory=dict)
    """By the device's name, for example ``cpu``."""


class AutoPrecision(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """When new batches of a model run at its lower precision, and when they return."""

    threshold: float = 0.8
    """Busy share of the device above which the precision is lowered, 0 to 1."""
    resume: float | None = None
    """Share below which it is raised again, counted as if the model ran at the higher precision;
    None: three quarters of the threshold."""
    dwell_s: float = 5.0
    """Shortest stay at a precision, seconds."""
    precision: str = ""
    """The lower precision; empty takes the fastest that the bundle has for the device."""
    required: bool = True
    """Whether a model without a lower precision, or without memory for it, fails to load; otherwise
    it is served as it is and the log says why."""

    def __post_init__(self) -> None:
        if not 0 < self.threshold < 1:
            raise ConfigurationError(
                f"The threshold of the automatic precision is {self.threshold}.",
                hint="It is a share of the device's time: above 0 and below 1, such as 0.8.",
            )
        if self.resume is not None and not 0 < self.resume < self.threshold:
            raise ConfigurationError(
                f"The precision would be raised again below a load of {self.resume}, which is not "
                f"between 0 and the threshold of {self.threshold}.",
                hint="Leave it out, or choose a lower one.",
            )
        if not 0 <= self.dwell_s < math.inf:
            raise ConfigurationError(
                f"The shortest stay at a precision is {self.dwell_s} seconds.",
                hint="It must be 0 or more.",
            )

    @property
    def return_below(self) -> float:
        """The load below which the precision is raised again."""
        return self.resume if self.resume is not None else _RESUME_PART * self.threshold


class ModelConfig(msgspec.Struct, frozen=True, kw_only=True):
    """One model to serve."""

    name: str
    bundle: str
    """Folder of the prepared bundle."""
    digest: str = ""
    """Expected bundle digest (``sha256:...``); empty accepts what the folder holds."""
    precision: str = "auto"
    model_type: str = ""
    weight: float = 1.0
    """Share of device time, relative to the other models."""
    device: str = "cpu"
    max_batch_size: int = 32
    max_queue_size: int = 256
    """Rows that may wait; one more is refused with UNAVAILABLE. A request that would wait alone is
    taken whatever its rows."""
    latency_target_ms: float | None = None
    auto_precision: AutoPrecision | None = None
    """None: every batch runs at `precision`."""
    generation: GenerationSettings = GenerationSettings()
    """Of a model that generates; without effect on others."""
    adapters: tuple[AdapterConfig, ...] = ()
    """LoRA adapters that requests to a model that generates may choose."""
    parallelism: ParallelismConfig = ParallelismConfig()
    """How the model is divided."""


class EngineConfig(msgspec.Struct, frozen=True, kw_only=True):
    """Everything an engine process needs to start."""

    models: tuple[ModelConfig, ...]
    socket: str = ""
    """Path of the unix socket to bind; unused by an engine inside the caller's process."""
    threads: int = 0
    """Threads of one inference; 0 means what the process may use (affinity and CPU quota)."""
    instruction_set: str = ""
    """Overrides the detected instruction set; empty detects it."""
    memory_limit_bytes: int = 0
    """Refuse models whose estimated memory passes this; 0 means what the machine has free."""
    load_window_s: float = 5.0
    """Over how many seconds the load of a device is taken."""
    memory_pool_mib: int = 0
    """Size of the memory pool of each device, MiB; 0: none."""
    memory_pool_shared: bool = True
    """Whether the models of a device share its pool; otherwise each has one of that size."""
    options: dict[str, Any] = msgspec.field(default_factory=dict)


class EngineClient(Protocol):
    """How a front end or the SDK reaches an engine, in this process or in another."""

    async def infer(self, request: InferenceRequest) -> InferenceResponse:
        """Run one request.

        Cancelling the awaiting task withdraws the request if it has not started.

        Raises:
            DeepseekError: with the code and the sentence that the caller should see.
        """
        ...

    def generate(self, request: GenerationRequest) -> AsyncGenerator[GenerationChunk, None]:
        """Generate; the answer comes in parts, the last of which has a finish reason.

        Leaving the iterator (`contextlib.aclosing` closes it) ends the answer. A reader that is
        slower than the model gets larger parts.

        Raises:
            DeepseekError: with the first part or any later one.
        """
        ...

    def models(self) -> Mapping[str, ModelInfo]:
        """Models by name, as last reported by the engine."""
        ...

    def stats(self) -> Mapping[str, ModelStats]:
        """Counters by model name, as last reported by the engine."""
        ...

    async def close(self) -> None:
        """Release the connection or the engine; waiting requests fail with UNAVAILABLE."""
        ...

"""What each bench measures and how, in words: the texts of the performance page.

Importing this must stay cheap: the page is checked with every ``make check``.
"""

from __future__ import annotations

from dataclasses import dataclass

from benchmarks.gpu.goals import PARTS, stretch_of

__all__ = ["BENCHES", "GPU_BENCHES", "WITH_BENCH", "About"]


@dataclass(frozen=True, slots=True)
class About:
    """The text of one bench."""

    title: str
    method: str
    """How it is measured: paragraphs of Markdown."""
    command: str = ""
    """What measures it by hand; empty: it is a part of ``make bench``."""


BENCHES: dict[str, About] = {
    "encoder_cpu": About(
        "Encoder on a processor: BERT-base, batch 1, 128 tokens",
        """\
A BERT of base size (12 layers, 768 wide) with random weights of seed 0, prepared by this project.
Every subject gets the same token ids and the same number of threads, and a check refuses subjects
whose answer is not that of the fp32 graph.

- *As served* is the engine inside the measured process: checks, queue, batching, pooling, norm.
  *Back end alone* leaves all that out. Both run with the options named below.
- *ONNX Runtime fp32* is a plain session of the exported graph; *ONNX Runtime int8* is the same
  graph after `quantize_dynamic` (int8, per channel, `reduce_range` on processors without VNNI).
  Both keep the library's default options but for the number of threads, so their threads may spin
  between calls.
- *torch eager fp32* is the class of transformers with its default attention.

Every subject is a process of its own and is stopped (SIGSTOP) while another one has its turn, so
that no pool of threads spins beside the one that is measured.""",
    ),
    "grpc_overhead": About(
        "Through gRPC: front end, engine process and queue",
        """\
A real worker (front end and engine process) and a client in a third process, all on the same
processor. 16 callers share one connection, each sending its next request when the last is
answered. BERT-base gets the token ids of the bench above; its peer is ONNX Runtime int8 called
directly in a loop, alternating with it. MiniLM gets one sentence as text, EfficientNet one JPEG,
and the identity model 16 numbers, so that its figures are pure overhead. The front end's processor
time is user and system time of its process from `/proc`, divided by the requests.""",
    ),
    "generation_batching": About(
        "Generating for 16 clients on a processor",
        """\
A Llama of 28 million parameters with random weights in fp32. Each of 16 clients sends its next
request when its last one is answered; prompts have 8 to 96 tokens, answers 16 to 48, drawn from a
seed. All subjects compute the same greedy tokens, on the same weights and number of threads.

- Ours is the generator itself (scheduler, paged cache, sampler), without server and text.
- *One request at a time* is the same generator with a single seat.
- *transformers generate* computes fixed batches: the next request of every client, padded on the
  left, until the longest answer of the batch is complete; only tokens that were asked for count.

Times between tokens are those that a client of ours sees.""",
    ),
    "ipc": About(
        "The border between front end and engine process",
        """\
Round trips of an identity model, payload in the request and in the answer: through the unix socket
to a real engine process, and to the same engine inside the calling process. The *process border
alone* is the difference of the two, round by round; its peer is a bare echo over the same two
libraries (pyzmq and msgspec, one header, one payload frame) without checks and bookkeeping.""",
    ),
    "footprint": About(
        "Memory and start: the quickstart pipeline",
        """\
`deepseek serve -f examples/quickstart.yaml` with both real models in the cache. The start counts
from the start of the process until `/readyz` says yes, which needs an inference of every model
through the server's own socket. Resident memory is read after 16 callers have sent requests to
both models (batches of eight long texts, and a picture); pages that the two processes share count
for each.""",
    ),
    "real_models": About(
        "Real models: MiniLM and EfficientNet",
        """\
Speed: sentences of realistic lengths as texts, one by one and in batches of eight, and pictures as
pixels, through the engine (*as served*, without gRPC); the peer is a plain ONNX Runtime session of
the exported fp32 graph with default options and the same tokenizer, its batches padded to the
longest sentence. Agreement is computed anew, on sentences and crops of photographs that preparing
never saw; what the bundle's manifest states is shown beside it. Top-1 agreement counts crops of
which fp32 is at least 50 % sure.""",
    ),
    "accuracy": About(
        "Accuracy and bytes of quantized models",
        """\
Seven small models are trained here with data that packages ship, three seeds each, every seed
judged on samples of its own that training never saw: a CNN, an MLP and a ViT on scikit-learn's
digits (right answers); BERT and the encoder of T5 that say which package of Python's standard
library a piece of its source comes from (right answers), and a GPT-2 that predicts that source
(bits per byte); a 3D-UNet on made-up CT volumes with known masks (Dice). MiniLM (cosine with fp32
on the committed sentences) and EfficientNet-Lite0 (same best class on crops of photographs where
fp32 is at least 50 % sure) are as their packages ship them. All of them are torch modules on a
processor, and files are safetensors as `deepseek quantize` writes them: the figures are about
what weights and inputs lose by rounding, whatever computes with them afterwards.

- *metric kept* is the metric over the samples of all seeds, as a part of that of fp32; the range is
  that of the single seeds. For bits per byte it is fp32's bits by the variant's. Above 1 is
  chance: a few samples more on the right side.
- *int8* has int8 weights in all layers and bf16 for the rest; linear layers round their inputs to
  int8 too, convolutions do not (what that costs with graphs for processors stands under *Real
  models*). *mixed* is the rule of `adaptive_quantization`. *int4* has groups of 128 where K is at
  least 128; *int4* with a method in parentheses is the better of GPTQ and AWQ. *fp8* rounds the
  inputs of linear layers to e4m3 too and computes in fp32: no processor has that type.
- *tensor bytes* are those of a file without its header, *linear bytes* those of the layers that
  became int4, scales included; *off the policy's arithmetic* is what was written beside what the
  policy says before anything is rounded.

No GPU is needed, and none took part.""",
        command="make bench-accuracy",
    ),
    "fusion": About(
        "deepseek_fuse on a processor",
        """\
A function of `F.conv2d` (3 x 3, padding 1, as many channels out as in), `F.batch_norm` and `F.relu`
in fp32, decorated with `deepseek_fuse` and as it is written, in turns under `no_grad`. Shapes are
those of the four stages of a ResNet at 224 x 224.""",
    ),
    "memory_pool": About(
        "Memory pool on a processor: putting a batch together",
        """\
Pictures of single requests, 3 x 224 x 224 in fp32, are put together into one array, as before every
batch, on a thread of its own; with `set_memory_pool` and without, in turns. The C library keeps
arrays below 32 MiB, so that a pool changes nothing for those, and gives larger ones back to the
system every time.""",
    ),
    "operator_scale": About(
        "Operator: hundreds of pipelines on one API server",
        """\
A real control plane (etcd, API server, controllers, scheduler) without machines: kwok says of every
pod that it is ready, so the operator and the API server are measured and no worker. No metrics
exist, so the autoscalers' controller is left out: autoscalers are created and watched, and nobody
acts on them. The operator is a process with its default settings and the permissions of the chart's
role. Everything shares the cores of one machine; *everything else on the machine* says how quiet
that was.

A pipeline of three models has 17 children: 3 Deployments, 6 Services, 3 ConfigMaps, an autoscaler
for one model of three, 2 PodDisruptionBudgets, a ServiceAccount and a NetworkPolicy. When they
exist is what a watch on each kind says, so nothing is looked up. *One pipeline a second* has fixed
start times that do not wait for answers. *Idle* is two resync periods and a minute with nothing
changed, so no placing of the stretch can miss a resync; requests are those that the API server
counts for the operator's user, and the worst minute is the worst of all stretches of 60 s. Memory
is read every 5 s from the first apply to the end; *growth* is the slope of the least-squares line
times the length of the idle stretch, and *flat* is at most 8 MiB.

*First bottleneck* follows a rule: the operator's thread if it uses at least 85 % of a core while
pipelines are created; else all cores together; else its 8 reconciles at a time; else nothing. The
part *large* creates 1,000 pipelines of five models on an empty cluster and has no bars.""",
        command="make e2e-scale",
    ),
    "operator_chaos": About(
        "Operator: 30 random kills",
        """\
On the one-node cluster with real workers. A pipeline of two fixed models and an autoscaled one
under a budget of five replicas, whose autoscaler's floor is edited at every turn, so that both
writers of replicas have something to do. A turn kills the operator, a worker pod, a Deployment or
the API server, or cuts the operator off from it, and ends when every granted replica is ready
again; the turn's time is the *recovery*. Each kind comes once, then chance decides.

Every 100 ms the replicas, their writers, the pods, the autoscalers and the condition Ready are
read. The run fails when one moment shows more than the budget, another writer, a change of
autoscaled replicas that the autoscaler did not decide, an object without a living owner, or a
Ready that stays untrue. What a moment without an operator may show is written in
`tests/support/cluster_checks.py`.""",
        command="make e2e-chaos",
    ),
}
"""Every bench, in the order of the page; the key is its results file, and its module unless it has
a command of its own."""

WITH_BENCH: tuple[str, ...] = tuple(name for name, about in BENCHES.items() if not about.command)
"""What ``make bench`` measures."""

GPU_BENCHES: dict[str, About] = {
    f"gpu_{name}": About(
        f"GPU: {part.title}",
        f"{part.method}{stretch_of(part)}",
        command=f"python -m benchmarks.gpu --again --parts {name}",
    )
    for name, part in PARTS.items()
}
"""The parts of ``make bench-gpu``, which runs apart: it needs a GPU."""

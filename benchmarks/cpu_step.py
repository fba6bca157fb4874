"""Processor time of a training step, by memory layout and precision.

    python benchmarks/cpu_step.py                       # the demo's training
    python benchmarks/cpu_step.py config/training/monai_unet_quick.yaml --isa AVX2

A step consists of forward pass, backward pass and optimizer step on one batch that stays in memory.
Prints one line of JSON per layout and precision: GFLOP of a step (multiplications and additions of
convolutions, forward and backward), CPU seconds of a step (median), and GFLOP per CPU second.
`--isa AVX2` restricts PyTorch to the instructions of a processor without AVX-512.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import statistics
import time
from pathlib import Path


def main() -> None:
    """Time the steps and print a line of JSON for each combination."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("training", nargs="?", default="config/training/demo.yaml", type=Path)
    parser.add_argument("--steps", type=int, default=5, help="number of timed steps")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--isa", choices=["AVX2"], help="instructions to restrict PyTorch to")
    parser.add_argument("--bf16", action="store_true", help="also with autocast to bfloat16")
    arguments = parser.parse_args()
    # These variables are read when torch is imported.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    if arguments.isa:
        os.environ |= {"ONEDNN_MAX_CPU_ISA": "AVX2", "ATEN_CPU_CAPABILITY": "avx2"}

    import torch
    from torch.utils.flop_counter import FlopCounterMode

    from cellmap_pipeline.config.load import load_training
    from cellmap_pipeline.models.build import build_model
    from cellmap_pipeline.models.masked_loss import MaskedLoss
    from cellmap_pipeline.training.optimizers import build_optimizer

    torch.set_num_threads(arguments.threads)
    training = load_training(arguments.training.stem, [arguments.training.parent])
    shape = (training.batch_size, 1, *training.patch_size)
    loss = MaskedLoss(training.loss)
    layouts = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last_3d}
    precisions = [False, True] if arguments.bf16 else [False]
    for (layout, memory_format), bf16 in itertools.product(layouts.items(), precisions):
        torch.manual_seed(0)
        network = build_model(
            training.model, 1, len(training.channels), training.patch_size, training.voxel_size
        )
        # With its single channel, raw has both layouts at once: that of the weights decides.
        network.to(memory_format=memory_format)
        optimizer = build_optimizer(network, training)
        raw = torch.randn(shape)
        target = (torch.rand(shape[0], len(training.channels), *shape[2:]) > 0.8).float()

        def step(network=network, optimizer=optimizer, raw=raw, target=target, bf16=bf16) -> None:
            with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
                logits = network(raw)
            optimizer.zero_grad()
            loss(logits, target).backward()
            optimizer.step()

        with FlopCounterMode(display=False) as counter:
            step()
        seconds = []
        for _ in range(arguments.steps):
            begin = time.process_time()
            step()
            seconds.append(time.process_time() - begin)
        median, gflop = statistics.median(seconds), counter.get_total_flops() / 1e9
        print(
            json.dumps(
                {
                    "training": arguments.training.stem,
                    "layout": layout,
                    "precision": "bf16" if bf16 else "32",
                    "isa": arguments.isa or torch.backends.cpu.get_cpu_capability(),
                    "threads": arguments.threads,
                    "gflop": round(gflop, 1),
                    "cpu_seconds": round(median, 3),
                    "gflop_per_cpu_second": round(gflop / median, 1),
                }
            )
        )


if __name__ == "__main__":
    main()

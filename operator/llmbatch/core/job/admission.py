"""Whether a valid spec can run in a cluster at all: what no wait and no retry would change."""

from __future__ import annotations

import difflib

from llmbatch.api.job import LLMBatchJobSpec
from llmbatch.errors import SpecError

ACCELERATORS = [
    "A100",
    "A100-40G",
    "A100-80G",
    "A10G",
    "AMD-Instinct-MI100",
    "AMD-Instinct-MI210",
    "AMD-Instinct-MI250X",
    "AMD-Instinct-MI250X-MI250",
    "AMD-Instinct-MI300A",
    "AMD-Instinct-MI300X-HF",
    "AMD-Instinct-MI300X-OAM",
    "AMD-Instinct-MI308X",
    "AMD-Instinct-MI325X-OAM",
    "AMD-Instinct-MI350X-OAM",
    "AMD-Instinct-MI355X-OAM",
    "AMD-Radeon-HD-7900",
    "AMD-Radeon-R9-200-HD-7900",
    "Ascend910B",
    "Ascend910B4",
    "B200",
    "B300",
    "FURIOSA_RNGD",
    "GB200",
    "GB300",
    "H100",
    "H20",
    "H200",
    "Intel-GAUDI",
    "Intel-GPU-Max-1100",
    "Intel-GPU-Max-1550",
    "K80",
    "L4",
    "L40S",
    "MOBILINT_ARIES",
    "MOBILINT_REGULUS",
    "MXC500",
    "MXC550",
    "P100",
    "P4",
    "RTX-PRO-6000",
    "T4",
    "TPU-V2",
    "TPU-V3",
    "TPU-V4",
    "TPU-V5LITEPOD",
    "TPU-V5P",
    "TPU-V6E",
    "TPU-V7X",
    "V100",
    "aws-neuron-core",
]
"""`ray.util.accelerators` of the pinned Ray, less Apple's: the types that a Ray node can announce."""


def check_admission(spec: LLMBatchJobSpec) -> None:
    """Refuse a job that can never run.

    Raises:
        SpecError: naming the field, its value and what is allowed.
    """
    capacity = spec.capacity
    if capacity.spot.max + capacity.on_demand.max == 0:
        raise SpecError.of("spec.capacity", "no workers", "spot.max or onDemand.max must be 1 or more")
    worker = spec.worker_gpus()
    for index, stage in enumerate(spec.stages):
        field = f"spec.stages[{index}].resources"
        if stage.resources.gpus > worker:
            raise SpecError.of(
                f"{field}.gpus", stage.resources.gpus, f"a replica fits on one worker: at most gpusPerWorker, {worker}"
            )
        accelerator = stage.resources.accelerator
        if accelerator is not None and accelerator not in ACCELERATORS:
            similar = difflib.get_close_matches(accelerator.upper(), ACCELERATORS, n=3, cutoff=0.4) or ACCELERATORS
            raise SpecError.of(f"{field}.accelerator", accelerator, f"no name of Ray's; similar: {', '.join(similar)}")

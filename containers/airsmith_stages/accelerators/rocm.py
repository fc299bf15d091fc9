"""AMD's GPUs. Written against torch's and the libraries' code; not run on a device yet."""

from __future__ import annotations

from airsmith_stages.accelerators.gpu import GpuAccelerator

PEAK_FLOPS = {"MI300X": 1307e12, "MI325X": 1307e12}

ACCELERATOR = GpuAccelerator(driver="AMD's driver and device plugin", peak_flops=PEAK_FLOPS)

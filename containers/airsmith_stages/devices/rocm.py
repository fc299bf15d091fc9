"""AMD's GPUs. Written against torch's and the libraries' code; not run on a device yet."""

from __future__ import annotations

from airsmith_stages.devices.gpu import GpuDevice

PEAK_FLOPS = {"MI300X": 1307e12, "MI325X": 1307e12}

DEVICE = GpuDevice(driver="AMD's driver and device plugin", peak_flops=PEAK_FLOPS)

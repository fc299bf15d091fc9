"""AMD GPUs. Written from the code of torch and its libraries; not run on a device."""

from __future__ import annotations

from airsmith_stages.devices.gpu import GpuDevice

PEAK_FLOPS = {"MI300X": 1307e12, "MI325X": 1307e12}

DEVICE = GpuDevice(driver="AMD's driver and device plugin", peak_flops=PEAK_FLOPS)

"""Tracing a model into stages, which is not done here: classes to derive from."""

from __future__ import annotations


class NxDTracer:
    pass


class HFTracerWrapper(NxDTracer):
    pass


def trace_model(model, **kwargs):
    raise NotImplementedError("A pipeline is traced on a device only")

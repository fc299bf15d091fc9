"""Base classes for optimum-neuron; nothing is compiled or cached."""

from __future__ import annotations


class CacheUrl:
    @staticmethod
    def get_cache_url(cache_dir=None):
        return CacheUrl()


class CompileCache:
    def __init__(self, cache_url):
        self.cache_url = cache_url


class CompileCacheFs(CompileCache):
    pass


class CompileCacheS3(CompileCache):
    pass


def create_compile_cache(cache_url):
    return CompileCacheFs(cache_url)

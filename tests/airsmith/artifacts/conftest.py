"""Stores to test against."""

from store_fixtures import real_s3_uri, s3_environment, s3_server, s3_store, s3_uri, store, store_uri

__all__ = ["real_s3_uri", "s3_environment", "s3_server", "s3_store", "s3_uri", "store", "store_uri"]

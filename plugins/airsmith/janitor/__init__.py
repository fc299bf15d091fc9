"""Garbage collection in the store and the cluster: find unreferenced objects, report them, delete them."""

"""Deploy a model version to an endpoint, and talk to it."""

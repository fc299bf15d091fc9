"""Model servers: deploy a model version to an endpoint, and send requests to it."""

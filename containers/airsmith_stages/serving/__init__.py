"""Programs that run in a model server's pod before and beside the server."""

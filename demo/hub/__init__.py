"""A local Hub that serves a folder through the part of the Hugging Face Hub's API that `huggingface_hub` uses.

`publish` commits a folder to it, `serve` serves it to tests, `python -m demo.hub` serves it to the demo.
"""

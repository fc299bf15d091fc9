"""A local Hub: the parts of the Hugging Face Hub's HTTP API that `huggingface_hub`'s own client uses, over a folder.

`publish` puts a folder into it as a commit, `serve` serves it to tests, `python -m demo.hub` serves it to the demo.
"""

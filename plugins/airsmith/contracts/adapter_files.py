"""Names of the files in which peft saves an adapter (`peft.utils.constants`)."""

ADAPTER_WEIGHTS = "adapter_model.safetensors"
ADAPTER_CONFIG = "adapter_config.json"

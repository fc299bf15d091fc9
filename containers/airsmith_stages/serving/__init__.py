"""What runs beside a model server in its pod."""

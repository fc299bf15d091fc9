"""The demo's dataset: support tickets in English, each answered by one line of JSON with a team and an urgency."""

from pathlib import Path

DATA = Path(__file__).parent / "data"

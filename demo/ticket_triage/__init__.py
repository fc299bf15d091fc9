"""The demo's dataset: support tickets in English, each labeled with a team and an urgency as one line of JSON."""

from pathlib import Path

DATA = Path(__file__).parent / "data"

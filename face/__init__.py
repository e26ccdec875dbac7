"""Face recognition with KP-RPE."""

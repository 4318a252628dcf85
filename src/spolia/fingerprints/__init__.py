"""Fingerprint methods behind one contract: Audio → Fingerprint."""

"""Measurement: queries under stated degradations, protocols, metrics and reports."""

"""Measures that papers report and ir_measures lacks."""

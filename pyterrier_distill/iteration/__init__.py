"""Trainings made of trainings: rounds with fresh candidates, and the adaptation to a collection."""

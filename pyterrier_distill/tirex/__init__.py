"""Submissions to TIREx: a student, or a pipeline, over a collection in TIRA's layout.

``python -m pyterrier_distill.tirex --student DIR`` reads what TIRA names in the environment and writes a run with its
metadata; ``pyterrier-distill submit`` packs a student with all that this needs.
"""

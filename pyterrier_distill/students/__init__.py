"""Students: transformers R → R over ordinary checkpoints, which a Distiller trains."""

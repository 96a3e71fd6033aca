"""Teachers: R → R transformers that re-rank and leave what they believe as a label."""

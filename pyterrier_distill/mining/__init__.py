"""Which documents make good negatives, and which only look like negatives."""

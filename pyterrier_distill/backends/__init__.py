"""Where a language model runs: in this process (hf), in vLLM, or behind an OpenAI-compatible server."""

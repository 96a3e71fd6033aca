"""What may be sent to a server or an engine that changes no answer: left out where answers are compared."""

#: Fields of a request.
REQUEST = frozenset(
    """extra_headers timeout user metadata store service_tier stream stream_options safety_identifier prompt_cache_key
    prompt_cache_retention""".split()
)

#: Arguments of ``vllm.LLM``: memory, speed, logging, and where files lie.
ENGINE = frozenset(
    """gpu_memory_utilization tensor_parallel_size pipeline_parallel_size data_parallel_size
    decode_context_parallel_size enable_expert_parallel max_num_seqs max_num_batched_tokens
    max_parallel_loading_workers swap_space cpu_offload_gb kv_cache_memory_bytes num_gpu_blocks_override
    block_size enforce_eager max_seq_len_to_capture disable_log_stats disable_log_requests enable_log_requests
    download_dir enable_prefix_caching enable_chunked_prefill distributed_executor_backend
    disable_custom_all_reduce use_tqdm_on_load async_scheduling show_hidden_metrics_for_version
    collect_detailed_traces otlp_traces_endpoint max_logprobs worker_cls disable_cascade_attn""".split()
)

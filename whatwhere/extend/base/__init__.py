"""The base model of the demonstration: its text, its training, and the weights that are shipped.

    python -m whatwhere.extend.base --data BOOKS.jsonl.xz --out DIRECTORY

A Llama of at most 8 million parameters with plain RoPE and a context of 512 tokens: small enough
for two CPU cores, and plain `transformers` loads it. `studies/demo_model` holds the run.
"""

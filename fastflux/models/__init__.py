"""What is known of transformers: architectures, their blocks, and how blocks are exchanged."""

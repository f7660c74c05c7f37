"""Weights of training examples: which of them count, and which labels are likely wrong."""

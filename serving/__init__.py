"""The API door: the only process that writes interactions and feedback, and the only one that speaks to vLLM."""

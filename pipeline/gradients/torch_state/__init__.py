"""What is torch's own and must be left as it was: flags of the process, precision, the model's tensors, memory."""

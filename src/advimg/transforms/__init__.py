"""What may lie between the file and the network: differentiable maps of pixels, each with its real counterpart."""

"""The static trace: which loss can reach which parameter, module, output and channel."""

"""How a trained model works inside: how much each input position bears on each output. See docs/probe.md."""

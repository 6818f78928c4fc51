"""The core's decisions in virtual time, over capacity traces, beside the clairvoyant best."""

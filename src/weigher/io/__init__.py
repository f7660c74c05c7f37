"""Files in and out: audio, features, manifests, RTTM, voices and data sets; knows nothing of models."""

"""Train Muon and MuonClip mixture-of-experts models in JAX."""

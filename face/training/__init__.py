"""Training a face recognition model: settings, batches, optimisation, the run itself."""

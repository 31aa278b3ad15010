"""The MLflow model that wraps a model folder."""

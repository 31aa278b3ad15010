"""The Kubeflow pipelines: graphs, what surrounds their tasks, and the commands that compile, submit and run them."""

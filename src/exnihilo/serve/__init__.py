"""HTTP: one process that serves runs as OpenAI's interface does, with encoder tasks and a page beside it (see
docs/serve.md)."""

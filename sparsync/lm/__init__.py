"""The built-in language-model trainer: corpora, a byte-level GPT, and an ordinary script on the public API."""

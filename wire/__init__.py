"""What two processes must agree on: identities, errors, configuration, layout, codec, messages."""

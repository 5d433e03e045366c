"""How processes talk: server, channel, TLS, errors as status codes, retries, planes in chunks, bytes at sockets."""

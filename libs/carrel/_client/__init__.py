"""The calls of the client, by what they are about; `carrel.client` puts them together."""

"""The pages that are written from the sources and from recorded results."""

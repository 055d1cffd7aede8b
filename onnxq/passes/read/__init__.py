"""Passes that write what was imported as integer operators as float ones between Q and DQ: the inverse of emit."""

"""Labelled maps in, labelled numbers out."""

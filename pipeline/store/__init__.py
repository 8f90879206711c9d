"""What goes out: the cubes of a run in a Zarr store, laid out, written, recorded, read and checked."""

"""Pictures of cubes, a report page, sounds."""
